//! Deletes a finished Job `spec.ttlSecondsAfterFinished` after its end.

use api::{Action, Change, Key, Precondition, View};

use crate::{World, moment, status};

/// A Job wakes with itself.
pub(crate) fn keys(change: &Change, _: &View) -> Vec<Key> {
    let is_job = &*change.object.key.resource == "jobs.batch";
    if is_job { vec![change.object.key.clone()] } else { Vec::new() }
}

/// One Job.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(job) = world.view.at(key).filter(|job| job.deletion_timestamp().is_none()) else { return Vec::new() };
    let Some(ttl) = job.field("spec.ttlSecondsAfterFinished").as_i64() else { return Vec::new() };
    let conditions = status::conditions(job);
    let ends = ["Complete", "Failed"].into_iter().filter(|type_| status::is_true(&conditions, type_));
    let end = ends.filter_map(|type_| moment::ms(&status::find(&conditions, type_)?["lastTransitionTime"])).min();
    let Some(due) = end.map(|end| end + ttl * 1000) else { return Vec::new() };
    if world.now_ms < due {
        return vec![Action::Again { after_ms: moment::until(due, world.now_ms) }];
    }
    vec![Action::Delete { key: key.clone(), precondition: Precondition::unchanged(job), grace_seconds: None }]
}
