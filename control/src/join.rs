//! `POST /kogia/join`: a new member asks for its number and the cluster's keys.
//!
//! Who may ask was decided before, by RBAC: administrators, and bearers of a bootstrap token for members. The Lease made
//! here is what the leader acts upon; its revision is the member's number, which therefore was never used before.
//! Somebody who asks again under the same instance gets the same answer, so that a joining that broke off can go on.

use std::net::SocketAddr;
use std::path::Path;

use api::{Action, Status};
use objects::{Objects, User};
use raft_store::Store;
use serde_json::{Value, json};

use crate::member::{self, Announced, Record};
use crate::server::FORMAT;
use crate::{clock, pki};

/// Answers one request.
pub(crate) async fn answer(objects: &Objects, store: &Store, pki: &Path, body: &Value) -> Result<Value, Status> {
    let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
    let (name, peer, instance) = (text("name"), text("peer"), text("instance"));
    if !is_label(&name) {
        return Err(Status::bad_request(format!("{name:?} is no name for a member: it must be a DNS label")));
    }
    if instance.is_empty() || !peer.parse::<SocketAddr>().is_ok_and(|peer| !peer.ip().is_unspecified()) {
        return Err(Status::bad_request("a member says which instance it is, and at which address its peers reach it"));
    }
    if body["format"].as_u64().is_none_or(|format| format < u64::from(FORMAT)) {
        let why = format!(
            "this cluster has format {FORMAT}, which that machine's program does not know: run the same version"
        );
        return Err(Status::new(409, "Conflict", why));
    }
    let who = User::system("system:kogia-membership");
    let key = member::key(&name);
    let of_name = |announced: Vec<Announced>| announced.into_iter().find(|member| member.name == name);
    let known = of_name(member::announced(&objects.fresh_view().await?));
    if known.is_none() {
        let status = store.status();
        if status.members.iter().any(|member| member.address.is_empty()) {
            let why = "this cluster has one member, which listens to no others: start it with `kogia server`, or with \
                       `kogia up --nodes`";
            return Err(Status::new(409, "Conflict", why));
        }
        let full = status.members.len() >= raft_store::limits::MEMBERS_MAX;
        if full {
            let why =
                format!("the cluster has {} members, which is as many as it can have", raft_store::limits::MEMBERS_MAX);
            return Err(Status::new(409, "Conflict", why));
        }
        let (name, peer, instance) = (name.clone(), peer.clone(), instance.clone());
        let record = Record { number: 0, name, peer, instance, removed: false };
        let body = member::lease(&record, None, "", clock::now_ms());
        objects.perform(&who, Action::Create { key: key.clone(), body }).await?;
    }
    let view = objects.fresh_view().await?;
    let lease = view.at(&key).ok_or_else(|| Status::unavailable("the member was removed while it joined"))?;
    let known = of_name(member::announced(&view)).filter(|known| known.instance == instance && !known.remove);
    let Some(known) = known else {
        let why = format!(
            "a member {name:?} is part of this cluster; give this one another name (--name), or remove that one first \
             (kogia members remove {name})"
        );
        return Err(Status::new(409, "AlreadyExists", why));
    };
    let number = if known.number == 0 { lease.revision } else { known.number };
    let record = Record { number, name, peer, instance, removed: false };
    let patch = member::lease(&record, known.api, &known.version, clock::now_ms());
    let patch = json!({"metadata": {"annotations": patch["metadata"]["annotations"]}, "spec": patch["spec"]});
    let precondition = member::same(&known);
    objects.perform(&who, Action::Patch { key, subresource: None, patch, precondition }).await?;
    let folder = pki.to_owned();
    let files = tokio::task::spawn_blocking(move || pki::export(&folder)).await;
    let files = files.map_err(Status::internal)?.map_err(Status::internal)?;
    let files: serde_json::Map<String, Value> = files.into_iter().map(|(name, text)| (name, text.into())).collect();
    Ok(json!({"number": number, "files": files}))
}

/// RFC 1123: at most 63 lower-case letters, digits and hyphens, with a letter or digit at both ends.
fn is_label(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 63
        && name.bytes().all(|byte| plain(byte) || byte == b'-')
        && name.bytes().next().is_some_and(plain)
        && name.bytes().last().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn a_member_gets_one_number_and_a_stranger_of_its_name_none() {
        let folder = tempfile::tempdir().unwrap();
        let pki = folder.path().join("pki");
        for authority in [pki.clone(), pki.join("peers")] {
            pki::Authority::open(&authority).unwrap();
        }
        pki::service_account_key(&pki).unwrap();
        let members = vec![(1, "10.0.0.1:6444".to_owned())];
        let config = raft_store::Config { members, ..raft_store::Config::single(folder.path().join("store")) };
        let store = Store::open(config).await.unwrap();
        let objects = Objects::open(store.clone()).await.unwrap();
        let namespace = json!({"metadata": {"name": "kube-system"}});
        let create = Action::Create { key: api::Key::new("namespaces", "", "kube-system"), body: namespace };
        objects.perform(&User::system("system:admin"), create).await.unwrap();
        let ask = |name: &str, peer: &str, instance: &str| {
            let body = json!({"name": name, "peer": peer, "instance": instance, "format": FORMAT});
            let (objects, store, pki) = (objects.clone(), store.clone(), pki.clone());
            async move { answer(&objects, &store, &pki, &body).await }
        };
        let first = ask("n2", "10.0.0.2:6444", "a").await.unwrap();
        assert!(first["number"].as_u64().unwrap() > 1 && first["files"].as_object().unwrap().len() == 5);
        assert_eq!(ask("n2", "10.0.0.2:6444", "a").await.unwrap()["number"], first["number"], "it broke off");
        let other = ask("n3", "10.0.0.3:6444", "b").await.unwrap();
        assert_ne!(other["number"], first["number"]);
        for (name, peer, instance, code) in [
            ("n2", "10.0.0.9:6444", "c", 409),
            ("N2", "10.0.0.9:6444", "c", 400),
            ("n4", "0.0.0.0:6444", "c", 400),
            ("n4", "10.0.0.4:6444", "", 400),
        ] {
            assert_eq!(ask(name, peer, instance).await.unwrap_err().code, code, "{name} {peer} {instance}");
        }
        let newer = json!({"name": "n5", "peer": "10.0.0.5:6444", "instance": "e", "format": FORMAT - 1});
        assert!(answer(&objects, &store, &pki, &newer).await.unwrap_err().message.contains("format"));
        store.close().await;
    }
}
