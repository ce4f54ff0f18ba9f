//! This node's tie to one other: the connection in use, the making of a new one, and whether the other node is well.
//!
//! Either side may dial; nobody dials while a connection stands, except beside one whose certificates are not the newest, or
//! one that leads over a third node. Where several stand, both nodes use the same one (see `standing`); the others end when they have nothing more to carry.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures::future::{self, FutureExt};
use network::NetError;
use network::limits::DIAL_NEXT_AFTER;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, VarInt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::identity::{self, Identities, Tls};
use super::limits::{
    CERTIFICATE_ENDS_SOON, DATAGRAMS_WAITING_MAX, DIRECT_LOOK, HANDSHAKE_TIMEOUT, KEEP_ALIVE, LEFT_AFTER, REDIAL_FIRST,
    REDIAL_MAX, RELAY_AFTER, SUSPECT_AFTER, UNUSED_AFTER,
};
use super::relay::Relay;
use super::standing::{Course, Made, Standing, choose};

/// Closed because neither side had anything to say.
const UNUSED: VarInt = VarInt::from_u32(1);
/// Closed because the same node has dialled again: it has forgotten this one.
const REPLACED: VarInt = VarInt::from_u32(2);
/// Closed because the certificate is not the one of the node that was dialled.
const STRANGER: VarInt = VarInt::from_u32(3);
/// Closed because a certificate that it was made with is over.
const OVER: VarInt = VarInt::from_u32(5);

/// Whether a connection is had that nothing is said on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Hold {
    /// Only while it is used.
    #[default]
    No,
    /// As long as it stands: the other node needs it.
    Keep,
    /// Always: this node may be one that nobody can dial.
    Make,
}

/// The tie to one node.
pub(super) struct Link {
    own: Arc<str>,
    name: Arc<str>,
    state: Mutex<State>,
    /// The state is another one.
    changed: Notify,
    /// Datagrams that may wait for a connection.
    waiting: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    /// Where the node says it can be reached.
    endpoints: Vec<SocketAddr>,
    /// Those that stand, and such as have just ended.
    connections: Vec<Arc<Standing>>,
    /// The identity for which one was made beside the one that stood.
    renewed: u64,
    /// The certificates of the one in use are about to be over.
    ends_soon: bool,
    /// Since when a connection is being made.
    dialling: Option<Instant>,
    /// Nothing has come over the connection in use for too long.
    suspect: bool,
    hold: Hold,
    /// The connection in use leads over a third node; another that does not may be had by now.
    detour: bool,
}

/// What dialling needs.
#[derive(Clone)]
pub(super) struct Dialler {
    pub(super) endpoint: Endpoint,
    /// For connections over a third node, and what they are made of.
    pub(super) relayed: Endpoint,
    pub(super) relay: Arc<Relay>,
    pub(super) identities: Arc<Identities>,
    /// Serves a connection that stands; it ends with the connection.
    pub(super) serve: Arc<dyn Fn(Arc<Link>, Arc<Standing>) + Send + Sync>,
}

