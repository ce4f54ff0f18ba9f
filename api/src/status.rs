//! Kubernetes' own form of an error: `metav1.Status`.
//!
//! Wording follows `k8s.io/apimachinery/pkg/api/errors`, because clients print it as it is and some match on it.

use std::fmt;

use serde_json::{Value, json};

/// One entry of `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldManagerConflict`, …
    pub reason: &'static str,
    /// A sentence for a person.
    pub message: String,
    /// The path, such as `spec.containers[0].image`.
    pub field: String,
}

impl Cause {
    /// `FieldValueRequired`: a field that must be there is missing.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = if detail.is_empty() { "Required value".into() } else { format!("Required value: {detail}") };
        Self { reason: "FieldValueRequired", message, field: field.into() }
    }

    /// `FieldValueInvalid`: the value breaks a rule.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self { reason: "FieldValueInvalid", message: format!("Invalid value: {value}: {detail}"), field: field.into() }
    }

    /// `FieldValueNotSupported`: the value is not one of a closed set.
    pub fn not_supported(field: impl Into<String>, value: &Value, allowed: &[&str]) -> Self {
        let allowed = allowed.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        let message = format!("Unsupported value: {value}: supported values: {allowed}");
        Self { reason: "FieldValueNotSupported", message, field: field.into() }
    }

    /// `FieldValueForbidden`: the field may not be set or changed here.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self { reason: "FieldValueForbidden", message: format!("Forbidden: {detail}"), field: field.into() }
    }
}

/// A refusal in Kubernetes' form. Boxed by [`Status`], so that a `Result` stays small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusBody {
    /// The HTTP status code.
    pub code: u16,
    /// `NotFound`, `Invalid`, …: what programs look at.
    pub reason: &'static str,
    /// What people read.
    pub message: String,
    /// `details.name`.
    pub name: String,
    /// `details.group`.
    pub group: String,
    /// `details.kind`: the resource's plural, or the kind for `Invalid`, as upstream has it.
    pub kind: String,
    /// `details.uid`.
    pub uid: String,
    /// `details.causes`.
    pub causes: Vec<Cause>,
    /// `details.retryAfterSeconds`; 0 when absent.
    pub retry_after_seconds: u32,
    /// `metadata.continue`: a fresh token with an expired one (410).
    pub continue_token: Option<String>,
}

/// A refusal in Kubernetes' form.
#[derive(Clone, PartialEq, Eq)]
pub struct Status(Box<StatusBody>);

impl std::ops::Deref for Status {
    type Target = StatusBody;
    fn deref(&self) -> &StatusBody {
        &self.0
    }
}

impl std::ops::DerefMut for Status {
    fn deref_mut(&mut self) -> &mut StatusBody {
        &mut self.0
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code, self.reason, self.message)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// `deployments.apps "web"`, `pods "web"`: how messages name an object.
fn named(resource: &str, name: &str) -> String {
    format!("{resource} {name:?}")
}

impl Status {
    /// Any status; the constructors below are preferred.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(StatusBody {
            code,
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
            continue_token: None,
        }))
    }

    /// With `details.{group,kind,name}`; `resource` is the `GroupResource` spelling (`deployments.apps`).
    #[must_use]
    pub fn about(mut self, resource: &str, name: &str) -> Self {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        self.0.kind = plural.into();
        self.0.group = group.into();
        self.0.name = name.into();
        self
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: nobody we know.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: known, but may not.
    #[must_use]
    pub fn forbidden(resource: &str, name: &str, why: &str) -> Self {
        let what = if name.is_empty() { resource.to_owned() } else { named(resource, name) };
        Self::new(403, "Forbidden", format!("{what} is forbidden: {why}")).about(resource, name)
    }

    /// 404: no such object.
    #[must_use]
    pub fn not_found(resource: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} not found", named(resource, name))).about(resource, name)
    }

    /// 404: no such URL.
    #[must_use]
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 405: the resource does not support the verb.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 406: none of the accepted media types can be served.
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(406, "NotAcceptable", message)
    }

    /// 409: an object of that name exists.
    #[must_use]
    pub fn already_exists(resource: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} already exists", named(resource, name))).about(resource, name)
    }

    /// 409: the precondition does not hold.
    #[must_use]
    pub fn conflict(resource: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {}: {why}", named(resource, name));
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// 409: somebody else wrote first.
    #[must_use]
    pub fn modified(resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// 410: the revision or the continue token is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413: the body is larger than the limit.
    #[must_use]
    pub fn too_large(limit_bytes: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit_bytes}");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415: the body's media type cannot be read.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 422: the object breaks rules; `kind` is the kind (`Deployment`), `group` its group.
    #[must_use]
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let dotted = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut list: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        list.dedup();
        let list = if list.len() == 1 { list.remove(0) } else { format!("[{}]", list.join(", ")) };
        let mut status = Self::new(422, "Invalid", format!("{dotted} {name:?} is invalid: {list}"));
        status.group = group.into();
        status.kind = kind.into();
        status.name = name.into();
        status.causes = causes;
        status
    }

    /// 429: slow down.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(429, "TooManyRequests", message);
        status.retry_after_seconds = retry_after_seconds;
        status
    }

    /// 500: our own fault. The message must not carry secrets.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// 503: not now, but later.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 504: it took too long; the outcome may be unknown.
    pub fn timeout(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(504, "Timeout", message);
        status.retry_after_seconds = retry_after_seconds;
        status
    }

    /// The `metav1.Status` document.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut value = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if let Some(token) = &self.continue_token {
            value["metadata"]["continue"] = json!(token);
        }
        let mut details = serde_json::Map::new();
        for (name, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !text.is_empty() {
                details.insert(name.into(), json!(text));
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter();
            let causes = causes.map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}));
            details.insert("causes".into(), causes.collect());
        }
        if self.retry_after_seconds > 0 {
            details.insert("retryAfterSeconds".into(), json!(self.retry_after_seconds));
        }
        if !details.is_empty() {
            value["details"] = Value::Object(details);
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_kubernetes_own() {
        let status = Status::not_found("deployments.apps", "web");
        assert_eq!(status.message, r#"deployments.apps "web" not found"#);
        assert_eq!(status.to_value()["details"], json!({"name": "web", "group": "apps", "kind": "deployments"}));
        let causes = vec![Cause::required("spec.selector", "")];
        let status = Status::invalid("apps", "Deployment", "web", causes);
        assert_eq!(status.message, r#"Deployment.apps "web" is invalid: spec.selector: Required value"#);
    }
}
