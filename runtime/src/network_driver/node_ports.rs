//! NodePorts: real TCP sockets of the host, one per node port of a Service of type NodePort or LoadBalancer, and for the
//! latter one per port, joined to the fabric. UDP NodePorts are not opened.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use network::services::Protocol;
use network::{Fabric, ServiceTable};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

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
    open: HashMap<u16, DropGuard>,
}

impl NodePorts {
    pub(super) fn new(fabric: Fabric, address: IpAddr, stop: CancellationToken) -> Self {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { fabric, address, stop, connections, open: HashMap::new() }
    }

    /// Whether a port is open here.
    pub(super) fn is_open(&self, port: u16) -> bool {
        self.open.contains_key(&port)
    }

    /// Opens and closes ports so that they are the table's. One that cannot be opened is tried again with the next
    /// table.
    pub(super) fn follow(&mut self, table: &ServiceTable) {
        let tcp = |(port, protocol)| (protocol == Protocol::Tcp).then_some(port);
        let wanted: BTreeSet<u16> = table.node_ports().filter_map(tcp).collect();
        self.open.retain(|port, _| wanted.contains(port));
        for port in wanted {
            if self.open.contains_key(&port) {
                continue;
            }
            match bind(SocketAddr::new(self.address, port)) {
                Ok(listener) => {
                    let closed = self.stop.child_token();
                    let server =
                        Server { fabric: self.fabric.clone(), port, stop: self.stop.clone(), closed: closed.clone() };
                    tokio::spawn(Arc::new(server).accept(listener, self.connections.clone()));
                    self.open.insert(port, closed.drop_guard());
                }
                Err(error) => tracing::warn!(port, %error, "cannot open a NodePort"),
            }
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// One open port.
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
