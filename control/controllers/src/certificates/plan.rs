//! What becomes of a Certificate: nothing for now, a wait for its issuer, or a new key and a new signature.

use std::sync::Arc;

use api::time::parse_duration;
use api::{Object, View};
use serde_json::Value;
use x509_parser::pem::parse_x509_pem;

use super::{Signer, decoded, issuer, names, ready, signer};

/// Ninety days, cert-manager's default.
const DURATION_MS: i64 = 90 * 24 * 3_600_000;
/// The shortest life of a certificate that is accepted, cert-manager's own.
const DURATION_MIN_MS: i64 = 3_600_000;
/// An ACME server that refused is asked again after an hour, then after two, and so on up to 32, as cert-manager does:
/// such servers bound how often they are asked.
const AGAIN_MS: i64 = 3_600_000;
const AGAIN_DOUBLINGS_MAX: u32 = 5;

/// What is to be done about a Certificate.
#[derive(Debug)]
pub enum Plan {
    /// The Secret is as it should be until it is renewed at this time, in milliseconds since 1970.
    Ready {
        /// From.
        not_before_ms: i64,
        /// To.
        not_after_ms: i64,
        /// When it is to be renewed.
        renewal_ms: i64,
    },
    /// It cannot be issued now: reason and sentence.
    Wait(&'static str, String),
    /// A key is to be made and signed.
    Issue(Box<Wish>),
    /// An ACME server refused it lately; it is asked again at this time, in milliseconds since 1970.
    Later(i64),
}

/// What is to be issued.
#[derive(Debug)]
pub struct Wish {
    /// Why: cert-manager's reason.
    pub reason: &'static str,
    /// Until when the certificate that is to be renewed is good, in milliseconds since 1970; `None` when there is none that
    /// is what is asked for.
    pub good_until_ms: Option<i64>,
    /// Who signs.
    pub signer: Signer,
    /// How long it is to be valid, in milliseconds.
    pub duration_ms: i64,
    /// The key that is to be kept (`rotationPolicy: Never`), PEM.
    pub key_pem: Option<String>,
}

/// Looks at one Certificate.
#[must_use]
pub fn plan(view: &View, certificate: &Object, now_ms: i64) -> Plan {
    let spec = &certificate.value["spec"];
    let duration_ms = millis(&spec["duration"]).unwrap_or(DURATION_MS);
    let before_ms = millis(&spec["renewBefore"]).unwrap_or(duration_ms / 3);
    if duration_ms < DURATION_MIN_MS || !(0..duration_ms).contains(&before_ms) {
        return Plan::Wait(
            "InvalidDuration",
            "spec.duration is at least 1h, and longer than spec.renewBefore".to_owned(),
        );
    }
    if spec["privateKey"]["algorithm"] == "RSA" {
        return Plan::Wait("InvalidKey", "keys are made by the algorithms ECDSA and Ed25519, not RSA".to_owned());
    }
    let Some(issuer) = issuer(view, certificate.namespace(), &spec["issuerRef"]) else {
        return Plan::Wait("IssuerNotFound", format!("issuer {} does not exist", spec["issuerRef"]["name"]));
    };
    let signer = match signer(view, issuer) {
        Ok(signer) => signer,
        Err((_, message)) => return Plan::Wait("IssuerNotReady", message),
    };
    let secret = view.get("secrets", certificate.namespace(), spec["secretName"].as_str().unwrap_or_default());
    let key_pem = secret.and_then(|secret| decoded(&secret.value["data"]["tls.key"]));
    let kept = key_pem.clone().filter(|_| spec["privateKey"]["rotationPolicy"] == "Never");
    let later = matches!(signer, Signer::Acme(_)).then(|| later(certificate)).flatten().filter(|at| *at > now_ms);
    let wish = |reason, good_until_ms| match later {
        Some(at_ms) => Plan::Later(at_ms),
        None => {
            let (signer, key_pem) = (signer.clone(), kept.clone());
            Plan::Issue(Box::new(Wish { reason, good_until_ms, signer, duration_ms, key_pem }))
        }
    };
    let issue = |reason| wish(reason, None);
    let Some(secret) = secret else { return issue("DoesNotExist") };
    let validity = decoded(&secret.value["data"]["tls.crt"]).as_deref().and_then(validity);
    let (Some((not_before_ms, not_after_ms)), Some(_)) = (validity, key_pem) else { return issue("MissingData") };
    if let Some(reason) = mismatch(certificate, secret) {
        return issue(reason);
    }
    // The authority itself may have been replaced: then whoever trusts the new one would not trust this.
    if let Signer::Authority { certificate_pem, .. } = &signer
        && decoded(&secret.value["data"]["ca.crt"]).as_ref() != Some(certificate_pem)
    {
        return issue("IncorrectIssuer");
    }
    let renewal_ms = not_after_ms - before_ms.min((not_after_ms - not_before_ms) * 2 / 3);
    match renewal_ms <= now_ms {
        true => wish("Renewing", Some(not_after_ms)),
        false => Plan::Ready { not_before_ms, not_after_ms, renewal_ms },
    }
}

/// When a Certificate that could not be issued as it is now is tried again.
fn later(certificate: &Object) -> Option<i64> {
    let generation = certificate.field("metadata.generation");
    let failed = api::time::parse(certificate.field("status.lastFailureTime").as_str()?)?;
    let attempts = certificate.field("status.failedIssuanceAttempts").as_u64().unwrap_or(1);
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(AGAIN_DOUBLINGS_MAX);
    (ready(certificate)?["observedGeneration"] == *generation).then_some(failed + (AGAIN_MS << doublings))
}

/// The annotations that say for what the Secret was made.
#[must_use]
pub(crate) fn annotations(certificate: &Object) -> [(&'static str, String); 6] {
    let spec = &certificate.value["spec"];
    let text =
        |value: &Value, default: &str| value.as_str().filter(|text| !text.is_empty()).unwrap_or(default).to_owned();
    [
        ("cert-manager.io/certificate-name", certificate.name().to_owned()),
        ("cert-manager.io/issuer-name", text(&spec["issuerRef"]["name"], "")),
        ("cert-manager.io/issuer-kind", text(&spec["issuerRef"]["kind"], "Issuer")),
        ("cert-manager.io/common-name", text(&spec["commonName"], "")),
        ("cert-manager.io/alt-names", names(&spec["dnsNames"])),
        ("cert-manager.io/ip-sans", names(&spec["ipAddresses"])),
    ]
}

impl Wish {
    /// The annotations of the Secret that the Certificate's key and signature go into.
    #[must_use]
    pub fn annotations(certificate: &Object) -> [(&'static str, String); 6] {
        annotations(certificate)
    }
}

fn mismatch(certificate: &Object, secret: &Object) -> Option<&'static str> {
    let wrong = annotations(certificate)
        .into_iter()
        .find(|(name, wanted)| secret.annotation(name).unwrap_or_default() != wanted)?;
    Some(if wrong.0.contains("issuer") { "IncorrectIssuer" } else { "SecretMismatch" })
}

/// From when until when a certificate is valid, in milliseconds since 1970.
fn validity(pem: &str) -> Option<(i64, i64)> {
    let (_, block) = parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = block.parse_x509().ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp() * 1000, validity.not_after.timestamp() * 1000))
}

