//! The way out: connections and datagrams of pods to addresses outside the cluster, carried by sockets that the host's
//! side of the network opens. A guest gets bytes, never a socket.
//!
//! Nothing is opened before [`outside::judge`] and the NetworkPolicies have agreed to the very address that is dialled;
//! names are resolved first and judged by what they resolve to, so that a name which changes its mind gains nothing.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use crate::cidr::Cidr;
use crate::conn::Conn;
use crate::dial::Ends;
use crate::fabric::{Fabric, NetError};
use crate::http::BoxFuture;
use crate::limits::{
    DATAGRAM_BYTES_MAX, DATAGRAMS_MAX, EGRESS_CONNECT_TIMEOUT, LOOKUP_TIMEOUT, LOOKUPS_MAX, UDP_ANSWER_TIME,
};
use crate::outside::{self, Forbidden};
use crate::pod::Pod;
use crate::policy::{self, End, Flow};
use crate::services::Protocol;
use crate::udp::{Datagram, Inbox};

/// The host's sockets, or a test's.
pub(crate) trait Sockets: Send + Sync {
    /// Whether an address is this machine's.
    fn is_host(&self, ip: IpAddr) -> bool;
    fn connect(&self, destination: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>>;
    /// A UDP socket that talks to one address only.
    fn udp(&self, destination: SocketAddr) -> io::Result<UdpSocket>;
    fn look_up(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// This machine's own.
pub(crate) struct HostSockets;

fn any(like: SocketAddr) -> SocketAddr {
    let ip = if like.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    SocketAddr::new(ip, 0)
}

impl Sockets for HostSockets {
    /// Only a machine's own addresses can be bound to. Asked each time, since they come and go; where the answer is
    /// unclear the address counts as its own.
    fn is_host(&self, ip: IpAddr) -> bool {
        match std::net::UdpSocket::bind((ip, 0)) {
            Ok(_) => true,
            Err(error) => !matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported),
        }
    }

    fn connect(&self, destination: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(destination).await?;
            // The address may have become this machine's since it was judged.
            if stream.local_addr()?.ip() == destination.ip() {
                return Err(io::ErrorKind::HostUnreachable.into());
            }
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }

    fn udp(&self, destination: SocketAddr) -> io::Result<UdpSocket> {
        let socket = std::net::UdpSocket::bind(any(destination))?;
        socket.connect(destination)?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }

    fn look_up(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect()) })
    }
}

/// What a fabric needs to let pods out.
pub(crate) struct Egress {
    sockets: Arc<dyn Sockets>,
    cluster: Vec<Cidr>,
    lookups: Arc<Semaphore>,
}

