//! The interfaces as a C library drives them: start, wait on the pollable, finish.

use super::wit::ip_name_lookup::{Host as _, HostResolveAddressStream};
use super::wit::network::HostNetwork;
use super::wit::tcp::{HostTcpSocket, ShutdownType};
use super::wit::tcp_create_socket::Host as _;
use super::wit::udp::{HostIncomingDatagramStream, HostOutgoingDatagramStream, HostUdpSocket, OutgoingDatagram};
use super::wit::udp_create_socket::Host as _;
use super::*;
use bytes::Bytes;
use network::{Config, Fabric, PodIdentity};
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream, StreamError};

/// One pod's instance.
struct Pod {
    state: State,
    table: ResourceTable,
}

impl Pod {
    fn new(fabric: &Fabric, name: &str, address: &str) -> Pod {
        let network = fabric.attach(PodIdentity {
            namespace: "default".into(),
            name: name.into(),
            hostname: name.into(),
            addresses: vec![address.parse().unwrap()],
        });
        Pod { state: State::new(network, Meter::new(None, None)), table: ResourceTable::new() }
    }

    fn view(&mut self) -> View<'_> {
        View { state: &mut self.state, table: &mut self.table }
    }

    fn network(&mut self) -> Resource<Network> {
        self.table.push(Network).unwrap()
    }

    fn listen(&mut self, address: &str) -> Resource<tcp::Tcp> {
        let network = self.network();
        let mut view = self.view();
        let socket = view.create_tcp_socket(IpAddressFamily::Ipv4).unwrap();
        HostTcpSocket::start_bind(&mut view, again(&socket), again(&network), at(address)).unwrap();
        HostTcpSocket::finish_bind(&mut view, again(&socket)).unwrap();
        view.start_listen(again(&socket)).unwrap();
        view.finish_listen(again(&socket)).unwrap();
        socket
    }

    fn read(&mut self, stream: &Resource<DynInputStream>) -> Result<Bytes, StreamError> {
        self.table.get_mut(stream).unwrap().read(1000)
    }

    fn write(&mut self, stream: &Resource<DynOutputStream>, bytes: &'static [u8]) {
        let stream = self.table.get_mut(stream).unwrap();
        assert!(stream.check_write().unwrap() >= bytes.len());
        stream.write(Bytes::from_static(bytes)).unwrap();
    }
}

fn again<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(resource.rep())
}

fn own<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_own(resource.rep())
}

fn at(address: &str) -> IpSocketAddress {
    to_wit(address.parse().unwrap())
}

fn code<T>(result: SocketResult<T>) -> ErrorCode {
    match result {
        Err(SocketError::Code(code)) => code,
        Err(SocketError::Trap(error)) => panic!("trap: {error}"),
        Ok(_) => panic!("it worked"),
    }
}

#[tokio::test]
async fn two_pods_talk_over_tcp_and_close() {
    let fabric = Fabric::new(Config::default());
    let (mut server, mut client) = (Pod::new(&fabric, "web", "10.42.0.2"), Pod::new(&fabric, "cli", "10.42.0.3"));
    let listener = server.listen("0.0.0.0:8080");
    assert_eq!(code(server.view().accept(again(&listener))), ErrorCode::WouldBlock);

    let network = client.network();
    let socket = client.view().create_tcp_socket(IpAddressFamily::Ipv4).unwrap();
    client.view().start_connect(again(&socket), again(&network), at("10.42.0.2:8080")).unwrap();
    client.table.get_mut(&socket).unwrap().ready().await;
    let (their_input, their_output) = client.view().finish_connect(again(&socket)).unwrap();
    let charged = [&client, &server].map(|pod| pod.state.meter.used_nanos());
    assert_eq!(charged, [limits::CONNECT_NANOS, 0], "who connects pays");

    server.table.get_mut(&listener).unwrap().ready().await;
    let (accepted, input, output) = server.view().accept(again(&listener)).unwrap();
    let seen = to_std(HostTcpSocket::remote_address(&mut server.view(), again(&accepted)).unwrap());
    assert_eq!(seen.ip().to_string(), "10.42.0.3");
    assert_eq!(to_std(HostTcpSocket::local_address(&mut client.view(), again(&socket)).unwrap()), seen);

    client.write(&their_output, b"ping");
    let both = [&client, &server].map(|pod| pod.state.meter.used_nanos());
    let carried = 4 * limits::CARRY_NANOS_PER_KIB / 1024;
    assert_eq!(both, [limits::CONNECT_NANOS + carried, 0], "who sends pays for the bytes, too");
    server.table.get_mut(&input).unwrap().ready().await;
    assert_eq!(server.read(&input).unwrap(), "ping");
    assert!(server.read(&input).unwrap().is_empty(), "open, but nothing yet");
    server.write(&output, b"pong");
    client.view().shutdown(again(&socket), ShutdownType::Send).unwrap();
    assert!(matches!(server.read(&input), Err(StreamError::Closed)), "half closed");
    assert_eq!(client.read(&their_input).unwrap(), "pong");

    server.table.delete(own(&input)).unwrap();
    server.table.delete(own(&output)).unwrap();
    HostTcpSocket::drop(&mut server.view(), own(&accepted)).unwrap();
    client.table.get_mut(&their_input).unwrap().ready().await;
    assert!(matches!(client.read(&their_input), Err(StreamError::Closed)));
}

