//! Who a node is to another: TLS 1.3, both sides with a certificate of the cluster's authority.
//!
//! A node's certificate has the common name `system:node:NAME`, as its Kubernetes client certificate has, and the DNS name
//! `NAME`. Refused: certificates of another authority, and certificates of this one that are not a node's.
//!
//! A node's certificate is replaced while connections stand ([`Identities`]). The protocol's name in the handshake then says
//! that a connection is made beside another one, which is to be left alone: otherwise a node that dials again is one that
//! has forgotten it.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt};
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;

use super::limits::{
    DATAGRAM_BUFFER_BYTES, GONE_AFTER, KEEP_ALIVE, LARGE_DATAGRAMS_MAX, PACKET_BYTES_MAX, SEND_WINDOW_BYTES,
    STREAM_WINDOW_BYTES, STREAMS_MAX,
};

/// The protocol's name in the handshake (RFC 7301).
const PROTOCOL: &[u8] = b"kogia-overlay/1";
/// Its name for a connection that is made beside one that stands.
const PROTOCOL_BESIDE: &[u8] = b"kogia-overlay/1+beside";

/// What the common name of a node's certificate begins with.
const NODE_USER: &str = "system:node:";

/// What a node shows and whom it trusts, all PEM.
#[derive(Clone)]
pub struct Identity {
    /// The node's certificate.
    pub certificate_pem: String,
    /// Its private key.
    pub key_pem: String,
    /// The certificate of the cluster's authority.
    pub authority_pem: String,
}

/// The settings of both roles.
pub(super) struct Tls {
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: ClientConfig,
    /// For a connection beside one that stands.
    pub(super) beside: ClientConfig,
    /// For one over a third node, from both sides.
    pub(super) relayed: Arc<TransportConfig>,
    pub(super) relayed_server: Arc<ServerConfig>,
    /// When the node's certificate is over.
    pub(super) ends: SystemTime,
    /// Counts the identities of this node.
    pub(super) number: u64,
}

/// The node's identities, of which the last is shown.
pub(super) struct Identities(RwLock<Arc<Tls>>);

impl Identities {
    pub(super) fn new(first: &Identity) -> Result<Self, String> {
        Ok(Self(RwLock::new(Arc::new(first.tls()?))))
    }

    pub(super) fn current(&self) -> Arc<Tls> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows another one from the next handshake on.
    pub(super) fn replace(&self, next: &Identity) -> Result<(), String> {
        let tls = next.tls()?;
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let number = current.number + 1;
        *current = Arc::new(Tls { number, ..tls });
        Ok(())
    }
}

impl Identity {
    pub(super) fn tls(&self) -> Result<Tls, String> {
        let (certificate, key) = self.read()?;
        let ends = ends(&certificate).ok_or("the node's certificate cannot be read")?;
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.authority_pem.as_bytes());
        let authority = authority.map_err(|error| format!("the authority's certificate: {error}"))?;
        roots.add(authority).map_err(|error| format!("the authority's certificate: {error}"))?;
        let (roots, provider) = (Arc::new(roots), Arc::new(provider()));
        let tls = |error: rustls::Error| error.to_string();

        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
        let verifier = verifier.map_err(|error| error.to_string())?;
        let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.clone()], key.clone_key())
            .map_err(tls)?;
        server.alpn_protocols = vec![PROTOCOL_BESIDE.to_vec(), PROTOCOL.to_vec()];
        // A session that is resumed would not look at certificates again, and they may be over.
        server.send_tls13_tickets = 0;
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(tls)?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)
            .map_err(tls)?;
        client.resumption = rustls::client::Resumption::disabled();
        let (relayed, transport) = (Arc::new(relayed()), Arc::new(transport()));
        let server = QuicServerConfig::try_from(server).map_err(|error| error.to_string())?;
        let mut server = ServerConfig::with_crypto(Arc::new(server));
        server.transport_config(transport.clone());
        let mut relayed_server = server.clone();
        relayed_server.transport_config(relayed.clone());
        let dialling = |protocols: &[&[u8]]| {
            let mut client = client.clone();
            client.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            let client = QuicClientConfig::try_from(client).map_err(|error| error.to_string())?;
            let mut client = ClientConfig::new(Arc::new(client));
            client.transport_config(transport.clone());
            Ok::<_, String>(client)
        };
        // One that does not know the other name takes the connection for one that replaces the first.
        let (client, beside) = (dialling(&[PROTOCOL])?, dialling(&[PROTOCOL_BESIDE, PROTOCOL])?);
        let (server, relayed_server) = (Arc::new(server), Arc::new(relayed_server));
        Ok(Tls { server, client, beside, relayed, relayed_server, ends, number: 0 })
    }

    fn read(&self) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), String> {
        let certificate = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes());
        let certificate = certificate.map_err(|error| format!("the node's certificate: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes());
        Ok((certificate, key.map_err(|error| format!("the node's key: {error}"))?))
    }
}

/// AES with 128 bits first: a third less work than with 256, and as far out of reach.
fn provider() -> CryptoProvider {
    let cipher_suites = vec![
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    CryptoProvider { cipher_suites, ..ring::default_provider() }
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    // Each stream has a window of its own, so that one that nobody reads holds up no other.
    let all = u64::from(STREAMS_MAX + LARGE_DATAGRAMS_MAX) * u64::from(STREAM_WINDOW_BYTES);
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(PACKET_BYTES_MAX);
    transport
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(LARGE_DATAGRAMS_MAX.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(VarInt::from_u64(all).unwrap_or(VarInt::MAX))
        .send_window(SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES))
        .datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(IdleTimeout::try_from(GONE_AFTER).ok())
        .mtu_discovery_config(Some(discovery));
    transport
}

/// The same for packets that are passed on: those of the smallest size fit into the message that carries them, on any path
/// that has more than the smallest.
fn relayed() -> TransportConfig {
    let mut transport = transport();
    transport.mtu_discovery_config(None);
    transport
}

/// The node at the other end of a connection; `None` when its certificate is not a node's.
pub(super) fn peer(connection: &Connection) -> Option<String> {
    node_name(&peer_certificate(connection)?)
}

/// When the certificate that the other end has shown is over.
pub(super) fn peer_ends(connection: &Connection) -> Option<SystemTime> {
    ends(&peer_certificate(connection)?)
}

/// Whether the caller means the connection to stand beside an older one.
pub(super) fn is_beside(connection: &Connection) -> bool {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    data.and_then(|data| data.protocol).is_some_and(|protocol| protocol == PROTOCOL_BESIDE)
}

fn peer_certificate(connection: &Connection) -> Option<CertificateDer<'static>> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    chain.into_iter().next()
}

fn ends(certificate: &[u8]) -> Option<SystemTime> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    // The last second is part of the validity (RFC 5280, section 4.1.2.5).
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds.checked_add(1)?))
}

fn node_name(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let user = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    let name = user.strip_prefix(NODE_USER)?;
    (!name.is_empty()).then(|| name.to_owned())
}
