use crate::World;
use api::{Action, Change, Key, View};
pub(crate) fn keys(_: &Change, _: &View) -> Vec<Key> {
    Vec::new()
}
pub(crate) fn reconcile(_: &World<'_>, _: &Key) -> Vec<Action> {
    Vec::new()
}