impl Egress {
    pub(crate) fn new(sockets: Arc<dyn Sockets>, cluster: Vec<Cidr>) -> Self {
        Self { sockets, cluster, lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }

    fn judge(&self, ip: IpAddr) -> Result<(), Forbidden> {
        outside::judge(ip, &self.cluster, |ip| self.sockets.is_host(ip))
    }

    /// Whether a pod may reach an address outside, and which it is in plain writing.
    fn permit(
        &self,
        fabric: &Fabric,
        pod: &Pod,
        destination: SocketAddr,
        protocol: Protocol,
    ) -> Result<SocketAddr, NetError> {
        let ip = destination.ip().to_canonical();
        self.judge(ip).map_err(|forbidden| NetError::Denied(format!("denied; {forbidden}")))?;
        let policies = fabric.policies();
        // What stands behind a translator is reached under either address.
        for ip in [Some(ip), outside::translated(ip).map(IpAddr::V4)].into_iter().flatten() {
            let own = pod.identity.addresses.iter().copied().find(|own| own.is_ipv4() == ip.is_ipv4());
            let source = pod.end(own.unwrap_or(ip));
            let flow = Flow { source, destination: End::Address(ip), port: destination.port(), protocol };
            let verdict = policy::decide(&policies, &flow);
            if !policies.is_empty() && !verdict.allowed() {
                return Err(NetError::Denied(verdict.to_string()));
            }
        }
        Ok(SocketAddr::new(ip, destination.port()))
    }

    /// Connects a pod to an address outside.
    pub(crate) async fn connect(
        &self,
        fabric: &Fabric,
        pod: &Arc<Pod>,
        destination: SocketAddr,
    ) -> Result<Conn, NetError> {
        let dialled = self.permit(fabric, pod, destination, Protocol::Tcp)?;
        let permit = pod.way_out()?;
        let connected = timeout(EGRESS_CONNECT_TIMEOUT, self.sockets.connect(dialled)).await;
        let stream = connected.map_err(|_| NetError::Unreachable)?.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => NetError::ConnectionRefused,
            _ => NetError::Unreachable,
        })?;
        let own = pod.identity.addresses.iter().copied().find(|own| own.is_ipv4() == dialled.is_ipv4());
        let source = SocketAddr::new(own.unwrap_or(any(dialled).ip()), pod.ephemeral());
        let (conn, carried) = Conn::pair(Ends { source, dialled: destination, accepted: dialled });
        tokio::spawn(carry(carried, stream, permit));
        Ok(conn)
    }

    /// Opens an exchange of datagrams between a pod's socket and one address outside. It ends when nothing has gone
    /// either way for a while, or the sender is dropped.
    pub(crate) fn datagrams(
        &self,
        fabric: &Fabric,
        pod: &Arc<Pod>,
        destination: SocketAddr,
        inbox: Arc<Inbox>,
    ) -> Result<mpsc::Sender<Bytes>, NetError> {
        let dialled = self.permit(fabric, pod, destination, Protocol::Udp)?;
        let permit = pod.way_out()?;
        let socket = self.sockets.udp(dialled).map_err(|_| NetError::Unreachable)?;
        let (sender, outgoing) = mpsc::channel(DATAGRAMS_MAX);
        tokio::spawn(exchange(socket, destination, outgoing, inbox, permit));
        Ok(sender)
    }

    /// Whether the policies still let datagrams out to an address.
    pub(crate) fn still_permits(&self, fabric: &Fabric, pod: &Pod, destination: SocketAddr) -> Result<(), NetError> {
        self.permit(fabric, pod, destination, Protocol::Udp).map(drop)
    }

    /// The addresses of a name outside, without those that may not be reached.
    pub(crate) async fn look_up(&self, fabric: &Fabric, pod: &Pod, name: String) -> Result<Vec<IpAddr>, NetError> {
        if !fabric.policies().may_ask_names(&pod.identity.namespace, &pod.identity.name) {
            return Err(NetError::Denied(format!("denied; no policy lets the pod ask for {name}")));
        }
        let unknown = || NetError::NameNotFound(name.clone());
        let permit = self.lookups.clone().try_acquire_owned().map_err(|_| NetError::LimitReached("name lookups"))?;
        let asking = self.sockets.look_up(name.clone());
        // The host's resolver cannot be interrupted: the permit is its, however long the caller waits.
        let asked = tokio::spawn(async move {
            let _permit = permit;
            asking.await
        });
        let answered = timeout(LOOKUP_TIMEOUT, asked).await.map_err(|_| unknown())?;
        let mut addresses = answered.map_err(|_| unknown())?.map_err(|_| unknown())?;
        addresses.retain(|ip| self.judge(*ip).is_ok());
        addresses.sort_by_key(IpAddr::is_ipv6);
        if addresses.is_empty() { Err(unknown()) } else { Ok(addresses) }
    }
}

/// Carries bytes both ways until both directions have ended, or the guest has closed.
pub(crate) async fn carry(conn: Conn, stream: TcpStream, _permit: OwnedSemaphorePermit) {
    let (mut from_guest, mut to_guest) = conn.into_split();
    let (mut from_outside, mut to_outside) = stream.into_split();
    let guest_gone = to_guest.reader_gone();
    let out = async {
        // Whatever ends one direction ends it for both sides; there is nobody to tell.
        let _ = tokio::io::copy(&mut from_guest, &mut to_outside).await;
        let _ = to_outside.shutdown().await;
    };
    let back = async {
        tokio::select! {
            _ = tokio::io::copy(&mut from_outside, &mut to_guest) => to_guest.shutdown(),
            () = guest_gone => {}
        }
    };
    tokio::join!(out, back);
}

/// Carries datagrams both ways until none has come for a while or the guest's socket is closed.
async fn exchange(
    socket: UdpSocket,
    source: SocketAddr,
    mut outgoing: mpsc::Receiver<Bytes>,
    inbox: Arc<Inbox>,
    _permit: OwnedSemaphorePermit,
) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        tokio::select! {
            () = tokio::time::sleep(UDP_ANSWER_TIME) => return,
            bytes = outgoing.recv() => {
                let Some(bytes) = bytes else { return };
                // One that cannot be sent is lost, as on the way: too large for the path, the network gone for now.
                let _ = socket.send(&bytes).await;
            }
            received = socket.recv(&mut buffer) => match received {
                Ok(length) => {
                    inbox.deliver(Datagram { bytes: Bytes::copy_from_slice(&buffer[..length]), source });
                }
                // ICMP's answer to an earlier datagram; the next may be taken.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            },
        }
    }
}
