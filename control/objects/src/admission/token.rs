//! How a pod's containers speak to the API: the token of their service account, the authority that the API's certificate
//! is from, and the namespace, in one projected volume that every container finds at the same place.

use api::Object;
use api::volumes::ACCOUNT_PREFIX;
use serde_json::{Value, json};

/// Where client libraries look.
const PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A second more than an hour and a few: by this number upstream tells its own tokens from people's.
const TOKEN_SECONDS: i64 = 3607;

/// Mounts it into every container that has nothing there, unless pod or account do not want it.
pub(super) fn mount(account: Option<&Object>, uid: &str, spec: &mut Value) {
    let said = |value: &Value| value["automountServiceAccountToken"].as_bool();
    let wanted = said(spec).or_else(|| account.and_then(|account| said(&account.value)));
    if wanted == Some(false) {
        return;
    }
    let known = spec["volumes"].as_array().into_iter().flatten().filter_map(|volume| volume["name"].as_str());
    // A pod that was written down from another one brings its volume along.
    let brought = known.into_iter().find(|name| name.starts_with(ACCOUNT_PREFIX)).map(str::to_owned);
    let name = brought.clone().unwrap_or_else(|| format!("{ACCOUNT_PREFIX}{}", uid.get(..5).unwrap_or("token")));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let taken = |mount: &Value| mount["mountPath"] == PLACE;
            if container.is_object() && !container["volumeMounts"].as_array().is_some_and(|all| all.iter().any(taken)) {
                used = true;
                push(container, "volumeMounts", json!({"name": name, "readOnly": true, "mountPath": PLACE}));
            }
        }
    }
    if used && brought.is_none() {
        push(spec, "volumes", volume(&name));
    }
}

fn push(parent: &mut Value, list: &str, entry: Value) {
    match parent.get_mut(list).and_then(Value::as_array_mut) {
        Some(list) => list.push(entry),
        None => parent[list] = json!([entry]),
    }
}

fn volume(name: &str) -> Value {
    let namespace = json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [namespace]}},
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Key;

    fn mounted(account: Value, mut spec: Value) -> Vec<String> {
        let account = Object::new(Key::new("serviceaccounts", "d", "default"), 1, account);
        mount(Some(&account), "0a1b2c3d", &mut spec);
        let volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
        let lists = ["initContainers", "containers"].into_iter().filter_map(|list| spec[list].as_array());
        let containers = lists.flatten().map(|container| {
            let mounts = container["volumeMounts"].as_array().into_iter().flatten();
            let mounts: Vec<&str> = mounts.filter_map(|mount| mount["name"].as_str()).collect();
            format!("{} {}", container["name"].as_str().unwrap(), mounts.join(" ")).trim().to_owned()
        });
        let volumes = volumes.iter().map(|volume| format!("volume {}", volume["name"].as_str().unwrap()));
        containers.chain(volumes).collect()
    }

    #[test]
    fn nothing_else_of_a_pod_is_touched() {
        let mut spec = json!({"containers": [{"name": "a"}]});
        mount(None, "0a1b2c3d", &mut spec);
        let fields: Vec<&String> = spec.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["containers", "volumes"]);
    }

    #[test]
    fn every_container_finds_a_token_unless_somebody_does_not_want_it() {
        let pod = || json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
        let with = |extra: Value| {
            let mut spec = pod();
            spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            spec
        };
        let yes = ["i kube-api-access-0a1b2", "a kube-api-access-0a1b2", "volume kube-api-access-0a1b2"];
        let no = ["i", "a"];
        let (account, unwilling) = (json!({}), json!({"automountServiceAccountToken": false}));
        assert_eq!(mounted(account.clone(), pod()), yes);
        assert_eq!(mounted(unwilling.clone(), pod()), no);
        assert_eq!(mounted(account.clone(), with(json!({"automountServiceAccountToken": false}))), no);
        assert_eq!(mounted(unwilling, with(json!({"automountServiceAccountToken": true}))), yes);
        // A volume that the pod brought along is the one, and what a container mounts there itself stays.
        let mine = json!([{"name": "mine", "mountPath": PLACE}]);
        let brought = with(json!({"volumes": [{"name": "kube-api-access-old"}], "initContainers": [],
            "containers": [{"name": "a", "volumeMounts": mine}, {"name": "b"}]}));
        assert_eq!(
            mounted(account.clone(), brought),
            ["a mine", "b kube-api-access-old", "volume kube-api-access-old"]
        );
        let own = json!({"containers": [{"name": "a", "volumeMounts": mine}]});
        assert_eq!(mounted(account, own), ["a mine"]);
    }
}
