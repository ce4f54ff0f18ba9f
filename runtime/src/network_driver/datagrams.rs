//! UDP NodePorts: one socket of the host for each. A client that sends to it has a flow through the fabric for as long as
//! something comes or goes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use network::limits::{DATAGRAM_BYTES_MAX, NODE_FLOWS_MAX, UDP_ANSWER_TIME};
use network::{Fabric, NodeFlow};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long a flow that nobody has answered lives (Linux' `nf_conntrack_udp_timeout`); an answered one has
/// [`UDP_ANSWER_TIME`].
const UNANSWERED_TIME: Duration = Duration::from_secs(30);

/// Datagrams of one client that wait for its flow; more are lost.
const WAITING_MAX: usize = 64;

/// A port's clients and their flows.
pub(super) struct Server {
    pub(super) fabric: Fabric,
    pub(super) port: u16,
    pub(super) socket: UdpSocket,
}

impl Server {
    /// Carries datagrams until the port is closed; flows end with it.
    pub(super) async fn serve(self, closed: CancellationToken) {
        let Self { fabric, port, socket } = self;
        let socket = Arc::new(socket);
        let mut flows: HashMap<SocketAddr, mpsc::Sender<Bytes>> = HashMap::new();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let received = tokio::select! {
                () = closed.cancelled() => return,
                received = socket.recv_from(&mut buffer) => received,
            };
            // An error tells of a datagram sent earlier that nobody took: not this one's concern.
            let Ok((length, client)) = received else { continue };
            let sender = match flows.get(&client).filter(|sender| !sender.is_closed()) {
                Some(sender) => sender.clone(),
                None => {
                    if flows.len() >= NODE_FLOWS_MAX {
                        flows.retain(|_, sender| !sender.is_closed());
                    }
                    let Ok(flow) = fabric.node_flow(port, client.ip().to_canonical()) else { continue };
                    let (sender, waiting) = mpsc::channel(WAITING_MAX);
                    let carried = carry(flow, waiting, socket.clone(), client);
                    let closed = closed.clone();
                    tokio::spawn(async move { closed.run_until_cancelled(carried).await });
                    flows.insert(client, sender.clone());
                    sender
                }
            };
            // Full, or ended in this moment: lost, as UDP allows.
            let _ = sender.try_send(Bytes::copy_from_slice(&buffer[..length]));
        }
    }
}

/// Carries one client's datagrams both ways until nothing has come or gone for a while.
async fn carry(flow: NodeFlow, mut waiting: mpsc::Receiver<Bytes>, socket: Arc<UdpSocket>, client: SocketAddr) {
    let mut patience = UNANSWERED_TIME;
    let next = async |waiting: &mut mpsc::Receiver<Bytes>| {
        tokio::select! {
            asked = waiting.recv() => asked.map(|bytes| (true, bytes)),
            answer = flow.receive() => Some((false, answer)),
        }
    };
    while let Ok(Some((asked, bytes))) = timeout(patience, next(&mut waiting)).await {
        if asked {
            flow.send(bytes);
        } else {
            patience = UDP_ANSWER_TIME;
            // What the client's machine does not take is lost.
            let _ = socket.send_to(&bytes, client).await;
        }
    }
}
