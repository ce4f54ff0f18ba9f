//! Certificates for those who ask (certificates.k8s.io): approves what nodes may have, signs what is approved, and
//! forgets what is old. Runs on the leader.
//!
//! Kubernetes does the same in three controllers (csrapproving, csrsigning, csrcleaner) and a fourth for bootstrap tokens
//! that are over (tokencleaner). A node that joins with a bootstrap token, or renews, is approved by itself; everything
//! else waits for a person (`kubectl certificate approve`). The name of a node that is alive is not given to another
//! machine.

use std::sync::Arc;

use api::{Action, Object, Precondition, View, meta};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use objects::{ChangesEnd, Objects, User};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::limits::{REQUEST_DONE_KEPT_MS, REQUEST_PENDING_KEPT_MS, TIDY_EVERY};
use crate::pki::{Authority, RequestedSubject, requested_subject};

const REQUESTS: &str = "certificatesigningrequests.certificates.k8s.io";
const NODE_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const NODE: &str = "system:node:";
/// What the certificate of a person is valid for when the request does not say (kube-controller-manager's default).
const CLIENT_SECONDS: i64 = 365 * 24 * 3600;

/// What is to be done about one request.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// A person decides, or nothing is left to do.
    Wait,
    Approve(&'static str),
    Deny(String),
    SignNode(String),
    SignClient {
        user: String,
        groups: Vec<String>,
        seconds: i64,
    },
    Fail(String),
}

