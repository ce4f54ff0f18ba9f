//! Who a member is: its number, kept beside its store, and its Lease in `kube-system`, by which the cluster knows it.
//!
//! The Leases of API servers are Kubernetes' own idea (KEP-1965); ours say in annotations which number the member has in
//! the store's protocol, where its peers and its clients reach it, and what people want of it. What the store's protocol
//! itself believes about membership is in the store alone.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use api::{Action, Key, Object, Precondition, Status, View};
use objects::{Objects, User};
use raft_store::Store;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::limits::{MEMBER_LEASE_RENEW, MEMBER_LEASE_SECONDS, MEMBER_RETRY};
use crate::{clock, private};

const LEASES: &str = "leases.coordination.k8s.io";
const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "kogia-member-";
const NUMBER: &str = "kogia.dev/member";
const PEER: &str = "kogia.dev/peer-address";
const API: &str = "kogia.dev/api-address";
const VERSION: &str = "kogia.dev/version";
/// Set by people on the Lease of a member that is to go.
const REMOVE: &str = "kogia.dev/remove";
/// Set by people on the Lease of a member that is to lead.
const LEAD: &str = "kogia.dev/lead";

/// What a member knows of itself before its store is open; `DIR/member.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number in the store's protocol; the founder's is 1, and 0 is for one that has not joined yet.
    pub number: u64,
    /// Its name, and its node's.
    pub name: String,
    /// Where its peers reach it, `host:port`; empty while it is alone.
    pub peer: String,
    /// What it said of itself when it joined, so that it is known again if its joining broke off.
    #[serde(default)]
    pub instance: String,
    /// The others have removed it: it must never run again.
    #[serde(default)]
    pub removed: bool,
}

/// What a machine that wants to join sends.
#[must_use]
pub fn request_to_join(record: &Record) -> Value {
    json!({"name": record.name, "peer": record.peer, "instance": record.instance, "format": crate::server::FORMAT})
}

impl Record {
    /// A machine that has not joined yet.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new(name: &str) -> io::Result<Self> {
        let mut bytes = [0; 16];
        SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system gives no randomness"))?;
        let instance = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { number: 0, name: name.to_owned(), peer: String::new(), instance, removed: false })
    }

    /// Reads the record of a data directory; `None` when there is none yet.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn load(data_dir: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(data_dir.join("member.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps the record; durable when this returns.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, data_dir: &Path) -> io::Result<()> {
        private::write(&data_dir.join("member.json"), &serde_json::to_string_pretty(self)?)
    }
}

/// A member as its Lease describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) number: u64,
    pub(crate) name: String,
    pub(crate) peer: String,
    pub(crate) api: Option<SocketAddr>,
    pub(crate) version: String,
    pub(crate) instance: String,
    pub(crate) renewed_ms: i64,
    pub(crate) remove: bool,
    pub(crate) lead: bool,
}

impl Announced {
    fn of(lease: &Object) -> Option<Self> {
        let name = lease.name().strip_prefix(PREFIX)?.to_owned();
        let annotation = |key: &str| lease.value["metadata"]["annotations"][key].as_str().unwrap_or_default();
        Some(Self {
            key: lease.key.clone(),
            uid: lease.uid().to_owned(),
            number: annotation(NUMBER).parse().unwrap_or(0),
            name,
            peer: annotation(PEER).to_owned(),
            api: annotation(API).parse().ok(),
            version: annotation(VERSION).to_owned(),
            instance: lease.field("spec.holderIdentity").as_str().unwrap_or_default().to_owned(),
            renewed_ms: lease.field("spec.renewTime").as_str().and_then(api::time::parse).unwrap_or(0),
            remove: annotation(REMOVE) == "true",
            lead: annotation(LEAD) == "true",
        })
    }

    /// Whether it has shown itself lately.
    pub(crate) fn is_fresh(&self, now_ms: i64) -> bool {
        now_ms - self.renewed_ms < i64::from(MEMBER_LEASE_SECONDS) * 1000
    }
}

/// All members that have a Lease, by name.
pub(crate) fn announced(view: &View) -> Vec<Announced> {
    view.list_in(LEASES, NAMESPACE).filter_map(|lease| Announced::of(lease)).collect()
}

/// Whether a change is about a member's Lease.
pub(crate) fn concerns(object: &Object) -> bool {
    &*object.key.resource == LEASES && &*object.key.namespace == NAMESPACE && object.name().starts_with(PREFIX)
}

