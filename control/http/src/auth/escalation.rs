//! Nobody gives away rights that they do not have: who writes a role must hold its rules, who binds one, too.
//!
//! Source: `k8s.io/kubernetes/pkg/registry/rbac` (escalation checks). The verbs `escalate` (on roles) and `bind` (on the
//! role that is bound) are the exceptions an administrator can make.

use api::{Object, Status, View};
use objects::User;
use serde_json::Value;

use super::{Attributes, MASTERS, allowed, rbac};

/// Whether writes of this resource by this user must pass [`check`].
pub(crate) fn guards(user: &User, resource: &str) -> bool {
    let guarded = [rbac::ROLES, rbac::CLUSTER_ROLES, rbac::ROLE_BINDINGS, rbac::CLUSTER_ROLE_BINDINGS];
    guarded.contains(&resource) && !user.is_in(MASTERS)
}

/// 403 when a role or a binding, as it would be stored, gives more than its author has.
pub(crate) fn check(view: &View, user: &User, would: &Object) -> Result<(), Status> {
    let resource = &*would.key.resource;
    let binding = resource == rbac::ROLE_BINDINGS || resource == rbac::CLUSTER_ROLE_BINDINGS;
    let (verb, role) = if binding {
        let role = rbac::bound_role(view, would).ok_or_else(|| {
            let name = would.field("roleRef.name").as_str().unwrap_or_default();
            Status::not_found(
                if would.value["roleRef"]["kind"] == "Role" { rbac::ROLES } else { rbac::CLUSTER_ROLES },
                name,
            )
        })?;
        ("bind", &**role)
    } else {
        let unchanged = view.at(&would.key).is_some_and(|old| {
            old.value["rules"] == would.value["rules"] && old.value["aggregationRule"] == would.value["aggregationRule"]
        });
        if unchanged {
            return Ok(());
        }
        ("escalate", would)
    };
    let exempt = Attributes {
        verb: verb.into(),
        group: rbac::GROUP.into(),
        resource: role.key.resource.split('.').next().unwrap_or_default().into(),
        namespace: would.namespace().into(),
        name: role.name().into(),
        ..Attributes::default()
    };
    if allowed(view, user, &exempt).is_some() {
        return Ok(());
    }
    let held = rbac::rules(view, user, would.namespace());
    let mut missing = Vec::new();
    rbac::of_role(view, role, &mut |rule| {
        if !covered(&held, rule) {
            missing.push(rule.to_string());
        }
        true
    });
    if missing.is_empty() {
        return Ok(());
    }
    let (who, groups) = (&user.name, user.groups.join(" "));
    let why = format!(
        "user {who:?} (groups=[{groups}]) is attempting to grant RBAC permissions not currently held: {}",
        missing.join(", ")
    );
    Err(Status::forbidden(resource, would.name(), &why))
}

/// Whether the held rules allow all that one rule allows.
fn covered(held: &[Value], rule: &Value) -> bool {
    let list = |rule: &'_ Value, field: &str| -> Vec<String> {
        rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let has =
        |held: &Value, field: &str, wanted: &str| list(held, field).iter().any(|entry| entry == "*" || entry == wanted);
    let named = |held: &Value, name: Option<&String>| {
        let names = list(held, "resourceNames");
        names.is_empty() || name.is_some_and(|name| names.contains(name))
    };
    let resource = |held: &Value, wanted: &str| {
        let all_of_kind = wanted.split_once('/').is_some_and(|(_, sub)| has(held, "resources", &format!("*/{sub}")));
        has(held, "resources", wanted) || all_of_kind
    };
    let url = |held: &Value, wanted: &str| {
        list(held, "nonResourceURLs").iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => wanted.starts_with(prefix),
            None => pattern == wanted,
        })
    };
    let names = list(rule, "resourceNames");
    // A rule without names is about every name, which only a rule without names covers.
    let names: Vec<Option<&String>> = if names.is_empty() { vec![None] } else { names.iter().map(Some).collect() };
    list(rule, "verbs").iter().all(|verb| {
        let held = || held.iter().filter(|held| has(held, "verbs", verb));
        let resources = list(rule, "apiGroups").iter().all(|group| {
            list(rule, "resources").iter().all(|wanted| {
                names.iter().all(|name| {
                    held().any(|held| has(held, "apiGroups", group) && resource(held, wanted) && named(held, *name))
                })
            })
        });
        resources && list(rule, "nonResourceURLs").iter().all(|wanted| held().any(|held| url(held, wanted)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ChangeKind, Key};
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn a_rule_covers_what_is_within_it() {
        let held = [
            json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/log"]}),
            json!({"verbs": ["update"], "apiGroups": ["apps"], "resources": ["*"], "resourceNames": ["web"]}),
            json!({"verbs": ["get"], "nonResourceURLs": ["/api/*"]}),
        ];
        let rule = |verbs: Value, groups: Value, resources: Value, names: Value| json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "resourceNames": names});
        for (rule, expected) in [
            (rule(json!(["get"]), json!([""]), json!(["pods"]), json!(["a"])), true),
            (rule(json!(["get", "list"]), json!([""]), json!(["pods", "pods/log"]), json!([])), true),
            (rule(json!(["get", "watch"]), json!([""]), json!(["pods"]), json!([])), false),
            (rule(json!(["*"]), json!([""]), json!(["pods"]), json!([])), false),
            (rule(json!(["update"]), json!(["apps"]), json!(["deployments"]), json!(["web"])), true),
            (rule(json!(["update"]), json!(["apps"]), json!(["deployments"]), json!([])), false),
            (rule(json!(["get"]), json!(["*"]), json!(["pods"]), json!([])), false),
            (json!({"verbs": ["get"], "nonResourceURLs": ["/api/v1"]}), true),
            (json!({"verbs": ["get"], "nonResourceURLs": ["/metrics"]}), false),
        ] {
            assert_eq!(covered(&held, &rule), expected, "{rule}");
        }
    }

    #[test]
    fn a_role_writer_cannot_become_an_administrator() {
        let mut view = View::default();
        let mut put = |resource: &str, namespace: &str, name: &str, value: Value| {
            let object = Arc::new(Object::new(Key::new(resource, namespace, name), 1, value));
            view.apply(ChangeKind::Added, &object);
            object
        };
        let writer = json!({"rules": [{"verbs": ["*"], "apiGroups": [rbac::GROUP], "resources": ["rolebindings"]},
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
        put(rbac::CLUSTER_ROLES, "", "writer", writer);
        let all = json!({"rules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]});
        put(rbac::CLUSTER_ROLES, "", "all", all);
        put(
            rbac::CLUSTER_ROLES,
            "",
            "reader",
            json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
        );
        let bind = |role: &str| {
            json!({"roleRef": {"kind": "ClusterRole", "name": role}, "subjects":
            [{"kind": "User", "apiGroup": rbac::GROUP, "name": "ann"}]})
        };
        put(rbac::ROLE_BINDINGS, "d", "ann", bind("writer"));
        let ann = User::system("ann");
        let ask = |role: &str| {
            let would = Object::new(Key::new(rbac::ROLE_BINDINGS, "d", "more"), 1, bind(role));
            check(&view, &ann, &would).map_err(|status| status.code)
        };
        assert_eq!((ask("reader"), ask("writer"), ask("all"), ask("none")), (Ok(()), Ok(()), Err(403), Err(404)));
        assert!(guards(&ann, rbac::ROLES) && !guards(&ann, "pods"));
    }
}
