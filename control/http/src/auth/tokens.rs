//! Service-account tokens: JSON Web Tokens (RFC 7519, ES256) that a TokenRequest gives out (KEP-1205).
//!
//! A token names its account by uid and may be bound to a pod or a secret: it is worth nothing once either is gone,
//! whatever its expiry says. Tokens are never stored.

use api::{Cause, Object, Status, View};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use objects::User;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::limits::{TOKEN_SECONDS_MAX, TOKEN_SECONDS_MIN, TOKEN_SECONDS_USUAL};

/// Who gives the tokens out, and whom they are for when nobody else is named.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Where the keys are that verify tokens.
pub(crate) const KEYS_PATH: &str = "/openid/v1/jwks";
/// Length of one coordinate of a P-256 point.
const COORDINATE_BYTES: usize = 32;
/// Where the claims about the account stand.
const PRIVATE: &str = "kubernetes.io";
const EXTRA: &str = "authentication.kubernetes.io/";

/// The key that signs a cluster's service-account tokens.
pub struct ServiceAccountTokens {
    key: EcdsaKeyPair,
    id: String,
    random: SystemRandom,
}

/// The key cannot be made or read.
#[derive(Debug)]
pub struct KeyError;

impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the key for service-account tokens is not a P-256 key in PKCS #8")
    }
}

impl std::error::Error for KeyError {}

