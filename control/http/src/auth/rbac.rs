//! Role-based access control, evaluated over the picture: bindings name subjects and a role, roles hold rules.
//!
//! Source: `k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac`. Rules only ever allow; there is no deny.

use std::sync::{Arc, OnceLock};

use api::selector::LabelSelector;
use api::{Object, View};
use objects::User;
use serde_json::{Value, json};

use super::Attributes;

pub(super) const GROUP: &str = "rbac.authorization.k8s.io";
pub(super) const ROLES: &str = "roles.rbac.authorization.k8s.io";
pub(super) const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
pub(super) const ROLE_BINDINGS: &str = "rolebindings.rbac.authorization.k8s.io";
pub(super) const CLUSTER_ROLE_BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";

/// Rules that hold in every cluster, whatever its objects say: (group, where they come from, rules).
///
/// They are upstream's `system:public-info-viewer`, `system:discovery`, `system:basic-user` and
/// `system:service-account-issuer-discovery`.
fn built_in() -> &'static [(&'static str, &'static str, Value)] {
    static RULES: OnceLock<Vec<(&'static str, &'static str, Value)>> = OnceLock::new();
    RULES.get_or_init(|| {
        let info = json!([{"verbs": ["get"], "nonResourceURLs":
            ["/healthz", "/livez", "/readyz", "/version", "/healthz/*", "/livez/*", "/readyz/*"]}]);
        let discovery = json!([{"verbs": ["get"], "nonResourceURLs":
            ["/", "/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"]}]);
        let reviews = json!([
            {"verbs": ["create"], "apiGroups": ["authorization.k8s.io"],
                "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]},
            {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]},
        ]);
        let issuer = json!([{"verbs": ["get"], "nonResourceURLs":
            ["/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks"]}]);
        vec![
            ("system:serviceaccounts", "system:service-account-issuer-discovery", issuer),
            (super::UNAUTHENTICATED, "system:public-info-viewer", info.clone()),
            (super::AUTHENTICATED, "system:public-info-viewer", info),
            (super::AUTHENTICATED, "system:discovery", discovery),
            (super::AUTHENTICATED, "system:basic-user", reviews),
        ]
    })
}

/// Why the user may; `None` when no rule allows it.
pub(super) fn allowed(view: &View, user: &User, attributes: &Attributes) -> Option<String> {
    let mut reason = None;
    visit(view, user, &attributes.namespace, &mut |rule, source| {
        if permits(rule, attributes) {
            reason = Some(source());
        }
        reason.is_none()
    });
    reason
}

/// Every rule that speaks for the user in a namespace (empty: the cluster).
pub(crate) fn rules(view: &View, user: &User, namespace: &str) -> Vec<Value> {
    let mut rules = Vec::new();
    visit(view, user, namespace, &mut |rule, _| {
        rules.push(rule.clone());
        true
    });
    rules
}

type Visitor<'v> = &'v mut dyn FnMut(&Value, &dyn Fn() -> String) -> bool;

/// Shows the user's rules until `visitor` says false.
fn visit(view: &View, user: &User, namespace: &str, visitor: Visitor<'_>) {
    for (group, role, rules) in built_in() {
        let source = || format!("RBAC: allowed by ClusterRole {role:?} to Group {group:?}");
        if user.is_in(group) && !each(rules, &mut |rule| visitor(rule, &source)) {
            return;
        }
    }
    let cluster = view.list(CLUSTER_ROLE_BINDINGS);
    let local = view.list_in(ROLE_BINDINGS, namespace).filter(|_| !namespace.is_empty());
    for binding in cluster.chain(local) {
        if !speaks_for(binding, user) {
            continue;
        }
        let kind = binding.field("roleRef.kind").as_str().unwrap_or_default();
        let name = binding.field("roleRef.name").as_str().unwrap_or_default();
        let source = || format!("RBAC: allowed by binding {:?} of {kind} {name:?}", binding.name());
        let Some(role) = bound_role(view, binding) else { continue };
        if !of_role(view, role, &mut |rule| visitor(rule, &source)) {
            return;
        }
    }
}

/// The role that a binding gives.
pub(super) fn bound_role<'a>(view: &'a View, binding: &Object) -> Option<&'a Arc<Object>> {
    let name = binding.field("roleRef.name").as_str()?;
    match binding.field("roleRef.kind").as_str()? {
        "ClusterRole" => view.get(CLUSTER_ROLES, "", name),
        "Role" if !binding.namespace().is_empty() => view.get(ROLES, binding.namespace(), name),
        _ => None,
    }
}

/// A role's rules; an aggregated role's are those of the roles it selects, so that no controller need copy them.
pub(super) fn of_role(view: &View, role: &Object, visitor: &mut dyn FnMut(&Value) -> bool) -> bool {
    let selectors = role.value["aggregationRule"]["clusterRoleSelectors"].as_array();
    for selector in selectors.into_iter().flatten().map(LabelSelector::from_value) {
        for part in view.list(CLUSTER_ROLES).filter(|part| selector.matches(api::meta::labels(&part.value))) {
            if !each(&part.value["rules"], visitor) {
                return false;
            }
        }
    }
    each(&role.value["rules"], visitor)
}

