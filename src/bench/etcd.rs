//! The installed etcd as a peer of our store: its own processes, its own defaults, fsync on.
//!
//! It is driven over gRPC, as kube-apiserver does, without TLS between client and member; peers speak TLS among each
//! other, as ours do.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use super::grpc::{Channel, Field, fields, write_bytes};
use crate::limits;
use crate::store::load::{self, Load, Measured, Work};

/// Connections that clients share; one per client until there are this many.
const CONNECTIONS_MAX: usize = 16;
/// Watches that share one stream, as etcd's own client and benchmark do it.
const WATCHES_PER_STREAM: usize = 100;
/// After a kill a write is tried this often, since etcd lets one that met no leader run into its timeout.
const TRY: Duration = Duration::from_millis(10);

/// A cluster of etcd; its processes end with it.
pub struct Etcd {
    members: Vec<Member>,
    leader: usize,
}

struct Member {
    _process: Child,
    channel: Channel,
    address: SocketAddr,
}

impl Etcd {
    /// Starts a cluster on free ports and waits for its leader.
    pub async fn start(count: usize, dir: &Path) -> anyhow::Result<Self> {
        let ports = super::free_addresses(2 * count)?;
        let (clients, peers) = ports.split_at(count);
        let scheme = if count > 1 { "https" } else { "http" };
        let cluster: Vec<_> = peers.iter().enumerate().map(|(i, at)| format!("m{i}={scheme}://{at}")).collect();
        let mut processes = Vec::new();
        for i in 0..count {
            let (client, peer) = (format!("http://{}", clients[i]), format!("{scheme}://{}", peers[i]));
            let mut command = Command::new("etcd");
            command.arg("--name").arg(format!("m{i}")).arg("--data-dir").arg(dir.join(format!("etcd-{i}")));
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &cluster.join(","), "--initial-cluster-state", "new"]);
            if count > 1 {
                command.arg("--peer-auto-tls");
            }
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            processes.push(command.spawn().context("cannot start etcd (Debian: apt-get install etcd-server)")?);
        }
        let mut members = Vec::new();
        for (process, address) in processes.into_iter().zip(clients) {
            members.push(Member { _process: process, channel: connect(*address).await?, address: *address });
        }
        let leader = leader(&members).await?;
        Ok(Self { members, leader })
    }

    /// Puts the same load on the leader that a member of ours carries.
    pub async fn load(&self, load: Load) -> anyhow::Result<Measured> {
        let mut channels = Vec::new();
        for _ in 0..load.clients.min(CONNECTIONS_MAX) {
            channels.push(Channel::connect(self.members[self.leader].address).await?);
        }
        let value = vec![b'v'; load.value_bytes];
        load::clients(load, move |client, turn| {
            let channel = channels[client % channels.len()].clone();
            let key = load::key(client, turn);
            let message = match load.work {
                Work::Put => put_request(&key, &value),
                Work::Get => range_request(&key),
            };
            async move {
                match load.work {
                    Work::Put => drop(channel.call("etcdserverpb.KV/Put", &message).await?),
                    Work::Get => drop(channel.call("etcdserverpb.KV/Range", &message).await?),
                }
                Ok::<_, anyhow::Error>(())
            }
        })
        .await
    }

    /// See [`load::fan_out`].
    pub async fn fan_out(&self, watchers: usize, writes: usize, value_bytes: usize) -> anyhow::Result<f64> {
        let member = &self.members[self.leader];
        let mut streams = Vec::new();
        for _ in 0..watchers.div_ceil(WATCHES_PER_STREAM) {
            let channel = Channel::connect(member.address).await?;
            let mut messages =
                channel.stream("etcdserverpb.Watch/Watch", &vec![watch_request(); WATCHES_PER_STREAM]).await?;
            // Each watch is answered once before its changes come.
            for _ in 0..WATCHES_PER_STREAM {
                messages.next().await?;
            }
            streams.push(messages);
        }
        let begin = Instant::now();
        let mut readers = JoinSet::new();
        for mut messages in streams {
            readers.spawn(async move {
                let mut seen = 0;
                while seen < WATCHES_PER_STREAM * writes {
                    seen += fields(messages.next().await?).filter(|(number, _)| *number == EVENTS).count();
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        for turn in 0..writes {
            let message = put_request(&format!("fan/{turn}"), &vec![b'v'; value_bytes]);
            member.channel.call("etcdserverpb.KV/Put", &message).await?;
        }
        while let Some(read) = readers.join_next().await {
            read??;
        }
        Ok((watchers.next_multiple_of(WATCHES_PER_STREAM) * writes) as f64 / begin.elapsed().as_secs_f64())
    }

    /// Kills the leader and returns how long it takes until a survivor acknowledges a write.
    pub async fn next_write(mut self) -> anyhow::Result<Duration> {
        let mut killed = self.members.remove(self.leader);
        let begin = Instant::now();
        killed._process.kill().await?;
        let mut tries = JoinSet::new();
        let mut turn = interval(TRY);
        loop {
            tokio::select! {
                _ = turn.tick() => for member in &self.members {
                    let channel = member.channel.clone();
                    tries.spawn(async move { channel.call("etcdserverpb.KV/Put", &put_request("next", b"v")).await });
                },
                Some(tried) = tries.join_next() => if tried?.is_ok() {
                    return Ok(begin.elapsed());
                },
            }
            anyhow::ensure!(begin.elapsed() < limits::START_WAIT, "etcd elected no leader");
        }
    }
}

/// Waits until a member accepts connections.
async fn connect(address: SocketAddr) -> anyhow::Result<Channel> {
    let begin = Instant::now();
    loop {
        match Channel::connect(address).await {
            Ok(channel) => return Ok(channel),
            Err(error) if begin.elapsed() > limits::START_WAIT => return Err(error.context("etcd did not start")),
            Err(_) => sleep(limits::POLL).await,
        }
    }
}

/// Waits until a member says that it is the leader.
async fn leader(members: &[Member]) -> anyhow::Result<usize> {
    let begin = Instant::now();
    loop {
        for (i, member) in members.iter().enumerate() {
            if let Ok(status) = member.channel.call("etcdserverpb.Maintenance/Status", &[]).await
                && leads(status)
            {
                return Ok(i);
            }
        }
        anyhow::ensure!(begin.elapsed() < limits::START_WAIT, "etcd elected no leader");
        sleep(limits::POLL).await;
    }
}

/// `WatchResponse.events`.
const EVENTS: u64 = 11;

/// `StatusResponse`: header 1 (`member_id` 2), leader 4.
fn leads(status: Bytes) -> bool {
    let find =
        |message: Bytes, wanted: u64| fields(message).find(|(number, _)| *number == wanted).map(|(_, field)| field);
    let Some(Field::Bytes(header)) = find(status.clone(), 1) else { return false };
    matches!((find(header, 2), find(status, 4)), (Some(own), Some(leader)) if own == leader)
}

/// `PutRequest`: key 1, value 2.
fn put_request(key: &str, value: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(value.len() + key.len() + 8);
    write_bytes(&mut message, 1, key.as_bytes());
    write_bytes(&mut message, 2, value);
    message
}

/// `RangeRequest`: key 1; linearizable unless it says otherwise.
fn range_request(key: &str) -> Vec<u8> {
    let mut message = Vec::new();
    write_bytes(&mut message, 1, key.as_bytes());
    message
}

/// `WatchRequest`: create 1 (key 1, `range_end` 2) for every key below `fan/`.
fn watch_request() -> Vec<u8> {
    let (mut create, mut message) = (Vec::new(), Vec::new());
    write_bytes(&mut create, 1, b"fan/");
    write_bytes(&mut create, 2, b"fan0");
    write_bytes(&mut message, 1, &create);
    message
}
