//! Makes keys and signs certificates, as the controllers' plan says: a driver, for randomness and clocks are its.
//!
//! What an ACME server is to sign goes on beside everything else (`acme`). Refused: to sign with a key that is not a
//! Secret's, and RSA keys, which the program's cryptography does not make.

mod acme;

use std::net::IpAddr;
use std::sync::Arc;

use api::{Action, Key, Object, Precondition, Severity};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use controllers::certificates::{self, Acme, CERTIFICATES, Plan, REQUESTS, RequestPlan, Signer, Wish, ready};
use objects::{ChangesEnd, Objects, User};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use tokio_util::sync::CancellationToken;

use self::acme::Desk;
use crate::clock;
use crate::subject::{Attribute, Subject};

/// Certificates begin to be valid this long ago, for clocks that are a little late.
const CLOCK_SKEW: Duration = Duration::minutes(5);

/// Names of one certificate: more than anybody's authority signs.
const NAMES_MAX: usize = 100;

/// Issues until `stop`, or until the door closes.
pub(crate) async fn run(objects: Objects, stop: CancellationToken) {
    let driver = Driver { objects, who: User::system("system:certificates-controller") };
    let desk = Desk::new(stop.clone());
    while !stop.is_cancelled() {
        let view = driver.objects.view();
        let Ok(mut changes) = driver.objects.changes(view.revision()) else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut due = driver.turn(&desk).await;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                batch = changes.next() => match batch {
                    Ok(batch) if batch.iter().any(|change| concerns(&change.object)) => due = driver.turn(&desk).await,
                    Ok(_) => {}
                    Err(ChangesEnd::Lagged) => break,
                    Err(ChangesEnd::Closed) => return,
                },
                () = desk.ended.notified() => due = driver.turn(&desk).await,
                () = clock::until(due) => due = driver.turn(&desk).await,
            }
        }
    }
}

/// Whether a change of this object may change a plan.
fn concerns(object: &Object) -> bool {
    let resource = &*object.key.resource;
    resource.ends_with(".cert-manager.io")
        || (resource == "secrets" && !object.value["data"]["tls.crt"].is_null())
        || (resource == "secrets" && object.field("type") == "kubernetes.io/tls")
}

#[derive(Clone)]
struct Driver {
    objects: Objects,
    who: User,
}

impl Driver {
    /// Looks at all of them and does what is due; answers when the next one is due.
    async fn turn(&self, desk: &Desk) -> Option<i64> {
        let view = self.objects.view();
        let now_ms = clock::now_ms();
        let mut next: Option<i64> = None;
        for (issuer, acme) in certificates::accounts(&view) {
            let registered = ready(issuer).is_some_and(|condition| {
                condition["status"] == "True" && condition["observedGeneration"] == *issuer.field("metadata.generation")
            });
            if !registered {
                desk.register(self, issuer, acme);
            }
        }
        for certificate in view.list(CERTIFICATES).filter(|one| one.deletion_timestamp().is_none()) {
            match certificates::plan(&view, certificate, now_ms) {
                Plan::Ready { not_before_ms, not_after_ms, renewal_ms } => {
                    next = Some(next.unwrap_or(renewal_ms).min(renewal_ms));
                    let time = |ms| json!(api::time::rfc3339(ms));
                    let more = json!({
                        "notBefore": time(not_before_ms), "notAfter": time(not_after_ms), "renewalTime": time(renewal_ms),
                    });
                    let said = ("True", "Ready", "Certificate is up to date and has not expired");
                    self.say(certificate, said, more).await;
                }
                Plan::Wait(reason, message) => self.say(certificate, ("False", reason, &message), json!({})).await,
                Plan::Later(at_ms) => next = Some(next.unwrap_or(at_ms).min(at_ms)),
                Plan::Issue(wish) => match wish.signer.clone() {
                    Signer::Acme(acme) => desk.order(self, certificate, *wish, *acme),
                    Signer::Own | Signer::Authority { .. } => self.issue(certificate, &wish).await,
                },
            }
        }
        for request in view.list(REQUESTS).filter(|one| one.deletion_timestamp().is_none()) {
            self.answer(&view, request).await;
        }
        next
    }

