//! The AdmissionReview as it goes out and comes back.
//!
//! Source: `k8s.io/api/admission/v1` and `k8s.io/apiserver/pkg/admission/plugin/webhook/request`. The versions v1 and
//! v1beta1 differ in nothing that is sent, and in how strictly the answer is read.

use api::Status;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// What a webhook said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(super) allowed: bool,
    /// RFC 6902; `None` changes nothing.
    pub(super) patch: Option<Value>,
    pub(super) warnings: Vec<String>,
    /// `NAME=VALUE`, for the audit line.
    pub(super) annotations: Vec<String>,
    /// The `metav1.Status` that explains a refusal.
    pub(super) status: Value,
}

/// The review of a request under an identity.
pub(super) fn review(version: &str, uid: &str, request: &Value) -> Vec<u8> {
    let mut request = request.clone();
    request["uid"] = json!(uid);
    json!({"kind": "AdmissionReview", "apiVersion": version, "request": request}).to_string().into_bytes()
}

/// Reads what came back; `patches` says whether it may change the object.
pub(super) fn read(version: &str, uid: &str, patches: bool, bytes: &[u8]) -> Result<Answer, String> {
    let told: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let response = &told["response"];
    if !response.is_object() {
        return Err("webhook response was absent".into());
    }
    if version == "admission.k8s.io/v1" {
        if told["apiVersion"] != version || told["kind"] != "AdmissionReview" {
            let text = |field: &str| told[field].as_str().unwrap_or_default();
            let got = format!("{}, Kind={}", text("apiVersion"), text("kind"));
            return Err(format!("expected webhook response of {version}, Kind=AdmissionReview, got {got}"));
        }
        let given = response["uid"].as_str().unwrap_or_default();
        if given != uid {
            return Err(format!("expected response.uid={uid:?}, got {given:?}"));
        }
    }
    let patch = if patches { patch(version, response)? } else { None };
    let texts = |field: &str| response[field].as_array().into_iter().flatten().filter_map(Value::as_str);
    let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
    Ok(Answer {
        allowed: response["allowed"] == true,
        patch,
        warnings: texts("warnings").map(str::to_owned).collect(),
        annotations: annotations
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
            .collect(),
        status: response["status"].clone(),
    })
}

fn patch(version: &str, response: &Value) -> Result<Option<Value>, String> {
    let text = |field: &str| response[field].as_str().unwrap_or_default();
    let encoded = text("patch");
    match text("patchType") {
        "" if encoded.is_empty() => return Ok(None),
        "" if version == "admission.k8s.io/v1" => {
            return Err("webhook returned response.patch but not response.patchType".into());
        }
        _ if encoded.is_empty() => {
            return Err("webhook returned response.patchType but not response.patch".into());
        }
        "" | "JSONPatch" => {}
        other => return Err(format!("invalid webhook response.patchType: {other:?}")),
    }
    let bytes = STANDARD.decode(encoded).map_err(|error| format!("response.patch: {error}"))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| format!("response.patch: {error}"))
}

/// The refusal of a request in the webhook's own words (`ToStatusErr`).
pub(super) fn refusal(name: &str, told: &Value) -> Status {
    let text = |field: &str| told[field].as_str().filter(|text| !text.is_empty());
    let by = format!("admission webhook {name:?} denied the request");
    let message = match text("message").or(text("reason")) {
        Some(why) => format!("{by}: {why}"),
        None => format!("{by} without explanation"),
    };
    // A refusal is never less than a bad request.
    let code = told["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| (400..600).contains(code)).unwrap_or(400);
    Status::new(code, reason(text("reason")), message)
}

/// Kubernetes' own word for a reason; words of others are not passed on, as nobody would understand them.
fn reason(given: Option<&str>) -> &'static str {
    const KNOWN: [&str; 16] = [
        "AlreadyExists",
        "BadRequest",
        "Conflict",
        "Expired",
        "Forbidden",
        "Gone",
        "InternalError",
        "Invalid",
        "MethodNotAllowed",
        "NotAcceptable",
        "NotFound",
        "RequestEntityTooLarge",
        "ServiceUnavailable",
        "Timeout",
        "TooManyRequests",
        "Unauthorized",
    ];
    KNOWN.into_iter().find(|known| Some(*known) == given).unwrap_or_default()
}
