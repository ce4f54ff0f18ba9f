//! `wasi:sockets/tcp`: listeners and connections of a pod.

use super::wit::network::{ErrorCode, IpAddressFamily, IpSocketAddress};
use super::wit::tcp::{Duration, Host, HostTcpSocket, ShutdownType};
use super::{Network, SocketResult, View, is_family, nonzero, refused, to_std, to_wit};
use crate::cpu::Meter;
use crate::limits;
use bytes::Bytes;
use futures::FutureExt;
use network::pipe::{Read, Reader, Writer};
use network::{BoxFuture, Conn, Listener, NetError};
use std::net::SocketAddr;
use std::sync::Arc;
use wasmtime::component::Resource;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};
use wasmtime_wasi_io::streams::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, StreamError, StreamResult,
};

/// A `tcp-socket`.
#[allow(unreachable_pub, reason = "generated bindings name it")]
pub struct Tcp {
    family: IpAddressFamily,
    state: State,
    options: Options,
}

enum State {
    New,
    /// The port is taken from here on, so that its errors come where programs look for them.
    BindStarted(Listener),
    Bound(Listener),
    ListenStarted(Listener),
    Listening(Listener),
    Connecting(BoxFuture<'static, Result<Conn, NetError>>),
    Connected(Connection),
    /// A connect that ended, before `finish-connect` was told.
    ConnectEnded(Result<Conn, NetError>),
    Closed,
}

struct Connection {
    local: SocketAddr,
    peer: SocketAddr,
    reader: Arc<Reader>,
    writer: Arc<Writer>,
}

/// Options are remembered and read back; there is no wire below that they could tune.
#[derive(Clone, Copy)]
struct Options {
    keep_alive: bool,
    keep_alive_idle: Duration,
    keep_alive_interval: Duration,
    keep_alive_count: u32,
    hop_limit: u8,
    receive_buffer: u64,
    send_buffer: u64,
}

impl Default for Options {
    /// Linux's.
    fn default() -> Options {
        Options {
            keep_alive: false,
            keep_alive_idle: 7_200_000_000_000,
            keep_alive_interval: 75_000_000_000,
            keep_alive_count: 9,
            hop_limit: 64,
            receive_buffer: 262_144,
            send_buffer: 262_144,
        }
    }
}

impl Tcp {
    fn take(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Closed)
    }

    fn listener(&self) -> Option<&Listener> {
        match &self.state {
            State::Bound(listener) | State::ListenStarted(listener) | State::Listening(listener) => Some(listener),
            _ => None,
        }
    }
}

#[wasmtime_wasi_io::async_trait]
impl Pollable for Tcp {
    async fn ready(&mut self) {
        match &mut self.state {
            State::Connecting(connecting) => {
                let ended = connecting.await;
                self.state = State::ConnectEnded(ended);
            }
            State::Listening(listener) => listener.ready().await,
            _ => {}
        }
    }
}

struct Input(Arc<Reader>);

#[wasmtime_wasi_io::async_trait]
impl Pollable for Input {
    async fn ready(&mut self) {
        self.0.ready().await;
    }
}

impl InputStream for Input {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        match self.0.read(size.min(limits::CHUNK_BYTES_MAX)) {
            Read::Bytes(bytes) => Ok(bytes),
            Read::Pending => Ok(Bytes::new()),
            Read::End => Err(StreamError::Closed),
            Read::Broken(broken) => Err(StreamError::LastOperationFailed(std::io::Error::from(broken).into())),
        }
    }
}

struct Output {
    writer: Arc<Writer>,
    /// Pays for what is written.
    meter: Arc<Meter>,
}

#[wasmtime_wasi_io::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {
        self.writer.ready().await;
    }
}

impl OutputStream for Output {
    fn write(&mut self, mut bytes: Bytes) -> StreamResult<()> {
        self.meter.carried(bytes.len());
        self.writer.write(&mut bytes).map_err(|_| StreamError::Closed)?;
        if bytes.is_empty() { Ok(()) } else { Err(StreamError::trap("wrote more than check-write allowed")) }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.writer.room().map(|room| room.min(limits::CHUNK_BYTES_MAX)).map_err(|_| StreamError::Closed)
    }
}

type Streams = (Resource<DynInputStream>, Resource<DynOutputStream>);

impl View<'_> {
    fn tcp(&mut self, socket: &Resource<Tcp>) -> SocketResult<&mut Tcp> {
        Ok(self.table.get_mut(socket)?)
    }

    /// Makes a socket of a connection: its streams are its children and go before it.
    fn connected(&mut self, socket: &Resource<Tcp>, conn: Conn) -> SocketResult<Streams> {
        let (local, peer) = (conn.local(), conn.peer());
        let (reader, writer) = conn.into_split();
        let (reader, writer) = (Arc::new(reader), Arc::new(writer));
        let input: DynInputStream = Box::new(Input(reader.clone()));
        let output: DynOutputStream = Box::new(Output { writer: writer.clone(), meter: self.state.meter.clone() });
        self.tcp(socket)?.state = State::Connected(Connection { local, peer, reader, writer });
        Ok((self.table.push_child(input, socket)?, self.table.push_child(output, socket)?))
    }
}