    async fn issue(&self, certificate: &Arc<Object>, wish: &Wish) {
        // What was refused for this version of the Certificate is refused again.
        let failed = ready(certificate).is_some_and(|condition| {
            condition["reason"] == "Failed"
                && condition["observedGeneration"] == *certificate.field("metadata.generation")
        });
        if failed {
            return;
        }
        match sign(&certificate.value["spec"], wish) {
            Ok(signed) => {
                self.keep(certificate, &signed).await;
                let message = format!("The certificate has been successfully issued ({})", wish.reason);
                self.tell(certificate, Severity::Normal, "Issuing", message).await;
            }
            Err(message) => {
                self.say(certificate, ("False", "Failed", &message), json!({})).await;
                self.tell(certificate, Severity::Warning, "Failed", message).await;
            }
        }
    }

    /// Writes the Secret; the plan finds it there with the next turn.
    async fn keep(&self, certificate: &Object, signed: &Signed) {
        let template = &certificate.value["spec"]["secretTemplate"];
        let map = |field: &str| template[field].as_object().cloned().unwrap_or_default();
        let (mut annotations, labels) = (map("annotations"), map("labels"));
        annotations.extend(Wish::annotations(certificate).map(|(name, text)| (name.to_owned(), json!(text))));
        let name = certificate.value["spec"]["secretName"].as_str().unwrap_or_default().to_owned();
        let mut data = json!({
            "tls.crt": BASE64.encode(&signed.certificate_pem), "tls.key": BASE64.encode(&signed.key_pem),
        });
        // An ACME server's own certificates are everybody's to know.
        data["ca.crt"] = signed.authority_pem.as_ref().map_or(Value::Null, |pem| json!(BASE64.encode(pem)));
        let key = Key::new("secrets", certificate.key.namespace.clone(), name);
        let metadata = json!({"annotations": annotations, "labels": labels});
        self.perform(self.secret_with(key, "kubernetes.io/tls", metadata, data)).await;
        let revision = certificate.field("status.revision").as_i64().unwrap_or(0) + 1;
        self.patch_status(certificate, json!({"revision": revision})).await;
    }

    /// What puts this into a Secret, which is made where there is none; of what is there a `null` takes away.
    fn secret_with(&self, key: Key, type_: &str, mut metadata: Value, mut data: Value) -> Action {
        if let Some(secret) = self.objects.view().at(&key) {
            let patch = json!({"metadata": metadata, "data": data});
            return Action::Patch { key, subresource: None, patch, precondition: Precondition::same(secret) };
        }
        data.as_object_mut().into_iter().for_each(|data| data.retain(|_, value| !value.is_null()));
        metadata["name"] = json!(&*key.name);
        metadata["namespace"] = json!(&*key.namespace);
        let body = json!({"apiVersion": "v1", "kind": "Secret", "type": type_, "metadata": metadata, "data": data});
        Action::Create { key, body }
    }

    /// Keeps the key of an account at an ACME server, where nobody has put one meanwhile.
    async fn keep_account(&self, acme: &Acme, key_pem: &str) -> Result<(), String> {
        let secret = &acme.account.secret;
        if self.objects.view().get("namespaces", "", &secret.namespace).is_none() {
            let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": &*secret.namespace}});
            self.perform(Action::Create { key: Key::new("namespaces", "", &*secret.namespace), body }).await;
        }
        let data = json!({&acme.account.field: BASE64.encode(key_pem)});
        let action = self.secret_with(secret.clone(), "Opaque", json!({}), data);
        let kept = self.objects.perform(&self.who, action).await;
        kept.map(drop).map_err(|status| format!("the account's key cannot be kept: {}", status.message))
    }

    /// An object as it is now; as it was where it is gone.
    fn current(&self, object: &Arc<Object>) -> Arc<Object> {
        self.objects.view().at(&object.key).unwrap_or(object).clone()
    }

    /// Signs a CertificateRequest, or says why not.
    async fn answer(&self, view: &api::View, request: &Arc<Object>) {
        let (signer, duration_ms) = match certificates::request(view, request) {
            RequestPlan::Done => return,
            RequestPlan::Wait(reason, message) => {
                return self.say(request, ("False", reason, &message), json!({})).await;
            }
            RequestPlan::Sign { signer, duration_ms } => (signer, duration_ms),
        };
        let asked = request.field("spec.request").as_str().and_then(|text| BASE64.decode(text).ok());
        let asked = asked.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        match countersign(&asked, &signer, duration_ms) {
            Ok((certificate, authority)) => {
                let more = json!({"certificate": BASE64.encode(certificate), "ca": BASE64.encode(authority)});
                self.say(request, ("True", "Issued", "Certificate fetched from issuer successfully"), more).await;
            }
            Err(message) => {
                let more = json!({"failureTime": api::time::rfc3339(clock::now_ms())});
                self.say(request, ("False", "Failed", &message), more).await;
            }
        }
    }

