//! Three members on loopback with mutual TLS: what the simulation cannot show of sockets and certificates.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use raft_store::{Config, MemberChange, OpenError, Range, Store, StoreError, StoreStatus, TransportConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::write;

const NAME: &str = "member";

/// Issues the certificates of one cluster.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn issue(&self) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![NAME.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        Credentials { root: self.0.der().to_vec(), certificate: certificate.der().to_vec(), key: key.serialize_der() }
    }
}

/// What a member shows to its peers, and whom it believes.
pub(crate) struct Credentials {
    pub(crate) root: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Credentials {
    fn tls(&self) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        let chain = vec![CertificateDer::from(self.certificate.clone())];
        let key = || PrivateKeyDer::try_from(self.key.clone()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.root.clone())).unwrap();
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().unwrap();
        let server =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let server = server.with_client_cert_verifier(verifier).with_single_cert(chain.clone(), key()).unwrap();
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let client = client.with_root_certificates(roots).with_client_auth_cert(chain, key()).unwrap();
        (Arc::new(server), Arc::new(client))
    }

    pub(crate) fn transport(&self, listener: TcpListener) -> TransportConfig {
        let (server, client) = self.tls();
        TransportConfig { listener, server, client, server_name: ServerName::try_from(NAME).unwrap() }
    }
}

struct Cluster {
    dir: tempfile::TempDir,
    authority: Authority,
    addresses: Vec<(u64, String)>,
    stores: Vec<Store>,
}

impl Cluster {
    async fn start(size: u64) -> Cluster {
        let listeners: Vec<TcpListener> = (0..size).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let addresses = (1..=size).zip(listeners.iter().map(address)).collect();
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster { dir, authority: Authority::new(), addresses, stores: Vec::new() };
        for (member, listener) in (1..=size).zip(listeners) {
            let config = cluster.config(member, listener, cluster.addresses.clone());
            cluster.stores.push(Store::open(config).await.unwrap());
        }
        cluster
    }

    fn config(&self, member: u64, listener: TcpListener, members: Vec<(u64, String)>) -> Config {
        Config {
            member_id: member,
            cluster_id: 7,
            members,
            election_ticks: 50,
            heartbeat_ticks: 5,
            transport: Some(self.authority.issue().transport(listener)),
            ..Config::single(self.dir.path().join(member.to_string()))
        }
    }

    async fn reopen(&mut self, member: u64) {
        let address = &self.addresses[usize::try_from(member).unwrap() - 1].1;
        let listener = TcpListener::bind(address).unwrap();
        let config = self.config(member, listener, self.addresses.clone());
        self.stores.push(Store::open(config).await.unwrap());
    }

    async fn leader(&self) -> usize {
        let status = until(&self.stores[0], |status| status.leader.is_some()).await;
        let leader = status.leader.unwrap();
        self.stores.iter().position(|store| store.status().member_id == leader).unwrap()
    }
}

async fn until(store: &Store, condition: impl FnMut(&StoreStatus) -> bool) -> StoreStatus {
    tokio::time::timeout(Duration::from_secs(30), store.wait_for(condition)).await.expect("in time").unwrap()
}

