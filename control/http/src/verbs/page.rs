//! What a list or a watch is about, and where a list goes on: selectors and continue tokens, without I/O.

use std::sync::Arc;

use api::selector::{FieldSelector, LabelSelector};
use api::{Object, Status, View};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Place;
use crate::query::Query;

/// Which objects a client wants.
pub(crate) struct Filter {
    resource: Arc<str>,
    namespace: String,
    name: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Filter {
    /// Reads the selectors; 400 for one that cannot be read or that the resource does not offer.
    pub(crate) fn of(query: &Query, place: &Place) -> Result<Self, Status> {
        let labels =
            query.get("labelSelector").map_or_else(|| Ok(LabelSelector::everything()), LabelSelector::parse)?;
        let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default())?;
        fields.check(&place.resource)?;
        let name = if place.name.is_empty() { fields.exact("metadata.name").unwrap_or_default() } else { &place.name };
        Ok(Self {
            resource: place.resource.name.clone(),
            namespace: place.namespace.clone(),
            name: name.to_owned(),
            labels,
            fields,
        })
    }

    /// True when nothing but the namespace selects.
    pub(crate) fn is_everything(&self) -> bool {
        self.name.is_empty() && self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether this is an object of the resource that the client wants.
    pub(crate) fn wants(&self, object: &Object) -> bool {
        object.key.resource == self.resource
            && (self.namespace.is_empty() || *object.key.namespace == *self.namespace)
            && (self.name.is_empty() || *object.key.name == *self.name)
            // What is not looked at need not be decoded.
            && (self.labels.is_everything() || self.labels.matches(api::meta::labels(&object.value)))
            && (self.fields.is_everything() || self.fields.matches(&object.value))
    }

    /// The wanted objects at or after a place, sorted by namespace and name. Indexes are used where there are any.
    pub(crate) fn select<'a>(
        &'a self,
        view: &'a View,
        from: &Start,
    ) -> Box<dyn Iterator<Item = &'a Arc<Object>> + Send + 'a> {
        let one_namespace = !self.namespace.is_empty();
        if let Some(node) =
            self.fields.exact("spec.nodeName").filter(|node| &*self.resource == "pods" && !node.is_empty())
        {
            let from = from.clone();
            let later = move |o: &&Arc<Object>| (&*o.key.namespace, &*o.key.name) >= (&*from.namespace, &*from.name);
            return Box::new(view.pods_on(node).filter(later).filter(|object| self.wants(object)));
        }
        let first = if from.namespace.is_empty() && one_namespace {
            (Arc::from(self.namespace.as_str()), Arc::from(self.name.as_str()))
        } else {
            (Arc::from(from.namespace.as_str()), Arc::from(from.name.as_str()))
        };
        let within = move |object: &&Arc<Object>| {
            !one_namespace
                || (*object.key.namespace == *self.namespace
                    && (self.name.is_empty() || *object.key.name <= *self.name))
        };
        let found = view.select_from(&self.resource, first, &self.labels);
        Box::new(found.take_while(within).filter(|object| self.wants(object)))
    }
}

/// Where a list begins or goes on: the first object that has not been sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// A continue token: the revision of the list it continues, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// `None` continues from the newest state: what a client gets with a 410, to go on inconsistently.
    pub(crate) revision: Option<u64>,
    pub(crate) start: Start,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl Token {
    /// The opaque text a client sends back.
    pub(crate) fn encode(&self) -> String {
        let revision = self.revision.map_or_else(|| json!(-1), |revision| json!(revision));
        let start = format!("{}/{}", self.start.namespace, self.start.name);
        URL_SAFE_NO_PAD.encode(json!({"v": TOKEN_VERSION, "rv": revision, "start": start}).to_string())
    }

    /// Reads a token; 400 for one that we did not write.
    pub(crate) fn decode(text: &str) -> Result<Self, Status> {
        let read = || {
            let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
            let value: Value = serde_json::from_slice(&bytes).ok()?;
            let (namespace, name) = value["start"].as_str()?.split_once('/')?;
            let start = Start { namespace: namespace.into(), name: name.into() };
            let revision = value["rv"].as_u64();
            (value["v"] == TOKEN_VERSION && (revision.is_some() || value["rv"] == -1))
                .then_some(Self { revision, start })
        };
        read().ok_or_else(|| Status::bad_request("continue key is not valid: it was not given out by this server"))
    }
}

/// `resourceVersion`, `resourceVersionMatch`, `limit` and `continue` of a list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Everything acknowledged so far.
    Newest,
    /// Whatever this member has.
    Any,
    /// At least this revision.
    NotOlderThan(u64),
    /// Exactly this revision.
    Exact(u64),
    /// Where an earlier list stopped.
    Continue(Token),
}

