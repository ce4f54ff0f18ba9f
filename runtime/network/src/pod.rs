//! A pod's place in the network: its addresses, its loopback, its ports.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::uri::Authority;
use http::{Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::body::Body;
use crate::conn::Conn;
use crate::dial::{Caller, Ends, Opened, send_to_first};
use crate::fabric::{Fabric, NetError};
use crate::http::{BoxFuture, HttpError, HttpService, HttpTarget, name_host, send_over, serve_over};
use crate::limits::{
    BACKLOG_DEFAULT, BACKLOG_MAX, DIAL_ATTEMPTS_MAX, EGRESS_PER_POD_MAX, PORTS_PER_POD_MAX, SERVED_CONNECTIONS_MAX,
};
use crate::names;
use crate::places::Places;
use crate::policy::End;
use crate::ports::{Ports, Scope};
use crate::queue::{Popped, Queue};
use crate::resolver::Resolver;
use crate::udp::{Inbox, UdpSocket};
use crate::waking::awake;

/// Who a pod is in the network.
#[derive(Clone, Debug)]
pub struct PodIdentity {
    /// `metadata.namespace`: where its short names are looked up.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.hostname`, or the name.
    pub hostname: String,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
}

/// An HTTP component bound to a port. Whoever has found it and is about to call it holds it, so that its end can wait.
pub(crate) struct HttpPort {
    service: Arc<dyn HttpService>,
    /// Connections being served by raw TCP.
    served: Arc<Places>,
    /// The port is freed: connections end with the request they are at.
    over: watch::Receiver<bool>,
    /// Ends with the last holder.
    _held: oneshot::Sender<Infallible>,
}

impl HttpService for HttpPort {
    fn call(
        self: Arc<Self>,
        request: Request<Body>,
        caller: IpAddr,
    ) -> BoxFuture<'static, Result<Response<Body>, HttpError>> {
        let answer = self.service.clone().call(request, caller);
        Box::pin(async move {
            // Held until the component has the request, which by then counts there.
            let _port = self;
            answer.await
        })
    }
}

/// Who answers on a TCP port.
#[derive(Clone)]
pub(crate) enum Bound {
    Listener(Arc<Queue<Conn>>),
    Http(Arc<HttpPort>),
}

impl Bound {
    /// Whether a connection made now would be taken.
    pub(crate) fn accepts(&self) -> bool {
        match self {
            Self::Listener(backlog) => backlog.has_room(),
            Self::Http(_) => true,
        }
    }

    /// Makes a byte connection.
    pub(crate) fn connect(self, ends: Ends) -> Result<Conn, NetError> {
        let (dialler, acceptor) = Conn::pair(ends);
        match self {
            Self::Listener(backlog) => backlog.push(acceptor).map_err(|_| NetError::ConnectionRefused)?,
            Self::Http(port) => {
                let place = port.served.take(ends.source.ip()).ok_or(NetError::ConnectionRefused)?;
                tokio::spawn(async move {
                    let mut over = port.over.clone();
                    let over = async move { drop(over.wait_for(|over| *over).await) };
                    serve_over(acceptor, port, over).await;
                    drop(place);
                });
            }
        }
        Ok(dialler)
    }

    /// Makes what HTTP can be spoken to: the component itself, or a byte connection.
    pub(crate) fn target(self, ends: Ends) -> Result<HttpTarget, NetError> {
        match self {
            Self::Http(port) => Ok(HttpTarget::Service(port, ends.source.ip())),
            listener @ Self::Listener(_) => listener.connect(ends).map(HttpTarget::Conn),
        }
    }
}

pub(crate) struct Pod {
    pub(crate) identity: PodIdentity,
    pub(crate) resolver: Resolver,
    state: Mutex<State>,
    /// Which address of a name with several comes first.
    turn: AtomicUsize,
    detached: AtomicBool,
    /// Its connections to the outside.
    ways_out: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    tcp: Ports<Bound>,
    udp: Ports<Arc<Inbox>>,
}

impl Pod {
    pub(crate) fn new(identity: PodIdentity, resolver: Resolver) -> Self {
        Self {
            identity,
            resolver,
            state: Mutex::default(),
            turn: AtomicUsize::new(0),
            detached: AtomicBool::new(false),
            ways_out: Arc::new(Semaphore::new(EGRESS_PER_POD_MAX)),
        }
    }

    /// One of the pod's connections to the outside.
    pub(crate) fn way_out(&self) -> Result<OwnedSemaphorePermit, NetError> {
        let permit = self.ways_out.clone().try_acquire_owned();
        permit.map_err(|_| NetError::LimitReached("connections to the outside"))
    }