impl Link {
    pub(super) fn new(own: Arc<str>, name: Arc<str>) -> Self {
        Self {
            own,
            name,
            state: Mutex::default(),
            changed: Notify::new(),
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

    /// Says whether a connection is had that nothing is said on.
    pub(super) fn hold(&self, hold: Hold) {
        let before = std::mem::replace(&mut self.state().hold, hold);
        if before != hold {
            self.changed.notify_waiters();
        }
    }

    pub(super) fn may_wait(&self) -> Option<OwnedSemaphorePermit> {
        self.waiting.clone().try_acquire_owned().ok()
    }

    /// The connection in use, if one stands.
    pub(super) fn current(&self) -> Option<Arc<Standing>> {
        choose(&self.state().connections, self.own < self.name).cloned()
    }

    /// One that leads over nobody else, if it stands.
    pub(super) fn direct(&self) -> Option<Arc<Standing>> {
        let state = self.state();
        let direct = state.connections.iter().filter(|standing| standing.course == Course::Direct);
        choose(direct, self.own < self.name).cloned()
    }

    /// Whether the node is likely to answer.
    pub(super) fn is_reachable(&self) -> bool {
        let standing = self.current().is_some();
        let state = self.state();
        if standing { !state.suspect } else { state.dialling.is_none_or(|since| since.elapsed() < DIAL_NEXT_AFTER) }
    }

    /// Waits for a connection. The caller bounds how long.
    pub(super) async fn connection(self: &Arc<Self>) -> Result<Arc<Standing>, NetError> {
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

    /// This node has a new identity: the connection in use is replaced by one that shows it.
    pub(super) fn renew(&self) {
        self.changed.notify_waiters();
    }

    /// Dials whenever a connection is wanted and none stands, or the one that stands should be followed by another, until
    /// the future is dropped.
    pub(super) async fn run(self: Arc<Self>, dialler: Dialler) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_wanted() {
                self.dial(&dialler).await;
            } else if self.should_be_followed(&dialler) {
                self.dial_beside(&dialler).await;
            } else if self.takes_detour() {
                self.look_for_direct(&dialler).await;
            } else {
                changed.await;
            }
        }
    }

    fn is_wanted(&self) -> bool {
        if self.current().is_some() {
            return false;
        }
        let mut state = self.state();
        if state.hold == Hold::Make {
            state.dialling.get_or_insert_with(Instant::now);
        }
        state.dialling.is_some()
    }

    fn takes_detour(&self) -> bool {
        std::mem::take(&mut self.state().detour)
    }

    /// Tries once whether the node can be reached without a third.
    async fn look_for_direct(self: &Arc<Self>, dialler: &Dialler) {
        let tls = dialler.identities.current();
        match self.dial_direct(dialler, &tls.beside).await {
            Ok(connection) => self.establish(connection, (Made::Dialled, Course::Direct), &tls, dialler),
            Err(error) => tracing::debug!(node = %self.name, error, "a node is still reached over a third"),
        }
    }

    /// Dials until a connection stands, whoever made it.
    async fn dial(self: &Arc<Self>, dialler: &Dialler) {
        let mut pause = REDIAL_FIRST;
        while self.current().is_none() {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let tls = dialler.identities.current();
            match self.dial_any(dialler, &tls, &tls.client).await {
                Ok((connection, course)) => {
                    return self.establish(connection, (Made::Dialled, course), &tls, dialler);
                }
                Err(error) => tracing::debug!(node = %self.name, error, "a node cannot be reached"),
            }
            // A new endpoint, or a connection that the other side has made, ends the pause.
            let _ = timeout(pause, changed).await;
            pause = (pause * 2).min(REDIAL_MAX);
        }
        self.state().dialling = None;
    }

    /// Whether the connection in use shows an older identity of this node, or its certificates are about to be over.
    fn should_be_followed(&self, dialler: &Dialler) -> bool {
        let number = dialler.identities.current().number;
        let older = self.current().is_some_and(|current| current.shown < number);
        let state = self.state();
        state.ends_soon || (older && state.renewed < number)
    }

    /// Makes a connection beside the one that stands, for as long as one stands that should be followed. A node that
    /// cannot be dialled does this itself, if need be when the certificates are about to be over.
    async fn dial_beside(self: &Arc<Self>, dialler: &Dialler) {
        let mut pause = REDIAL_FIRST;
        while self.should_be_followed(dialler) && self.current().is_some() {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let tls = dialler.identities.current();
            match self.dial_any(dialler, &tls, &tls.beside).await {
                Ok((connection, course)) => {
                    {
                        let mut state = self.state();
                        (state.renewed, state.ends_soon) = (tls.number, false);
                    }
                    return self.establish(connection, (Made::Dialled, course), &tls, dialler);
                }
                Err(error) => tracing::debug!(node = %self.name, error, "no newer connection can be made"),
            }
            let _ = timeout(pause, changed).await;
            pause = (pause * 2).min(REDIAL_MAX);
        }
        self.state().ends_soon = false;
    }

    /// The node itself; and when it does not answer soon, over members.
    async fn dial_any(
        &self,
        dialler: &Dialler,
        tls: &Tls,
        client: &ClientConfig,
    ) -> Result<(Connection, Course), String> {
        let direct = async { Ok((self.dial_direct(dialler, client).await?, Course::Direct)) };
        let relayed = async { Ok((self.dial_relayed(dialler, tls, client).await?, Course::Relayed)) };
        match future::select_ok([direct.boxed(), relayed.boxed()]).await {
            Ok((connected, _)) => Ok(connected),
            Err(error) => Err(error),
        }
    }

    /// All endpoints at once; the first that answers.
    async fn dial_direct(&self, dialler: &Dialler, client: &ClientConfig) -> Result<Connection, String> {
        let endpoints = self.state().endpoints.clone();
        let dial = |address| self.shake_hands(&dialler.endpoint, client, address).boxed();
        let attempts: Vec<_> = endpoints.into_iter().map(dial).collect();
        if attempts.is_empty() {
            return Err("it names no address".to_owned());
        }
        future::select_ok(attempts).await.map(|(connection, _)| connection)
    }

    /// One member after the other, each when those before have not led there soon.
    async fn dial_relayed(&self, dialler: &Dialler, tls: &Tls, client: &ClientConfig) -> Result<Connection, String> {
        let mut client = client.clone();
        client.transport_config(tls.relayed.clone());
        tokio::time::sleep(RELAY_AFTER).await;
        let (client, relayed) = (&client, &dialler.relayed);
        let attempts = dialler.relay.to(&self.name).into_iter().zip(0..).map(|(way, before)| {
            async move {
                tokio::time::sleep(RELAY_AFTER * before).await;
                self.shake_hands(relayed, client, way).await
            }
            .boxed()
        });
        let attempts: Vec<_> = attempts.collect();
        if attempts.is_empty() {
            return Err("no member passes on".to_owned());
        }
        future::select_ok(attempts).await.map(|(connection, _)| connection)
    }

    async fn shake_hands(
        &self,
        endpoint: &Endpoint,
        client: &ClientConfig,
        address: SocketAddr,
    ) -> Result<Connection, String> {
        let connecting = endpoint.connect_with(client.clone(), address, &self.name);
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

    /// Takes a connection into use; `tls` is what was shown in its handshake.
    pub(super) fn establish(
        self: &Arc<Self>,
        connection: Connection,
        (made, course): (Made, Course),
        tls: &Tls,
        dialler: &Dialler,
    ) {
        let beside = identity::is_beside(&connection);
        tracing::debug!(node = %self.name, ?made, ?course, beside, "connected to a node");
        let standing = Standing::new(connection, (made, course), tls.number, tls.ends);
        let replaced: Vec<_> = {
            let mut state = self.state();
            state.suspect = false;
            state.dialling = None;
            state.connections.retain(|before| before.stands());
            state.connections.push(standing.clone());
            let before =
                state.connections.iter().filter(|before| before.made == made && !Arc::ptr_eq(before, &standing));
            before.filter(|_| !beside).cloned().collect()
        };
        for replaced in replaced {
            replaced.connection.close(REPLACED, b"dialled again");
        }
        self.changed.notify_waiters();
        (dialler.serve)(self.clone(), standing);
    }

    /// Watches a connection until it ends: says whether the node is well, and gives up what nobody uses and what its
    /// certificates no longer allow.
    pub(super) async fn watch(self: &Arc<Self>, standing: &Arc<Standing>) -> ConnectionError {
        let connection = &standing.connection;
        let mut look = tokio::time::interval(KEEP_ALIVE);
        let (mut received, mut heard) = (0, Instant::now());
        let (mut said, mut used) = (0, Instant::now());
        let (mut followed, mut looked) = (Instant::now(), Instant::now());
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
            let in_use = self.note(connection, heard.elapsed() >= SUSPECT_AFTER);
            let datagrams = stats.frame_rx.datagram + stats.frame_tx.datagram;
            let patience = if in_use { UNUSED_AFTER } else { LEFT_AFTER };
            if standing.is_used() || datagrams != said {
                (said, used) = (datagrams, Instant::now());
            } else if used.elapsed() >= patience && !(in_use && self.state().hold != Hold::No) {
                connection.close(UNUSED, b"unused");
            }
            if in_use && standing.course == Course::Relayed && looked.elapsed() >= DIRECT_LOOK {
                looked = Instant::now();
                self.look_again();
            }
            match standing.left(SystemTime::now()) {
                None => connection.close(OVER, b"a certificate is over"),
                // The nearer the end, the more often.
                Some(left) if in_use && left < CERTIFICATE_ENDS_SOON && followed.elapsed() >= left / 4 => {
                    followed = Instant::now();
                    self.state().ends_soon = true;
                    self.changed.notify_waiters();
                }
                Some(_) => {}
            }
        }
    }

    /// Has the node looked for without a third.
    pub(super) fn look_again(&self) {
        self.state().detour = true;
        self.changed.notify_waiters();
    }

    /// Whether the connection is the one in use; if so it says how the node is.
    fn note(&self, connection: &Connection, suspect: bool) -> bool {
        let in_use = self.current().is_some_and(|current| current.connection.stable_id() == connection.stable_id());
        if in_use {
            let before = std::mem::replace(&mut self.state().suspect, suspect);
            if before != suspect {
                tracing::info!(node = %self.name, silent = suspect, "a node has fallen silent, or speaks again");
            }
        }
        in_use
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
