//! TLS of requests that pods send by `https`, which the node speaks for them with whom the machine trusts; and of probes,
//! which look at nobody's certificate.

use std::sync::{Arc, OnceLock};

use http::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme, WantsVerifier};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::body::Body;
use crate::conn::Conn;
use crate::http::{HttpError, send_over};

/// Whom pods' requests trust. The machine's roots are read once, with the first such request.
#[derive(Default)]
pub(crate) struct Trust(OnceLock<Result<Arc<ClientConfig>, String>>);

impl Trust {
    /// Trusts whom one authority vouches for (its certificate, PEM).
    pub(crate) fn in_authority(pem: &str) -> Self {
        Self(OnceLock::from(of_authority(pem)))
    }

    /// The same for one that has trusted nobody yet.
    #[cfg(test)]
    pub(crate) fn set_authority(&self, pem: &str) {
        self.0.set(of_authority(pem)).expect("nobody has been asked for");
    }

    /// Speaks TLS over a connection, with somebody whose certificate is good for `host`.
    pub(crate) async fn secure(&self, conn: Conn, host: &str) -> Result<TokioIo<TlsStream<Conn>>, HttpError> {
        let config = self.0.get_or_init(of_machine).clone().map_err(HttpError::Internal)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|error| HttpError::Untrusted(error.to_string()))?;
        handshake(config, name, conn).await
    }
}

async fn handshake(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    conn: Conn,
) -> Result<TokioIo<TlsStream<Conn>>, HttpError> {
    let stream = TlsConnector::from(config).connect(name, conn).await;
    stream.map(TokioIo::new).map_err(|error| match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(why)) => HttpError::Untrusted(why.to_string()),
        Some(other) => HttpError::Tls(other.to_string()),
        None => HttpError::Reset,
    })
}

/// Sends a request over TLS to whoever answers there, whatever their certificate says: how the kubelet probes. It tells a
/// pod's health, and nothing that is secret is said.
///
/// # Errors
/// [`HttpError::Tls`] when TLS is not spoken there, and [`HttpError::Reset`].
pub async fn send_to_anybody(conn: Conn, request: Request<Body>) -> Result<Response<Body>, HttpError> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let builder = builder().expect("ring has the algorithms of every version");
        let verifier = Arc::new(Anybody(builder.crypto_provider().clone()));
        Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
    });
    let name = ServerName::from(conn.peer().ip());
    send_over(handshake(config.clone(), name, conn).await?, request).await
}

/// Looks at signatures, not at who signed.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn of_machine() -> Result<Arc<ClientConfig>, String> {
    let verified = builder()?.with_platform_verifier();
    let config = verified.map_err(|error| format!("the machine's roots of trust cannot be used: {error}"))?;
    Ok(Arc::new(config.with_no_client_auth()))
}

fn of_authority(pem: &str) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    Ok(Arc::new(builder()?.with_root_certificates(roots).with_no_client_auth()))
}

fn builder() -> Result<ConfigBuilder<ClientConfig, WantsVerifier>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.map_err(|error| error.to_string())
}
