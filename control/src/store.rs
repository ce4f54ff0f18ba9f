//! The store as the program's own commands and benches meet it: members of their own, snapshots, disaster recovery.
//!
//! Members speak mutual TLS under an authority of their own: a certificate for the API, which every administrator holds,
//! opens no door between members.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;

pub use raft_store::{
    Config, Consistency, OpenError, Range, SnapshotError, SnapshotStatus, Store, StoreError, StoreStatus,
    TransportConfig, Txn, WatchRequest, put,
};

use crate::pki::{Authority, Identity, PkiError};

/// The name every member's certificate carries.
const MEMBER_NAME: &str = "kogia-member";

/// Where a cluster's member keeps its store.
#[must_use]
pub fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

/// How a member reaches its peers and is reached by them, under an authority that signs for members only.
///
/// # Errors
/// When certificates cannot be made, or TLS does not accept them.
pub fn transport(members: &Authority, listener: TcpListener) -> Result<TransportConfig, PkiError> {
    let tls = |error: &dyn std::fmt::Display| PkiError::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(members.certificate_pem().as_bytes()).map_err(|e| tls(&e))?;
    roots.add(authority).map_err(|e| tls(&e))?;
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let (chain, key) = der(&members.server(MEMBER_NAME, &[MEMBER_NAME.to_owned()], &[])?)?;
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| tls(&e))?
        .with_client_cert_verifier(verifier.build().map_err(|e| tls(&e))?)
        .with_single_cert(chain, key)
        .map_err(|e| tls(&e))?;
    let (chain, key) = der(&members.client(MEMBER_NAME, &[])?)?;
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| tls(&e))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|e| tls(&e))?;
    let server_name = ServerName::try_from(MEMBER_NAME).map_err(|e| tls(&e))?;
    Ok(TransportConfig { listener, server: Arc::new(server), client: Arc::new(client), server_name })
}

fn der(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
    let tls = |error: rustls::pki_types::pem::Error| PkiError::Tls(error.to_string());
    let certificate = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).map_err(tls)?;
    Ok((vec![certificate], PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(tls)?))
}
