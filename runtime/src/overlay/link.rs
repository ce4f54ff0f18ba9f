//! This node's tie to one other: the connection in use, the making of a new one, and whether the other node is well.
//!
//! Either side may dial; nobody dials while a connection stands. When both dial at the same moment two stand, and both
//! nodes use the one that the first of their names has dialled; the other ends when it has nothing more to carry.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{self, FutureExt};
use network::NetError;
use network::limits::DIAL_NEXT_AFTER;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, VarInt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::identity;
use super::limits::{
    DATAGRAMS_WAITING_MAX, HANDSHAKE_TIMEOUT, KEEP_ALIVE, REDIAL_FIRST, REDIAL_MAX, SUSPECT_AFTER, UNUSED_AFTER,
};

/// Closed because neither side had anything to say.
const UNUSED: VarInt = VarInt::from_u32(1);
/// Closed because the same node has dialled again: it has forgotten this one.
const REPLACED: VarInt = VarInt::from_u32(2);
/// Closed because the certificate is not the one of the node that was dialled.
const STRANGER: VarInt = VarInt::from_u32(3);

/// The tie to one node.
pub(super) struct Link {
    own: Arc<str>,
    name: Arc<str>,
    state: Mutex<State>,
    /// The state is another one.
    changed: Notify,
    /// Calls being made or carried.
    using: AtomicUsize,
    /// Datagrams that may wait for a connection.
    waiting: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    /// Where the node says it can be reached.
    endpoints: Vec<SocketAddr>,
    dialled: Option<Connection>,
    accepted: Option<Connection>,
    /// Since when a connection is being made.
    dialling: Option<Instant>,
    /// Nothing has come over the connection in use for too long.
    suspect: bool,
}

/// Held while a call uses the link.
pub(super) struct Used(Arc<Link>);

impl Drop for Used {
    fn drop(&mut self) {
        self.0.using.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who made a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    Dialled,
    Accepted,
}

/// What dialling needs.
#[derive(Clone)]
pub(super) struct Dialler {
    pub(super) endpoint: Endpoint,
    pub(super) client: ClientConfig,
    /// Serves a connection that stands; it ends with the connection.
    pub(super) serve: Arc<dyn Fn(Arc<Link>, Connection) + Send + Sync>,
}

fn stands(connection: &Option<Connection>) -> Option<&Connection> {
    connection.as_ref().filter(|connection| connection.close_reason().is_none())
}

impl Link {
    pub(super) fn new(own: Arc<str>, name: Arc<str>) -> Self {
        Self {
            own,
            name,
            state: Mutex::default(),
            changed: Notify::new(),
            using: AtomicUsize::new(0),
            waiting: Arc::new(Semaphore::new(DATAGRAMS_WAITING_MAX)),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says where the node can be reached now; a dialler that waits tries again at once.
    pub(super) fn set_endpoints(&self, endpoints: Vec<SocketAddr>) {
        {
            let mut state = self.state();
            if state.endpoints == endpoints {
                return;
            }
            state.endpoints = endpoints;
        }
        self.changed.notify_waiters();
    }

    pub(super) fn used(self: &Arc<Self>) -> Used {
        self.using.fetch_add(1, Ordering::Relaxed);
        Used(self.clone())
    }

    pub(super) fn may_wait(&self) -> Option<OwnedSemaphorePermit> {
        self.waiting.clone().try_acquire_owned().ok()
    }

    /// The connection in use, if one stands.
    pub(super) fn current(&self) -> Option<Connection> {
        let state = self.state();
        let (dialled, accepted) = (stands(&state.dialled), stands(&state.accepted));
        let (first, second) = if self.own < self.name { (dialled, accepted) } else { (accepted, dialled) };
        first.or(second).cloned()
    }

    /// Whether the node is likely to answer.
    pub(super) fn is_reachable(&self) -> bool {
        let standing = self.current().is_some();
        let state = self.state();
        if standing { !state.suspect } else { state.dialling.is_none_or(|since| since.elapsed() < DIAL_NEXT_AFTER) }
    }

    /// Waits for a connection. The caller bounds how long.
    pub(super) async fn connection(self: &Arc<Self>) -> Result<Connection, NetError> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(connection) = self.current() {
                return Ok(connection);
            }
            if self.state().endpoints.is_empty() {
                return Err(NetError::Unreachable);
            }
            self.want();
            changed.await;
        }
    }

    /// Has a connection made unless one is being made.
    fn want(&self) {
        {
            let mut state = self.state();
            if state.dialling.is_some() {
                // Those who wait already must not be woken by one who joins them.
                return;
            }
            state.dialling = Some(Instant::now());
        }
        self.changed.notify_waiters();
    }