    /// The pod as an end of a flow.
    pub(crate) fn end(&self, address: IpAddr) -> End<'_> {
        End::Pod { namespace: &self.identity.namespace, name: &self.identity.name, address }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tcp_at(&self, address: SocketAddr) -> Option<Bound> {
        self.state().tcp.find(address.ip(), address.port()).cloned()
    }

    pub(crate) fn udp_at(&self, address: SocketAddr) -> Option<Arc<Inbox>> {
        self.state().udp.find(address.ip(), address.port()).cloned()
    }

    pub(crate) fn ephemeral(&self) -> u16 {
        self.state().tcp.ephemeral()
    }

    pub(crate) fn release_udp(&self, scope: Scope, port: u16) {
        self.state().udp.release(scope, port);
    }

    pub(crate) fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Relaxed)
    }

    /// The pod may bind its own addresses, its loopback, and "any".
    fn may_bind(&self, ip: IpAddr) -> bool {
        ip.is_unspecified() || ip.is_loopback() || self.identity.addresses.contains(&ip)
    }

    /// Frees every port; who waits on one is told it is closed.
    pub(crate) fn close(&self) {
        let (tcp, udp) = {
            let mut state = self.state();
            self.detached.store(true, Ordering::Relaxed);
            (state.tcp.clear(), state.udp.clear())
        };
        for bound in tcp {
            if let Bound::Listener(backlog) = bound {
                backlog.close();
            }
        }
        for inbox in udp {
            inbox.close();
        }
    }

    fn bind_tcp(&self, scope: Scope, port: u16, bound: Bound) -> Result<u16, NetError> {
        let mut state = self.state();
        self.may_open(&state)?;
        state.tcp.bind(scope, port, bound).ok_or(NetError::AddressInUse)
    }

    fn may_open(&self, state: &State) -> Result<(), NetError> {
        if self.is_detached() {
            return Err(NetError::Detached);
        }
        if state.tcp.count() + state.udp.count() >= PORTS_PER_POD_MAX {
            return Err(NetError::LimitReached("bound ports"));
        }
        Ok(())
    }
}

struct Attachment {
    fabric: Fabric,
    pod: Arc<Pod>,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.fabric.detach(&self.pod);
    }
}

/// The network as one pod sees it. Clones share the pod's one network namespace.
#[derive(Clone)]
pub struct PodNet(Arc<Attachment>);

impl fmt::Debug for PodNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = &self.0.pod.identity;
        write!(f, "PodNet({}/{} {:?})", identity.namespace, identity.name, identity.addresses)
    }
}

impl PodNet {
    pub(crate) fn new(fabric: Fabric, pod: Arc<Pod>) -> Self {
        Self(Arc::new(Attachment { fabric, pod }))
    }

