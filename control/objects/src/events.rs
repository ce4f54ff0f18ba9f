//! What people are told: core/v1 Events. The same thing told again within an hour is counted, not multiplied. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use api::{Key, Object, Severity, View};
use serde_json::{Value, json};

use crate::door::Decision;
use crate::limits::{EVENT_MESSAGE_MAX, EVENT_TTL_MS};

/// The resource's name in keys.
pub(crate) const EVENTS: &str = "events";

/// One thing to tell.
pub(crate) struct Told<'a> {
    pub(crate) about: &'a Key,
    pub(crate) uid: &'a str,
    pub(crate) kind: &'a str,
    /// `apps/v1`: of the object it is about.
    pub(crate) api_version: &'a str,
    pub(crate) severity: Severity,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
    /// Who tells: `kogia-scheduler`.
    pub(crate) component: &'a str,
}

impl Told<'_> {
    /// Events about cluster-scoped objects live in `default`, as upstream has it.
    pub(crate) fn namespace(&self) -> &str {
        if self.about.namespace.is_empty() { "default" } else { &self.about.namespace }
    }

    /// The same thing has the same name, so that it is found again without a search. Should two things ever share
    /// one, the later replaces the earlier.
    fn name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        (self.uid, self.reason, self.message, self.component).hash(&mut hasher);
        format!("{}.{:016x}", self.about.name, hasher.finish())
    }

    fn is_told_by(&self, event: &Object) -> bool {
        event.field("reason") == self.reason
            && event.field("message") == cut(self.message)
            && event.field("involvedObject.uid") == self.uid
    }

    /// A new Event, or one more count on the one that is there.
    pub(crate) fn decide(&self, view: &View, new_uid: &str, now_ms: i64) -> Decision {
        let now = api::time::rfc3339(now_ms);
        let key = Key::new(EVENTS, self.namespace(), self.name());
        let old = view.at(&key);
        let young = |old: &&Arc<Object>| now_ms - last_told_ms(old) < EVENT_TTL_MS && self.is_told_by(old);
        if let Some(old) = old.filter(young) {
            let mut value = old.whole().into_owned();
            value["count"] = json!(old.field("count").as_i64().unwrap_or(1) + 1);
            value["lastTimestamp"] = json!(now);
            return Decision::Put { key, base: Some(old.clone()), value, beside: Vec::new() };
        }
        let value = self.event(&key, new_uid, &now);
        Decision::Put { key, base: old.cloned(), value, beside: Vec::new() }
    }

    fn event(&self, key: &Key, uid: &str, now: &str) -> Value {
        let mut about = json!({
            "kind": self.kind, "apiVersion": self.api_version, "name": self.about.name, "uid": self.uid,
        });
        if !self.about.namespace.is_empty() {
            about["namespace"] = json!(self.about.namespace);
        }
        json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {
                "name": key.name, "namespace": key.namespace, "uid": uid, "creationTimestamp": now,
            },
            "involvedObject": about,
            "type": if self.severity == Severity::Warning { "Warning" } else { "Normal" },
            "reason": self.reason, "message": cut(self.message), "count": 1,
            "firstTimestamp": now, "lastTimestamp": now, "eventTime": null,
            "source": {"component": self.component}, "reportingComponent": self.component, "reportingInstance": "",
        })
    }
}

/// A message no longer than an Event may have, cut between characters.
fn cut(message: &str) -> &str {
    if message.len() <= EVENT_MESSAGE_MAX {
        return message;
    }
    let end = (0..=EVENT_MESSAGE_MAX).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0);
    &message[..end]
}

fn last_told_ms(event: &Object) -> i64 {
    let fields = ["lastTimestamp", "eventTime", "metadata.creationTimestamp"];
    let series = event.field("series.lastObservedTime");
    let times = std::iter::once(series).chain(fields.iter().map(|field| event.field(field)));
    times.filter_map(Value::as_str).find_map(api::time::parse).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::ChangeKind;

    const NOW: i64 = 1_700_000_000_000;

    fn tell(view: &mut View, message: &str, now_ms: i64) -> Arc<Object> {
        let about = Key::new("pods", "shop", "web-1");
        let told = Told {
            about: &about,
            uid: "u1",
            kind: "Pod",
            api_version: "v1",
            severity: Severity::Warning,
            reason: "FailedScheduling",
            message,
            component: "kogia-scheduler",
        };
        let Decision::Put { key, value, .. } = told.decide(view, "e", now_ms) else { panic!("an Event is always put") };
        let object = Arc::new(Object::new(key, view.revision() + 1, value));
        view.apply(ChangeKind::Added, &object);
        object
    }

    #[test]
    fn what_is_told_again_is_counted() {
        let mut view = View::default();
        let first = tell(&mut view, "no nodes", NOW);
        assert!(first.name().starts_with("web-1.") && first.namespace() == "shop");
        let second = tell(&mut view, "no nodes", NOW + 5_000);
        assert_eq!((second.name(), second.field("count")), (first.name(), &json!(2)));
        assert_eq!(second.field("firstTimestamp"), first.field("firstTimestamp"));
        tell(&mut view, "other words", NOW);
        assert_eq!(view.count(EVENTS), 2);
        let late = tell(&mut view, "no nodes", NOW + 2 * EVENT_TTL_MS);
        assert_eq!(late.field("count"), &json!(1));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let mut view = View::default();
        let event = tell(&mut view, &"ä".repeat(EVENT_MESSAGE_MAX), NOW);
        assert_eq!(event.field("message").as_str().map(str::len), Some(EVENT_MESSAGE_MAX));
        assert_eq!(tell(&mut view, &"ä".repeat(EVENT_MESSAGE_MAX), NOW).field("count"), &json!(2));
    }
}