    /// Writes the condition `Ready` and what goes with it, if it is news.
    async fn say(&self, object: &Object, (status, reason, message): (&str, &str, &str), more: Value) {
        let known = ready(object).filter(|old| {
            old["status"] == status
                && old["reason"] == reason
                && old["message"] == message
                && old["observedGeneration"] == *object.field("metadata.generation")
        });
        let same = more.as_object().into_iter().flatten().all(|(field, value)| object.value["status"][field] == *value);
        if known.is_some() && same {
            return;
        }
        let since = ready(object).filter(|old| old["status"] == status).map(|old| old["lastTransitionTime"].clone());
        let mut conditions = object.field("status.conditions").as_array().cloned().unwrap_or_default();
        conditions.retain(|condition| condition["type"] != "Ready");
        conditions.push(json!({
            "type": "Ready", "status": status, "reason": reason, "message": message,
            "observedGeneration": object.field("metadata.generation"),
            "lastTransitionTime": since.unwrap_or_else(|| json!(api::time::rfc3339(clock::now_ms()))),
        }));
        let mut status = more;
        status["conditions"] = json!(conditions);
        self.patch_status(object, status).await;
    }

    async fn patch_status(&self, object: &Object, status: Value) {
        self.perform(Action::Patch {
            key: object.key.clone(),
            subresource: Some("status"),
            patch: json!({"status": status}),
            precondition: Precondition::same(object),
        })
        .await;
    }

    async fn tell(&self, object: &Object, severity: Severity, reason: &'static str, message: String) {
        let (about, uid) = (object.key.clone(), object.uid().to_owned());
        self.perform(Action::Tell { about, uid, kind: "Certificate", severity, reason, message }).await;
    }

    async fn perform(&self, action: Action) {
        if let Err(status) = self.objects.perform(&self.who, action).await {
            tracing::warn!(status = %status.message, "a certificate's objects could not be written");
        }
    }
}

/// A key, its certificate and whom to trust for it, PEM.
struct Signed {
    key_pem: String,
    certificate_pem: String,
    /// Nobody but those whom everybody trusts, for an ACME server.
    authority_pem: Option<String>,
}

/// The key of a Certificate: the one that is to be kept, or a new one as it asks.
fn key_of(spec: &Value, wish: &Wish) -> Result<KeyPair, String> {
    let key = match &wish.key_pem {
        Some(pem) => KeyPair::from_pem(pem),
        None => KeyPair::generate_for(
            match (spec["privateKey"]["algorithm"].as_str(), spec["privateKey"]["size"].as_u64()) {
                (Some("Ed25519"), _) => &rcgen::PKCS_ED25519,
                (_, Some(384)) => &rcgen::PKCS_ECDSA_P384_SHA384,
                (_, None | Some(0 | 256)) => &rcgen::PKCS_ECDSA_P256_SHA256,
                (_, Some(size)) => return Err(format!("an ECDSA key has 256 or 384 bits, not {size}")),
            },
        ),
    };
    key.map_err(|error| error.to_string())
}

/// Makes a key and a certificate for what a Certificate asks.
fn sign(spec: &Value, wish: &Wish) -> Result<Signed, String> {
    let text = |error: rcgen::Error| error.to_string();
    let broken = |error: crate::pki::PkiError| error.to_string();
    let key = key_of(spec, wish)?;
    let mut params = CertificateParams::default();
    let subject = subject(spec);
    params.subject_alt_names = alternatives(spec)?;
    if params.subject_alt_names.is_empty() && spec["commonName"].as_str().is_none_or(str::is_empty) {
        return Err("a certificate needs a common name, a DNS name or an IP address".to_owned());
    }
    usages(spec, &mut params);
    valid_for(&mut params, wish.duration_ms);
    let (certificate_pem, authority_pem) = match &wish.signer {
        Signer::Own => {
            let made = params.self_signed(&key).map_err(text)?;
            let own = subject.certify(&made, &subject, &key).map_err(broken)?;
            (own.clone(), own)
        }
        Signer::Authority { certificate_pem, key_pem } => {
            params.use_authority_key_identifier_extension = true;
            let authority = authority(certificate_pem, key_pem)?;
            let made = params.signed_by(&key, &authority).map_err(text)?;
            let signed = subject.certify_by(&made, certificate_pem, &authority);
            (signed.map_err(broken)?, certificate_pem.clone())
        }
        Signer::Acme(acme) => return Err(format!("{} is asked in an order", acme.server)),
    };
    Ok(Signed { key_pem: key.serialize_pem(), certificate_pem, authority_pem: Some(authority_pem) })
}