    /// The pod's addresses, as `status.podIPs`.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.0.pod.identity.addresses
    }

    /// Who the pod is.
    #[must_use]
    pub fn identity(&self) -> &PodIdentity {
        &self.0.pod.identity
    }

    /// Leaves the network now: ports are freed, listeners and UDP sockets are closed. Open connections stay with
    /// whoever holds their ends.
    ///
    /// Needed where a bound [`HttpService`] itself holds a clone of this `PodNet`, which would never be dropped.
    pub fn detach(&self) {
        self.0.fabric.detach(&self.0.pod);
    }

    /// Binds an HTTP component to a port on all of the pod's addresses, for as long as the binding is kept.
    ///
    /// # Errors
    /// [`NetError::AddressInUse`], [`NetError::LimitReached`], [`NetError::Detached`].
    pub fn serve_http(&self, port: u16, service: Arc<dyn HttpService>) -> Result<HttpBinding, NetError> {
        let (_held, held) = oneshot::channel();
        let (over, heard) = watch::channel(false);
        let bound = HttpPort { service, served: Places::new(SERVED_CONNECTIONS_MAX), over: heard, _held };
        let port = self.0.pod.bind_tcp(Scope::All, port, Bound::Http(Arc::new(bound)))?;
        self.0.fabric.waking().note_change();
        Ok(HttpBinding { pod: self.0.pod.clone(), port, over, held })
    }

    /// Listens on an address of the pod; port 0 chooses a free one, backlog 0 the default.
    ///
    /// # Errors
    /// [`NetError::AddressNotAvailable`], [`NetError::AddressInUse`], [`NetError::LimitReached`],
    /// [`NetError::Detached`].
    pub fn listen(&self, address: SocketAddr, backlog: usize) -> Result<Listener, NetError> {
        let pod = &self.0.pod;
        if !pod.may_bind(address.ip()) {
            return Err(NetError::AddressNotAvailable);
        }
        let backlog = if backlog == 0 { BACKLOG_DEFAULT } else { backlog.min(BACKLOG_MAX) };
        let backlog = Arc::new(Queue::new(backlog));
        let scope = Scope::of(address.ip());
        let port = pod.bind_tcp(scope, address.port(), Bound::Listener(backlog.clone()))?;
        self.0.fabric.waking().note_change();
        Ok(Listener { pod: pod.clone(), scope, local: SocketAddr::new(address.ip(), port), backlog })
    }

    /// Connects to a pod, a Service's cluster IP, the pod's own loopback, or an address outside the cluster.
    ///
    /// It waits for other nodes, for the outside, and for Services whose pods sleep.
    ///
    /// # Errors
    /// [`NetError::ConnectionRefused`], [`NetError::Unreachable`], [`NetError::Denied`], [`NetError::TimedOut`],
    /// [`NetError::InvalidAddress`], [`NetError::Detached`].
    pub async fn connect(&self, destination: SocketAddr) -> Result<Conn, NetError> {
        let Attachment { fabric, pod } = &*self.0;
        if fabric.is_api(destination) && !pod.is_detached() {
            return fabric.connect_api(pod, destination).await;
        }
        let dial = || async move { fabric.open(Caller(Some(pod)), destination).await.and_then(Opened::connect) };
        match awake(fabric, destination, dial).await {
            (Ok(mut conn), visit) => {
                conn.keep(visit);
                Ok(conn)
            }
            (Err(NetError::Unreachable), _) => fabric.leave(pod, destination).await,
            (Err(error), _) => Err(error),
        }
    }

    /// Opens a UDP socket on an address of the pod; port 0 chooses a free one.
    ///
    /// # Errors
    /// As [`PodNet::listen`].
    pub fn bind_udp(&self, address: SocketAddr) -> Result<UdpSocket, NetError> {
        let pod = &self.0.pod;
        if !pod.may_bind(address.ip()) {
            return Err(NetError::AddressNotAvailable);
        }
        let inbox = Arc::new(Inbox::default());
        let scope = Scope::of(address.ip());
        let port = {
            let mut state = pod.state();
            pod.may_open(&state)?;
            state.udp.bind(scope, address.port(), inbox.clone()).ok_or(NetError::AddressInUse)?
        };
        let local = SocketAddr::new(address.ip(), port);
        Ok(UdpSocket::new(self.0.fabric.clone(), pod.clone(), scope, local, inbox))
    }

    /// The addresses of a name, as the cluster's DNS and the pod's `/etc/hosts` would answer; a name with several
    /// gives them in another order each time. Names outside the cluster are asked of the host's resolver.
    ///
    /// # Errors
    /// [`NetError::NameNotFound`], also when all its addresses are such that may not be reached;
    /// [`NetError::Denied`] when no policy lets the pod ask; [`NetError::LimitReached`].
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetError> {
        match self.look_up(name) {
            Err(NetError::NameNotFound(_)) => self.0.fabric.look_up_outside(&self.0.pod, name).await,
            found => found,
        }
    }

    fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, NetError> {
        let Attachment { fabric, pod } = &*self.0;
        let mut addresses = names::resolve(name, &fabric.asker(pod), &fabric.services());
        if addresses.is_empty() {
            return Err(NetError::NameNotFound(name.to_owned()));
        }
        let v4 = addresses.iter().take_while(|ip| ip.is_ipv4()).count();
        let turn = pod.turn.fetch_add(1, Ordering::Relaxed);
        for family in [0..v4, v4..addresses.len()] {
            let count = family.len();
            addresses[family].rotate_left(turn % count.max(1));
        }
        Ok(addresses)
    }

    /// Sends an HTTP request to `host:port` (80 when absent), where the host is an address or a name.
    ///
    /// An HTTP component of this node is called in place; everything else gets HTTP/1.1 over a [`Conn`].
    ///
    /// # Errors
    /// [`HttpError`]; [`HttpError::ConnectionRefused`] and [`HttpError::NameNotFound`] mean that nothing was sent.
    pub async fn http(&self, authority: &str, mut request: Request<Body>) -> Result<Response<Body>, HttpError> {
        let (_, destinations) = self.addressed(authority, 80, &mut request).await?;
        send_to_first(&self.0.fabric, &self.0.pod, destinations, request).await
    }

    /// The same over TLS, to port 443 when none is named: HTTP/1.1 with somebody whose certificate is good for the host, in
    /// the eyes of those whom the machine trusts, or of the cluster's authority where it is the API. A component on this
    /// node is no exception: it speaks no TLS.
    ///
    /// # Errors
    /// As [`PodNet::http`], and [`HttpError::Untrusted`] and [`HttpError::Tls`], where nothing was sent either.
    pub async fn https(&self, authority: &str, mut request: Request<Body>) -> Result<Response<Body>, HttpError> {
        let (host, destinations) = self.addressed(authority, 443, &mut request).await?;
        let fabric = &self.0.fabric;
        let mut refused = NetError::ConnectionRefused;
        for destination in destinations {
            match self.connect(destination).await {
                Ok(conn) => {
                    let api = fabric.api_servers().filter(|_| fabric.is_api(destination));
                    let trust = api.as_ref().map_or(fabric.trust(), |servers| &servers.trust);
                    return send_over(trust.secure(conn, bare(&host)).await?, request).await;
                }
                Err(error) => refused = error,
            }
        }
        Err(refused.into())
    }

    /// Whom a request is for, which it is made to name, and where that may be found.
    async fn addressed(
        &self,
        authority: &str,
        default_port: u16,
        request: &mut Request<Body>,
    ) -> Result<(Authority, impl Iterator<Item = SocketAddr> + use<>), HttpError> {
        let parsed: Authority = authority.parse().map_err(|_| HttpError::NameNotFound(authority.to_owned()))?;
        let port = parsed.port_u16().unwrap_or(default_port);
        let addresses = self.resolve(bare(&parsed)).await?;
        name_host(request, authority);
        Ok((parsed, addresses.into_iter().take(DIAL_ATTEMPTS_MAX).map(move |ip| SocketAddr::new(ip, port))))
    }
}