#[tokio::test]
async fn what_the_network_refuses_is_a_code() {
    let fabric = Fabric::new(Config::default());
    let mut pod = Pod::new(&fabric, "a", "10.42.0.2");
    let network = pod.network();
    for (address, expected) in [
        ("10.42.0.2:1", ErrorCode::ConnectionRefused),
        ("192.0.2.1:80", ErrorCode::RemoteUnreachable),
        ("169.254.169.254:80", ErrorCode::RemoteUnreachable),
    ] {
        let socket = pod.view().create_tcp_socket(IpAddressFamily::Ipv4).unwrap();
        pod.view().start_connect(again(&socket), again(&network), at(address)).unwrap();
        assert_eq!(code(pod.view().finish_connect(again(&socket))), expected, "{address}");
        assert_eq!(code(pod.view().finish_connect(again(&socket))), ErrorCode::NotInProgress);
    }
    let taken = pod.listen("0.0.0.0:8080");
    let socket = pod.view().create_tcp_socket(IpAddressFamily::Ipv4).unwrap();
    let bind = |pod: &mut Pod, address| {
        HostTcpSocket::start_bind(&mut pod.view(), again(&socket), again(&network), at(address))
    };
    assert_eq!(code(bind(&mut pod, "0.0.0.0:8080")), ErrorCode::AddressInUse);
    assert_eq!(code(bind(&mut pod, "10.42.0.9:8080")), ErrorCode::AddressNotBindable);
    assert_eq!(code(bind(&mut pod, "[::]:8080")), ErrorCode::InvalidArgument);
    HostTcpSocket::drop(&mut pod.view(), own(&taken)).unwrap();
    bind(&mut pod, "0.0.0.0:8080").unwrap();
}

#[test]
fn sockets_are_counted() {
    let fabric = Fabric::new(Config::default());
    let mut pod = Pod::new(&fabric, "a", "10.42.0.2");
    let create = |pod: &mut Pod| pod.view().create_tcp_socket(IpAddressFamily::Ipv4);
    let sockets: Vec<_> = (0..limits::SOCKETS_MAX).map(|_| create(&mut pod).unwrap()).collect();
    assert_eq!(code(create(&mut pod)), ErrorCode::NewSocketLimit);
    HostTcpSocket::drop(&mut pod.view(), own(&sockets[0])).unwrap();
    create(&mut pod).unwrap();
}

#[tokio::test]
async fn datagrams_arrive_with_their_sender() {
    let fabric = Fabric::new(Config::default());
    let (mut one, mut two) = (Pod::new(&fabric, "one", "10.42.0.2"), Pod::new(&fabric, "two", "10.42.0.3"));
    let mut streams = Vec::new();
    for pod in [&mut one, &mut two] {
        let network = pod.network();
        let mut view = pod.view();
        let socket = view.create_udp_socket(IpAddressFamily::Ipv4).unwrap();
        assert_eq!(code(HostUdpSocket::stream(&mut view, again(&socket), None)), ErrorCode::InvalidState);
        HostUdpSocket::start_bind(&mut view, again(&socket), again(&network), at("0.0.0.0:53")).unwrap();
        HostUdpSocket::finish_bind(&mut view, again(&socket)).unwrap();
        streams.push(HostUdpSocket::stream(&mut view, again(&socket), None).unwrap());
    }
    let datagram = |remote_address| vec![OutgoingDatagram { data: b"hi".to_vec(), remote_address }];
    assert_eq!(code(one.view().send(again(&streams[0].1), datagram(None))), ErrorCode::InvalidArgument);
    assert_eq!(one.view().send(again(&streams[0].1), datagram(Some(at("10.42.0.3:53")))).unwrap(), 1);

    two.table.get_mut(&streams[1].0).unwrap().ready().await;
    let received = two.view().receive(again(&streams[1].0), 10).unwrap();
    assert_eq!((received.len(), received[0].data.as_slice()), (1, &b"hi"[..]));
    assert_eq!(to_std(received[0].remote_address), "10.42.0.2:53".parse().unwrap());
    assert!(two.view().receive(again(&streams[1].0), 10).unwrap().is_empty());
}

#[tokio::test]
async fn names_resolve_to_their_addresses_and_then_end() {
    let fabric = Fabric::new(Config::default());
    let mut pod = Pod::new(&fabric, "a", "10.42.0.2");
    let network = pod.network();
    let lookup = pod.view().resolve_addresses(again(&network), "localhost".into()).unwrap();
    pod.table.get_mut(&lookup).unwrap().ready().await;
    let first = pod.view().resolve_next_address(again(&lookup)).unwrap();
    assert!(matches!(first, Some(wit::network::IpAddress::Ipv4((127, 0, 0, 1)))));
    while pod.view().resolve_next_address(again(&lookup)).unwrap().is_some() {}

    let unknown = pod.view().resolve_addresses(again(&network), "nobody.invalid".into()).unwrap();
    assert_eq!(code(pod.view().resolve_next_address(again(&unknown))), ErrorCode::NameUnresolvable);
    assert_eq!(code(pod.view().resolve_addresses(again(&network), "x".repeat(300))), ErrorCode::InvalidArgument);
    HostNetwork::drop(&mut pod.view(), network).unwrap();
}
