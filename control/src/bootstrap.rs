//! What every cluster holds from its first moment, and what a newer program adds to it.
//!
//! Objects that exist are left as they are, with two exceptions, so that a data directory of before gets what came since.
//! Roles and bindings gain the rules and subjects they lack, as Kubernetes' own do (`rbac.authorization.kubernetes.io/
//! autoupdate`, kubernetes.io/docs/reference/access-authn-authz/rbac/#auto-reconciliation). Definitions gain what theirs
//! lack as long as nobody else has written them. Nothing is ever taken away: members of two versions do not quarrel.

use std::sync::Arc;

use api::{Object, Resource, Status};
use objects::{Objects, User, WriteOptions};
use serde_json::{Value, json};

const BOOTSTRAP: &str = include_str!("bootstrap.yaml");

/// `"false"` says that a role or a binding is its cluster's business alone.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Who writes all this, and what `managedFields` say of it.
const WRITER: &str = "system:apiserver";
const MANAGER: &str = "kogia";
/// What they said in clusters that were founded before it had a name.
const MANAGER_BEFORE: &str = "unknown";

/// As whom the objects of the beginning are written.
pub(crate) fn writer() -> (User, WriteOptions) {
    (User::system(WRITER), WriteOptions::manager(MANAGER))
}

/// Creates what every cluster begins with and does not have, and completes what it has.
pub(crate) async fn run(objects: &Objects, cluster: Value) -> Result<(), Status> {
    let (who, options) = writer();
    let catalog = objects.catalog();
    for mut body in api::yaml::documents(BOOTSTRAP.as_bytes())?.into_iter().chain([cluster]) {
        let Some(resource) = resource_of(&catalog, &body) else {
            return Err(Status::internal(format!("no resource for {body}")));
        };
        if is_role(&resource) {
            body["metadata"]["annotations"][AUTOUPDATE] = json!("true");
        }
        let text = |field: &str| body["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let written = match objects.view().get(&resource.name, &namespace, &name).cloned() {
            Some(kept) => match completed(&resource, &kept, &body) {
                Some(more) => {
                    tracing::info!(resource = &*resource.name, name, "completed what an earlier version made");
                    objects.update(&who, &resource, &namespace, &name, None, more, &options).await
                }
                None => continue,
            },
            None => objects.create(&who, &resource, &namespace, body, &options).await,
        };
        match written {
            // Another member was faster.
            Err(status) if !["AlreadyExists", "Conflict"].contains(&status.reason) => return Err(status),
            _ => {}
        }
    }
    Ok(())
}

fn resource_of(catalog: &api::catalog::Catalog, body: &Value) -> Option<Arc<Resource>> {
    let (version, kind) = (body["apiVersion"].as_str()?, body["kind"].as_str()?);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    catalog.by_kind(group, version, kind).cloned()
}

fn is_role(resource: &Resource) -> bool {
    ["clusterroles.rbac.authorization.k8s.io", "clusterrolebindings.rbac.authorization.k8s.io"]
        .contains(&&*resource.name)
}

/// The object with what it lacks; `None` when it lacks nothing, or is to be left alone.
fn completed(resource: &Resource, kept: &Object, wanted: &Value) -> Option<Value> {
    let before = kept.whole();
    if !is_role(resource) || before["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return None;
    }
    let mut more = before.clone().into_owned();
    add(&mut more["rules"], &wanted["rules"], grants);
    add(&mut more["subjects"], &wanted["subjects"], |subjects, subject| subjects.contains(subject));
    (more != *before).then_some(more)
}

/// Appends what is not in a list yet.
fn add(list: &mut Value, wanted: &Value, has: impl Fn(&[Value], &Value) -> bool) {
    let there = list.as_array().cloned().unwrap_or_default();
    let missing: Vec<&Value> = wanted.as_array().into_iter().flatten().filter(|one| !has(&there, one)).collect();
    if !missing.is_empty() {
        *list = there.iter().chain(missing).cloned().collect();
    }
}

