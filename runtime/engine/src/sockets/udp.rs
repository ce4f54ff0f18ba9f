//! `wasi:sockets/udp`: datagrams of a pod.

use super::wit::network::{ErrorCode, IpAddressFamily, IpSocketAddress};
use super::wit::udp::{
    Host, HostIncomingDatagramStream, HostOutgoingDatagramStream, HostUdpSocket, IncomingDatagram, OutgoingDatagram,
};
use super::{Network, SocketResult, View, is_family, nonzero, refused, to_std, to_wit};
use crate::limits;
use network::UdpSocket;
use std::net::SocketAddr;
use std::sync::Arc;
use wasmtime::component::Resource;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};

/// A `udp-socket`.
#[allow(unreachable_pub, reason = "generated bindings name it")]
pub struct Udp {
    family: IpAddressFamily,
    state: State,
    remote: Option<SocketAddr>,
    /// Options are remembered and read back, as for TCP.
    hop_limit: u8,
    receive_buffer: u64,
    send_buffer: u64,
}

enum State {
    New,
    BindStarted(Arc<UdpSocket>),
    Bound(Arc<UdpSocket>),
}

/// An `incoming-datagram-stream`; with a remote it sees only what that one sends.
#[allow(unreachable_pub, reason = "generated bindings name it")]
pub struct Incoming {
    socket: Arc<UdpSocket>,
    remote: Option<SocketAddr>,
}

/// An `outgoing-datagram-stream`.
#[allow(unreachable_pub, reason = "generated bindings name it")]
pub struct Outgoing {
    socket: Arc<UdpSocket>,
    family: IpAddressFamily,
    remote: Option<SocketAddr>,
}

#[wasmtime_wasi_io::async_trait]
impl Pollable for Udp {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi_io::async_trait]
impl Pollable for Incoming {
    async fn ready(&mut self) {
        self.socket.ready().await;
    }
}

#[wasmtime_wasi_io::async_trait]
impl Pollable for Outgoing {
    async fn ready(&mut self) {}
}

impl View<'_> {
    fn udp(&mut self, socket: &Resource<Udp>) -> SocketResult<&mut Udp> {
        Ok(self.table.get_mut(socket)?)
    }
}

impl super::wit::udp_create_socket::Host for View<'_> {
    fn create_udp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<Udp>> {
        self.state.count_one()?;
        let udp = Udp {
            family,
            state: State::New,
            remote: None,
            hop_limit: 64,
            receive_buffer: 262_144,
            send_buffer: 262_144,
        };
        Ok(self.table.push(udp)?)
    }
}

impl Host for View<'_> {}

impl HostUdpSocket for View<'_> {
    fn start_bind(
        &mut self,
        socket: Resource<Udp>,
        network: Resource<Network>,
        local: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&network)?;
        let udp = self.table.get_mut(&socket)?;
        let local = to_std(local);
        is_family(udp.family, local)?;
        if !matches!(udp.state, State::New) {
            return Err(ErrorCode::InvalidState.into());
        }
        let bound = self.state.network.bind_udp(local).map_err(|error| refused(&error))?;
        udp.state = State::BindStarted(Arc::new(bound));
        Ok(())
    }

    fn finish_bind(&mut self, socket: Resource<Udp>) -> SocketResult<()> {
        let udp = self.udp(&socket)?;
        let State::BindStarted(bound) = &udp.state else {
            return Err(ErrorCode::NotInProgress.into());
        };
        udp.state = State::Bound(bound.clone());
        Ok(())
    }

    fn stream(
        &mut self,
        socket: Resource<Udp>,
        remote: Option<IpSocketAddress>,
    ) -> SocketResult<(Resource<Incoming>, Resource<Outgoing>)> {
        let udp = self.udp(&socket)?;
        let State::Bound(bound) = &udp.state else {
            return Err(ErrorCode::InvalidState.into());
        };
        let (bound, family, remote) = (bound.clone(), udp.family, remote.map(to_std));
        if let Some(remote) = remote {
            is_family(family, remote)?;
            if remote.ip().is_unspecified() || remote.port() == 0 {
                return Err(ErrorCode::InvalidArgument.into());
            }
        }
        udp.remote = remote;
        let incoming = self.table.push_child(Incoming { socket: bound.clone(), remote }, &socket)?;
        let outgoing = self.table.push_child(Outgoing { socket: bound, family, remote }, &socket)?;
        Ok((incoming, outgoing))
    }

    fn local_address(&mut self, socket: Resource<Udp>) -> SocketResult<IpSocketAddress> {
        match &self.udp(&socket)?.state {
            State::Bound(bound) => Ok(to_wit(bound.local())),
            State::New | State::BindStarted(_) => Err(ErrorCode::InvalidState.into()),
        }
    }

    fn remote_address(&mut self, socket: Resource<Udp>) -> SocketResult<IpSocketAddress> {
        Ok(to_wit(self.udp(&socket)?.remote.ok_or(ErrorCode::InvalidState)?))
    }

    fn address_family(&mut self, socket: Resource<Udp>) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.table.get(&socket)?.family)
    }

    fn unicast_hop_limit(&mut self, socket: Resource<Udp>) -> SocketResult<u8> {
        Ok(self.udp(&socket)?.hop_limit)
    }

    fn set_unicast_hop_limit(&mut self, socket: Resource<Udp>, value: u8) -> SocketResult<()> {
        self.udp(&socket)?.hop_limit = nonzero(value)?;
        Ok(())
    }

    fn receive_buffer_size(&mut self, socket: Resource<Udp>) -> SocketResult<u64> {
        Ok(self.udp(&socket)?.receive_buffer)
    }

    fn set_receive_buffer_size(&mut self, socket: Resource<Udp>, value: u64) -> SocketResult<()> {
        self.udp(&socket)?.receive_buffer = nonzero(value)?;
        Ok(())
    }

    fn send_buffer_size(&mut self, socket: Resource<Udp>) -> SocketResult<u64> {
        Ok(self.udp(&socket)?.send_buffer)
    }

    fn set_send_buffer_size(&mut self, socket: Resource<Udp>, value: u64) -> SocketResult<()> {
        self.udp(&socket)?.send_buffer = nonzero(value)?;
        Ok(())
    }

    fn subscribe(&mut self, socket: Resource<Udp>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, socket)
    }

    fn drop(&mut self, socket: Resource<Udp>) -> wasmtime::Result<()> {
        self.table.delete(socket)?;
        self.state.open -= 1;
        Ok(())
    }
}