/// Runs until `stop`.
pub(crate) async fn run(objects: Objects, authority: Arc<Authority>, stop: CancellationToken) {
    let who = User::system("system:kogia-certificates");
    while !stop.is_cancelled() {
        let Ok(mut changes) = objects.changes(objects.view().revision()) else {
            tokio::task::yield_now().await;
            continue;
        };
        loop {
            let view = objects.view();
            let mut actions = tidy(&view, clock::now_ms());
            for request in view.list(REQUESTS) {
                actions.extend(answer(&view, request, &authority, clock::now_ms()));
            }
            for action in actions {
                if let Err(status) = objects.perform(&who, action).await {
                    tracing::warn!(status = %status.message, "a certificate request could not be answered");
                }
            }
            let woken = async {
                loop {
                    match changes.next().await {
                        Ok(batch) if !batch.iter().any(|change| &*change.object.key.resource == REQUESTS) => {}
                        other => return other.map(drop),
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                woken = woken => match woken {
                    Ok(()) => {}
                    Err(ChangesEnd::Lagged) => break,
                    Err(ChangesEnd::Closed) => return,
                },
                () = tokio::time::sleep(TIDY_EVERY) => {}
            }
        }
    }
}

/// What one request gets now.
fn answer(view: &View, request: &Object, authority: &Authority, now_ms: i64) -> Option<Action> {
    let pem = request.field("spec.request").as_str().and_then(|text| STANDARD.decode(text).ok());
    let pem = pem.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let verdict = decide(view, request, requested_subject(&pem).ok().as_ref());
    let signed = match verdict {
        Verdict::Wait => return None,
        Verdict::Approve(message) => return Some(judge(request, "Approved", "AutoApproved", message, now_ms)),
        Verdict::Deny(message) => return Some(judge(request, "Denied", "NodeExists", &message, now_ms)),
        Verdict::Fail(message) => return Some(fail(request, "SignerValidationFailure", &message, now_ms)),
        Verdict::SignNode(name) => authority.sign_node(&pem, &name),
        Verdict::SignClient { user, groups, seconds } => authority.sign_client(&pem, &user, &groups, seconds),
    };
    Some(match signed {
        Ok(certificate) => {
            let patch = json!({"status": {"certificate": STANDARD.encode(certificate)}});
            let (key, precondition) = (request.key.clone(), Precondition::unchanged(request));
            Action::Patch { key, subresource: Some("status"), patch, precondition }
        }
        Err(error) => fail(request, "SigningFailed", &error.to_string(), now_ms),
    })
}

/// Pure: what to do about a request whose subject was read (`None` when it could not be).
fn decide(view: &View, request: &Object, subject: Option<&RequestedSubject>) -> Verdict {
    let is = |type_: &str| meta::is_true(&request.value, type_);
    let done = !request.field("status.certificate").is_null() || is("Denied") || is("Failed");
    let signer = request.field("spec.signerName").as_str().unwrap_or_default();
    if done || !matches!(signer, NODE_SIGNER | CLIENT_SIGNER) {
        return Verdict::Wait;
    }
    let Some(subject) = subject else {
        return Verdict::Fail("the request is not a valid PKCS #10 certificate request".to_owned());
    };
    let approved = is("Approved");
    if signer == CLIENT_SIGNER {
        if !approved {
            return Verdict::Wait;
        }
        // kube-apiserver's CertificateSubjectRestriction.
        if subject.groups.iter().any(|group| group == "system:masters") {
            let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
            return Verdict::Fail(why.to_owned());
        }
        let seconds = request.field("spec.expirationSeconds").as_i64().unwrap_or(CLIENT_SECONDS);
        let seconds = seconds.clamp(600, CLIENT_SECONDS);
        return Verdict::SignClient { user: subject.user.clone(), groups: subject.groups.clone(), seconds };
    }
    let usages: Vec<&str> =
        request.field("spec.usages").as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let usual = usages.contains(&"client auth")
        && usages.iter().all(|usage| matches!(*usage, "client auth" | "digital signature" | "key encipherment"));
    let name = subject.user.strip_prefix(NODE).filter(|name| !name.is_empty());
    let (true, Some(name), ["system:nodes"]) =
        (usual && !subject.has_names, name, &*subject.groups.iter().map(String::as_str).collect::<Vec<_>>())
    else {
        return Verdict::Fail(
            "this is not the request of a node: CN=system:node:NAME, O=system:nodes, client auth".into(),
        );
    };
    if approved {
        return Verdict::SignNode(name.to_owned());
    }
    let renews = request.field("spec.username") == subject.user.as_str();
    let groups = request.field("spec.groups").as_array().into_iter().flatten();
    let joins = groups.into_iter().any(|group| group == "system:bootstrappers");
    if renews {
        return Verdict::Approve("Auto approving self kubelet client certificate after SubjectAccessReview.");
    }
    if !joins {
        return Verdict::Wait;
    }
    let alive = view.get("nodes", "", name).is_some_and(|node| meta::is_true(&node.value, "Ready"));
    if alive {
        return Verdict::Deny(format!(
            "a node {name:?} is part of this cluster and alive; give this machine another name (--name)"
        ));
    }
    Verdict::Approve("Auto approving kubelet client certificate after SubjectAccessReview.")
}

fn judge(request: &Object, type_: &str, reason: &str, message: &str, now_ms: i64) -> Action {
    conditions(
        request,
        "approval",
        json!({"type": type_, "status": "True", "reason": reason, "message": message}),
        now_ms,
    )
}

fn fail(request: &Object, reason: &str, message: &str, now_ms: i64) -> Action {
    conditions(
        request,
        "status",
        json!({"type": "Failed", "status": "True", "reason": reason, "message": message}),
        now_ms,
    )
}

fn conditions(request: &Object, subresource: &'static str, mut condition: Value, now_ms: i64) -> Action {
    for field in ["lastUpdateTime", "lastTransitionTime"] {
        condition[field] = json!(api::time::rfc3339(now_ms));
    }
    let mut all = request.field("status.conditions").as_array().cloned().unwrap_or_default();
    all.push(condition);
    let patch = json!({"status": {"conditions": all}});
    let precondition = Precondition::unchanged(request);
    Action::Patch { key: request.key.clone(), subresource: Some(subresource), patch, precondition }
}

/// Requests that are long answered or long waited, and bootstrap tokens that are over.
fn tidy(view: &View, now_ms: i64) -> Vec<Action> {
    let old = |request: &&Arc<Object>| {
        let open = request.field("status.conditions").as_array().is_none_or(Vec::is_empty);
        let kept_ms = if open { REQUEST_PENDING_KEPT_MS } else { REQUEST_DONE_KEPT_MS };
        api::time::parse(request.creation_timestamp()).is_some_and(|made_ms| made_ms + kept_ms <= now_ms)
    };
    let over = |secret: &&Arc<Object>| {
        let end = secret.value["data"]["expiration"].as_str().and_then(|text| STANDARD.decode(text).ok());
        let end = end.and_then(|bytes| api::time::parse(&String::from_utf8_lossy(&bytes)));
        secret.field("type") == "bootstrap.kubernetes.io/token" && end.is_some_and(|end_ms| end_ms <= now_ms)
    };
    let requests = view.list(REQUESTS).filter(old);
    let delete = |object: &Arc<Object>| Action::Delete {
        key: object.key.clone(),
        precondition: Precondition::same(object),
        grace_seconds: None,
    };
    requests.chain(view.list_in("secrets", "kube-system").filter(over)).map(delete).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ChangeKind, Key};

    const NOW: i64 = 1_700_000_000_000;

    fn subject(user: &str, groups: &[&str]) -> RequestedSubject {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        RequestedSubject { user: user.to_owned(), groups, has_names: false }
    }

    fn request(signer: &str, who: &str, conditions: &[&str]) -> Object {
        let group = if who.starts_with("system:bootstrap:") { "system:bootstrappers" } else { "system:authenticated" };
        let conditions: Vec<Value> = conditions.iter().map(|type_| json!({"type": type_, "status": "True"})).collect();
        let value = json!({
            "metadata": {"name": "r", "creationTimestamp": "2023-11-14T22:13:20Z"},
            "spec": {"signerName": signer, "username": who, "groups": [group], "usages": ["client auth"]},
            "status": {"conditions": conditions},
        });
        Object::new(Key::new(REQUESTS, "", "r"), 1, value)
    }

    #[test]
    fn who_gets_a_certificate() {
        let mut view = View::default();
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let node = json!({"metadata": {"name": "alive"}, "status": ready});
        view.apply(ChangeKind::Added, &Arc::new(Object::new(Key::new("nodes", "", "alive"), 1, node)));
        let joiner = "system:bootstrap:abcdef";
        let node = |name: &str| subject(&format!("system:node:{name}"), &["system:nodes"]);
        let verdict = |signer, who, conditions: &[&str], subject: &RequestedSubject| {
            decide(&view, &request(signer, who, conditions), Some(subject))
        };
        assert!(matches!(verdict(NODE_SIGNER, joiner, &[], &node("n1")), Verdict::Approve(_)));
        assert_eq!(verdict(NODE_SIGNER, joiner, &["Approved"], &node("n1")), Verdict::SignNode("n1".into()));
        assert!(matches!(verdict(NODE_SIGNER, joiner, &[], &node("alive")), Verdict::Deny(_)), "two of one name");
        assert!(
            matches!(verdict(NODE_SIGNER, "system:node:alive", &[], &node("alive")), Verdict::Approve(_)),
            "renewal"
        );
        assert_eq!(verdict(NODE_SIGNER, "system:node:n2", &[], &node("n1")), Verdict::Wait, "for somebody else");
        assert_eq!(verdict(NODE_SIGNER, joiner, &["Denied"], &node("n1")), Verdict::Wait);
        let masters = subject("system:node:n1", &["system:nodes", "system:masters"]);
        assert!(matches!(verdict(NODE_SIGNER, joiner, &[], &masters), Verdict::Fail(_)));
        assert!(matches!(verdict(NODE_SIGNER, joiner, &[], &subject("anna", &["system:nodes"])), Verdict::Fail(_)));
        assert_eq!(verdict(CLIENT_SIGNER, "anna", &[], &subject("anna", &["team"])), Verdict::Wait);
        let signed = verdict(CLIENT_SIGNER, "anna", &["Approved"], &subject("anna", &["team"]));
        assert!(matches!(signed, Verdict::SignClient { user, .. } if user == "anna"));
        let masters = subject("anna", &["system:masters"]);
        assert!(matches!(verdict(CLIENT_SIGNER, "anna", &["Approved"], &masters), Verdict::Fail(_)));
        assert_eq!(verdict("example.com/own", "anna", &["Approved"], &masters), Verdict::Wait, "not ours to sign");
        assert!(matches!(decide(&view, &request(NODE_SIGNER, joiner, &[]), None), Verdict::Fail(_)));
    }

    #[test]
    fn what_is_over_goes() {
        let mut view = View::default();
        view.apply(ChangeKind::Added, &Arc::new(request(NODE_SIGNER, "x", &["Approved"])));
        let value = json!({
            "metadata": {"name": "t", "namespace": "kube-system"}, "type": "bootstrap.kubernetes.io/token",
            "data": {"expiration": STANDARD.encode("2023-11-14T23:13:20Z")},
        });
        view.apply(ChangeKind::Added, &Arc::new(Object::new(Key::new("secrets", "kube-system", "t"), 2, value)));
        assert_eq!(tidy(&view, NOW).len(), 0);
        assert_eq!(tidy(&view, NOW + 3_600_000).len(), 2);
    }
}