/// Whether rules together allow all that one rule allows.
fn grants(rules: &[Value], wanted: &Value) -> bool {
    let words = |rule: &Value, field: &str| -> Vec<String> {
        rule[field].as_array().into_iter().flatten().filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let has = |rule: &Value, field: &str, word: &str| words(rule, field).iter().any(|said| said == "*" || said == word);
    let names = words(wanted, "resourceNames");
    let named = |rule: &Value| {
        let allowed = words(rule, "resourceNames");
        allowed.is_empty() || (!names.is_empty() && names.iter().all(|name| allowed.contains(name)))
    };
    words(wanted, "verbs").iter().all(|verb| {
        let of_verb = || rules.iter().filter(|rule| has(rule, "verbs", verb));
        let urls = words(wanted, "nonResourceURLs");
        urls.iter().all(|url| of_verb().any(|rule| has(rule, "nonResourceURLs", url)))
            && words(wanted, "apiGroups").iter().all(|group| {
                words(wanted, "resources").iter().all(|resource| {
                    let fits = |rule: &&Value| has(rule, "apiGroups", group) && has(rule, "resources", resource);
                    of_verb().filter(fits).any(named)
                })
            })
    })
}

/// Whether a definition lacks something that the program's own has, and nobody else has ever written it.
pub(crate) fn is_behind(kept: &Value, own: &Value) -> bool {
    let writers = kept["metadata"]["managedFields"].as_array();
    let ours = |entry: &Value| {
        entry["manager"] == MANAGER || entry["manager"] == MANAGER_BEFORE || entry["subresource"] == "status"
    };
    writers.is_some_and(|writers| writers.iter().all(ours)) && !has_all(&kept["spec"], &own["spec"])
}

/// Whether a value has every field and every entry that another has, whatever they say.
fn has_all(kept: &Value, own: &Value) -> bool {
    match (kept, own) {
        (Value::Object(kept), Value::Object(own)) => {
            own.iter().all(|(key, own)| kept.get(key).is_some_and(|kept| has_all(kept, own)))
        }
        (Value::Array(kept), Value::Array(own)) => own.iter().all(|own| kept.iter().any(|kept| has_all(kept, own))),
        (Value::Object(_) | Value::Array(_), _) | (_, Value::Object(_) | Value::Array(_)) => false,
        (Value::String(kept), Value::String(own)) => kept == own,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::house::house;

    #[test]
    fn every_bootstrap_object_has_a_resource() {
        let catalog = api::catalog::Catalog::builtin();
        let documents = api::yaml::documents(BOOTSTRAP.as_bytes()).unwrap();
        assert!(documents.len() > 10);
        for body in documents {
            assert!(resource_of(&catalog, &body).is_some(), "{body}");
        }
    }

    #[test]
    fn rules_grant_what_they_cover_together() {
        let rule =
            |verbs: &[&str], resources: &[&str]| json!({"verbs": verbs, "apiGroups": [""], "resources": resources});
        let named = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a", "b"]});
        let one = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"]});
        let urls = |url: &str| json!({"verbs": ["get"], "nonResourceURLs": [url]});
        let cases = [
            (vec![rule(&["get"], &["pods"])], rule(&["get"], &["pods"]), true),
            (vec![rule(&["get"], &["pods"])], rule(&["get", "list"], &["pods"]), false),
            (vec![rule(&["get"], &["pods"]), rule(&["list"], &["*"])], rule(&["get", "list"], &["pods"]), true),
            (vec![rule(&["*"], &["pods"])], rule(&["get"], &["pods", "nodes"]), false),
            (vec![], rule(&["get"], &["pods"]), false),
            (vec![rule(&["get"], &["pods"])], one.clone(), true),
            (vec![one.clone()], rule(&["get"], &["pods"]), false),
            (vec![named.clone()], one.clone(), true),
            (vec![one], named, false),
            (vec![urls("/healthz")], urls("/healthz"), true),
            (vec![urls("*")], urls("/version"), true),
            (vec![urls("/healthz")], urls("/version"), false),
        ];
        for (rules, wanted, expected) in cases {
            assert_eq!(grants(&rules, &wanted), expected, "{rules:?} {wanted}");
        }
    }

    #[test]
    fn only_definitions_that_nobody_else_wrote_are_completed() {
        let definition = |fields: &[&str], managers: &[&str]| {
            let properties: serde_json::Map<_, _> =
                fields.iter().map(|field| ((*field).to_owned(), json!({"type": "string"}))).collect();
            let managers: Vec<_> = managers.iter().map(|manager| json!({"manager": manager})).collect();
            json!({"metadata": {"managedFields": managers}, "spec": {"versions": [{"name": "v1", "schema": properties}]}})
        };
        let own = definition(&["a", "b"], &[]);
        let cases = [
            (definition(&["a"], &[MANAGER]), true),
            (definition(&["a"], &[MANAGER_BEFORE, MANAGER]), true),
            (definition(&["a", "b"], &[MANAGER]), false),
            (definition(&["a", "b", "c"], &[MANAGER]), false),
            (definition(&["a"], &[MANAGER, "kubectl-client-side-apply"]), false),
            (json!({"spec": {}}), false),
        ];
        for (kept, expected) in cases {
            assert_eq!(is_behind(&kept, &own), expected, "{kept}");
        }
    }

    #[tokio::test]
    async fn what_an_earlier_version_made_gets_what_came_since() {
        let (objects, _directory, _stop) = house().await;
        let cluster =
            || json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "kube-system"}});
        run(&objects, cluster()).await.unwrap();
        let (roles, network) = ("clusterroles.rbac.authorization.k8s.io", "system:kogia-network");
        let get = |name: &str| objects.view().get(roles, "", name).unwrap().whole().into_owned();
        let resource = objects.catalog().by_kind("rbac.authorization.k8s.io", "v1", "ClusterRole").unwrap().clone();
        let whole = get(network);
        let who = User::system("administrator");
        let put = async |name: &str, change: &dyn Fn(&mut Value)| {
            let mut body = get(name);
            change(&mut body);
            objects.update(&who, &resource, "", name, None, body, &WriteOptions::default()).await.unwrap();
        };
        let extra = json!({"verbs": ["get"], "apiGroups": ["shop"], "resources": ["carts"]});
        put(network, &|role| role["rules"] = json!([role["rules"][0], extra])).await;
        put("view", &|role| {
            role["rules"] = json!([]);
            role["metadata"]["annotations"][AUTOUPDATE] = json!("false");
        })
        .await;
        run(&objects, cluster()).await.unwrap();
        let rules = get(network)["rules"].as_array().unwrap().clone();
        assert!(grants(&rules, &extra), "what somebody added stays");
        assert!(whole["rules"].as_array().unwrap().iter().all(|rule| grants(&rules, rule)), "{rules:?}");
        assert_eq!(get("view")["rules"].as_array().map_or(0, Vec::len), 0, "its cluster's business alone");
        let version = get(network)["metadata"]["resourceVersion"].clone();
        run(&objects, cluster()).await.unwrap();
        assert_eq!(get(network)["metadata"]["resourceVersion"], version, "what is whole is not written again");
    }
}
