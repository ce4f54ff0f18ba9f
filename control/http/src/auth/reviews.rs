//! Questions about rights and identities: they are posted like objects, answered, and never stored.

use api::{Resource, Status, View};
use objects::User;
use serde_json::{Map, Value, json};

use super::{Attributes, allowed, bearer, rbac};
use crate::service::Config;

/// Answers a review; `None` when the resource is not one.
pub(crate) fn answer(
    view: &View,
    config: &Config,
    user: &User,
    resource: &Resource,
    namespace: &str,
    body: &Value,
) -> Option<Result<Value, Status>> {
    let spec = &body["spec"];
    let status = match &*resource.name {
        "selfsubjectaccessreviews.authorization.k8s.io" => access(view, user, spec),
        "subjectaccessreviews.authorization.k8s.io" => access(view, &subject(spec), spec),
        "localsubjectaccessreviews.authorization.k8s.io" => {
            if spec["resourceAttributes"]["namespace"] != namespace {
                let field = "spec.resourceAttributes.namespace";
                return Some(Err(Status::bad_request(format!("{field} must be the request's: {namespace}"))));
            }
            access(view, &subject(spec), spec)
        }
        "selfsubjectrulesreviews.authorization.k8s.io" => Ok(rules(view, user, spec)),
        "selfsubjectreviews.authentication.k8s.io" => Ok(json!({"userInfo": user_info(user)})),
        "tokenreviews.authentication.k8s.io" => Ok(token(config, view, spec)),
        _ => return None,
    };
    Some(status.map(|status| {
        let mut answer = body.clone();
        answer["status"] = status;
        answer
    }))
}

fn access(view: &View, user: &User, spec: &Value) -> Result<Value, Status> {
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let (resource, other) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let attributes = match (resource.is_object(), other.is_object()) {
        (true, false) => Attributes {
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
            path: String::new(),
        },
        (false, true) => Attributes { verb: text(other, "verb"), path: text(other, "path"), ..Attributes::default() },
        _ => {
            let message = "exactly one of spec.resourceAttributes and spec.nonResourceAttributes must be given";
            return Err(Status::bad_request(message));
        }
    };
    Ok(match allowed(view, user, &attributes) {
        Some(reason) => json!({"allowed": true, "reason": reason}),
        None => json!({"allowed": false}),
    })
}

/// The user a review is about.
fn subject(spec: &Value) -> User {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let extra = spec["extra"].as_object().into_iter().flatten();
    User {
        name: spec["user"].as_str().unwrap_or_default().to_owned(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        groups: texts(&spec["groups"]),
        extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
    }
}

fn rules(view: &View, user: &User, spec: &Value) -> Value {
    let namespace = spec["namespace"].as_str().unwrap_or_default();
    let everything = json!([
        {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
        {"verbs": ["*"], "nonResourceURLs": ["*"]},
    ]);
    let mut all =
        if user.is_in(super::MASTERS) { everything.as_array().cloned().unwrap_or_default() } else { Vec::new() };
    all.extend(rbac::rules(view, user, namespace));
    let (mut resources, mut others) = (Vec::new(), Vec::new());
    for rule in all {
        let has = |field: &str| rule[field].as_array().is_some_and(|list| !list.is_empty());
        if has("nonResourceURLs") {
            others.push(json!({"verbs": rule["verbs"], "nonResourceURLs": rule["nonResourceURLs"]}));
        }
        if has("resources") {
            let mut part = Map::new();
            for field in ["verbs", "apiGroups", "resources", "resourceNames"] {
                part.extend(rule.get(field).map(|value| (field.to_owned(), value.clone())));
            }
            resources.push(Value::Object(part));
        }
    }
    json!({"resourceRules": resources, "nonResourceRules": others, "incomplete": false})
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn token(config: &Config, view: &View, spec: &Value) -> Value {
    match bearer(config, view, spec["token"].as_str().unwrap_or_default()) {
        Some(user) => json!({"authenticated": true, "user": user_info(&user)}),
        None => json!({"authenticated": false}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(plural: &str, user: &User, spec: &Value) -> Value {
        let catalog = api::Catalog::builtin();
        let group = if plural.starts_with("selfsubjectreview") || plural.starts_with("token") {
            "authentication.k8s.io"
        } else {
            "authorization.k8s.io"
        };
        let resource = catalog.find(group, "v1", plural).unwrap();
        let tokens = crate::StaticTokens::default().with("secret", User { name: "bot".into(), ..User::default() });
        let config = Config { authenticator: std::sync::Arc::new(tokens), ..Config::default() };
        let body = json!({"spec": spec});
        answer(&View::default(), &config, user, resource, "", &body).unwrap().unwrap()["status"].clone()
    }

    #[test]
    fn questions_are_answered() {
        let admin = User { name: "admin".into(), groups: vec!["system:masters".into()], ..User::default() };
        let ann = User::system("ann");
        let pods = json!({"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "a"}});
        assert_eq!(ask("selfsubjectaccessreviews", &admin, &pods)["allowed"], true);
        assert_eq!(ask("selfsubjectaccessreviews", &ann, &pods)["allowed"], false);
        let mut about_admin = pods;
        about_admin["groups"] = json!(["system:masters"]);
        assert_eq!(ask("subjectaccessreviews", &ann, &about_admin)["allowed"], true);
        let rules = ask("selfsubjectrulesreviews", &admin, &json!({"namespace": "a"}));
        assert_eq!(rules["resourceRules"][0]["verbs"][0], "*");
        assert_eq!(ask("selfsubjectreviews", &ann, &json!({}))["userInfo"]["username"], "ann");
        assert_eq!(ask("tokenreviews", &ann, &json!({"token": "secret"}))["user"]["username"], "bot");
        assert_eq!(ask("tokenreviews", &ann, &json!({"token": "wrong"}))["authenticated"], false);
    }
}
