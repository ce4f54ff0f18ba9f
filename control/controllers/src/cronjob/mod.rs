//! CronJob: makes a Job each time its schedule says so.
//!
//! Of several missed times only the latest is made up for, and none older than `startingDeadlineSeconds`. The Job's
//! name follows from its time, so that no time is served twice. Schedules are read in `timeZone`, or UTC; a CronJob that
//! asks for a zone that nobody knows is told so and does not run, since running at the wrong hour is worse.

mod schedule;

use std::sync::Arc;

use api::{Action, Change, Key, Object, Precondition, Severity, View};
use serde_json::{Value, json};

use crate::owner::{self, Kind};
use crate::{World, limits, moment, status};
use schedule::Schedule;

pub(crate) const KIND: Kind = Kind { resource: "cronjobs.batch", api_version: "batch/v1", kind: "CronJob" };

const JOBS: &str = "jobs.batch";

/// A CronJob wakes with itself and its Jobs.
pub(crate) fn keys(change: &Change, _: &View) -> Vec<Key> {
    let object = &change.object;
    match &*object.key.resource {
        "cronjobs.batch" => vec![object.key.clone()],
        JOBS => owner::controller_key(object, &KIND).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// One CronJob.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let Some(cron) = world.view.at(key).filter(|cron| cron.deletion_timestamp().is_none()) else { return Vec::new() };
    let jobs: Vec<_> = world.view.owned(cron.uid()).filter(|job| &*job.key.resource == JOBS).cloned().collect();
    let (over, active) = jobs.into_iter().partition(|job| end(job).is_some());
    let mut plan = Plan { world, cron, over, active, actions: Vec::new(), last: None };
    plan.tidy();
    if cron.field("spec.suspend") != true {
        plan.follow_schedule();
    }
    plan.report();
    plan.actions
}

/// `Complete` or `Failed`, when the Job has ended.
fn end(job: &Object) -> Option<&'static str> {
    let conditions = status::conditions(job);
    ["Complete", "Failed"].into_iter().find(|type_| status::is_true(&conditions, type_))
}

struct Plan<'a> {
    world: &'a World<'a>,
    cron: &'a Arc<Object>,
    over: Vec<Arc<Object>>,
    active: Vec<Arc<Object>>,
    actions: Vec<Action>,
    /// The time served by this turn.
    last: Option<i64>,
}

