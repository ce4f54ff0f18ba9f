//! Whom a machine trusts that is not (yet) part of the cluster, and how it shows who it is.
//!
//! A join token names the authority by its hash. The server shows the authority in its certificate chain; a joiner takes
//! it over only if the hash fits and the server's certificate was signed by it, so that nothing secret is said to
//! anybody else. From then on everybody verifies by the authority, under one name that every member's certificate
//! carries, whatever address was dialled.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

pub use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::pki::{Identity, PkiError, fingerprint};

/// The name that every member's server certificate carries.
pub const SERVER_NAME: &str = "kubernetes";

/// What somebody needs to join: a bootstrap token of Kubernetes, and the hash of the authority's public key.
///
/// Written `ID.SECRET.HASH`: six and sixteen characters of `[a-z0-9]` (the first two parts are the bearer token), and 64
/// hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Names the token's Secret.
    pub id: String,
    /// Proves it.
    pub secret: String,
    /// Names the authority.
    pub fingerprint: String,
}

impl JoinToken {
    /// What is said to the API as the bearer token.
    #[must_use]
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.id, self.secret, self.fingerprint)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().split('.');
        let mut part = |length: usize, allowed: fn(&u8) -> bool| {
            let part = parts.next().unwrap_or_default();
            (part.len() == length && part.bytes().all(|byte| allowed(&byte))).then(|| part.to_owned())
        };
        let plain: fn(&u8) -> bool = |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let hex: fn(&u8) -> bool = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let token = (part(6, plain), part(16, plain), part(64, hex));
        match (token, parts.next()) {
            ((Some(id), Some(secret), Some(fingerprint)), None) => Ok(Self { id, secret, fingerprint }),
            _ => Err("a join token has the form ID.SECRET.HASH, as `kogia token create` prints it"),
        }
    }
}

/// What a join token pins of an authority whose certificate this is (PEM).
///
/// # Errors
/// When it is no certificate.
pub fn authority_fingerprint(certificate_pem: &str) -> Result<String, PkiError> {
    let tls = |error: &dyn fmt::Display| PkiError::Tls(error.to_string());
    let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|e| tls(&e))?;
    let parsed = ParsedCertificate::try_from(&certificate).map_err(|e| tls(&e))?;
    Ok(fingerprint(&parsed.subject_public_key_info()))
}

/// A client certificate that can be replaced while connections are made with it.
#[derive(Debug, Default)]
pub struct Credentials(RwLock<Option<Arc<CertifiedKey>>>);

impl Credentials {
    /// Shows this identity from the next connection on.
    ///
    /// # Errors
    /// When certificate and key cannot be read or do not fit.
    pub fn set(&self, identity: &Identity) -> Result<(), PkiError> {
        let tls = |error: &dyn fmt::Display| PkiError::Tls(error.to_string());
        let chain = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).map_err(|e| tls(&e))?;
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|e| tls(&e))?;
        let certified = CertifiedKey::from_der(vec![chain], key, &ring::default_provider()).map_err(|e| tls(&e))?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
        Ok(())
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn has_certs(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// TLS towards members of the cluster whose authority this is.
///
/// # Errors
/// When the authority's certificate cannot be read.
pub fn client_tls(authority_pem: &str, credentials: Arc<Credentials>) -> Result<ClientConfig, PkiError> {
    let tls = |error: &dyn fmt::Display| PkiError::Tls(error.to_string());
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(authority_pem.as_bytes()).map_err(|e| tls(&e))?;
    roots.add(authority).map_err(|e| tls(&e))?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| tls(&e))?
        .with_root_certificates(roots)
        .with_client_cert_resolver(credentials);
    // A session that is resumed is the one of the certificate that was shown first.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The authority's certificate, DER, once a server has shown it.
pub type Shown = Arc<OnceLock<Vec<u8>>>;

/// TLS towards the server that is asked to let this machine join, and the authority it shows in the first handshake.
///
/// # Errors
/// When TLS cannot be set up.
pub fn joining_tls(token: &JoinToken) -> Result<(ClientConfig, Shown), PkiError> {
    let tls = |error: &dyn fmt::Display| PkiError::Tls(error.to_string());
    let provider = Arc::new(ring::default_provider());
    let found = Arc::new(OnceLock::new());
    let pinned = Pinned { fingerprint: token.fingerprint.clone(), provider: provider.clone(), found: found.clone() };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| tls(&e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pinned))
        .with_no_client_auth();
    Ok((config, found))
}

/// Trusts the authority of one fingerprint, once it has been shown.
#[derive(Debug)]
struct Pinned {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
    found: Shown,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let fits = |shown: &&CertificateDer<'_>| {
            ParsedCertificate::try_from(*shown)
                .is_ok_and(|parsed| fingerprint(&parsed.subject_public_key_info()) == self.fingerprint)
        };
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let authority = intermediates.iter().find(fits).ok_or_else(unknown)?.clone().into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone());
        let verifier = verifier.build().map_err(|error| rustls::Error::General(error.to_string()))?;
        let verified = verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)?;
        // A later connection finds it there already, and it is the same.
        let _ = self.found.set(authority.to_vec());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::Authority;

    #[test]
    fn a_token_is_read_as_it_is_written() {
        let hash = "0123456789abcdef".repeat(4);
        let token: JoinToken = format!(" abcdef.0123456789abcdef.{hash}\n").parse().unwrap();
        assert_eq!((token.bearer().as_str(), token.to_string().len()), ("abcdef.0123456789abcdef", 88));
        assert!(!format!("{token:?}").contains("0123456789abcdef"), "secrets are not printed");
        for bad in ["", "abcdef.0123456789abcdef", "ABCDEF.0123456789abcdef.00", &format!("{token}.x")] {
            assert!(bad.parse::<JoinToken>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_authority_of_the_token_is_trusted() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ours, theirs) = (Authority::open(ours.path()).unwrap(), Authority::open(theirs.path()).unwrap());
        assert_eq!(authority_fingerprint(ours.certificate_pem()).unwrap(), ours.fingerprint());
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert_eq!(
            crate::pki::certificate_pem(&der(ours.certificate_pem())).trim(),
            ours.certificate_pem().replace("\r", "").trim()
        );
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let verify = |shown: &Authority, signer: &Authority, pinned: &Authority, names: &[String]| {
            let found = Arc::new(OnceLock::new());
            let provider = Arc::new(ring::default_provider());
            let pinned = Pinned { fingerprint: pinned.fingerprint(), provider, found: found.clone() };
            let leaf = der(&signer.server("x", names, &[]).unwrap().certificate_pem);
            let chain = [der(shown.certificate_pem())];
            let verified = pinned.verify_server_cert(&leaf, &chain, &name, &[], UnixTime::now()).is_ok();
            assert_eq!(found.get().is_some(), verified, "nothing is taken over from a stranger");
            verified
        };
        let names = [SERVER_NAME.to_owned()];
        assert!(verify(&ours, &ours, &ours, &names));
        assert!(!verify(&theirs, &theirs, &ours, &names), "another authority");
        assert!(!verify(&ours, &theirs, &ours, &names), "the right authority, which did not sign");
        assert!(!verify(&ours, &ours, &ours, &["elsewhere".to_owned()]), "not a server of the cluster");
    }
}
