//! NodePorts: real sockets of the host, one per node port of a Service of type NodePort or LoadBalancer, and for the latter
//! one per port, joined to the fabric.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use network::services::Protocol;
use network::{Fabric, ServiceTable};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::datagrams;

/// Connections through all NodePorts of the node at a time; the next ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 4096;

/// The pause after the kernel refused to accept (out of descriptors): long enough for one to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The open NodePorts of this node.
pub(super) struct NodePorts {
    fabric: Fabric,
    address: IpAddr,
    /// Ends listeners and connections alike.
    stop: CancellationToken,
    connections: Arc<Semaphore>,
    /// Dropping the guard closes the port; its connections go on, as those of a removed Service do in Kubernetes.
    open: HashMap<(u16, Protocol), DropGuard>,
}

impl NodePorts {
    pub(super) fn new(fabric: Fabric, address: IpAddr, stop: CancellationToken) -> Self {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { fabric, address, stop, connections, open: HashMap::new() }
    }

    /// Whether a port is open here.
    pub(super) fn is_open(&self, port: u16, protocol: Protocol) -> bool {
        self.open.contains_key(&(port, protocol))
    }

    /// Opens and closes ports so that they are the table's. One that cannot be opened is tried again with the next
    /// table.
    pub(super) fn follow(&mut self, table: &ServiceTable) {
        let wanted: HashSet<(u16, Protocol)> = table.node_ports().collect();
        self.open.retain(|port, _| wanted.contains(port));
        for (port, protocol) in wanted {
            if self.open.contains_key(&(port, protocol)) {
                continue;
            }
            match self.open(port, protocol) {
                Ok(guard) => drop(self.open.insert((port, protocol), guard)),
                Err(error) => tracing::warn!(port, ?protocol, %error, "cannot open a NodePort"),
            }
        }
    }

    fn open(&self, port: u16, protocol: Protocol) -> io::Result<DropGuard> {
        let address = SocketAddr::new(self.address, port);
        let closed = self.stop.child_token();
        match protocol {
            Protocol::Tcp => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                let listener = TcpListener::from_std(listener)?;
                let server =
                    Server { fabric: self.fabric.clone(), port, stop: self.stop.clone(), closed: closed.clone() };
                tokio::spawn(Arc::new(server).accept(listener, self.connections.clone()));
            }
            Protocol::Udp => {
                let socket = std::net::UdpSocket::bind(address)?;
                socket.set_nonblocking(true)?;
                let socket = UdpSocket::from_std(socket)?;
                let server = datagrams::Server { fabric: self.fabric.clone(), port, socket };
                tokio::spawn(server.serve(closed.clone()));
            }
        }
        Ok(closed.drop_guard())
    }
}

/// One open TCP port.
struct Server {
    fabric: Fabric,
    port: u16,
    stop: CancellationToken,
    closed: CancellationToken,
}

impl Server {
    async fn accept(self: Arc<Self>, listener: TcpListener, connections: Arc<Semaphore>) {
        loop {
            let next = async {
                let permit = connections.clone().acquire_owned().await.ok();
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = self.closed.cancelled() => return,
                next = next => next,
            };
            match (permit, accepted) {
                (Some(permit), Ok((stream, client))) => {
                    tokio::spawn(self.clone().join(stream, client, permit));
                }
                (_, Err(error)) => {
                    tracing::warn!(port = self.port, %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                (None, Ok(_)) => return,
            }
        }
    }

    /// Carries one connection to a ready endpoint; without one it is closed at once.
    async fn join(self: Arc<Self>, mut stream: TcpStream, client: SocketAddr, _permit: OwnedSemaphorePermit) {
        let reached = tokio::select! {
            () = self.stop.cancelled() => return,
            reached = self.fabric.reach_node_port(self.port, client.ip().to_canonical()) => reached,
        };
        let Some(mut pod) = reached else {
            tracing::debug!(port = self.port, "no endpoint accepts");
            return;
        };
        let _ = stream.set_nodelay(true);
        tokio::select! {
            () = self.stop.cancelled() => {}
            // Either side closing is the ordinary end.
            _ = tokio::io::copy_bidirectional(&mut stream, &mut pod) => {}
        }
    }
}
