//! The cluster's DNS for those who speak it in bytes: people, on a port of the host, and guests, at the address that
//! Kubernetes' clusters have it at. What is answered is `network::dns`' matter.
//!
//! Guests rarely need it: their `wasi:sockets` asks the virtual network for names directly.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use network::dns::{Transport, Zone, answer};
use network::{Fabric, Listener, NetError, PodIdentity, PodNet, UdpSocket as VirtualSocket};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// The DNS Service's addresses, as every cluster's pods know them.
pub(crate) const ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 43, 0, 10)), IpAddr::V6(Ipv6Addr::new(0xfd43, 0, 0, 0, 0, 0, 0, 0xa))];
const PORT: u16 = 53;

/// Connections at a time, of the host and of the virtual network each; resolvers use them only for long answers.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may say nothing (RFC 7766 leaves it to the server).
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest query: a name, its type, and what an asker says of itself.
const QUERY_BYTES_MAX: usize = 4096;
/// The pause after the kernel refused to accept or to receive.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// The server of one node. Nothing is answered before [`Dns::run`].
pub struct Dns {
    fabric: Fabric,
    host: Option<(UdpSocket, TcpListener)>,
}

impl Dns {
    /// A server for guests, and for the host at an address if one is given; port 0 is any free one.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub fn bind(fabric: Fabric, host: Option<SocketAddr>) -> io::Result<Self> {
        Ok(Self { fabric, host: host.map(listen).transpose()? })
    }

    /// Where people ask.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.host.as_ref().and_then(|(udp, _)| udp.local_addr().ok())
    }

    /// Answers until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let Self { fabric, host } = self;
        let on_host = async {
            match host {
                Some((udp, tcp)) => {
                    tokio::join!(datagrams(&fabric, &udp), connections(&fabric, &tcp));
                }
                None => std::future::pending().await,
            }
        };
        let inside = async {
            if let Err(error) = inside(&fabric).await {
                tracing::warn!(%error, "guests cannot ask the cluster's DNS in bytes");
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = on_host => {}
            () = inside => {}
        }
    }
}

/// The same port for both transports.
fn listen(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let tcp = std::net::TcpListener::bind(address)?;
    let udp = std::net::UdpSocket::bind(tcp.local_addr()?)?;
    tcp.set_nonblocking(true)?;
    udp.set_nonblocking(true)?;
    Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?))
}

fn reply(fabric: &Fabric, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let services = fabric.services();
    answer(query, transport, &Zone { domain: &fabric.config().domain, services: &services })
}

