//! Messages between members: TCP with mutual TLS, length-framed, versioned; snapshots on connections of their own.
//!
//! ```text
//! connection = hello · frame*                 one direction only; every member dials each of its peers
//! hello      = "KGRAFT" 0 1 · cluster u64 · from u64 · to u64 · purpose u8 (1 messages | 2 snapshot)
//!              · length u8 · address the sender is reached at, so that a member that joins can answer
//! frame      = length u32 · raft message (protobuf)
//! snapshot   = hello · frame (the message) · chunk* · end (see `snapshot`), answered by one byte: 1 taken, 0 not
//! ```
//!
//! A queue of bounded length towards each peer ([`line`]); what does not fit is dropped, which raft repairs. Certificates
//! are the caller's matter: whoever holds one of the cluster's is a member. Refuses other clusters, other versions, frames that
//! are too long and bytes that are no message, by closing the connection; the member never sees them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protobuf::Message as _;
use raft::eraftpb::Message;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::codec::{Reader, Writer};
use crate::driver::Envelope;
use crate::limits::WIRE_FRAME_BYTES_MAX;
use crate::limits::{DIAL_PAUSE_MAX, DIAL_PAUSE_MIN, MEMBERS_MAX, PEER_TIMEOUT, SNAPSHOTS_MAX};
use crate::log::Identity;
use crate::member::{Input, speaks_of};
use crate::snapshot::{Assembly, CHUNK_HEAD_BYTES, chunk_length, chunks};
use crate::state::State;

mod line;
use line::{Line, write_frame};

const MAGIC: &[u8; 8] = b"KGRAFT\0\x01";
const HELLO_BYTES: usize = 33;
const MESSAGES: u8 = 1;
const SNAPSHOT: u8 = 2;
/// Connections accepted at one time: each peer has one for messages and one for a snapshot, and may be dialling anew.
const CONNECTIONS_MAX: usize = 4 * MEMBERS_MAX;

/// How a member is reached and reaches others.
pub struct TransportConfig {
    /// Bound socket on which peers connect.
    pub listener: std::net::TcpListener,
    /// TLS towards peers that connect; must demand a certificate of this cluster.
    pub server: Arc<rustls::ServerConfig>,
    /// TLS towards peers that are dialled, with this member's certificate.
    pub client: Arc<rustls::ClientConfig>,
    /// The name every member's certificate carries.
    pub server_name: ServerName<'static>,
}

/// Everything a connection needs to know.
struct Shared {
    identity: Identity,
    address: String,
    client: TlsConnector,
    server: TlsAcceptor,
    server_name: ServerName<'static>,
    inbox: SyncSender<Envelope>,
    places: Arc<Semaphore>,
    snapshots: Semaphore,
    // How many connections each peer speaks on.
    speaking: Mutex<HashMap<u64, usize>>,
}

struct Peer {
    address: String,
    line: Arc<Line>,
    task: AbortHandle,
}

/// The member's side: hands messages to tasks, one per peer. Dropping it ends them all.
pub(crate) struct Transport {
    shared: Arc<Shared>,
    runtime: Handle,
    peers: HashMap<u64, Peer>,
    accepting: AbortHandle,
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.accepting.abort();
        for peer in self.peers.values() {
            peer.task.abort();
        }
    }
}

impl Transport {
    /// Listens and dials; `address` is where this member is reached, as far as it knows.
    pub(crate) fn start(
        config: &TransportConfig,
        identity: Identity,
        address: String,
        peers: BTreeMap<u64, String>,
        inbox: SyncSender<Envelope>,
        places: Arc<Semaphore>,
        runtime: &Handle,
    ) -> io::Result<Transport> {
        let listener = config.listener.try_clone()?;
        let shared = Arc::new(Shared {
            identity,
            address,
            client: config.client.clone().into(),
            server: config.server.clone().into(),
            server_name: config.server_name.clone(),
            inbox,
            places,
            snapshots: Semaphore::new(SNAPSHOTS_MAX),
            speaking: Mutex::default(),
        });
        let accepting = runtime.spawn(accept(listener, shared.clone())).abort_handle();
        let mut transport = Transport { shared, runtime: runtime.clone(), peers: HashMap::new(), accepting };
        transport.set_peers(peers);
        Ok(transport)
    }

