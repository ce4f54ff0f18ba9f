//! Who a node is to another: TLS 1.3, both sides with a certificate of the cluster's authority.
//!
//! A node's certificate has the common name `system:node:NAME`, as its Kubernetes client certificate has, and the DNS name
//! `NAME`. Refused: certificates of another authority, and certificates of this one that are not a node's.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
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
    pub(super) server: ServerConfig,
    pub(super) client: ClientConfig,
}

impl Identity {
    pub(super) fn tls(&self) -> Result<Tls, String> {
        let (certificate, key) = self.read()?;
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
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(tls)?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)
            .map_err(tls)?;
        client.alpn_protocols = vec![PROTOCOL.to_vec()];

        let transport = Arc::new(transport());
        let server = QuicServerConfig::try_from(server).map_err(|error| error.to_string())?;
        let mut server = ServerConfig::with_crypto(Arc::new(server));
        server.transport_config(transport.clone());
        let client = QuicClientConfig::try_from(client).map_err(|error| error.to_string())?;
        let mut client = ClientConfig::new(Arc::new(client));
        client.transport_config(transport);
        Ok(Tls { server, client })
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

/// The node at the other end of a connection; `None` when its certificate is not a node's.
pub(super) fn peer(connection: &Connection) -> Option<String> {
    let identity = connection.peer_identity()?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    node_name(chain.first()?)
}

fn node_name(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let user = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    let name = user.strip_prefix(NODE_USER)?;
    (!name.is_empty()).then(|| name.to_owned())
}