/// The Lease of a member that has just shown itself.
pub(crate) fn lease(record: &Record, api: Option<SocketAddr>, version: &str, now_ms: i64) -> Value {
    let mut annotations = json!({PEER: record.peer, VERSION: version});
    if record.number > 0 {
        annotations[NUMBER] = json!(record.number.to_string());
    }
    if let Some(api) = api {
        annotations[API] = json!(api.to_string());
    }
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": format!("{PREFIX}{}", record.name), "namespace": NAMESPACE, "annotations": annotations,
            "labels": {"apiserver.kubernetes.io/identity": "kogia"},
        },
        "spec": {
            "holderIdentity": record.instance, "leaseDurationSeconds": MEMBER_LEASE_SECONDS,
            "renewTime": api::time::micro(now_ms),
        },
    })
}

/// Where the Lease of a member of this name stands.
pub(crate) fn key(name: &str) -> Key {
    Key::new(LEASES, NAMESPACE, format!("{PREFIX}{name}"))
}

/// Takes back what a person wanted, once it is so.
pub(crate) fn settle_lead(member: &Announced) -> Action {
    let patch = json!({"metadata": {"annotations": {LEAD: null}}});
    Action::Patch { key: member.key.clone(), subresource: None, patch, precondition: same(member) }
}

pub(crate) fn same(member: &Announced) -> Precondition {
    Precondition { uid: Some(member.uid.clone()), revision: None }
}

/// Keeps this member's Lease true and renewed until `stop`, for as long as the store counts it among the members.
pub(crate) async fn announce(
    objects: Objects,
    store: Store,
    record: Record,
    api: SocketAddr,
    version: String,
    stop: CancellationToken,
) {
    let who = User::system("system:apiserver");
    loop {
        // A member that healed from damage has another number than it was opened with.
        let status = store.status();
        let record = Record { number: status.member_id, ..record.clone() };
        let belongs = status.members.iter().any(|member| member.member_id == record.number);
        let turn = async {
            let wait = match belongs.then(|| show(&objects, &who, &record, api, &version)) {
                None => MEMBER_RETRY,
                Some(showing) => match showing.await {
                    Ok(()) => MEMBER_LEASE_RENEW,
                    Err(status) => {
                        tracing::debug!(status = %status.message, "the member's Lease could not be renewed");
                        MEMBER_RETRY
                    }
                },
            };
            tokio::time::sleep(wait).await;
        };
        // Without a majority a turn takes long; nobody waits for it at the end.
        tokio::select! {
            () = stop.cancelled() => return,
            () = turn => {}
        }
    }
}

async fn show(objects: &Objects, who: &User, record: &Record, api: SocketAddr, version: &str) -> Result<(), Status> {
    let body = lease(record, Some(api), version, clock::now_ms());
    let key = key(&record.name);
    let action = if objects.view().at(&key).is_some() {
        let patch = json!({"metadata": {"annotations": body["metadata"]["annotations"]}, "spec": body["spec"]});
        Action::Patch { key, subresource: None, patch, precondition: Precondition::default() }
    } else {
        Action::Create { key, body }
    };
    objects.perform(who, action).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_read_as_it_announced_itself() {
        let record =
            Record { number: 57, peer: "10.0.0.2:6444".into(), instance: "i".into(), ..Record::new("n2").unwrap() };
        let api: SocketAddr = "10.0.0.2:6443".parse().unwrap();
        let mut body = lease(&record, Some(api), "0.1.0", 1_700_000_000_000);
        body["metadata"]["annotations"][REMOVE] = json!("true");
        let read = Announced::of(&Object::new(key("n2"), 1, body)).unwrap();
        assert_eq!((read.number, read.name.as_str(), read.peer.as_str()), (57, "n2", "10.0.0.2:6444"));
        assert_eq!((read.api, read.version.as_str(), read.instance.as_str()), (Some(api), "0.1.0", "i"));
        assert!(read.remove && !read.lead);
        assert!(read.is_fresh(1_700_000_001_000) && !read.is_fresh(1_700_000_100_000));
        let other =
            Object::new(Key::new(LEASES, NAMESPACE, "scheduler"), 1, json!({"metadata": {"name": "scheduler"}}));
        assert_eq!(Announced::of(&other), None);
    }

    #[test]
    fn the_record_survives() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Record::load(folder.path()).unwrap(), None);
        let record = Record { number: 1, ..Record::new("n1").unwrap() };
        record.save(folder.path()).unwrap();
        assert_eq!(Record::load(folder.path()).unwrap(), Some(record));
        std::fs::write(folder.path().join("member.json"), "nonsense").unwrap();
        assert!(Record::load(folder.path()).is_err());
    }
}
