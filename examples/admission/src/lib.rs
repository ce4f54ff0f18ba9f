//! An admission webhook: pods get a label on their way in, and those whose image does not say its version stay outside.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kogia_sdk::http::{Request, Response};
use serde_json::{Value, json};

/// Longer reviews than any object make are not read.
const REVIEW_BYTES_MAX: usize = 4 << 20;

fn admission(request: Request) -> Response {
    let path = request.path().to_owned();
    let body = request.into_body().bytes(REVIEW_BYTES_MAX);
    let review = body.ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let Some(review) = review.filter(|review| review["request"]["uid"].is_string()) else {
        return Response::text("post an AdmissionReview\n").with_status(400);
    };
    let asked = &review["request"];
    let mut response = match path.as_str() {
        "/label" => label(&asked["object"]),
        "/check" => check(&asked["object"]),
        _ => return Response::text(format!("there is no {path} here\n")).with_status(404),
    };
    response["uid"] = asked["uid"].clone();
    let answer = json!({"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response});
    Response::new(200, "application/json", answer.to_string())
}

fn label(pod: &Value) -> Value {
    let patch = match pod["metadata"]["labels"].is_object() {
        true => json!([{"op": "add", "path": "/metadata/labels/admitted", "value": "yes"}]),
        false => json!([{"op": "add", "path": "/metadata/labels", "value": {"admitted": "yes"}}]),
    };
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string())})
}

fn check(pod: &Value) -> Value {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut images = containers.filter_map(|container| container["image"].as_str());
    // A colon before the last slash is a port's.
    let is_loose = |image: &&str| {
        let name = image.rsplit('/').next().unwrap_or_default();
        !name.contains('@') && name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
    };
    match images.find(is_loose) {
        Some(image) => {
            json!({"allowed": false, "status": {"code": 403, "message": format!("image {image} has no version")}})
        }
        None => json!({"allowed": true}),
    }
}

kogia_sdk::serve!(admission);
