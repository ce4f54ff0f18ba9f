//! Ingresses with `cert-manager.io/issuer` or `cert-manager.io/cluster-issuer`: a Certificate for every Secret that
//! their `spec.tls` names.

use api::{Action, Change, Key, Object, View};
use serde_json::{Value, json};

use super::CERTIFICATES;
use crate::owner::{self, Kind};
use crate::{World, status};

const INGRESS: Kind =
    Kind { resource: "ingresses.networking.k8s.io", api_version: "networking.k8s.io/v1", kind: "Ingress" };

/// An Ingress wakes with itself and with the Certificates that are its own.
pub(crate) fn keys(change: &Change, view: &View) -> Vec<Key> {
    let object = &change.object;
    match &*object.key.resource {
        resource if resource == INGRESS.resource => vec![object.key.clone()],
        CERTIFICATES => {
            let owner = object.controller_uid().and_then(|uid| view.find(uid));
            owner
                .filter(|owner| &*owner.key.resource == INGRESS.resource)
                .map(|owner| owner.key.clone())
                .into_iter()
                .collect()
        }
        _ => Vec::new(),
    }
}

/// One Ingress.
pub(crate) fn reconcile(world: &World<'_>, key: &Key) -> Vec<Action> {
    let ingress = world.view.at(key).filter(|ingress| ingress.deletion_timestamp().is_none());
    let Some(ingress) = ingress else { return Vec::new() };
    let named = |annotation, kind: &str| ingress.annotation(annotation).map(|name| json!({"name": name, "kind": kind}));
    let issuer =
        named("cert-manager.io/cluster-issuer", "ClusterIssuer").or_else(|| named("cert-manager.io/issuer", "Issuer"));
    let Some(issuer) = issuer else { return Vec::new() };
    let tls = ingress.field("spec.tls").as_array().into_iter().flatten();
    tls.filter_map(|entry| wanted(world, ingress, entry, &issuer)).collect()
}

/// The Certificate for one entry of `spec.tls`, if it is not there as it should be.
fn wanted(world: &World<'_>, ingress: &Object, tls: &Value, issuer: &Value) -> Option<Action> {
    let secret = tls["secretName"].as_str().filter(|name| !name.is_empty())?;
    let mut spec = json!({"secretName": secret, "dnsNames": tls["hosts"], "issuerRef": issuer});
    for field in ["duration", "renew-before"] {
        if let Some(text) = ingress.annotation(&format!("cert-manager.io/{field}")) {
            spec[if field == "duration" { "duration" } else { "renewBefore" }] = json!(text);
        }
    }
    let Some(known) = world.view.get(CERTIFICATES, ingress.namespace(), secret) else {
        let body = json!({
            "apiVersion": "cert-manager.io/v1", "kind": "Certificate",
            "metadata": {
                "name": secret, "namespace": ingress.namespace(),
                "ownerReferences": [owner::reference(ingress, &INGRESS)],
            },
            "spec": spec,
        });
        return Some(Action::Create { key: Key::new(CERTIFICATES, ingress.key.namespace.clone(), secret), body });
    };
    // A Certificate of that name that somebody else made is theirs.
    let own = known.controller_uid() == Some(ingress.uid());
    let stale = ["dnsNames", "issuerRef"].iter().any(|field| known.value["spec"][field] != spec[field]);
    (own && stale).then(|| status::patch(known, json!({ "spec": spec })))
}