fn authority(certificate_pem: &str, key_pem: &str) -> Result<Issuer<'static, KeyPair>, String> {
    let key = KeyPair::from_pem(key_pem).map_err(|error| format!("the issuer's key cannot be used: {error}"))?;
    Issuer::from_ca_cert_pem(certificate_pem, key)
        .map_err(|error| format!("the issuer's certificate cannot be used: {error}"))
}

/// Signs somebody else's request: their key stays theirs.
fn countersign(asked: &str, signer: &Signer, duration_ms: i64) -> Result<(String, String), String> {
    let Signer::Authority { certificate_pem, key_pem } = signer else {
        return Err("a selfSigned issuer signs with the key of a Certificate, not a request".to_owned());
    };
    let unreadable = |error: &dyn std::fmt::Display| format!("spec.request: {error}");
    let subject = Subject::asked(asked).map_err(|error| unreadable(&error))?;
    let mut asked = CertificateSigningRequestParams::from_pem(asked).map_err(|error| unreadable(&error))?;
    valid_for(&mut asked.params, duration_ms);
    asked.params.is_ca = IsCa::NoCa;
    let authority = authority(certificate_pem, key_pem)?;
    let made = asked.signed_by(&authority).map_err(|error| error.to_string())?;
    let signed = subject.certify_by(&made, certificate_pem, &authority).map_err(|error| error.to_string())?;
    Ok((signed, certificate_pem.clone()))
}

fn valid_for(params: &mut CertificateParams, duration_ms: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::milliseconds(duration_ms);
}

fn subject(spec: &Value) -> Subject {
    let parts = [
        ("countries", Attribute::Country),
        ("organizations", Attribute::Organization),
        ("organizationalUnits", Attribute::OrganizationalUnit),
    ];
    let listed = parts.iter().flat_map(|(field, kind)| {
        let values = spec["subject"][field].as_array().into_iter().flatten().filter_map(Value::as_str);
        values.map(|value| (*kind, value))
    });
    let common = spec["commonName"].as_str().filter(|text| !text.is_empty());
    Subject::new(listed.chain(common.map(|name| (Attribute::CommonName, name))))
}

fn alternatives(spec: &Value) -> Result<Vec<SanType>, String> {
    let list = |field: &str| spec[field].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut all = Vec::new();
    for name in list("dnsNames") {
        all.push(SanType::DnsName(name.try_into().map_err(|_| format!("spec.dnsNames: {name:?} is no name"))?));
    }
    for text in list("ipAddresses") {
        let ip: IpAddr = text.parse().map_err(|_| format!("spec.ipAddresses: {text:?} is no address"))?;
        all.push(SanType::IpAddress(ip));
    }
    if all.len() > NAMES_MAX { Err(format!("more than {NAMES_MAX} names")) } else { Ok(all) }
}

fn usages(spec: &Value, params: &mut CertificateParams) {
    let asked: Vec<&str> = spec["usages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    if spec["isCA"] == true {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    }
    for usage in asked {
        match usage {
            "server auth" => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth),
            "client auth" => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth),
            "code signing" => params.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning),
            "email protection" | "s/mime" => params.extended_key_usages.push(ExtendedKeyUsagePurpose::EmailProtection),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

    use super::*;
    use crate::house::{house, put, status_of};

    const ISSUERS: &str = "
{apiVersion: cert-manager.io/v1, kind: Issuer, metadata: {name: own}, spec: {selfSigned: {}}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: authority}
spec: {secretName: authority, isCA: true, commonName: test authority, issuerRef: {name: own}}
---
{apiVersion: cert-manager.io/v1, kind: Issuer, metadata: {name: authority}, spec: {ca: {secretName: authority}}}
---
{apiVersion: cert-manager.io/v1, kind: Issuer, metadata: {name: lost}, spec: {ca: {secretName: nowhere}}}
";

    const INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, annotations: {cert-manager.io/issuer: authority}}