impl HostIncomingDatagramStream for View<'_> {
    fn receive(&mut self, stream: Resource<Incoming>, most: u64) -> SocketResult<Vec<IncomingDatagram>> {
        let incoming = self.table.get(&stream)?;
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(limits::DATAGRAMS_PER_CALL_MAX);
        let mut received = Vec::new();
        while received.len() < most {
            match incoming.socket.try_recv() {
                Ok(Some(datagram)) if incoming.remote.is_none_or(|remote| remote == datagram.source) => {
                    let remote_address = to_wit(datagram.source);
                    received.push(IncomingDatagram { data: datagram.bytes.to_vec(), remote_address });
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) if received.is_empty() => return Err(refused(&error)),
                Err(_) => break,
            }
        }
        Ok(received)
    }

    fn subscribe(&mut self, stream: Resource<Incoming>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, stream)
    }

    fn drop(&mut self, stream: Resource<Incoming>) -> wasmtime::Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

impl HostOutgoingDatagramStream for View<'_> {
    fn check_send(&mut self, stream: Resource<Outgoing>) -> SocketResult<u64> {
        self.table.get(&stream)?;
        Ok(limits::DATAGRAMS_PER_CALL_MAX as u64)
    }

    /// Returns how many were sent; the error of the first only when none was.
    fn send(&mut self, stream: Resource<Outgoing>, datagrams: Vec<OutgoingDatagram>) -> SocketResult<u64> {
        let outgoing = self.table.get(&stream)?;
        if datagrams.len() > limits::DATAGRAMS_PER_CALL_MAX {
            return Err(super::SocketError::Trap(wasmtime::Error::msg("sent more datagrams than check-send allowed")));
        }
        let mut sent = 0;
        for datagram in datagrams {
            match outgoing.send(datagram) {
                Ok(()) => sent += 1,
                Err(error) if sent == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(sent)
    }

    fn subscribe(&mut self, stream: Resource<Outgoing>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, stream)
    }

    fn drop(&mut self, stream: Resource<Outgoing>) -> wasmtime::Result<()> {
        self.table.delete(stream)?;
        Ok(())
    }
}

impl Outgoing {
    fn send(&self, datagram: OutgoingDatagram) -> SocketResult<()> {
        let destination = match (self.remote, datagram.remote_address.map(to_std)) {
            (Some(remote), None) => remote,
            (Some(remote), Some(given)) if remote == given => given,
            (None, Some(given)) => given,
            (Some(_), Some(_)) | (None, None) => return Err(ErrorCode::InvalidArgument.into()),
        };
        is_family(self.family, destination)?;
        self.socket.send(datagram.data.into(), destination).map_err(|error| refused(&error))
    }
}