fn millis(value: &Value) -> Option<i64> {
    parse_duration(value.as_str()?).map(|nanos| nanos / 1_000_000)
}

/// What is to be done about a CertificateRequest.
#[derive(Debug)]
pub enum RequestPlan {
    /// It has been answered.
    Done,
    /// It cannot be signed now: reason and sentence.
    Wait(&'static str, String),
    /// It is to be signed.
    Sign {
        /// Who signs.
        signer: Signer,
        /// How long it is to be valid, in milliseconds.
        duration_ms: i64,
    },
}

/// Looks at one CertificateRequest.
#[must_use]
pub fn request(view: &View, request: &Arc<Object>) -> RequestPlan {
    let spec = &request.value["spec"];
    let answered = request.field("status.certificate").as_str().is_some_and(|text| !text.is_empty());
    if answered || !request.field("status.failureTime").is_null() {
        return RequestPlan::Done;
    }
    let Some(issuer) = issuer(view, request.namespace(), &spec["issuerRef"]) else {
        return RequestPlan::Wait("Pending", format!("issuer {} does not exist", spec["issuerRef"]["name"]));
    };
    match signer(view, issuer) {
        Ok(Signer::Acme(_)) => {
            let message = "an ACME server is asked for Certificates, not for CertificateRequests";
            RequestPlan::Wait("Pending", message.to_owned())
        }
        Ok(signer) => RequestPlan::Sign { signer, duration_ms: millis(&spec["duration"]).unwrap_or(DURATION_MS) },
        Err((_, message)) => RequestPlan::Wait("Pending", message),
    }
}
