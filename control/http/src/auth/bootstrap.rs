//! Bootstrap tokens: what a machine shows before it has a certificate.
//!
//! They are Secrets of type `bootstrap.kubernetes.io/token` in `kube-system`, as kubeadm makes them; the user is
//! `system:bootstrap:ID` in `system:bootstrappers` and whatever groups the Secret adds. Source:
//! kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens.

use api::{Object, View};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use objects::User;
use sha2::{Digest, Sha256};

const GROUP: &str = "system:bootstrappers";

/// Whose token this is; `None` for one that is not known, is over, or may not be used to say who one is.
pub(super) fn authenticate(view: &View, token: &str, now_ms: i64) -> Option<User> {
    let (id, secret) = token.split_once('.').filter(|(id, secret)| plain(id, 6) && plain(secret, 16))?;
    let kept = view.get("secrets", "kube-system", &format!("bootstrap-token-{id}"))?;
    (kept.field("type") == "bootstrap.kubernetes.io/token" && kept.deletion_timestamp().is_none()).then_some(())?;
    // Hashes are compared, so that time tells a guesser nothing about the secret.
    let same = Sha256::digest(field(kept, "token-secret")?) == Sha256::digest(secret);
    let within = match field(kept, "expiration") {
        Some(expiration) => api::time::parse(&expiration).is_some_and(|end_ms| now_ms < end_ms),
        None => true,
    };
    let usable = field(kept, "usage-bootstrap-authentication")? == "true" && field(kept, "token-id")? == id;
    (same && within && usable).then_some(())?;
    let extra = field(kept, "auth-extra-groups").unwrap_or_default();
    // A group outside of this name is one that a token cannot give.
    let extra = extra.split(',').map(str::trim).filter(|group| group.starts_with("system:bootstrappers:"));
    let groups = std::iter::once(GROUP).chain(extra).map(str::to_owned).collect();
    Some(User { name: format!("system:bootstrap:{id}"), groups, ..User::default() })
}

fn plain(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

fn field(secret: &Object, name: &str) -> Option<String> {
    let bytes = STANDARD.decode(secret.value["data"][name].as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ChangeKind, Key};
    use serde_json::{Value, json};
    use std::sync::Arc;

    const NOW: i64 = 1_700_000_000_000;

    fn view(changes: &[(&str, Value)]) -> View {
        let mut data = json!({
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "expiration": "2023-11-14T23:13:20Z", "auth-extra-groups": "system:bootstrappers:a, system:masters",
        });
        for (name, value) in changes {
            data[*name] = value.clone();
        }
        for value in data.as_object_mut().unwrap().values_mut() {
            *value = value.as_str().map_or(Value::Null, |text| STANDARD.encode(text).into());
        }
        let key = Key::new("secrets", "kube-system", "bootstrap-token-abcdef");
        let value = json!({
            "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
            "type": "bootstrap.kubernetes.io/token", "data": data,
        });
        let mut view = View::default();
        view.apply(ChangeKind::Added, &Arc::new(Object::new(key, 1, value)));
        view
    }

    #[test]
    fn a_token_is_good_for_what_its_secret_says() {
        let user = authenticate(&view(&[]), "abcdef.0123456789abcdef", NOW).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, ["system:bootstrappers", "system:bootstrappers:a"]);
        let later = NOW + 24 * 3_600_000;
        let never = view(&[("expiration", Value::Null)]);
        assert!(authenticate(&never, "abcdef.0123456789abcdef", later).is_some(), "it has no end");
        for (what, view, token, now) in [
            ("over", view(&[]), "abcdef.0123456789abcdef", later),
            ("unreadable end", view(&[("expiration", json!("soon"))]), "abcdef.0123456789abcdef", NOW),
            ("wrong secret", view(&[]), "abcdef.0123456789abcdeg", NOW),
            ("unknown", view(&[]), "abcdeg.0123456789abcdef", NOW),
            ("not a token", view(&[]), "abcdef", NOW),
            ("not for this", view(&[("usage-bootstrap-authentication", json!("no"))]), "abcdef.0123456789abcdef", NOW),
        ] {
            assert!(authenticate(&view, token, now).is_none(), "{what}");
        }
    }
}
