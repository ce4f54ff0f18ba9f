//! Bootstrap tokens, as Kubernetes keeps them: Secrets of type `bootstrap.kubernetes.io/token` in `kube-system`.
//!
//! Source: kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens. A token for members carries one group more,
//! which may ask for the cluster's keys.

use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use crate::pki::PkiError;
use crate::trust::JoinToken;

/// The group of those who may join as members of the control plane.
pub const MEMBERS_GROUP: &str = "system:bootstrappers:kogia:members";

/// What a new token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To join as a node.
    Node,
    /// To join as a member of the control plane, and as a node.
    Member,
}

/// A new token for the authority of this fingerprint.
///
/// # Errors
/// When the system has no randomness to give.
pub fn generate(fingerprint: &str) -> Result<JoinToken, PkiError> {
    Ok(JoinToken { id: letters(6)?, secret: letters(16)?, fingerprint: fingerprint.to_owned() })
}

/// Random characters of `[a-z0-9]`.
fn letters(count: usize) -> Result<String, PkiError> {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let random = SystemRandom::new();
    let mut text = String::with_capacity(count);
    while text.len() < count {
        let mut bytes = [0; 32];
        random.fill(&mut bytes).map_err(|_| PkiError::Tls("the system gives no randomness".into()))?;
        // 252 is the largest multiple of 36 in a byte: beyond it some characters would come more often.
        let fair = bytes.iter().filter(|byte| **byte < 252).map(|byte| char::from(ALPHABET[usize::from(byte % 36)]));
        text.extend(fair.take(count - text.len()));
    }
    Ok(text)
}

/// The Secret of a token; it ends at `expiration` (RFC 3339), or never.
#[must_use]
pub fn secret(token: &JoinToken, purpose: Purpose, expiration: Option<&str>, description: &str) -> Value {
    let mut data = json!({
        "token-id": token.id,
        "token-secret": token.secret,
        "usage-bootstrap-authentication": "true",
        "description": description,
    });
    if let Some(expiration) = expiration {
        data["expiration"] = json!(expiration);
    }
    if purpose == Purpose::Member {
        data["auth-extra-groups"] = json!(MEMBERS_GROUP);
    }
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{}", token.id), "namespace": "kube-system"},
        "stringData": data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_well_formed_and_differ() {
        let hash = "0".repeat(64);
        let (a, b) = (generate(&hash).unwrap(), generate(&hash).unwrap());
        assert_ne!(a, b);
        assert_eq!(a.to_string().parse::<JoinToken>().unwrap(), a);
        let made = secret(&a, Purpose::Node, None, "");
        assert!(made["stringData"]["auth-extra-groups"].is_null(), "a node does not get the keys");
        assert_eq!(
            secret(&a, Purpose::Member, Some("2030-01-01T00:00:00Z"), "")["stringData"]["auth-extra-groups"],
            MEMBERS_GROUP
        );
    }
}
