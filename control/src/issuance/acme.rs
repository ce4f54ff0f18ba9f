//! Certificates from ACME servers (RFC 8555): accounts, orders, and the proof over HTTP that a name is one's own.
//!
//! An order is a task of its own, of which there are [`ORDERS_MAX`] at a time: a server may take minutes, and nobody else
//! waits for it. What it does is seen in an `Order` and in a `Challenge` for each name; the nodes that serve Ingresses
//! answer what a Challenge says under `/.well-known/acme-challenge/`, and say so in its status before the server is told
//! to look. A task that is lost with its process is begun anew by the next one.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::meta::controlled_by;
use api::{Action, Key, Object, Precondition, Severity};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};
use bytes::Bytes;
use controllers::certificates::{Acme, CHALLENGES, ORDERS, Wish};
use http_body_util::{BodyExt, Full};
use instant_acme::{
    Account, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeType, Error, ExternalAccountKey, HttpClient,
    Identifier, Key as AccountKey, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use reqwest::{Client, redirect};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Driver, Signed, alternatives, key_of};
use crate::clock;

/// Orders and registrations that go on at a time.
const ORDERS_MAX: usize = 8;

/// Bytes of one answer of a server: a chain of certificates is some thousand.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long some node may take to say that it answers a challenge.
const PRESENTED_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a server may look at the names, and then how long it may take to sign.
const SERVER_TIMEOUT: Duration = Duration::from_secs(120);

/// How soon a server that did not register an account is asked again.
const REGISTER_AGAIN: Duration = Duration::from_secs(60);

/// Characters of an Order's name that are its Certificate's; the rest is its number.
const NAME_CHARS_MAX: usize = 200;

/// What tasks are at: an issuer or a Certificate as it was at this generation.
type Marks = HashSet<(Key, i64)>;

fn marks(at: &Mutex<Marks>) -> MutexGuard<'_, Marks> {
    at.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What goes on at ACME servers.
pub(super) struct Desk {
    at: Arc<Mutex<Marks>>,
    places: Arc<Semaphore>,
    /// Something ended and is to be looked at again.
    pub(super) ended: Arc<Notify>,
    stop: CancellationToken,
}

impl Desk {
    pub(super) fn new(stop: CancellationToken) -> Self {
        let places = Arc::new(Semaphore::new(ORDERS_MAX));
        Self { at: Arc::default(), places, ended: Arc::default(), stop }
    }

    /// Does some work for an object, unless it goes on already, and rests afterwards if it says so.
    fn begin<F>(&self, object: &Object, work: F)
    where
        F: Future<Output = Duration> + Send + 'static,
    {
        let mark = (object.key.clone(), object.field("metadata.generation").as_i64().unwrap_or(0));
        if !marks(&self.at).insert(mark.clone()) {
            return;
        }
        let (at, places, ended) = (self.at.clone(), self.places.clone(), self.ended.clone());
        let whole = async move {
            let rest = {
                let _place = places.acquire().await;
                work.await
            };
            tokio::time::sleep(rest).await;
            marks(&at).remove(&mark);
            ended.notify_one();
        };
        let stop = self.stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled(whole).await });
    }

    /// Makes an issuer's account known to its server.
    pub(super) fn register(&self, driver: &Driver, issuer: &Arc<Object>, acme: Acme) {
        let (driver, issuer) = (driver.clone(), issuer.clone());
        self.begin(&issuer.clone(), async move {
            match account(&driver, &acme).await {
                Ok(account) => {
                    let message = "The ACME account was registered with the ACME server";
                    let known = json!({"acme": {"uri": account.id(), "lastRegisteredEmail": acme.email}});
                    driver.say(&issuer, ("True", "ACMEAccountRegistered", message), known).await;
                    Duration::ZERO
                }
                Err(error) => {
                    let message = format!("Failed to register ACME account: {error}");
                    driver.say(&issuer, ("False", "ErrRegisterACMEAccount", &message), json!({})).await;
                    REGISTER_AGAIN
                }
            }
        });
    }

    /// Has a certificate signed.
    pub(super) fn order(&self, driver: &Driver, certificate: &Arc<Object>, wish: Wish, acme: Acme) {
        let (driver, certificate) = (driver.clone(), certificate.clone());
        self.begin(&certificate.clone(), async move {
            // One that is good still is ready while it is renewed.
            let is_good = || wish.good_until_ms.is_some_and(|end_ms| end_ms > clock::now_ms());
            if !is_good() {
                let message = format!("Issuing certificate ({})", wish.reason);
                driver.say(&certificate, ("False", "Issuing", &message), json!({})).await;
            }
            let record = Record::open(&driver, &certificate).await;
            let signed = obtain(&record, &wish, &acme).await;
            record.close(signed.as_ref().map(|signed| signed.certificate_pem.as_str())).await;
            let current = driver.current(&certificate);
            match signed {
                Ok(signed) => {
                    driver
                        .patch_status(&current, json!({"lastFailureTime": null, "failedIssuanceAttempts": null}))
                        .await;
                    driver.keep(&driver.current(&certificate), &signed).await;
                    let message = format!("The certificate has been successfully issued ({})", wish.reason);
                    driver.tell(&certificate, Severity::Normal, "Issuing", message).await;
                }
                Err(message) => {
                    let attempts = current.field("status.failedIssuanceAttempts").as_u64().unwrap_or(0) + 1;
                    let more = json!({
                        "lastFailureTime": api::time::rfc3339(clock::now_ms()), "failedIssuanceAttempts": attempts,
                    });
                    match is_good() {
                        true => driver.patch_status(&current, more).await,
                        false => driver.say(&current, ("False", "Failed", &message), more).await,
                    }
                    driver.tell(&certificate, Severity::Warning, "Failed", message).await;
                }
            }
            Duration::ZERO
        });
    }
}