impl Plan<'_> {
    /// Deletes the oldest ended Jobs beyond the two limits, and tells of those that have just ended.
    fn tidy(&mut self) {
        let listed = self.cron.field("status.active").as_array().cloned().unwrap_or_default();
        for job in std::mem::take(&mut self.over) {
            if let (true, Some(end)) = (listed.iter().any(|entry| entry["uid"] == job.uid()), end(&job)) {
                let message = format!("Saw completed job: {}, condition: {end}", job.name());
                self.tell(Severity::Normal, "SawCompletedJob", message);
            }
            self.over.push(job);
        }
        for (wanted, limit, default) in
            [("Complete", "successfulJobsHistoryLimit", 3), ("Failed", "failedJobsHistoryLimit", 1)]
        {
            let keep = self.cron.value["spec"][limit].as_u64().unwrap_or(default);
            let mut jobs: Vec<_> = self.over.iter().filter(|job| end(job) == Some(wanted)).cloned().collect();
            jobs.sort_by_cached_key(|job| (moment::created(job), job.key.name.clone()));
            let surplus = jobs.len().saturating_sub(usize::try_from(keep).unwrap_or(usize::MAX));
            for job in jobs.into_iter().take(surplus) {
                self.delete(&job);
            }
        }
    }

    fn follow_schedule(&mut self) {
        let spec = &self.cron.value["spec"];
        let name = spec["timeZone"].as_str().unwrap_or_default();
        let Some(zone) = schedule::zone(name) else {
            let message = format!("invalid timeZone: {name:?}: unknown time zone {name}");
            return self.tell(Severity::Warning, "UnknownTimeZone", message);
        };
        let text = spec["schedule"].as_str().unwrap_or_default();
        let Some(schedule) = Schedule::parse(text) else {
            let message = format!("unparseable schedule: {text:?}");
            return self.tell(Severity::Warning, "UnparseableSchedule", message);
        };
        let now = self.world.now_ms;
        let served = moment::ms(self.cron.field("status.lastScheduleTime"));
        let since = served.unwrap_or_else(|| moment::created(self.cron));
        let earliest = match spec["startingDeadlineSeconds"].as_i64() {
            Some(deadline) => since.max(now - deadline * 1000),
            None => since,
        };
        if schedule.count(earliest, now, &zone, limits::CRON_MISSED_MAX + 1) > limits::CRON_MISSED_MAX {
            let message =
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.tell(Severity::Warning, "TooManyMissedTimes", message.to_owned());
        }
        match schedule.latest(earliest, now, &zone) {
            Some(due) => self.start(due),
            None => {
                if let Some(missed) = schedule.latest(since, now, &zone) {
                    let message = format!("Missed scheduled time to start a job: {}", api::time::rfc3339(missed));
                    self.tell(Severity::Warning, "MissSchedule", message);
                }
            }
        }
        if let Some(next) = schedule.next(now, &zone) {
            self.actions.push(Action::Again { after_ms: moment::until(next, now) });
        }
    }

    fn start(&mut self, due: i64) {
        let spec = &self.cron.value["spec"];
        let name = format!("{}-{}", self.cron.name(), due / 60_000);
        let made = self.world.view.get(JOBS, self.cron.namespace(), &name).is_some();
        if !made && !self.active.is_empty() {
            if spec["concurrencyPolicy"] == "Forbid" {
                let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                return self.tell(Severity::Normal, "JobAlreadyActive", message.to_owned());
            }
            if spec["concurrencyPolicy"] == "Replace" {
                for job in std::mem::take(&mut self.active) {
                    self.delete(&job);
                }
            }
        }
        if !made {
            self.create(name, due);
        }
        self.last = Some(due);
    }

    fn create(&mut self, name: String, due: i64) {
        let template = &self.cron.value["spec"]["jobTemplate"];
        let mut body = json!({
            "apiVersion": "batch/v1", "kind": "Job", "spec": template["spec"],
            "metadata": {
                "name": name, "namespace": self.cron.namespace(),
                "labels": template["metadata"]["labels"], "annotations": template["metadata"]["annotations"],
                "ownerReferences": [owner::reference(self.cron, &KIND)],
            },
        });
        let time = "batch.kubernetes.io/cronjob-scheduled-timestamp";
        body["metadata"]["annotations"][time] = json!(api::time::rfc3339(due));
        let message = format!("Created job {name}");
        self.actions.push(Action::Create { key: Key::new(JOBS, self.cron.key.namespace.clone(), name), body });
        self.tell(Severity::Normal, "SuccessfulCreate", message);
    }

    fn delete(&mut self, job: &Object) {
        if job.deletion_timestamp().is_some() {
            return;
        }
        let precondition = Precondition::same(job);
        self.actions.push(Action::Delete { key: job.key.clone(), precondition, grace_seconds: None });
        self.tell(Severity::Normal, "SuccessfulDelete", format!("Deleted job {}", job.name()));
    }

    fn report(&mut self) {
        let reference = |job: &Arc<Object>| {
            json!({
                "apiVersion": "batch/v1", "kind": "Job", "namespace": job.namespace(), "name": job.name(),
                "uid": job.uid(), "resourceVersion": job.revision.to_string(),
            })
        };
        // A reference is written once: the Job's further versions are no news.
        let listed = self.cron.field("status.active").as_array().cloned().unwrap_or_default();
        let active: Vec<Value> = self
            .active
            .iter()
            .map(|job| listed.iter().find(|entry| entry["uid"] == job.uid()).cloned().unwrap_or_else(|| reference(job)))
            .collect();
        let ended = self.over.iter().filter_map(|job| moment::ms(job.field("status.completionTime")));
        let success = ended.chain(moment::ms(self.cron.field("status.lastSuccessfulTime"))).max();
        let last = self.last.or_else(|| moment::ms(self.cron.field("status.lastScheduleTime")));
        let written = json!({
            "active": active, "lastScheduleTime": last.map(api::time::rfc3339),
            "lastSuccessfulTime": success.map(api::time::rfc3339),
        });
        self.actions.extend(status::set(self.cron, written));
    }

    fn tell(&mut self, severity: Severity, reason: &'static str, message: String) {
        let (about, uid) = (self.cron.key.clone(), self.cron.uid().to_owned());
        self.actions.push(Action::Tell { about, uid, kind: KIND.kind, severity, reason, message });
    }
}
