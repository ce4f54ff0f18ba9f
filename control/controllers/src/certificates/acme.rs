//! Issuers that ask an ACME server: what they say of it.

use std::sync::Arc;

use api::{Key, Object, View};

use super::{CLUSTER_ISSUERS, ISSUERS, decoded, ready, secrets_of};

/// A field of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretField {
    /// The Secret.
    pub secret: Key,
    /// The field of its `data`.
    pub field: String,
}

impl SecretField {
    fn of(issuer: &Object, reference: &str, field: &str) -> Option<Self> {
        let name = issuer.field(&format!("{reference}.name")).as_str().filter(|name| !name.is_empty())?;
        let key = issuer.field(&format!("{reference}.key")).as_str().filter(|key| !key.is_empty());
        let secret = Key::new("secrets", secrets_of(issuer), name);
        Some(Self { secret, field: key.unwrap_or(field).to_owned() })
    }

    /// What it holds, as text.
    #[must_use]
    pub fn read(&self, view: &View) -> Option<String> {
        decoded(&view.at(&self.secret)?.value["data"][&self.field])
    }
}

/// An account elsewhere that one at the ACME server belongs to (RFC 8555, 7.3.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its identifier.
    pub key_id: String,
    /// Its MAC key, base64url.
    pub key: SecretField,
}

/// `spec.acme` of an issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acme {
    /// The URL of the server's directory.
    pub server: String,
    /// Whom the server writes to.
    pub email: Option<String>,
    /// Whom to trust for the server, PEM; nothing for whom the machine trusts.
    pub roots_pem: Option<String>,
    /// Whether the server's certificate is looked at.
    pub verified: bool,
    /// The account's key, PEM.
    pub account: SecretField,
    /// Whether an account's key that is not there is made.
    pub makes_key: bool,
    /// The account elsewhere.
    pub binding: Option<Binding>,
    /// Whether the names are shown to be one's own over HTTP, which is the one way that is served.
    pub over_http: bool,
}

/// What an issuer says of its ACME server, if it has one.
pub(super) fn of(issuer: &Object) -> Option<Acme> {
    let text = |field: &str| issuer.field(field).as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let solvers = issuer.field("spec.acme.solvers").as_array();
    let binding = text("spec.acme.externalAccountBinding.keyID").and_then(|key_id| {
        let key = SecretField::of(issuer, "spec.acme.externalAccountBinding.keySecretRef", "secret")?;
        Some(Binding { key_id, key })
    });
    Some(Acme {
        server: text("spec.acme.server")?,
        email: text("spec.acme.email"),
        roots_pem: decoded(issuer.field("spec.acme.caBundle")),
        verified: issuer.field("spec.acme.skipTLSVerify") != true,
        account: SecretField::of(issuer, "spec.acme.privateKeySecretRef", "tls.key")?,
        makes_key: issuer.field("spec.acme.disableAccountKeyGeneration") != true,
        binding,
        over_http: solvers.is_none_or(|all| all.is_empty() || all.iter().any(|one| one["http01"].is_object())),
    })
}

/// Every issuer that has an ACME server.
pub fn accounts(view: &View) -> impl Iterator<Item = (&Arc<Object>, Acme)> {
    let issuers = view.list(ISSUERS).chain(view.list(CLUSTER_ISSUERS));
    issuers.filter(|issuer| issuer.deletion_timestamp().is_none()).filter_map(|issuer| Some((issuer, of(issuer)?)))
}

/// The same, once its account is known at the server.
pub(super) fn registered(issuer: &Object, acme: Acme) -> Result<Acme, (&'static str, String)> {
    match ready(issuer) {
        Some(ready) if ready["status"] == "True" => Ok(acme),
        Some(ready) => {
            let message = ready["message"].as_str().unwrap_or_default();
            Err(("ErrRegisterACMEAccount", message.to_owned()))
        }
        None => Err(("ErrRegisterACMEAccount", "the account at the ACME server is not registered yet".to_owned())),
    }
}