/// The Order that shows what goes on for a Certificate.
struct Record<'a> {
    driver: &'a Driver,
    certificate: &'a Object,
    order: Key,
}

impl<'a> Record<'a> {
    /// Makes it; the one before goes, and its Challenges with it.
    async fn open(driver: &'a Driver, certificate: &'a Object) -> Self {
        let view = driver.objects.view();
        for old in view.owned(certificate.uid()).filter(|object| &*object.key.resource == ORDERS) {
            let precondition = Precondition::same(old);
            driver.perform(Action::Delete { key: old.key.clone(), precondition, grace_seconds: None }).await;
        }
        let status = |field: &str| certificate.field(field).as_u64().unwrap_or(0) + 1;
        let short: String = certificate.name().chars().take(NAME_CHARS_MAX).collect();
        let name = format!("{short}-{}-{}", status("status.revision"), status("status.failedIssuanceAttempts"));
        let order = Key::new(ORDERS, certificate.key.namespace.clone(), name.as_str());
        let spec = &certificate.value["spec"];
        let body = json!({
            "apiVersion": "acme.cert-manager.io/v1", "kind": "Order",
            "metadata": {
                "name": name, "namespace": certificate.namespace(),
                "ownerReferences": [controlled_by(certificate, "cert-manager.io/v1", "Certificate")],
            },
            "spec": {
                "request": "", "issuerRef": spec["issuerRef"], "commonName": spec["commonName"],
                "dnsNames": spec["dnsNames"], "ipAddresses": spec["ipAddresses"],
            },
        });
        driver.perform(Action::Create { key: order.clone(), body: present(body) }).await;
        Self { driver, certificate, order }
    }

    async fn say(&self, status: Value) {
        if let Some(order) = self.driver.objects.view().at(&self.order) {
            self.driver.patch_status(order, status).await;
        }
    }

    /// Says how it ended; the Challenges are not needed any more.
    async fn close(&self, ended: Result<&str, &String>) {
        let status = match ended {
            Ok(pem) => json!({"state": "valid", "certificate": BASE64.encode(pem)}),
            Err(message) => json!({
                "state": "invalid", "reason": message, "failureTime": api::time::rfc3339(clock::now_ms()),
            }),
        };
        self.say(status).await;
        let view = self.driver.objects.view();
        let Some(order) = view.at(&self.order) else { return };
        for challenge in view.owned(order.uid()).filter(|object| &*object.key.resource == CHALLENGES) {
            let precondition = Precondition::same(challenge);
            let action = Action::Delete { key: challenge.key.clone(), precondition, grace_seconds: None };
            self.driver.perform(action).await;
        }
    }

