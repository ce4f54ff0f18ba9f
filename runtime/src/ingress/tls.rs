//! Certificates by host name, replaced while connections are open.
//!
//! A host gets its own certificate, then that of a wildcard one label above, then the fallback, which the node was
//! given. A handshake without a name gets the fallback.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Why a Secret is not a certificate; the text is for whoever made the Secret.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// `tls.crt` cannot be read.
    #[error("tls.crt holds no PEM certificate")]
    NoCertificate,
    /// `tls.key` cannot be read.
    #[error("tls.key holds no PEM private key")]
    NoKey,
    /// They do not fit each other, or the key is of a kind that is not supported.
    #[error("the key cannot be used with the certificate: {0}")]
    Mismatch(#[from] rustls::Error),
}

/// A certificate chain and its key, from the two PEM fields of a Secret of type `kubernetes.io/tls`.
///
/// # Errors
/// [`CertificateError`] says which field is wrong.
pub fn certified_key(certificates: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, CertificateError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificates)
        .collect::<Result<_, _>>()
        .map_err(|_| CertificateError::NoCertificate)?;
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::NoKey)?;
    let key = ring::sign::any_supported_type(&key)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match()?;
    Ok(Arc::new(certified))
}

/// Certificates by host name; `*.example.com` covers one label.
#[derive(Debug, Default)]
pub struct Certificates {
    by_host: RwLock<Arc<HashMap<String, Arc<CertifiedKey>>>>,
    fallback: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// No certificates but the fallback.
    #[must_use]
    pub fn new(fallback: Option<Arc<CertifiedKey>>) -> Self {
        Self { by_host: RwLock::default(), fallback }
    }

    /// Replaces all certificates but the fallback. Hosts are in lower case.
    pub fn set(&self, by_host: HashMap<String, Arc<CertifiedKey>>) {
        *self.by_host.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(by_host);
    }

    /// The certificate for a host.
    #[must_use]
    pub fn get(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let by_host = self.by_host.read().unwrap_or_else(PoisonError::into_inner).clone();
        let host = host.to_ascii_lowercase();
        let wildcard = || by_host.get(&format!("*.{}", host.split_once('.')?.1));
        by_host.get(&host).or_else(wildcard).or(self.fallback.as_ref()).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match hello.server_name() {
            Some(host) => self.get(host),
            None => self.fallback.clone(),
        }
    }
}

/// TLS 1.2 and 1.3 with HTTP/2 preferred.
pub(super) fn server_config(certificates: Arc<Certificates>) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the ring provider offers the default protocol versions")
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}