impl ServiceAccountTokens {
    /// A new key in PKCS #8 (RFC 5958), DER: keep it, or every token ends with the process.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> Result<Vec<u8>, KeyError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        document.map(|document| document.as_ref().to_vec()).map_err(|_| KeyError)
    }

    /// Reads a key made by [`ServiceAccountTokens::generate`], or any other P-256 key in PKCS #8, DER.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random).map_err(|_| KeyError)?;
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(key.public_key().as_ref()));
        Ok(Self { key, id, random })
    }

    fn sign(&self, claims: &Value) -> Result<String, Status> {
        let header = json!({"alg": "ES256", "kid": self.id});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", encode(&header), encode(claims));
        let signature = self.key.sign(&self.random, text.as_bytes()).map_err(Status::internal)?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }

    /// The claims of a token that this key has signed and that is not over.
    fn read(&self, token: &str, now_s: i64) -> Option<Value> {
        let (text, signature) = token.rsplit_once('.')?;
        let (header, claims) = text.split_once('.')?;
        let decode = |part: &str| -> Option<Value> { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok() };
        if decode(header)?["alg"] != "ES256" {
            return None;
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key());
        key.verify(text.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        let claims = decode(claims)?;
        let within = claims["nbf"].as_i64()? <= now_s && now_s < claims["exp"].as_i64()?;
        (within && claims["iss"] == ISSUER).then_some(claims)
    }

    /// How others verify the cluster's tokens: the discovery document of OpenID Connect (KEP-1393).
    pub(crate) fn configuration() -> Value {
        json!({
            "issuer": ISSUER, "jwks_uri": format!("{ISSUER}{KEYS_PATH}"), "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// The key that tokens are verified with, as a JSON Web Key Set (RFC 7517).
    pub(crate) fn keys(&self) -> Value {
        // An uncompressed point (SEC 1 §2.3.3): a byte, then both coordinates.
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(COORDINATE_BYTES);
        json!({"keys": [{
            "use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.id,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }

    /// Answers a TokenRequest for an account; `request` is its body.
    pub(crate) fn issue(&self, view: &View, account: &Object, request: &Value, now_ms: i64) -> Result<Value, Status> {
        let spec = &request["spec"];
        let seconds = spec["expirationSeconds"].as_i64().unwrap_or(TOKEN_SECONDS_USUAL);
        if !(TOKEN_SECONDS_MIN..=TOKEN_SECONDS_MAX).contains(&seconds) {
            let detail = "may not specify a duration less than 10 minutes or larger than 2^32 seconds";
            let cause = Cause::invalid("spec.expirationSeconds", &json!(seconds), detail);
            return Err(Status::invalid("authentication.k8s.io", "TokenRequest", account.name(), vec![cause]));
        }
        let audiences = match spec["audiences"].as_array() {
            Some(audiences) if !audiences.is_empty() => spec["audiences"].clone(),
            _ => json!([ISSUER]),
        };
        let mut private = json!({
            "namespace": account.namespace(), "serviceaccount": {"name": account.name(), "uid": account.uid()},
        });
        if let Some((kind, object)) = bound(view, account, &spec["boundObjectRef"])? {
            private[kind] = json!({"name": object.name(), "uid": object.uid()});
        }
        let now_s = now_ms.div_euclid(1000);
        let claims = json!({
            "iss": ISSUER, "sub": subject(account.namespace(), account.name()), "aud": audiences,
            "iat": now_s, "nbf": now_s, "exp": now_s + seconds, "jti": uuid::Uuid::new_v4().to_string(),
            PRIVATE: private,
        });
        let mut answer = request.clone();
        answer["kind"] = "TokenRequest".into();
        answer["apiVersion"] = "authentication.k8s.io/v1".into();
        answer["metadata"] = json!({"name": account.name(), "namespace": account.namespace()});
        answer["spec"]["audiences"] = audiences;
        answer["spec"]["expirationSeconds"] = json!(seconds);
        let expires = api::time::seconds(now_s + seconds);
        answer["status"] = json!({"token": self.sign(&claims)?, "expirationTimestamp": expires});
        Ok(answer)
    }

    /// Whose token this is; `None` for one that is not ours, is over, is for somebody else, or whose account or
    /// bound object is gone.
    pub(crate) fn authenticate(&self, view: &View, token: &str, now_ms: i64) -> Option<User> {
        let claims = self.read(token, now_ms.div_euclid(1000))?;
        claims["aud"].as_array()?.iter().any(|audience| audience == ISSUER).then_some(())?;
        let private = &claims[PRIVATE];
        let namespace = private["namespace"].as_str()?;
        let lives = |resource: &str, named: &Value| {
            let object = view.get(resource, namespace, named["name"].as_str().unwrap_or_default());
            object.is_some_and(|object| named["uid"] == object.uid())
        };
        let account = &private["serviceaccount"];
        lives("serviceaccounts", account).then_some(())?;
        for (kind, resource) in [("pod", "pods"), ("secret", "secrets")] {
            if private.get(kind).is_some_and(|named| !lives(resource, named)) {
                return None;
            }
        }
        let mut user = User {
            name: subject(namespace, account["name"].as_str()?),
            uid: account["uid"].as_str()?.to_owned(),
            groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")],
            ..User::default()
        };
        if let Some(id) = claims["jti"].as_str() {
            user.extra.insert(format!("{EXTRA}credential-id"), vec![format!("JTI={id}")]);
        }
        for field in ["name", "uid"] {
            if let Some(text) = private["pod"][field].as_str() {
                user.extra.insert(format!("{EXTRA}pod-{field}"), vec![text.to_owned()]);
            }
        }
        Some(user)
    }
}

/// `system:serviceaccount:NAMESPACE:NAME`.
fn subject(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The object that the token shall live and die with.
fn bound<'a>(view: &'a View, account: &Object, wanted: &Value) -> Result<Option<(&'static str, &'a Object)>, Status> {
    let (kind, resource) = match wanted["kind"].as_str() {
        None => return Ok(None),
        Some("Pod") => ("pod", "pods"),
        Some("Secret") => ("secret", "secrets"),
        Some(other) => {
            let cause = Cause::not_supported("spec.boundObjectRef.kind", &json!(other), &["Pod", "Secret"]);
            return Err(Status::invalid("authentication.k8s.io", "TokenRequest", account.name(), vec![cause]));
        }
    };
    let name = wanted["name"].as_str().unwrap_or_default();
    let object = view.get(resource, account.namespace(), name).ok_or_else(|| Status::not_found(resource, name))?;
    let uid = wanted["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && uid != object.uid() {
        let why = format!("the UID in the bound object reference ({uid}) does not match the UID in record");
        return Err(Status::conflict(resource, name, &why));
    }
    if kind == "pod" && *object.field("spec.serviceAccountName") != account.name() {
        let why = format!("the pod does not use the service account {:?}", account.name());
        return Err(Status::forbidden(resource, name, &why));
    }
    Ok(Some((kind, object)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ChangeKind, Key};
    use std::sync::Arc;

    const NOW: i64 = 1_700_000_000_000;

    fn put(view: &mut View, resource: &str, revision: u64, uid: &str) -> Arc<Object> {
        let value =
            json!({"metadata": {"name": "x", "namespace": "d", "uid": uid}, "spec": {"serviceAccountName": "x"}});
        let object = Arc::new(Object::new(Key::new(resource, "d", "x"), revision, value));
        view.apply(ChangeKind::Added, &object);
        object
    }

    #[test]
    fn a_token_lives_as_long_as_what_it_speaks_for() {
        let tokens = ServiceAccountTokens::from_pkcs8(&ServiceAccountTokens::generate().unwrap()).unwrap();
        let other = ServiceAccountTokens::from_pkcs8(&ServiceAccountTokens::generate().unwrap()).unwrap();
        let mut view = View::default();
        let account = put(&mut view, "serviceaccounts", 1, "u1");
        put(&mut view, "pods", 2, "u2");
        let request = json!({"spec": {"boundObjectRef": {"kind": "Pod", "name": "x"}}});
        let answer = tokens.issue(&view, &account, &request, NOW).unwrap();
        let token = answer["status"]["token"].as_str().unwrap();
        assert_eq!(answer["status"]["expirationTimestamp"], "2023-11-14T23:13:20Z");
        let user = tokens.authenticate(&view, token, NOW).unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("system:serviceaccount:d:x", "u1"));
        assert!(user.is_in("system:serviceaccounts:d") && user.extra.contains_key(&format!("{EXTRA}pod-name")));

        let key = &tokens.keys()["keys"][0];
        let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
        let point = [&[4][..], &coordinate("x"), &coordinate("y")].concat();
        let (text, signature) = token.rsplit_once('.').unwrap();
        let published = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        published.verify(text.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();

        assert!(tokens.authenticate(&view, token, NOW + 3_600_000).is_none(), "it is over");
        assert!(other.authenticate(&view, token, NOW).is_none(), "another cluster's");
        assert!(tokens.authenticate(&view, &token[..token.len() - 2], NOW).is_none(), "cut");
        let (head, rest) = token.split_once('.').unwrap();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        assert_ne!(head, none);
        assert!(tokens.authenticate(&view, &format!("{none}.{rest}"), NOW).is_none(), "unsigned");
        put(&mut view, "pods", 3, "a namesake");
        assert!(tokens.authenticate(&view, token, NOW).is_none(), "its pod is gone");
    }

    #[test]
    fn tokens_for_others_and_odd_requests() {
        let tokens = ServiceAccountTokens::from_pkcs8(&ServiceAccountTokens::generate().unwrap()).unwrap();
        let mut view = View::default();
        let account = put(&mut view, "serviceaccounts", 1, "u1");
        let issue = |spec: Value| tokens.issue(&view, &account, &json!({"spec": spec}), NOW);
        let vault = issue(json!({"audiences": ["vault"]})).unwrap();
        assert!(tokens.authenticate(&view, vault["status"]["token"].as_str().unwrap(), NOW).is_none());
        for (spec, code) in [
            (json!({"expirationSeconds": 60}), 422),
            (json!({"boundObjectRef": {"kind": "Node", "name": "n"}}), 422),
            (json!({"boundObjectRef": {"kind": "Pod", "name": "none"}}), 404),
        ] {
            assert_eq!(issue(spec).unwrap_err().code, code);
        }
        assert!(ServiceAccountTokens::from_pkcs8(b"no key").is_err());
    }
}
