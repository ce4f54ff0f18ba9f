//! Deletes Events an hour after they were last seen.

use api::{Action, Change, Key, Precondition, View};

use crate::{World, limits, moment};

/// An Event wakes with itself.
pub(crate) fn keys(change: &Change, _: &View) -> Vec<Key> {
    let alive = change.kind != api::ChangeKind::Deleted;
    let is_event = matches!(&*change.object.key.resource, "events" | "events.events.k8s.io");
    if alive && is_event { vec![change.object.key.clone()] } else { Vec::new() }
}

/// One Event.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(event) = world.view.at(key) else { return Vec::new() };
    // Most are looked at once in their life: nothing can have happened since before they were made.
    let soonest = moment::created(event) + limits::EVENT_TTL_MS;
    if world.now_ms < soonest {
        return vec![Action::Again { after_ms: moment::until(soonest, world.now_ms) }];
    }
    let seen = [&event.value["lastTimestamp"], &event.value["eventTime"], &event.value["series"]["lastObservedTime"]];
    let due = seen.into_iter().filter_map(moment::ms).map(|seen| seen + limits::EVENT_TTL_MS).fold(soonest, i64::max);
    if world.now_ms < due {
        return vec![Action::Again { after_ms: moment::until(due, world.now_ms) }];
    }
    vec![Action::Delete { key: key.clone(), precondition: Precondition::unchanged(event), grace_seconds: None }]
}