    /// Has the nodes answer a challenge, and waits until one says that it does.
    async fn present(&self, number: usize, spec: Value) -> Result<(), String> {
        let objects = &self.driver.objects;
        let order = objects.view().at(&self.order).cloned().ok_or("the Order was deleted")?;
        let name = format!("{}-{number}", self.order.name);
        let key = Key::new(CHALLENGES, self.order.namespace.clone(), name.as_str());
        let body = json!({
            "apiVersion": "acme.cert-manager.io/v1", "kind": "Challenge",
            "metadata": {
                "name": name, "namespace": self.certificate.namespace(),
                "ownerReferences": [controlled_by(&order, "acme.cert-manager.io/v1", "Order")],
            },
            "spec": spec,
        });
        self.driver.perform(Action::Create { key: key.clone(), body }).await;
        let presented = async {
            loop {
                let view = objects.view();
                if view.at(&key).is_some_and(|challenge| challenge.field("status.presented") == true) {
                    return Some(());
                }
                objects.changes(view.revision()).ok()?.next().await.ok()?;
            }
        };
        match tokio::time::timeout(PRESENTED_TIMEOUT, presented).await {
            Ok(Some(())) => Ok(()),
            _ => Err("no node that serves Ingresses answers the challenge".to_owned()),
        }
    }
}

/// Without the fields that say nothing.
fn present(mut body: Value) -> Value {
    if let Some(spec) = body["spec"].as_object_mut() {
        spec.retain(|_, value| !value.is_null());
    }
    body
}

/// Orders a certificate, shows that the names are one's own, and fetches it.
async fn obtain(record: &Record<'_>, wish: &Wish, acme: &Acme) -> Result<Signed, String> {
    if !acme.over_http {
        return Err("the issuer has no solver of type http01, which is the one that is served".to_owned());
    }
    let spec = &record.certificate.value["spec"];
    let mut names = alternatives(spec)?;
    if let Some(common) = spec["commonName"].as_str().filter(|text| !text.is_empty()) {
        let common =
            SanType::DnsName(common.try_into().map_err(|_| format!("spec.commonName: {common:?} is no name"))?);
        if !names.contains(&common) {
            names.push(common);
        }
    }
    let identifiers: Vec<Identifier> = names.iter().filter_map(identifier).collect();
    if identifiers.is_empty() {
        return Err("a certificate of an ACME server needs a DNS name or an IP address".to_owned());
    }
    let account = account(record.driver, acme).await?;
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await.map_err(|error| said(&error))?;
    record.say(json!({"url": order.url(), "state": "pending"})).await;
    prove(record, &mut order).await?;
    let patience = RetryPolicy::new().timeout(SERVER_TIMEOUT);
    if order.state().status != OrderStatus::Ready {
        let seen = order.poll_ready(&patience).await;
        if !matches!(seen, Ok(OrderStatus::Ready)) {
            let why = refusal(&mut order).await;
            return Err(why.unwrap_or_else(|| {
                seen.map_or_else(|error| said(&error), |_| "the server refused the order".to_owned())
            }));
        }
    }
    let key = key_of(spec, wish)?;
    let mut params = CertificateParams::default();
    // Such a server certifies names alone (RFC 8555 §7.4): whatever else the subject says is not for it to know.
    params.distinguished_name = DistinguishedName::new();
    if let Some(common) = spec["commonName"].as_str().filter(|name| !name.is_empty()) {
        params.distinguished_name.push(DnType::CommonName, common);
    }
    params.subject_alt_names = names;
    let asked = params.serialize_request(&key).map_err(|error| error.to_string())?;
    order.finalize_csr(asked.der()).await.map_err(|error| said(&error))?;
    let certificate_pem = order.poll_certificate(&patience).await.map_err(|error| said(&error))?;
    Ok(Signed { key_pem: key.serialize_pem(), certificate_pem, authority_pem: None })
}

/// Shows the server what it wants to see of every name that it does not know to be this account's.
async fn prove(record: &Record<'_>, order: &mut Order) -> Result<(), String> {
    let mut authorizations = order.authorizations();
    let mut number = 0;
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(|error| said(&error))?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => return Err(format!("an authorization is {status:?}")),
        }
        let (url, name) = (authorization.url().to_owned(), authorization.identifier().to_string());
        let mut challenge = authorization.challenge(ChallengeType::Http01).ok_or_else(|| {
            format!("the server asks no proof over HTTP for {name}; a wildcard needs DNS, which is not served")
        })?;
        let spec = json!({
            "url": challenge.url, "authorizationURL": url, "dnsName": name, "wildcard": false, "type": "HTTP-01",
            "token": challenge.token, "key": challenge.key_authorization().as_str(),
            "issuerRef": record.certificate.field("spec.issuerRef"),
        });
        record.present(number, spec).await?;
        challenge.set_ready().await.map_err(|error| said(&error))?;
        number += 1;
    }
    Ok(())
}