impl super::wit::tcp_create_socket::Host for View<'_> {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<Tcp>> {
        self.state.count_one()?;
        Ok(self.table.push(Tcp { family, state: State::New, options: Options::default() })?)
    }
}

impl Host for View<'_> {}

impl HostTcpSocket for View<'_> {
    fn start_bind(
        &mut self,
        socket: Resource<Tcp>,
        network: Resource<Network>,
        local: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&network)?;
        let tcp = self.table.get_mut(&socket)?;
        let local = to_std(local);
        is_family(tcp.family, local)?;
        if !matches!(tcp.state, State::New) {
            return Err(ErrorCode::InvalidState.into());
        }
        tcp.state = State::BindStarted(self.state.network.listen(local, 0).map_err(|error| refused(&error))?);
        Ok(())
    }

    fn finish_bind(&mut self, socket: Resource<Tcp>) -> SocketResult<()> {
        let tcp = self.tcp(&socket)?;
        match tcp.take() {
            State::BindStarted(listener) => {
                tcp.state = State::Bound(listener);
                Ok(())
            }
            other => {
                tcp.state = other;
                Err(ErrorCode::NotInProgress.into())
            }
        }
    }

    fn start_connect(
        &mut self,
        socket: Resource<Tcp>,
        network: Resource<Network>,
        remote: IpSocketAddress,
    ) -> SocketResult<()> {
        self.table.get(&network)?;
        let net = self.state.network.clone();
        let tcp = self.tcp(&socket)?;
        let remote = to_std(remote);
        is_family(tcp.family, remote)?;
        match tcp.state {
            // A bound port is given up: which port a client speaks from means nothing in this network.
            State::New | State::Bound(_) => {}
            State::BindStarted(_) | State::ListenStarted(_) | State::Connecting(_) | State::ConnectEnded(_) => {
                return Err(ErrorCode::ConcurrencyConflict.into());
            }
            State::Listening(_) | State::Connected(_) | State::Closed => return Err(ErrorCode::InvalidState.into()),
        }
        if remote.ip().is_unspecified() || remote.port() == 0 {
            return Err(ErrorCode::InvalidArgument.into());
        }
        tcp.state = State::Connecting(Box::pin(async move { net.connect(remote).await }));
        self.state.meter.charge(limits::CONNECT_NANOS);
        Ok(())
    }

    fn finish_connect(&mut self, socket: Resource<Tcp>) -> SocketResult<Streams> {
        let tcp = self.tcp(&socket)?;
        let ended = match tcp.take() {
            State::Connecting(mut connecting) => match (&mut connecting).now_or_never() {
                Some(ended) => ended,
                None => {
                    tcp.state = State::Connecting(connecting);
                    return Err(ErrorCode::WouldBlock.into());
                }
            },
            State::ConnectEnded(ended) => ended,
            other => {
                tcp.state = other;
                return Err(ErrorCode::NotInProgress.into());
            }
        };
        self.connected(&socket, ended.map_err(|error| refused(&error))?)
    }

    fn start_listen(&mut self, socket: Resource<Tcp>) -> SocketResult<()> {
        let tcp = self.tcp(&socket)?;
        match tcp.take() {
            State::Bound(listener) => {
                tcp.state = State::ListenStarted(listener);
                Ok(())
            }
            other => {
                tcp.state = other;
                Err(ErrorCode::InvalidState.into())
            }
        }
    }

    fn finish_listen(&mut self, socket: Resource<Tcp>) -> SocketResult<()> {
        let tcp = self.tcp(&socket)?;
        match tcp.take() {
            State::ListenStarted(listener) => {
                tcp.state = State::Listening(listener);
                Ok(())
            }
            other => {
                tcp.state = other;
                Err(ErrorCode::NotInProgress.into())
            }
        }
    }

    fn accept(
        &mut self,
        socket: Resource<Tcp>,
    ) -> SocketResult<(Resource<Tcp>, Resource<DynInputStream>, Resource<DynOutputStream>)> {
        let tcp = self.table.get(&socket)?;
        let State::Listening(listener) = &tcp.state else {
            return Err(ErrorCode::InvalidState.into());
        };
        let (family, options) = (tcp.family, tcp.options);
        let conn = listener.try_accept().map_err(|error| refused(&error))?.ok_or(ErrorCode::WouldBlock)?;
        self.state.count_one()?;
        let accepted = self.table.push(Tcp { family, state: State::New, options })?;
        let (input, output) = self.connected(&accepted, conn)?;
        Ok((accepted, input, output))
    }

    fn local_address(&mut self, socket: Resource<Tcp>) -> SocketResult<IpSocketAddress> {
        let tcp = self.tcp(&socket)?;
        let local = match &tcp.state {
            State::Connected(connection) => connection.local,
            _ => tcp.listener().ok_or(ErrorCode::InvalidState)?.local(),
        };
        Ok(to_wit(local))
    }

    fn remote_address(&mut self, socket: Resource<Tcp>) -> SocketResult<IpSocketAddress> {
        match &self.tcp(&socket)?.state {
            State::Connected(connection) => Ok(to_wit(connection.peer)),
            _ => Err(ErrorCode::InvalidState.into()),
        }
    }

    fn is_listening(&mut self, socket: Resource<Tcp>) -> wasmtime::Result<bool> {
        Ok(matches!(self.table.get(&socket)?.state, State::Listening(_)))
    }

    fn address_family(&mut self, socket: Resource<Tcp>) -> wasmtime::Result<IpAddressFamily> {
        Ok(self.table.get(&socket)?.family)
    }

    /// The network bounds every backlog itself; the size is a hint.
    fn set_listen_backlog_size(&mut self, socket: Resource<Tcp>, value: u64) -> SocketResult<()> {
        self.tcp(&socket)?;
        nonzero(value).map(drop)
    }

    fn keep_alive_enabled(&mut self, socket: Resource<Tcp>) -> SocketResult<bool> {
        Ok(self.tcp(&socket)?.options.keep_alive)
    }

    fn set_keep_alive_enabled(&mut self, socket: Resource<Tcp>, value: bool) -> SocketResult<()> {
        self.tcp(&socket)?.options.keep_alive = value;
        Ok(())
    }

    fn keep_alive_idle_time(&mut self, socket: Resource<Tcp>) -> SocketResult<Duration> {
        Ok(self.tcp(&socket)?.options.keep_alive_idle)
    }

    fn set_keep_alive_idle_time(&mut self, socket: Resource<Tcp>, value: Duration) -> SocketResult<()> {
        self.tcp(&socket)?.options.keep_alive_idle = nonzero(value)?;
        Ok(())
    }

    fn keep_alive_interval(&mut self, socket: Resource<Tcp>) -> SocketResult<Duration> {
        Ok(self.tcp(&socket)?.options.keep_alive_interval)
    }

    fn set_keep_alive_interval(&mut self, socket: Resource<Tcp>, value: Duration) -> SocketResult<()> {
        self.tcp(&socket)?.options.keep_alive_interval = nonzero(value)?;
        Ok(())
    }

    fn keep_alive_count(&mut self, socket: Resource<Tcp>) -> SocketResult<u32> {
        Ok(self.tcp(&socket)?.options.keep_alive_count)
    }

    fn set_keep_alive_count(&mut self, socket: Resource<Tcp>, value: u32) -> SocketResult<()> {
        self.tcp(&socket)?.options.keep_alive_count = nonzero(value)?;
        Ok(())
    }

    fn hop_limit(&mut self, socket: Resource<Tcp>) -> SocketResult<u8> {
        Ok(self.tcp(&socket)?.options.hop_limit)
    }

    fn set_hop_limit(&mut self, socket: Resource<Tcp>, value: u8) -> SocketResult<()> {
        self.tcp(&socket)?.options.hop_limit = nonzero(value)?;
        Ok(())
    }

    fn receive_buffer_size(&mut self, socket: Resource<Tcp>) -> SocketResult<u64> {
        Ok(self.tcp(&socket)?.options.receive_buffer)
    }

    fn set_receive_buffer_size(&mut self, socket: Resource<Tcp>, value: u64) -> SocketResult<()> {
        self.tcp(&socket)?.options.receive_buffer = nonzero(value)?;
        Ok(())
    }

    fn send_buffer_size(&mut self, socket: Resource<Tcp>) -> SocketResult<u64> {
        Ok(self.tcp(&socket)?.options.send_buffer)
    }

    fn set_send_buffer_size(&mut self, socket: Resource<Tcp>, value: u64) -> SocketResult<()> {
        self.tcp(&socket)?.options.send_buffer = nonzero(value)?;
        Ok(())
    }

    fn subscribe(&mut self, socket: Resource<Tcp>) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(self.table, socket)
    }

    fn shutdown(&mut self, socket: Resource<Tcp>, how: ShutdownType) -> SocketResult<()> {
        let State::Connected(connection) = &self.tcp(&socket)?.state else {
            return Err(ErrorCode::InvalidState.into());
        };
        if matches!(how, ShutdownType::Receive | ShutdownType::Both) {
            connection.reader.abandon();
        }
        if matches!(how, ShutdownType::Send | ShutdownType::Both) {
            connection.writer.shutdown();
        }
        Ok(())
    }

    fn drop(&mut self, socket: Resource<Tcp>) -> wasmtime::Result<()> {
        self.table.delete(socket)?;
        self.state.open -= 1;
        Ok(())
    }
}