async fn datagrams(fabric: &Fabric, socket: &UdpSocket) {
    let mut query = vec![0; QUERY_BYTES_MAX];
    loop {
        match socket.recv_from(&mut query).await {
            Ok((length, from)) => {
                if let Some(answer) = reply(fabric, &query[..length], Transport::Udp) {
                    // One that cannot be sent is asked for again.
                    let _ = socket.send_to(&answer, from).await;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot receive a DNS query");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

async fn connections(fabric: &Fabric, listener: &TcpListener) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let fabric = fabric.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    converse(&fabric, stream).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a DNS connection");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

/// Answers the queries of one connection in their order, until it says nothing more.
async fn converse(fabric: &Fabric, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut query = vec![0; QUERY_BYTES_MAX];
    while let Ok(Ok(())) = timeout(IDLE_TIMEOUT, one_query(fabric, &mut stream, &mut query)).await {}
}

async fn one_query(
    fabric: &Fabric,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    buffer: &mut [u8],
) -> io::Result<()> {
    let length = usize::from(stream.read_u16().await?);
    let query = buffer.get_mut(..length).ok_or(io::ErrorKind::InvalidData)?;
    stream.read_exact(query).await?;
    let answer = reply(fabric, query, Transport::Tcp).ok_or(io::ErrorKind::InvalidData)?;
    let length = u16::try_from(answer.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat()).await
}

/// Answers in the virtual network until the fabric ends.
async fn inside(fabric: &Fabric) -> Result<(), NetError> {
    let place: PodNet = fabric.attach(PodIdentity {
        namespace: "kube-system".into(),
        name: "kube-dns".into(),
        hostname: "kube-dns".into(),
        addresses: ADDRESSES.to_vec(),
    });
    let mut sockets = Vec::new();
    let mut listeners = Vec::new();
    for address in ADDRESSES {
        sockets.push(place.bind_udp(SocketAddr::new(address, PORT))?);
        listeners.push(place.listen(SocketAddr::new(address, PORT), 0)?);
    }
    let [v4, v6] = &sockets[..] else { return Err(NetError::Detached) };
    let [listener_v4, listener_v6] = &listeners[..] else { return Err(NetError::Detached) };
    tokio::join!(
        virtual_datagrams(fabric, v4),
        virtual_datagrams(fabric, v6),
        virtual_connections(fabric, listener_v4),
        virtual_connections(fabric, listener_v6),
    );
    Ok(())
}

async fn virtual_datagrams(fabric: &Fabric, socket: &VirtualSocket) {
    loop {
        match socket.try_recv() {
            Ok(Some(query)) => {
                if let Some(answer) = reply(fabric, &query.bytes, Transport::Udp) {
                    let _ = socket.send(Bytes::from(answer), query.source);
                }
            }
            Ok(None) => socket.ready().await,
            Err(_) => return,
        }
    }
}

async fn virtual_connections(fabric: &Fabric, listener: &Listener) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let (Ok(permit), Ok(stream)) = (permits.clone().acquire_owned().await, listener.accept().await) {
        let fabric = fabric.clone();
        tokio::spawn(async move {
            let _permit = permit;
            converse(&fabric, stream).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use network::ServiceTable;
    use network::services::Service;

    use super::*;

    /// `web.shop.svc.cluster.local`, type A.
    fn query() -> Vec<u8> {
        let mut bytes = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in ["web", "shop", "svc", "cluster", "local"] {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.extend([0, 0, 1, 0, 1]);
        bytes
    }

    async fn ask_over_connection(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Vec<u8> {
        let query = query();
        // Twice in one write: a connection carries several queries.
        let message = [&(query.len() as u16).to_be_bytes(), query.as_slice()].concat();
        stream.write_all(&message.repeat(2)).await.unwrap();
        let mut answers = Vec::new();
        for _ in 0..2 {
            let length = stream.read_u16().await.unwrap();
            let mut answer = vec![0; usize::from(length)];
            stream.read_exact(&mut answer).await.unwrap();
            answers.push(answer);
        }
        assert_eq!(answers[0], answers[1]);
        answers.remove(0)
    }

    #[tokio::test]
    async fn people_and_guests_are_answered_over_both_transports() {
        let fabric = Fabric::new(network::Config::default());
        let web = Service {
            namespace: "shop".into(),
            name: "web".into(),
            cluster_ips: vec!["10.43.0.5".parse().unwrap()],
            ..Service::default()
        };
        fabric.set_services(ServiceTable::build(vec![web], &[]));
        let dns = Dns::bind(fabric.clone(), Some((Ipv4Addr::LOCALHOST, 0).into())).unwrap();
        let (address, stop) = (dns.address().unwrap(), CancellationToken::new());
        let running = tokio::spawn(dns.run(stop.clone()));
        let right = |answer: &[u8]| answer[..2] == [7, 9] && answer.ends_with(&[10, 43, 0, 5]);

        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.send_to(&query(), address).await.unwrap();
        let mut answer = [0; 512];
        let length = timeout(Duration::from_secs(30), socket.recv(&mut answer)).await.unwrap().unwrap();
        assert!(right(&answer[..length]));
        assert!(right(&ask_over_connection(tokio::net::TcpStream::connect(address).await.unwrap()).await));

        let guest = fabric.attach(PodIdentity {
            namespace: "shop".into(),
            name: "guest".into(),
            hostname: "guest".into(),
            addresses: vec!["10.42.0.2".parse().unwrap(), "fd42::2".parse().unwrap()],
        });
        for (own, server) in [("0.0.0.0:0", ADDRESSES[0]), ("[::]:0", ADDRESSES[1])] {
            let socket = guest.bind_udp(own.parse().unwrap()).unwrap();
            socket.send(Bytes::from(query()), SocketAddr::new(server, PORT)).unwrap();
            timeout(Duration::from_secs(30), socket.ready()).await.unwrap();
            assert!(right(&socket.try_recv().unwrap().unwrap().bytes));
            let stream = guest.connect(SocketAddr::new(server, PORT)).await.unwrap();
            assert!(right(&ask_over_connection(stream).await));
        }
        stop.cancel();
        running.await.unwrap();
    }
}