/// What the server says of the challenge that failed.
async fn refusal(order: &mut Order) -> Option<String> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let name = authorization.identifier().to_string();
        let state = authorization.refresh().await.ok()?;
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            return Some(format!("{name}: {problem}"));
        }
    }
    None
}

fn identifier(name: &SanType) -> Option<Identifier> {
    match name {
        SanType::DnsName(name) => Some(Identifier::Dns(name.as_str().to_owned())),
        SanType::IpAddress(ip) => Some(Identifier::Ip(*ip)),
        _ => None,
    }
}

/// The issuer's account at its server: of the key in its Secret, or of a new one, which is put there.
async fn account(driver: &Driver, acme: &Acme) -> Result<Account, String> {
    let view = driver.objects.view();
    let builder = || Ok::<_, String>(Account::builder_with_http(Box::new(Way(client(acme)?))));
    if let Some(pem) = acme.account.read(&view) {
        let unusable = |why: &dyn std::fmt::Display| {
            format!("the account's key in Secret {} is unusable: {why}", acme.account.secret.name)
        };
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| unusable(&error))?;
        let key = AccountKey::from_pkcs8_der(der.clone_key()).map_err(|_| unusable(&"it is no ECDSA key on P-256"))?;
        let known = builder()?.create_from_key((key, PrivateKeyDer::Pkcs8(der)), acme.server.clone()).await;
        return known.map(|(account, _)| account).map_err(|error| said(&error));
    }
    if !acme.makes_key {
        return Err(format!("Secret {} holds no key, and none is to be made", acme.account.secret.name));
    }
    let contact: Vec<String> = acme.email.iter().map(|email| format!("mailto:{email}")).collect();
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let wanted = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let binding = match &acme.binding {
        Some(binding) => {
            let text = binding.key.read(&view).ok_or("the Secret of externalAccountBinding holds no key")?;
            let bytes = URL_SAFE_NO_PAD.decode(text.trim().trim_end_matches('='));
            let bytes = bytes.map_err(|error| format!("the key of externalAccountBinding: {error}"))?;
            Some(ExternalAccountKey::new(binding.key_id.clone(), &bytes))
        }
        None => None,
    };
    let made = builder()?.create(&wanted, acme.server.clone(), binding.as_ref()).await;
    let (account, credentials) = made.map_err(|error| said(&error))?;
    let key = KeyPair::try_from(credentials.private_key().secret_pkcs8_der()).map_err(|error| error.to_string())?;
    driver.keep_account(acme, &key.serialize_pem()).await?;
    Ok(account)
}

/// What went wrong, with what stands behind it.
fn said(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text
}

/// The way to a server: HTTPS with whom the issuer trusts, and no redirects.
struct Way(Client);

fn client(acme: &Acme) -> Result<Client, String> {
    if !acme.verified {
        return Err("skipTLSVerify is not served: spec.acme.caBundle says whom to trust".to_owned());
    }
    let tls = http_api::tls_client(acme.roots_pem.as_deref().unwrap_or_default().as_bytes())?;
    let client = Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("kogia/", env!("CARGO_PKG_VERSION")))
        .timeout(REQUEST_TIMEOUT)
        .redirect(redirect::Policy::none())
        .build();
    client.map_err(|error| error.to_string())
}

impl HttpClient for Way {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let other = |error: reqwest::Error| Error::Other(error.into());
            let (parts, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let url = parts.uri.to_string();
            let asked = client.request(parts.method, url).headers(parts.headers).body(body.to_bytes());
            let mut answer = asked.send().await.map_err(other)?;
            let mut response = http::Response::builder().status(answer.status());
            if let Some(headers) = response.headers_mut() {
                headers.extend(answer.headers().iter().map(|(name, value)| (name.clone(), value.clone())));
            }
            let mut bytes = Vec::new();
            while let Some(chunk) = answer.chunk().await.map_err(other)? {
                if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                    return Err(Error::Str("an answer of reasonable size"));
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(BytesResponse::from(response.body(Full::new(Bytes::from(bytes)))?))
        })
    }
}