fn each(rules: &Value, visitor: &mut dyn FnMut(&Value) -> bool) -> bool {
    rules.as_array().into_iter().flatten().all(visitor)
}

fn speaks_for(binding: &Object, user: &User) -> bool {
    binding.value["subjects"].as_array().into_iter().flatten().any(|subject| {
        let text = |field: &str| subject[field].as_str().unwrap_or_default();
        let name = text("name");
        match text("kind") {
            "User" => text("apiGroup") == GROUP && user.name == name,
            "Group" => text("apiGroup") == GROUP && user.is_in(name),
            "ServiceAccount" => {
                let namespace = if text("namespace").is_empty() { binding.namespace() } else { text("namespace") };
                let account = user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
                account == Some((namespace, name))
            }
            _ => false,
        }
    })
}

/// Whether one rule allows this.
fn permits(rule: &Value, a: &Attributes) -> bool {
    let list = |field: &str| rule[field].as_array().into_iter().flatten().filter_map(Value::as_str);
    let has = |field: &str, wanted: &str| list(field).any(|entry| entry == "*" || entry == wanted);
    if !has("verbs", &a.verb) {
        return false;
    }
    if !a.path.is_empty() {
        return list("nonResourceURLs").any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => a.path.starts_with(prefix),
            None => a.path == pattern,
        });
    }
    let full = a.full_resource();
    let any_of = (!a.subresource.is_empty()).then(|| format!("*/{}", a.subresource));
    let resource = list("resources").any(|entry| entry == "*" || entry == full || any_of.as_deref() == Some(entry));
    resource && has("apiGroups", &a.group) && {
        let mut names = list("resourceNames").peekable();
        names.peek().is_none() || (!a.name.is_empty() && names.any(|name| name == a.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ChangeKind, Key};

    fn view(objects: Vec<(&str, &str, &str, Value)>) -> View {
        let mut view = View::default();
        for (revision, (resource, namespace, name, value)) in (1..).zip(objects) {
            let object = Object::new(Key::new(resource, namespace, name), revision, value);
            view.apply(ChangeKind::Added, &Arc::new(object));
        }
        view
    }

    fn ask(view: &View, who: &str, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let user = User { name: who.into(), groups: vec!["devs".into()], ..User::default() };
        let attributes = Attributes::in_words(verb, resource, namespace, name);
        allowed(view, &user, &attributes).is_some()
    }

    #[test]
    fn bindings_decide() {
        let reader = json!({"metadata": {"labels": {"part": "yes"}}, "rules":
            [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]}]});
        let one = json!({"rules": [{"verbs": ["update"], "apiGroups": ["apps"], "resources": ["deployments"],
            "resourceNames": ["web"]}]});
        let all = json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"part": "yes"}}]}});
        let bind = |kind: &str, role: &str, subject: Value| json!({"roleRef": {"kind": kind, "name": role}, "subjects": [subject]});
        let group = json!({"kind": "Group", "apiGroup": GROUP, "name": "devs"});
        let account = json!({"kind": "ServiceAccount", "name": "bot", "namespace": "a"});
        let view = view(vec![
            (CLUSTER_ROLES, "", "reader", reader),
            (ROLES, "a", "one", one),
            (CLUSTER_ROLES, "", "all", all),
            (ROLE_BINDINGS, "a", "devs-read", bind("ClusterRole", "reader", group.clone())),
            (ROLE_BINDINGS, "a", "devs-one", bind("Role", "one", group)),
            (CLUSTER_ROLE_BINDINGS, "", "bot-all", bind("ClusterRole", "all", account)),
        ]);
        for (who, verb, resource, namespace, name, expected) in [
            ("ann", "list", "pods", "a", "", true),
            ("ann", "get", "pods/log", "a", "p", true),
            ("ann", "get", "pods/exec", "a", "p", false),
            ("ann", "list", "pods", "b", "", false),
            ("ann", "list", "pods", "", "", false),
            ("ann", "update", "deployments.apps", "a", "web", true),
            ("ann", "update", "deployments.apps", "a", "other", false),
            ("ann", "update", "deployments.apps", "a", "", false),
            ("system:serviceaccount:a:bot", "list", "pods", "", "", true),
            ("system:serviceaccount:b:bot", "list", "pods", "b", "", false),
        ] {
            assert_eq!(ask(&view, who, verb, resource, namespace, name), expected, "{who} {verb} {resource} {name}");
        }
    }

    #[test]
    fn everybody_known_may_look_around() {
        let view = View::default();
        let known = User::system("ann");
        let nobody = User { groups: vec![super::super::UNAUTHENTICATED.into()], ..User::default() };
        let path = |path: &str| Attributes { verb: "get".into(), path: path.into(), ..Attributes::default() };
        for (user, target, expected) in [
            (&known, "/apis/apps/v1", true),
            (&known, "/openapi/v3", true),
            (&known, "/metrics", false),
            (&nobody, "/version", true),
            (&nobody, "/readyz/ping", true),
            (&nobody, "/api", false),
        ] {
            assert_eq!(allowed(&view, user, &path(target)).is_some(), expected, "{target}");
        }
    }
}