impl Which {
    /// Decides from the parameters as upstream's table of `resourceVersion` semantics does.
    pub(crate) fn of(query: &Query, revision: Option<u64>, limit: Option<usize>) -> Result<Self, Status> {
        let matching = query.get("resourceVersionMatch");
        if let Some(token) = query.get("continue") {
            if revision.is_some_and(|revision| revision > 0) || matching.is_some() {
                let message = "specifying resource version or its match is not allowed when using continue";
                return Err(Status::bad_request(message));
            }
            return Token::decode(token).map(Self::Continue);
        }
        match (revision, matching) {
            (None, None) => Ok(Self::Newest),
            (None, Some(_)) => Err(forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided")),
            (Some(0), Some("Exact")) => {
                Err(forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""))
            }
            (Some(0), None | Some("NotOlderThan")) => Ok(Self::Any),
            (Some(revision), Some("Exact")) => Ok(Self::Exact(revision)),
            (Some(revision), None) if limit.is_some() => Ok(Self::Exact(revision)),
            (Some(revision), None | Some("NotOlderThan")) => Ok(Self::NotOlderThan(revision)),
            (Some(_), Some(other)) => Err(Status::invalid(
                "meta.k8s.io",
                "ListOptions",
                "",
                vec![api::Cause::not_supported("resourceVersionMatch", &json!(other), &["Exact", "NotOlderThan"])],
            )),
        }
    }
}

/// 422 of `ListOptions`.
pub(super) fn forbidden(detail: &str) -> Status {
    let cause = api::Cause::forbidden("resourceVersionMatch", detail);
    Status::invalid("meta.k8s.io", "ListOptions", "", vec![cause])
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Catalog, ChangeKind, Key};

    fn place(namespace: &str) -> Place {
        let resource = Catalog::builtin().find("", "v1", "pods").unwrap().clone();
        Place { resource, namespace: namespace.into(), name: String::new() }
    }

    fn view() -> View {
        let mut view = View::default();
        let pods = [("a", "x", "n1", "web"), ("a", "y", "n2", "db"), ("b", "x", "n1", "web"), ("c", "z", "n1", "db")];
        for (revision, (namespace, name, node, app)) in (1..).zip(pods) {
            let value = json!({"metadata": {"name": name, "namespace": namespace, "labels": {"app": app}},
                "spec": {"nodeName": node}});
            view.apply(ChangeKind::Added, &Arc::new(Object::new(Key::new("pods", namespace, name), revision, value)));
        }
        view
    }

    #[test]
    fn selectors_choose() {
        let view = view();
        let names = |query: &str, namespace: &str, start: (&str, &str)| -> Vec<String> {
            let filter = Filter::of(&Query::parse(query), &place(namespace)).unwrap();
            let start = Start { namespace: start.0.into(), name: start.1.into() };
            filter.select(&view, &start).map(|o| format!("{}/{}", o.namespace(), o.name())).collect()
        };
        let first = ("", "");
        assert_eq!(names("", "", first), ["a/x", "a/y", "b/x", "c/z"]);
        assert_eq!(names("", "a", first), ["a/x", "a/y"]);
        assert_eq!(names("", "", ("a", "y")), ["a/y", "b/x", "c/z"]);
        assert_eq!(names("labelSelector=app%3Dweb", "", first), ["a/x", "b/x"]);
        assert_eq!(names("fieldSelector=spec.nodeName%3Dn1", "", first), ["a/x", "b/x", "c/z"]);
        assert_eq!(names("fieldSelector=spec.nodeName%3Dn1", "", ("b", "")), ["b/x", "c/z"]);
        assert_eq!(names("fieldSelector=spec.nodeName%3Dn1", "a", first), ["a/x"]);
        assert_eq!(names("fieldSelector=metadata.name%3Dx", "", first), ["a/x", "b/x"]);
        assert_eq!(names("fieldSelector=metadata.name%3Dy", "a", first), ["a/y"]);
        assert_eq!(Filter::of(&Query::parse("fieldSelector=spec.colour%3Dred"), &place("")).err().unwrap().code, 400);
    }

    #[test]
    fn tokens_survive_the_client() {
        let start = Start { namespace: "a".into(), name: "web-1".into() };
        for revision in [None, Some(42)] {
            let token = Token { revision, start: start.clone() };
            assert_eq!(Token::decode(&token.encode()).unwrap(), token);
        }
        for bad in ["", "%%%", "e30"] {
            assert_eq!(Token::decode(bad).unwrap_err().code, 400, "{bad}");
        }
    }

    #[test]
    fn which_revision_a_list_has() {
        let which = |query: &str, limit| {
            let query = Query::parse(query);
            Which::of(&query, query.number("resourceVersion").unwrap().map(|n| n.cast_unsigned()), limit)
        };
        assert_eq!(which("", None).unwrap(), Which::Newest);
        assert_eq!(which("resourceVersion=0", None).unwrap(), Which::Any);
        assert_eq!(which("resourceVersion=5", None).unwrap(), Which::NotOlderThan(5));
        assert_eq!(which("resourceVersion=5", Some(10)).unwrap(), Which::Exact(5));
        assert_eq!(which("resourceVersion=5&resourceVersionMatch=Exact", None).unwrap(), Which::Exact(5));
        for bad in [
            "resourceVersionMatch=Exact",
            "resourceVersion=0&resourceVersionMatch=Exact",
            "resourceVersion=5&resourceVersionMatch=Roughly",
        ] {
            assert_eq!(which(bad, None).unwrap_err().code, 422, "{bad}");
        }
    }
}