    /// Dials whenever a connection is wanted and none stands, until the future is dropped.
    pub(super) async fn run(self: Arc<Self>, dialler: Dialler) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let wanted = self.state().dialling.is_some() && self.current().is_none();
            if wanted {
                self.dial(&dialler).await;
            } else {
                changed.await;
            }
        }
    }

    /// Dials until a connection stands, whoever made it.
    async fn dial(self: &Arc<Self>, dialler: &Dialler) {
        let mut pause = REDIAL_FIRST;
        while self.current().is_none() {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            match self.try_endpoints(dialler).await {
                Ok(connection) => return self.establish(connection, Made::Dialled, dialler),
                Err(error) => tracing::debug!(node = %self.name, error, "a node cannot be reached"),
            }
            // A new endpoint, or a connection that the other side has made, ends the pause.
            let _ = timeout(pause, changed).await;
            pause = (pause * 2).min(REDIAL_MAX);
        }
        self.state().dialling = None;
    }

    /// All endpoints at once; the first that answers.
    async fn try_endpoints(&self, dialler: &Dialler) -> Result<Connection, String> {
        let endpoints = self.state().endpoints.clone();
        let attempts = endpoints.into_iter().map(|address| {
            async move {
                let connecting = dialler.endpoint.connect_with(dialler.client.clone(), address, &self.name);
                let connecting = connecting.map_err(|error| format!("{address}: {error}"))?;
                let connected = timeout(HANDSHAKE_TIMEOUT, connecting).await;
                let connected = connected.map_err(|_| format!("{address}: no answer"))?;
                let connection = connected.map_err(|error| format!("{address}: {error}"))?;
                if identity::peer(&connection).as_deref() == Some(&*self.name) {
                    return Ok(connection);
                }
                connection.close(STRANGER, b"the certificate is not this node's");
                Err(format!("{address}: the certificate is not this node's"))
            }
            .boxed()
        });
        let attempts: Vec<_> = attempts.collect();
        if attempts.is_empty() {
            return Err("it names no address".to_owned());
        }
        future::select_ok(attempts).await.map(|(connection, _)| connection)
    }

    /// Takes a connection into use.
    pub(super) fn establish(self: &Arc<Self>, connection: Connection, made: Made, dialler: &Dialler) {
        tracing::debug!(node = %self.name, ?made, "connected to a node");
        let replaced = {
            let mut state = self.state();
            state.suspect = false;
            state.dialling = None;
            let slot = if made == Made::Dialled { &mut state.dialled } else { &mut state.accepted };
            slot.replace(connection.clone())
        };
        if let Some(replaced) = replaced {
            replaced.close(REPLACED, b"dialled again");
        }
        self.changed.notify_waiters();
        (dialler.serve)(self.clone(), connection);
    }

    /// Watches a connection until it ends: says whether the node is well, and gives up what nobody uses.
    pub(super) async fn watch(self: &Arc<Self>, connection: &Connection) -> ConnectionError {
        let mut look = tokio::time::interval(KEEP_ALIVE);
        let (mut received, mut heard) = (0, Instant::now());
        let (mut said, mut used) = (0, Instant::now());
        loop {
            let error = tokio::select! {
                error = connection.closed() => Some(error),
                _ = look.tick() => None,
            };
            if let Some(error) = error {
                return error;
            }
            let stats = connection.stats();
            if stats.udp_rx.datagrams != received {
                (received, heard) = (stats.udp_rx.datagrams, Instant::now());
            }
            self.note(connection, heard.elapsed() >= SUSPECT_AFTER);
            let datagrams = stats.frame_rx.datagram + stats.frame_tx.datagram;
            if self.using.load(Ordering::Relaxed) > 0 || datagrams != said {
                (said, used) = (datagrams, Instant::now());
            } else if used.elapsed() >= UNUSED_AFTER {
                connection.close(UNUSED, b"unused");
            }
        }
    }

    fn note(&self, connection: &Connection, suspect: bool) {
        let in_use = self.current().is_some_and(|current| current.stable_id() == connection.stable_id());
        if !in_use {
            return;
        }
        let before = std::mem::replace(&mut self.state().suspect, suspect);
        if before != suspect {
            tracing::info!(node = %self.name, silent = suspect, "a node has fallen silent, or speaks again");
        }
    }

    /// A connection has ended. Where that was not agreed, the node is looked for at once, so that it is known again when
    /// it is back.
    pub(super) fn ended(self: &Arc<Self>, error: &ConnectionError) {
        tracing::debug!(node = %self.name, %error, "the connection to a node ended");
        let agreed = match error {
            ConnectionError::LocallyClosed => true,
            ConnectionError::ApplicationClosed(close) => [UNUSED, REPLACED].contains(&close.error_code),
            _ => false,
        };
        if !agreed && self.current().is_none() {
            // It is not to be counted on before it has answered.
            let long_ago = Instant::now().checked_sub(DIAL_NEXT_AFTER);
            let mut state = self.state();
            state.dialling = state.dialling.or(long_ago).or_else(|| Some(Instant::now()));
        }
        self.changed.notify_waiters();
    }
}
