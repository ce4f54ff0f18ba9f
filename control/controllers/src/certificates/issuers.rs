//! Issuer and ClusterIssuer: ready when what they sign with is there.

use api::{Action, Change, Key, View};
use serde_json::json;

use super::{CLUSTER_ISSUERS, ISSUERS, Signer, acme, signer};
use crate::World;
use crate::status::{self, Condition};

/// An issuer wakes with itself, all of them with a TLS Secret.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    match &*object.key.resource {
        ISSUERS | CLUSTER_ISSUERS => vec![object.key.clone()],
        "secrets" if !object.value["data"]["tls.crt"].is_null() => {
            view.list(ISSUERS).chain(view.list(CLUSTER_ISSUERS)).map(|issuer| issuer.key.clone()).collect()
        }
        _ => Vec::new(),
    }
}

/// One issuer.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let issuer = world.view.at(key);
    // Whether an account is known at an ACME server is for those to say who ask it.
    let Some(issuer) = issuer.filter(|issuer| acme::of(issuer).is_none()) else { return Vec::new() };
    let (status, reason, message) = match signer(world.view, issuer) {
        Ok(Signer::Own) => ("True", "IsReady", String::new()),
        Ok(Signer::Authority { .. } | Signer::Acme(_)) => ("True", "KeyPairVerified", "Signing CA verified".to_owned()),
        Err((reason, message)) => ("False", reason, message),
    };
    let mut conditions = status::conditions(issuer);
    status::put(&mut conditions, &Condition { type_: "Ready", status, reason, message: &message }, None, world.now_ms);
    status::set(issuer, json!({"conditions": conditions})).into_iter().collect()
}
