//! Certificates in cert-manager's shapes: who may sign, what is to be signed and when.
//!
//! What is decided here is pure; keys are made and certificates signed by the driver in `control`, which asks [`plan`].
//! Names, annotations and reasons are cert-manager's (v1).
//!
//! * [`issuers`]: whether an Issuer can sign. [`shim`]: Certificates for Ingresses that are annotated so.
//! * [`plan`], [`request`]: what becomes of a Certificate and of a CertificateRequest.
//! * [`Acme`]: issuers that ask an ACME server (RFC 8555).

mod acme;
pub(crate) mod issuers;
mod plan;
pub(crate) mod shim;

use std::sync::Arc;

use api::{Object, View};
use serde_json::Value;

pub use acme::{Acme, Binding, SecretField, accounts};
pub use plan::{Plan, RequestPlan, Wish, plan, request};

/// The Certificates.
pub const CERTIFICATES: &str = "certificates.cert-manager.io";
/// The CertificateRequests.
pub const REQUESTS: &str = "certificaterequests.cert-manager.io";
/// The Orders at ACME servers.
pub const ORDERS: &str = "orders.acme.cert-manager.io";
/// What ACME servers want to see before they sign.
pub const CHALLENGES: &str = "challenges.acme.cert-manager.io";
const ISSUERS: &str = "issuers.cert-manager.io";
const CLUSTER_ISSUERS: &str = "clusterissuers.cert-manager.io";

/// Where the Secrets of ClusterIssuers lie, as in cert-manager's own installation.
const CLUSTER_NAMESPACE: &str = "cert-manager";

/// Who signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// The certificate's own key.
    Own,
    /// An authority: its certificate and its key, PEM.
    Authority {
        /// `tls.crt`.
        certificate_pem: String,
        /// `tls.key`.
        key_pem: String,
    },
    /// An ACME server, for who shows that the names are theirs.
    Acme(Box<Acme>),
}

/// The condition `Ready` of an issuer, a Certificate or a CertificateRequest.
#[must_use]
pub fn ready(object: &Object) -> Option<&Value> {
    object.value["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == "Ready")
}

/// The issuer that a reference means; `None` when there is none.
fn issuer<'a>(view: &'a View, namespace: &str, reference: &Value) -> Option<&'a Arc<Object>> {
    let name = reference["name"].as_str()?;
    match reference["kind"].as_str().filter(|kind| !kind.is_empty()).unwrap_or("Issuer") {
        "Issuer" => view.get(ISSUERS, namespace, name),
        "ClusterIssuer" => view.get(CLUSTER_ISSUERS, "", name),
        _ => None,
    }
}

/// Who signs for an issuer, or why nobody does: reason and sentence.
fn signer(view: &View, issuer: &Object) -> Result<Signer, (&'static str, String)> {
    if issuer.value["spec"]["selfSigned"].is_object() {
        return Ok(Signer::Own);
    }
    if let Some(acme) = acme::of(issuer) {
        return acme::registered(issuer, acme).map(|acme| Signer::Acme(Box::new(acme)));
    }
    let Some(secret) = issuer.field("spec.ca.secretName").as_str() else {
        let message = "the issuer is of no kind that is served: selfSigned, ca or acme";
        return Err(("MissingIssuerType", message.to_owned()));
    };
    let namespace = secrets_of(issuer);
    let found = view.get("secrets", namespace, secret);
    let field = |field| found.and_then(|secret| decoded(&secret.value["data"][field]));
    match (field("tls.crt"), field("tls.key")) {
        (Some(certificate_pem), Some(key_pem)) => Ok(Signer::Authority { certificate_pem, key_pem }),
        _ => Err((
            "ErrGetKeyPair",
            format!("Secret {namespace}/{secret} does not exist or holds no tls.crt and tls.key"),
        )),
    }
}

/// The namespace where an issuer's Secrets lie.
fn secrets_of(issuer: &Object) -> &str {
    if issuer.namespace().is_empty() { CLUSTER_NAMESPACE } else { issuer.namespace() }
}

/// A field of a Secret, as text.
fn decoded(value: &Value) -> Option<String> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str()?).ok()?;
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
}

/// The names of a list, in order, joined by commas: how Secrets note them.
fn names(value: &Value) -> String {
    let list: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    list.join(",")
}