    /// Dials new peers, and forgets those that are gone or moved.
    pub(crate) fn set_peers(&mut self, addresses: BTreeMap<u64, String>) {
        self.peers.retain(|member, peer| {
            let stays = addresses.get(member) == Some(&peer.address);
            if !stays {
                peer.task.abort();
            }
            stays
        });
        self.dial_all(addresses);
    }

    /// Dials whoever introduced itself before the membership told of it, so that it can be answered.
    pub(crate) fn introduce(&mut self, member: u64, address: String) {
        if self.peers.len() < MEMBERS_MAX {
            self.dial_all([(member, address)].into());
        }
    }

    fn dial_all(&mut self, addresses: BTreeMap<u64, String>) {
        for (member, address) in addresses {
            if member != self.shared.identity.member && !address.is_empty() && !self.peers.contains_key(&member) {
                let line = Arc::new(Line::default());
                let task = self.runtime.spawn(dial(self.shared.clone(), member, address.clone(), line.clone()));
                self.peers.insert(member, Peer { address, line, task: task.abort_handle() });
            }
        }
    }

    /// Queues a message for a peer, until [`Transport::flush`].
    pub(crate) fn send(&self, message: Message) {
        if let Some(peer) = self.peers.get(&message.to) {
            peer.line.push(message);
        }
    }

    /// Sends what is queued, in the calling thread as far as the sockets take it at once.
    pub(crate) fn flush(&self) {
        self.peers.values().for_each(|peer| peer.line.flush());
    }

    /// Streams a state beside its message, and reports the outcome to the member in any case.
    pub(crate) fn send_snapshot(&self, message: Message, state: Box<State>) {
        let to = message.to;
        let address = self.peers.get(&to).map(|peer| peer.address.clone());
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            let sent = match address {
                Some(address) => stream_snapshot(&shared, to, &address, &message, &state).await,
                None => Err(io::ErrorKind::NotFound.into()),
            };
            if let Err(error) = &sent {
                tracing::warn!(peer = to, %error, "a snapshot was not delivered");
            }
            shared.report(Input::SnapshotSent { to, delivered: sent.is_ok() }).await;
        });
    }
}

impl Shared {
    /// A connection of a peer began or ended; how many it has now.
    fn speaks(&self, peer: u64, begins: bool) -> usize {
        let mut speaking = self.speaking.lock().unwrap_or_else(PoisonError::into_inner);
        let count = speaking.entry(peer).or_default();
        *count = if begins { *count + 1 } else { count.saturating_sub(1) };
        let left = *count;
        speaking.retain(|_, count| *count > 0);
        left
    }

    /// Hands an input to the member once there is a place for it. An ended member needs none.
    async fn report(&self, input: Input) {
        if let Ok(place) = self.places.clone().acquire_owned().await {
            drop(self.inbox.try_send(Envelope::Peer(input, place)));
        }
    }

    async fn connect(
        &self,
        to: u64,
        address: &str,
        purpose: u8,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + use<>> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let mut stream = self.client.connect(self.server_name.clone(), tcp).await?;
        let mut w = Writer(MAGIC.to_vec());
        for field in [self.identity.cluster, self.identity.member, to] {
            w.u64(field);
        }
        w.u8(purpose);
        let address = self.address.as_bytes();
        let length = u8::try_from(address.len()).map_err(|_| refused("the member's own address is too long"))?;
        w.u8(length);
        w.0.extend_from_slice(address);
        stream.write_all(&w.0).await?;
        Ok(stream)
    }
}

