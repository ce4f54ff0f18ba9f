//! Datagrams that come in at a port of the node, and the answers' way back.
//!
//! Every client that sends to a UDP NodePort has a flow: the endpoint that was chosen for it, and a port of the node's own
//! address, which is where the endpoint sees the datagrams come from. What the endpoint sends there is the flow's; what
//! anybody else sends there is lost.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;

use crate::fabric::{Fabric, NetError};
use crate::limits::{DATAGRAM_BYTES_MAX, EPHEMERAL_PORTS, NODE_FLOW_DATAGRAMS_MAX, NODE_FLOWS_MAX};
use crate::queue::Popped;
use crate::services::Protocol;
use crate::udp::Inbox;

/// The flows of a node by their port at the node's address.
#[derive(Debug, Default)]
pub(crate) struct NodeFlows(RwLock<HashMap<u16, Arc<Inbox>>>);

impl NodeFlows {
    fn at(&self, port: u16) -> Option<Arc<Inbox>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&port).cloned()
    }

    /// Takes the first port that is free, from `next`.
    fn open(&self, next: impl Fn() -> u16) -> Option<(u16, Arc<Inbox>)> {
        let mut flows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if flows.len() >= NODE_FLOWS_MAX {
            return None;
        }
        let port = EPHEMERAL_PORTS.map(|_| next()).find(|port| !flows.contains_key(port))?;
        let inbox = Arc::new(Inbox::holding(NODE_FLOW_DATAGRAMS_MAX));
        flows.insert(port, inbox.clone());
        Some((port, inbox))
    }

    fn close(&self, port: u16) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&port);
    }
}

/// One client's datagrams through a NodePort; dropping it forgets the endpoint and frees the port.
pub struct NodeFlow {
    fabric: Fabric,
    node_port: u16,
    client: IpAddr,
    port: u16,
    inbox: Arc<Inbox>,
    endpoint: Mutex<Option<SocketAddr>>,
}

impl std::fmt::Debug for NodeFlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeFlow({} from {})", self.node_port, self.client)
    }
}

impl Fabric {
    /// The flow at an address that no pod has.
    pub(crate) fn flow_at(&self, destination: SocketAddr) -> Option<Arc<Inbox>> {
        let own = self.node_address(destination.ip()).filter(|own| *own == destination.ip());
        own.and_then(|_| self.node_flows().at(destination.port()))
    }

    /// Begins a flow from a client outside to the Service behind a UDP port of this node. Nothing is sent yet.
    ///
    /// # Errors
    /// [`NetError::LimitReached`] when the node has [`NODE_FLOWS_MAX`] of them.
    pub fn node_flow(&self, node_port: u16, client: IpAddr) -> Result<NodeFlow, NetError> {
        let opened = self.node_flows().open(|| self.ephemeral());
        let (port, inbox) = opened.ok_or(NetError::LimitReached("flows through the node's ports"))?;
        Ok(NodeFlow { fabric: self.clone(), node_port, client, port, inbox, endpoint: Mutex::default() })
    }
}

impl NodeFlow {
    /// Sends a datagram to the flow's endpoint: the one it had for as long as that is one of the Service's and takes
    /// datagrams, else the next. Lost when there is none, or when it does not fit; UDP has no way to say so.
    pub fn send(&self, bytes: Bytes) {
        if bytes.len() > DATAGRAM_BYTES_MAX {
            return;
        }
        let services = self.fabric.services();
        let Some(balancer) = services.node_port(self.node_port, Protocol::Udp).map(|port| &port.balancer) else {
            return;
        };
        let mut endpoint = self.endpoint.lock().unwrap_or_else(PoisonError::into_inner);
        let known = endpoint.filter(|known| balancer.endpoints().contains(known));
        let Ok(found) = self.fabric.open_udp_balanced(balancer, self.client, known) else { return };
        *endpoint = Some(found.address);
        let Some(own) = self.fabric.node_address(found.address.ip()) else { return };
        self.fabric.hand(found, SocketAddr::new(own, self.port), bytes);
    }