spec:
  tls: [{hosts: [a.test, '*.b.test'], secretName: web-tls}]
  rules: [{host: a.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]
";

    fn is(word: &'static str) -> impl Fn(&Value) -> bool {
        move |status| status["conditions"][0]["status"] == word
    }

    fn pem(object: &Object, field: &str) -> Vec<u8> {
        BASE64.decode(object.value["data"][field].as_str().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn an_ingress_gets_a_certificate_of_the_authority_it_names() {
        let (objects, _directory, _stop) = house().await;
        put(&objects, ISSUERS).await;
        status_of(&objects, "issuers.cert-manager.io", "authority", is("True")).await;
        let lost = status_of(&objects, "issuers.cert-manager.io", "lost", is("False")).await;
        assert_eq!(lost["conditions"][0]["reason"], "ErrGetKeyPair");

        put(&objects, INGRESS).await;
        let status = status_of(&objects, CERTIFICATES, "web-tls", is("True")).await;
        let view = objects.view();
        let secret = view.get("secrets", "default", "web-tls").unwrap();
        assert_eq!(secret.field("type"), "kubernetes.io/tls");
        assert_eq!(secret.annotation("cert-manager.io/alt-names"), Some("a.test,*.b.test"));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem(secret, "ca.crt")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let leaf = CertificateDer::from_pem_slice(&pem(secret, "tls.crt")).unwrap();
        for (host, good) in [("a.test", true), ("x.b.test", true), ("c.test", false)] {
            let name = ServerName::try_from(host).unwrap();
            let verified = verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now());
            assert_eq!(verified.is_ok(), good, "{host}: {verified:?}");
        }
        // When its time has come it is made anew, and not before.
        let certificate = view.get(CERTIFICATES, "default", "web-tls").unwrap();
        let renewal_ms = api::time::parse(status["renewalTime"].as_str().unwrap()).unwrap();
        let planned = |now_ms| certificates::plan(&view, certificate, now_ms);
        assert!(matches!(planned(renewal_ms - 1000), Plan::Ready { .. }));
        assert!(matches!(planned(renewal_ms + 1000), Plan::Issue(wish) if wish.reason == "Renewing"));
    }

    #[tokio::test]
    async fn what_cannot_be_issued_says_why() {
        let (objects, _directory, _stop) = house().await;
        let certificate = |name: &str, more: &str| {
            format!(
                "{{apiVersion: cert-manager.io/v1, kind: Certificate, metadata: {{name: {name}}}, \
                 spec: {{secretName: {name}, dnsNames: [a.test], issuerRef: {{name: own}}{more}}}}}"
            )
        };
        put(&objects, "{apiVersion: cert-manager.io/v1, kind: Issuer, metadata: {name: own}, spec: {selfSigned: {}}}")
            .await;
        let cases = [
            ("rsa", ", privateKey: {algorithm: RSA}", "InvalidKey"),
            ("short", ", duration: 5m", "InvalidDuration"),
            ("address", ", ipAddresses: [nonsense]", "Failed"),
        ];
        for (name, more, reason) in cases {
            put(&objects, &certificate(name, more)).await;
            let status = status_of(&objects, CERTIFICATES, name, is("False")).await;
            assert_eq!(status["conditions"][0]["reason"], reason, "{name}");
        }
        put(&objects, &certificate("good", "")).await;
        status_of(&objects, CERTIFICATES, "good", is("True")).await;
        assert!(objects.view().get("secrets", "default", "rsa").is_none());
    }

    #[tokio::test]
    async fn a_request_is_signed_without_its_key() {
        let (objects, _directory, _stop) = house().await;
        put(&objects, ISSUERS).await;
        status_of(&objects, "issuers.cert-manager.io", "authority", is("True")).await;
        let key = KeyPair::generate().unwrap();
        let asked = CertificateParams::new(["r.test".to_owned()]).unwrap().serialize_request(&key).unwrap();
        let request = BASE64.encode(asked.pem().unwrap());
        put(
            &objects,
            &format!(
                "{{apiVersion: cert-manager.io/v1, kind: CertificateRequest, metadata: {{name: one}}, \
                 spec: {{request: {request}, issuerRef: {{name: authority}}}}}}"
            ),
        )
        .await;
        let status = status_of(&objects, REQUESTS, "one", is("True")).await;
        let signed = BASE64.decode(status["certificate"].as_str().unwrap()).unwrap();
        assert!(String::from_utf8(signed).unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    }
}