/// Promotes a learner as soon as the leader has heard that it caught up.
async fn promote(leader: &Store, member: u64) {
    let promoted = async {
        while let Err(error) = leader.change_members(MemberChange::Promote { member }).await {
            assert!(matches!(error, StoreError::Busy(_)), "{error}");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), promoted).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_outlive_their_leader_and_a_lost_member_catches_up_by_snapshot() {
    let mut cluster = Cluster::start(3).await;
    // Every member takes writes and shows them to linearizable reads of every other one.
    for (i, store) in cluster.stores.iter().enumerate() {
        store.txn(write(&format!("from{i}"), "x")).await.unwrap();
    }
    for store in &cluster.stores {
        assert_eq!(store.range(Range::prefix("from")).await.unwrap().items.len(), 3);
    }
    let leader = cluster.leader().await;
    let gone = cluster.stores.remove(leader);
    let lost = gone.status().member_id;
    let before = gone.status();
    gone.close().await;
    // More than the log keeps for a peer that lags.
    let writers: Vec<_> = (0..64)
        .map(|writer| {
            let store = cluster.stores[writer % 2].clone();
            tokio::spawn(async move {
                for i in 0..160 {
                    store.txn(write(&format!("key{writer}-{i}"), "value")).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let revision = cluster.stores[0].read_index().await.unwrap();
    assert!(revision >= before.revision + 64 * 160);
    // The checkpoint that lets the log be truncated comes within its delay; a compaction gives it a reason.
    cluster.stores[0].compact(revision - 1).await.unwrap();
    cluster.reopen(lost).await;
    let back = until(cluster.stores.last().unwrap(), |status| status.revision >= revision).await;
    let other = until(&cluster.stores[0], |status| status.applied >= back.applied).await;
    if other.applied == back.applied {
        assert_eq!(other.hash, back.hash);
    }
    for store in cluster.stores.drain(..) {
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_joins_is_promoted_leads_and_is_removed_again() {
    let mut cluster = Cluster::start(1).await;
    cluster.stores[0].txn(write("a", "1")).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let joining = Store::open(cluster.config(2, listener, Vec::new())).await.unwrap();
    let first = cluster.stores.remove(0);
    first.change_members(MemberChange::AddLearner { member: 2, address: address.clone() }).await.unwrap();
    until(&joining, |status| status.revision == 1).await;
    let again = first.change_members(MemberChange::AddLearner { member: 2, address }).await;
    assert!(matches!(again, Err(StoreError::Invalid(_))));
    assert!(matches!(joining.transfer_leader(2).await, Err(StoreError::NotLeader { leader: Some(1) })));
    promote(&first, 2).await;
    let voters = |status: &StoreStatus| status.members.iter().filter(|member| member.voter).count();
    until(&joining, |status| voters(status) == 2).await;
    joining.txn(write("b", "2")).await.unwrap();
    first.transfer_leader(2).await.unwrap();
    until(&joining, |status| status.leader == Some(2)).await;
    // A follower passes the wish on, and the leader that is to go hands over first.
    first.change_members(MemberChange::Remove { member: 2 }).await.unwrap();
    until(&first, |status| status.members.len() == 1 && status.leader == Some(1)).await;
    joining.close().await;
    assert_eq!(first.txn(write("c", "3")).await.unwrap().revision, 3);
    let last = first.change_members(MemberChange::Remove { member: 1 }).await;
    assert!(matches!(last, Err(StoreError::Invalid(_))), "the last voter stays");
    first.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_begins_anew_when_the_others_are_lost() {
    let mut cluster = Cluster::start(3).await;
    for i in 0..100 {
        cluster.stores[i % 3].txn(write(&format!("key{i}"), "value")).await.unwrap();
    }
    until(&cluster.stores[1], |status| status.revision == 100).await;
    for store in cluster.stores.drain(..) {
        store.close().await;
    }
    let dir = cluster.dir.path().join("2");
    let alone = || Config { member_id: 2, cluster_id: 7, members: vec![(2, String::new())], ..Config::single(&dir) };
    assert!(matches!(Store::open(alone()).await, Err(OpenError::Config(_))), "the others still count");
    let stopped = dir.clone();
    let forced = tokio::task::spawn_blocking(move || Store::force_new_cluster(&stopped)).await.unwrap().unwrap();
    assert_eq!(forced.revision, 100);
    let store = Store::open(alone()).await.unwrap();
    assert_eq!(store.range(Range::prefix("key")).await.unwrap().items.len(), 100);
    assert_eq!(store.txn(write("new", "x")).await.unwrap().revision, 101);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_garbage_are_turned_away_and_do_no_harm() {
    let cluster = Cluster::start(1).await;
    let address = cluster.addresses[0].1.clone();
    let store = &cluster.stores[0];
    store.txn(write("a", "1")).await.unwrap();

    // Bytes that are no TLS at all.
    let mut plain = tokio::net::TcpStream::connect(&address).await.unwrap();
    plain.write_all(&[0xff; 64]).await.unwrap();
    let mut rest = Vec::new();
    // A reset is as good as an end.
    drop(tokio::time::timeout(Duration::from_secs(10), plain.read_to_end(&mut rest)).await.expect("closed"));

    // A certificate of another cluster, then one of ours that speaks garbage after the handshake.
    for (authority, hello) in [(&Authority::new(), &b""[..]), (&cluster.authority, &[7; 64])] {
        let connector = tokio_rustls::TlsConnector::from(authority.issue().tls().1);
        let tcp = tokio::net::TcpStream::connect(&address).await.unwrap();
        let told = connector.connect(ServerName::try_from(NAME).unwrap(), tcp).await;
        assert_eq!(told.is_ok(), !hello.is_empty(), "the authority decides who may connect");
        if let Ok(mut stream) = told {
            stream.write_all(hello).await.unwrap();
            let end = tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await.expect("closed");
            assert!(end.is_err(), "garbage is not answered");
        }
    }
    assert_eq!(store.txn(write("a", "2")).await.unwrap().revision, 2);
    cluster.stores.into_iter().next().unwrap().close().await;
}
