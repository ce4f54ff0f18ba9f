//! The cluster's own certificate authority and what it signs.
//!
//! The authority's key is made once and kept in the data directory, readable by its owner alone. Everything else is
//! short of ceremony: the server's and the administrator's certificates are made anew at every start, so that a new
//! address or a changed clock is never a manual step.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use time::{Duration, OffsetDateTime};

use crate::private;

/// How long the authority's own certificate is valid.
const AUTHORITY_DAYS: i64 = 3650;
/// How long a certificate signed at start-up is valid; a process that runs longer than this must be restarted.
const LEAF_DAYS: i64 = 398;
/// Certificates begin to be valid this long ago, for clocks that are a little late.
const CLOCK_SKEW_MINUTES: i64 = 10;

/// Why the certificates could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The authority's files are damaged or do not fit each other.
    #[error("the certificate authority in {0} cannot be used: {1}")]
    Authority(PathBuf, String),
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// TLS does not accept what was made.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key (PKCS #8).
    pub key_pem: String,
}

/// The authority.
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads the authority kept in `folder`, or makes one there.
    ///
    /// # Errors
    /// When the files cannot be read, written or understood.
    pub fn open(folder: &Path) -> Result<Self, PkiError> {
        let (certificate, key) = (folder.join("ca.crt"), folder.join("ca.key"));
        if !certificate.exists() {
            create_folder(folder)?;
            let made = make_authority()?;
            // The key first: a crash in between leaves no certificate, and the next start makes both anew.
            write(&key, &made.key_pem)?;
            write(&certificate, &made.certificate_pem)?;
        }
        let certificate_pem = read(&certificate)?;
        let unusable = |error: rcgen::Error| PkiError::Authority(folder.to_owned(), error.to_string());
        let key = KeyPair::from_pem(&read(&key)?).map_err(unusable)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key).map_err(unusable)?;
        Ok(Self { certificate_pem, issuer })
    }

    /// The authority's certificate, PEM: what a client must trust.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A client certificate: Kubernetes reads the common name as the user and the organisations as groups.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Identity, PkiError> {
        let mut params = leaf(user, ExtendedKeyUsagePurpose::ClientAuth);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        self.sign(&params)
    }

    /// A server certificate for these names and addresses.
    ///
    /// # Errors
    /// When a name is not a DNS name, or the certificate cannot be made.
    pub fn server(&self, common_name: &str, names: &[String], addresses: &[IpAddr]) -> Result<Identity, PkiError> {
        let mut params = leaf(common_name, ExtendedKeyUsagePurpose::ServerAuth);
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        self.sign(&params)
    }

    /// A node's certificate, for both roles: towards the API it is the user `system:node:NAME` in the group
    /// `system:nodes`, between nodes either side shows it.
    ///
    /// # Errors
    /// When the name is not a DNS name, or the certificate cannot be made.
    pub fn node(&self, name: &str) -> Result<Identity, PkiError> {
        let mut params = leaf(&format!("system:node:{name}"), ExtendedKeyUsagePurpose::ClientAuth);
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
        self.sign(&params)
    }

    /// TLS settings of the API server: this identity, HTTP/2 and HTTP/1.1, client certificates welcome but optional
    /// (a token may come instead).
    ///
    /// # Errors
    /// When TLS does not accept the identity.
    pub fn server_tls(&self, identity: &Identity) -> Result<Arc<rustls::ServerConfig>, PkiError> {
        let tls = |error: &dyn std::fmt::Display| PkiError::Tls(error.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).map_err(|e| tls(&e))?;
        roots.add(authority).map_err(|e| tls(&e))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|e| tls(&e))?;
        let certificate = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).map_err(|e| tls(&e))?;
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|e| tls(&e))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| tls(&e))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .map_err(|e| tls(&e))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn sign(&self, params: &CertificateParams) -> Result<Identity, PkiError> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

fn make_authority() -> Result<Identity, PkiError> {
    let mut params = valid_for(AUTHORITY_DAYS);
    params.distinguished_name.push(DnType::CommonName, "kogia-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

fn leaf(common_name: &str, purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = valid_for(LEAF_DAYS);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    params
}

fn valid_for(days: i64) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = now - Duration::minutes(CLOCK_SKEW_MINUTES);
    params.not_after = now + Duration::days(days);
    params
}

/// The key that signs service-account tokens, PKCS #8 in DER: made once and kept beside the authority's, so that tokens
/// outlive the process.
///
/// # Errors
/// When the file cannot be read, written or understood.
pub fn service_account_key(folder: &Path) -> Result<Vec<u8>, PkiError> {
    let path = folder.join("service-accounts.key");
    if !path.exists() {
        create_folder(folder)?;
        write(&path, &KeyPair::generate()?.serialize_pem())?;
    }
    let key = KeyPair::from_pem(&read(&path)?);
    let key = key.map_err(|error| PkiError::Authority(folder.to_owned(), error.to_string()))?;
    Ok(key.serialize_der())
}

fn create_folder(folder: &Path) -> Result<(), PkiError> {
    private::create_folder(folder).map_err(|source| PkiError::File { path: folder.to_owned(), source })
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::File { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    private::write(path, text).map_err(|source| PkiError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_survives_a_restart_and_signs_what_tls_accepts() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("pki");
        let first = Authority::open(&folder).unwrap();
        let again = Authority::open(&folder).unwrap();
        assert_eq!(first.certificate_pem(), again.certificate_pem());
        let server = again.server("kogia", &["localhost".into()], &["127.0.0.1".parse().unwrap()]).unwrap();
        again.server_tls(&server).unwrap();
        assert!(again.client("admin", &["system:masters"]).unwrap().certificate_pem.contains("BEGIN CERTIFICATE"));
    }

    #[test]
    fn the_token_key_is_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let first = service_account_key(folder.path()).unwrap();
        assert_eq!(first, service_account_key(folder.path()).unwrap());
        http_api::ServiceAccountTokens::from_pkcs8(&first).unwrap();
        fs::write(folder.path().join("service-accounts.key"), "nonsense").unwrap();
        assert!(service_account_key(folder.path()).is_err());
    }

    #[test]
    fn a_damaged_authority_is_named() {
        let folder = tempfile::tempdir().unwrap();
        Authority::open(folder.path()).unwrap();
        fs::write(folder.path().join("ca.key"), "nonsense").unwrap();
        let Err(PkiError::Authority(path, _)) = Authority::open(folder.path()) else { panic!("it was accepted") };
        assert_eq!(path, folder.path());
    }
}