fn refused(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(PEER_TIMEOUT, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Keeps a connection to a peer and sends what is queued; what was queued while there was none is old, and dropped.
async fn dial(shared: Arc<Shared>, to: u64, address: String, line: Arc<Line>) {
    let mut pause = DIAL_PAUSE_MIN;
    loop {
        line.wanted().await;
        match in_time(shared.connect(to, &address, MESSAGES)).await {
            Ok(stream) => {
                pause = DIAL_PAUSE_MIN;
                let error = line.carry(Box::new(stream)).await;
                tracing::debug!(peer = to, %error, "the connection to a peer ended");
            }
            Err(error) => {
                tracing::debug!(peer = to, %error, "a peer cannot be reached");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(DIAL_PAUSE_MAX);
            }
        }
        line.clear();
        shared.report(Input::PeerUnreachable(to)).await;
    }
}

async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &Message) -> io::Result<()> {
    let mut frame = Vec::new();
    write_frame(message, &mut frame)?;
    stream.write_all(&frame).await
}

pub(crate) async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Message> {
    let length = stream.read_u32_le().await? as usize;
    if length > WIRE_FRAME_BYTES_MAX {
        return Err(refused("a frame is too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Message::parse_from_bytes(&body).map_err(|_| refused("a frame is no message"))
}

async fn stream_snapshot(shared: &Shared, to: u64, address: &str, message: &Message, state: &State) -> io::Result<()> {
    let mut stream = in_time(shared.connect(to, address, SNAPSHOT)).await?;
    in_time(write_message(&mut stream, message)).await?;
    for chunk in chunks(state) {
        in_time(stream.write_all(&chunk)).await?;
    }
    in_time(stream.flush()).await?;
    match in_time(stream.read_u8()).await? {
        1 => Ok(()),
        _ => Err(refused("the peer did not take the snapshot")),
    }
}

/// Accepts peers until aborted; the connections end with it.
async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = match listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "peers cannot connect");
            return;
        }
    };
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((tcp, from)) => {
                let shared = shared.clone();
                connections.spawn(async move {
                    if let Err(error) = receive(&shared, tcp).await
                        && error.kind() != io::ErrorKind::UnexpectedEof
                    {
                        tracing::debug!(%from, %error, "a peer's connection was closed");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a peer could not connect");
                // Out of descriptors, most likely: give others time to close theirs.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// How a peer introduces itself on each connection.
pub(crate) struct Hello {
    cluster: u64,
    from: u64,
    to: u64,
    purpose: u8,
    address: String,
}

pub(crate) async fn read_hello(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Hello> {
    let mut hello = [0; HELLO_BYTES];
    stream.read_exact(&mut hello).await?;
    if hello[..8] != *MAGIC {
        return Err(refused("the peer speaks another protocol or version"));
    }
    let mut r = Reader::copy(&hello[8..]);
    let mut next = || r.u64().expect("the hello has room for its fields");
    let (cluster, from, to) = (next(), next(), next());
    let mut address = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut address).await?;
    let address = String::from_utf8(address).map_err(|_| refused("the peer's address is no text"))?;
    Ok(Hello { cluster, from, to, purpose: hello[HELLO_BYTES - 1], address })
}

async fn receive(shared: &Shared, tcp: TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut stream = BufReader::new(in_time(shared.server.accept(tcp)).await?);
    let Hello { cluster, from, to, purpose, address } = in_time(read_hello(&mut stream)).await?;
    if (cluster, to) != (shared.identity.cluster, shared.identity.member) {
        return Err(refused("the peer looks for another cluster or member"));
    }
    match purpose {
        MESSAGES => {
            if let Ok(place) = shared.places.clone().acquire_owned().await {
                drop(shared.inbox.try_send(Envelope::Introduced(from, address, place)));
            }
            shared.speaks(from, true);
            let ended = listen(shared, from, &mut stream).await;
            if shared.speaks(from, false) == 0 {
                shared.report(Input::PeerLost(from)).await;
            }
            ended
        }
        SNAPSHOT => {
            let taken = receive_snapshot(shared, from, &mut stream).await;
            in_time(stream.write_u8(u8::from(taken.is_ok()))).await?;
            in_time(stream.flush()).await?;
            taken
        }
        _ => Err(refused("the peer wants something unknown")),
    }
}

/// Hands on what a peer says until its connection ends.
async fn listen(shared: &Shared, from: u64, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    loop {
        let message = read_message(stream).await?;
        if message.from != from {
            return Err(refused("a message carries another sender than the connection"));
        }
        shared.report(Input::Received(message)).await;
    }
}

async fn receive_snapshot(shared: &Shared, from: u64, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let _one_at_a_time = shared.snapshots.try_acquire().map_err(|_| refused("another snapshot is being received"))?;
    let malformed = |_| refused("a chunk of the snapshot is damaged");
    let message = in_time(read_message(stream)).await?;
    let mut assembly = Assembly::default();
    loop {
        let mut head = [0; CHUNK_HEAD_BYTES];
        in_time(stream.read_exact(&mut head)).await?;
        let mut rows = vec![0; chunk_length(&head).map_err(malformed)?];
        in_time(stream.read_exact(&mut rows)).await?;
        if let Some(state) = assembly.add(&head, rows.into()).map_err(malformed)? {
            if message.from != from || !speaks_of(&message, &state) {
                return Err(refused("the snapshot is not the one its message speaks of"));
            }
            shared.report(Input::SnapshotReceived(message, Box::new(state))).await;
            return Ok(());
        }
    }
}