    /// The endpoint's next datagram. May be dropped at any time.
    pub async fn receive(&self) -> Bytes {
        loop {
            match self.inbox.pop() {
                Popped::Item(datagram) if Some(datagram.source) == self.endpoint() => return datagram.bytes,
                Popped::Item(_) => {}
                // Only its own end closes a flow's inbox, and then nobody waits here.
                Popped::Empty | Popped::Closed => self.inbox.ready().await,
            }
        }
    }

    fn endpoint(&self) -> Option<SocketAddr> {
        *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NodeFlow {
    fn drop(&mut self) {
        self.fabric.node_flows().close(self.port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::Config;
    use crate::pod::{PodIdentity, PodNet};
    use crate::services::{Endpoint, EndpointSlice, Service, ServicePort, ServiceTable};
    use crate::udp::Datagram;

    fn pod(fabric: &Fabric, last: u8) -> PodNet {
        let addresses = vec![IpAddr::from([10, 42, 0, last])];
        let name = format!("p{last}");
        fabric.attach(PodIdentity { namespace: "default".into(), hostname: name.clone(), name, addresses })
    }

    fn install(fabric: &Fabric, endpoints: &[u8]) {
        let port =
            ServicePort { name: String::new(), protocol: Protocol::Udp, port: 53, node_port: Some(30053), h2c: false };
        let service =
            Service { namespace: "default".into(), name: "dns".into(), ports: vec![port], ..Service::default() };
        let endpoint = |last: &u8| Endpoint::ready_at(IpAddr::from([10, 42, 0, *last]));
        let slice = EndpointSlice {
            namespace: "default".into(),
            service: "dns".into(),
            ports: vec![(String::new(), Protocol::Udp, 5353)],
            endpoints: endpoints.iter().map(endpoint).collect(),
        };
        fabric.set_services(ServiceTable::build(vec![service], &[slice]));
    }

    #[tokio::test]
    async fn a_client_keeps_its_endpoint_and_hears_nobody_else() {
        let fabric = Fabric::new(Config::default());
        let (one, two) = (pod(&fabric, 2), pod(&fabric, 3));
        let bind = |pod: &PodNet| pod.bind_udp("0.0.0.0:5353".parse().unwrap()).unwrap();
        let mut sockets = vec![bind(&one), bind(&two)];
        install(&fabric, &[2, 3]);
        let flow = fabric.node_flow(30053, IpAddr::from([192, 0, 2, 7])).unwrap();
        for turn in 0..4 {
            flow.send(Bytes::from(turn.to_string()));
        }
        let heard = |socket: &crate::udp::UdpSocket| {
            std::iter::from_fn(|| socket.try_recv().unwrap()).collect::<Vec<Datagram>>()
        };
        let all: Vec<_> = sockets.iter().map(heard).collect();
        let chosen = usize::from(all[0].is_empty());
        assert_eq!((all[chosen].len(), all[1 - chosen].len()), (4, 0));
        let source = all[chosen][0].source;
        assert_eq!(source.ip(), IpAddr::from([10, 42, 0, 1]));
        // Both answer; the client hears whom it asked.
        sockets[1 - chosen].send(Bytes::from_static(b"not asked"), source).unwrap();
        sockets[chosen].send(Bytes::from_static(b"asked"), source).unwrap();
        assert_eq!(flow.receive().await, "asked");
        // Its endpoint leaves: the next datagram goes to the other.
        install(&fabric, &[[3, 2][chosen]]);
        flow.send(Bytes::from_static(b"again"));
        assert_eq!(heard(&sockets[1 - chosen]).len(), 1);
        // Nobody is there: lost, and the flow lives on.
        sockets.clear();
        flow.send(Bytes::from_static(b"nobody"));
        drop(flow);
        assert!(fabric.node_flows().at(source.port()).is_none());
    }

    #[test]
    fn flows_are_bounded_and_their_ports_used_again() {
        let fabric = Fabric::new(Config::default());
        let client = IpAddr::from([192, 0, 2, 7]);
        let flows: Vec<_> = (0..NODE_FLOWS_MAX).map(|_| fabric.node_flow(30053, client).unwrap()).collect();
        assert!(matches!(fabric.node_flow(30053, client), Err(NetError::LimitReached(_))));
        drop(flows);
        assert!(fabric.node_flow(30053, client).is_ok());
    }
}