/// The host without its port and brackets.
fn bare(authority: &Authority) -> &str {
    authority.host().trim_start_matches('[').trim_end_matches(']')
}

/// An HTTP component's hold on a port; dropping it frees the port.
#[must_use = "dropping the binding frees the port"]
pub struct HttpBinding {
    pod: Arc<Pod>,
    port: u16,
    over: watch::Sender<bool>,
    held: oneshot::Receiver<Infallible>,
}

impl fmt::Debug for HttpBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpBinding({})", self.port)
    }
}

impl HttpBinding {
    /// The bound port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Frees the port and waits until all who found the component there have called it: nobody else will. Connections that
    /// have sent nothing yet may send one request; the caller bounds how long that is waited for.
    pub async fn close(mut self) {
        self.free();
        // Nothing is ever sent; it ends with the last holder.
        let _ = (&mut self.held).await;
    }

    fn free(&self) {
        let released = self.pod.state().tcp.release(Scope::All, self.port);
        // The component may hold the pod; it is dropped after the lock.
        drop(released);
        self.over.send_replace(true);
    }
}

impl Drop for HttpBinding {
    fn drop(&mut self) {
        if !*self.over.borrow() {
            self.free();
        }
    }
}

/// A listening TCP socket; dropping it frees the port and closes what waits in its backlog.
#[derive(Debug)]
pub struct Listener {
    pod: Arc<Pod>,
    scope: Scope,
    local: SocketAddr,
    backlog: Arc<Queue<Conn>>,
}

impl fmt::Debug for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.identity.namespace, self.identity.name)
    }
}

impl Listener {
    /// The address listened on, with the port that was chosen.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Takes a connection without waiting: `Ok(None)` means wait for [`Listener::ready`].
    ///
    /// # Errors
    /// [`NetError::Detached`] when the pod has left the network.
    pub fn try_accept(&self) -> Result<Option<Conn>, NetError> {
        match self.backlog.pop() {
            Popped::Item(conn) => Ok(Some(conn)),
            Popped::Empty => Ok(None),
            Popped::Closed => Err(NetError::Detached),
        }
    }

    /// Returns when [`Listener::try_accept`] would not answer `Ok(None)`. May be dropped at any time.
    pub async fn ready(&self) {
        self.backlog.ready().await;
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// [`NetError::Detached`] when the pod has left the network.
    pub async fn accept(&self) -> Result<Conn, NetError> {
        loop {
            if let Some(conn) = self.try_accept()? {
                return Ok(conn);
            }
            self.ready().await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.pod.state().tcp.release(self.scope, self.local.port());
        self.backlog.close();
    }
}
