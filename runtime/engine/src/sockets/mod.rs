//! `wasi:sockets` over the network of a pod. No call here opens a socket of the host.
//!
//! The 0.2 interfaces never block: an operation starts, a pollable says when it is done. Our operations finish at
//! once on one node; the shapes hold for those that take time. Sockets and their queues are bounded by `limits` and
//! by the network's own.

mod names;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use crate::cpu::Meter;
use crate::guest::Guest;
use crate::limits;
use network::{NetError, PodNet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable, ResourceTableError};

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "kogia:engine/sockets",
        imports: { default: trappable },
        trappable_error_type: { "wasi:sockets/network.error-code" => super::SocketError },
        with: {
            "wasi:io/poll": wasmtime_wasi_io::bindings::wasi::io::poll,
            "wasi:io/streams": wasmtime_wasi_io::bindings::wasi::io::streams,
            "wasi:io/error": wasmtime_wasi_io::bindings::wasi::io::error,
            "wasi:clocks/monotonic-clock": wasmtime_wasi::p2::bindings::clocks::monotonic_clock,
            "wasi:sockets/network.network": super::Network,
            "wasi:sockets/tcp.tcp-socket": super::tcp::Tcp,
            "wasi:sockets/udp.udp-socket": super::udp::Udp,
            "wasi:sockets/udp.incoming-datagram-stream": super::udp::Incoming,
            "wasi:sockets/udp.outgoing-datagram-stream": super::udp::Outgoing,
            "wasi:sockets/ip-name-lookup.resolve-address-stream": super::names::Lookup,
        },
        require_store_data_send: true,
    });
}

use bindings::wasi::sockets as wit;
use wit::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Ipv6SocketAddress};

/// What a socket call fails with.
#[derive(Debug)]
pub(crate) enum SocketError {
    /// The guest sees the code.
    Code(ErrorCode),
    /// The guest broke a rule of the interface, or a bound.
    Trap(wasmtime::Error),
}

impl From<ErrorCode> for SocketError {
    fn from(code: ErrorCode) -> SocketError {
        SocketError::Code(code)
    }
}

impl From<ResourceTableError> for SocketError {
    fn from(error: ResourceTableError) -> SocketError {
        SocketError::Trap(error.into())
    }
}

type SocketResult<T> = Result<T, SocketError>;

/// The right to use the pod's network; every guest has it, and the pod has only one.
#[derive(Debug)]
#[allow(unreachable_pub, reason = "generated bindings name it")]
pub struct Network;

/// The sockets of one instance.
pub(crate) struct State {
    network: PodNet,
    /// The account of the container.
    meter: Arc<Meter>,
    open: usize,
}

impl State {
    pub(crate) fn new(network: PodNet, meter: Arc<Meter>) -> State {
        State { network, meter, open: 0 }
    }

    fn count_one(&mut self) -> SocketResult<()> {
        if self.open == limits::SOCKETS_MAX {
            return Err(ErrorCode::NewSocketLimit.into());
        }
        self.open += 1;
        Ok(())
    }
}

/// A call's view of the instance.
pub(crate) struct View<'a> {
    pub(crate) state: &'a mut State,
    pub(crate) table: &'a mut ResourceTable,
}

struct HasSockets;

impl HasData for HasSockets {
    type Data<'a> = View<'a>;
}

/// Links the seven interfaces.
pub(crate) fn add_to_linker(l: &mut Linker<Guest>, view: fn(&mut Guest) -> View<'_>) -> wasmtime::Result<()> {
    wit::network::add_to_linker::<Guest, HasSockets>(l, view)?;
    wit::instance_network::add_to_linker::<Guest, HasSockets>(l, view)?;
    wit::ip_name_lookup::add_to_linker::<Guest, HasSockets>(l, view)?;
    wit::tcp::add_to_linker::<Guest, HasSockets>(l, view)?;
    wit::tcp_create_socket::add_to_linker::<Guest, HasSockets>(l, view)?;
    wit::udp::add_to_linker::<Guest, HasSockets>(l, view)?;
    wit::udp_create_socket::add_to_linker::<Guest, HasSockets>(l, view)
}

impl wit::network::Host for View<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        match error {
            SocketError::Code(code) => Ok(code),
            SocketError::Trap(error) => Err(error),
        }
    }
}

impl wit::network::HostNetwork for View<'_> {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        self.table.delete(network)?;
        Ok(())
    }
}

impl wit::instance_network::Host for View<'_> {
    fn instance_network(&mut self) -> wasmtime::Result<Resource<Network>> {
        Ok(self.table.push(Network)?)
    }
}

/// The code for what the network refused.
fn refused(error: &NetError) -> SocketError {
    let code = match error {
        NetError::ConnectionRefused => ErrorCode::ConnectionRefused,
        NetError::TimedOut => ErrorCode::Timeout,
        NetError::Unreachable | NetError::Detached => ErrorCode::RemoteUnreachable,
        NetError::Denied(_) => ErrorCode::AccessDenied,
        NetError::AddressInUse => ErrorCode::AddressInUse,
        NetError::AddressNotAvailable => ErrorCode::AddressNotBindable,
        NetError::NameNotFound(_) => ErrorCode::NameUnresolvable,
        NetError::InvalidAddress => ErrorCode::InvalidArgument,
        NetError::DatagramTooLarge => ErrorCode::DatagramTooLarge,
        NetError::LimitReached(_) => ErrorCode::NewSocketLimit,
    };
    code.into()
}

fn is_family(family: IpAddressFamily, address: SocketAddr) -> SocketResult<()> {
    match (family, address) {
        (IpAddressFamily::Ipv4, SocketAddr::V4(_)) | (IpAddressFamily::Ipv6, SocketAddr::V6(_)) => Ok(()),
        _ => Err(ErrorCode::InvalidArgument.into()),
    }
}

/// A socket option may be anything but zero.
fn nonzero<T: Default + PartialEq>(value: T) -> SocketResult<T> {
    if value == T::default() { Err(ErrorCode::InvalidArgument.into()) } else { Ok(value) }
}

fn to_std(address: IpSocketAddress) -> SocketAddr {
    match address {
        IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address: (a, b, c, d) }) => {
            SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port))
        }
        IpSocketAddress::Ipv6(Ipv6SocketAddress { port, flow_info, address, scope_id }) => {
            let (a, b, c, d, e, f, g, h) = address;
            SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::new(a, b, c, d, e, f, g, h), port, flow_info, scope_id))
        }
    }
}

fn to_wit(address: SocketAddr) -> IpSocketAddress {
    match address {
        SocketAddr::V4(v4) => {
            IpSocketAddress::Ipv4(Ipv4SocketAddress { port: v4.port(), address: v4.ip().octets().into() })
        }
        SocketAddr::V6(v6) => IpSocketAddress::Ipv6(Ipv6SocketAddress {
            port: v6.port(),
            flow_info: v6.flowinfo(),
            address: v6.ip().segments().into(),
            scope_id: v6.scope_id(),
        }),
    }
}

fn ip_to_wit(address: IpAddr) -> wit::network::IpAddress {
    match address {
        IpAddr::V4(v4) => wit::network::IpAddress::Ipv4(v4.octets().into()),
        IpAddr::V6(v6) => wit::network::IpAddress::Ipv6(v6.segments().into()),
    }
}
