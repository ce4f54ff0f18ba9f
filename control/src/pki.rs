//! The cluster's own certificate authority and what it signs.
//!
//! The authority's key is made once and kept in the data directory, readable by its owner alone. Everything else is
//! short of ceremony: the server's and the administrator's certificates are made anew at every start, so that a new
//! address or a changed clock is never a manual step.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use time::{Duration, OffsetDateTime};

use crate::private;
use crate::subject::{Attribute, Subject};

/// How long the authority's own certificate is valid.
const AUTHORITY_DAYS: i64 = 3650;
/// How long a certificate signed at start-up is valid; a process that runs longer than this must be restarted.
const LEAF_DAYS: i64 = 398;
/// How long a node's certificate is valid that it asked for over the network; it asks anew before two thirds are over.
/// A machine that was off for longer joins again with a token.
pub const NODE_DAYS: i64 = 7;
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
    /// A certificate that was just made cannot be read.
    #[error("cannot make a certificate: {0}")]
    Encoding(#[from] yasna::ASN1Error),
    /// A request, or an authority's certificate, cannot be read.
    #[error("a certificate or request cannot be read: {0}")]
    Unreadable(String),
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
        let params = leaf(user, ExtendedKeyUsagePurpose::ClientAuth, LEAF_DAYS);
        self.sign_as(&params, &person(user, groups.iter().copied()))
    }

    /// A server certificate for these names and addresses.
    ///
    /// # Errors
    /// When a name is not a DNS name, or the certificate cannot be made.
    pub fn server(&self, common_name: &str, names: &[String], addresses: &[IpAddr]) -> Result<Identity, PkiError> {
        let mut params = leaf(common_name, ExtendedKeyUsagePurpose::ServerAuth, LEAF_DAYS);
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        self.sign(&params)
    }

    /// A node's certificate: a client of the API (`system:node:NAME` in `system:nodes`), and both ends of a connection
    /// between nodes, which know each other by the DNS name.
    ///
    /// # Errors
    /// When the name is not a DNS name, or the certificate cannot be made.
    pub fn node(&self, name: &str) -> Result<Identity, PkiError> {
        self.sign(&node_params(name, LEAF_DAYS)?)
    }

    /// The certificate of a member's own node, which other nodes believe more than each other: it is in the group
    /// `system:kogia-members` too.
    ///
    /// # Errors
    /// As [`Authority::node`].
    pub fn member_node(&self, name: &str) -> Result<Identity, PkiError> {
        let groups = [http_api::MEMBERS, NODES];
        self.sign_as(&node_params(name, LEAF_DAYS)?, &person(&format!("{NODE_USER}{name}"), groups))
    }

    /// Signs the key of a request (PKCS #10, PEM) as [`Authority::node`] does; what else the request asks for is not
    /// looked at.
    ///
    /// # Errors
    /// When the request cannot be read, or its signature does not fit its key.
    pub fn sign_node(&self, request_pem: &str, name: &str) -> Result<String, PkiError> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)?;
        request.params = node_params(name, NODE_DAYS)?;
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    /// Signs the key of a request as a client certificate for this user, valid for so many seconds.
    ///
    /// # Errors
    /// When the request cannot be read, or its signature does not fit its key.
    pub fn sign_client(
        &self,
        request_pem: &str,
        user: &str,
        groups: &[String],
        seconds: i64,
    ) -> Result<String, PkiError> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)?;
        let mut params = leaf(user, ExtendedKeyUsagePurpose::ClientAuth, LEAF_DAYS);
        params.not_after = OffsetDateTime::now_utc() + Duration::seconds(seconds);
        request.params = params;
        let subject = person(user, groups.iter().map(String::as_str));
        subject.certify_by(&request.signed_by(&self.issuer)?, &self.certificate_pem, &self.issuer)
    }

    /// What a join token pins: the SHA-256 of the authority's public key (SubjectPublicKeyInfo), as kubeadm's
    /// `--discovery-token-ca-cert-hash` has it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.issuer.key().subject_public_key_info())
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
        roots.add(authority.clone()).map_err(|e| tls(&e))?;
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
            // The authority itself is in the chain: who joins knows its hash and nothing else of it.
            .with_single_cert(vec![certificate, authority], key)
            .map_err(|e| tls(&e))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn sign(&self, params: &CertificateParams) -> Result<Identity, PkiError> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    fn sign_as(&self, params: &CertificateParams, subject: &Subject) -> Result<Identity, PkiError> {
        let key = KeyPair::generate()?;
        let made = params.signed_by(&key, &self.issuer)?;
        let certificate_pem = subject.certify_by(&made, &self.certificate_pem, &self.issuer)?;
        Ok(Identity { certificate_pem, key_pem: key.serialize_pem() })
    }
}

/// What a node's user name begins with, and the group of all nodes.
const NODE_USER: &str = "system:node:";
const NODES: &str = "system:nodes";

/// Whom Kubernetes reads in a certificate: the common name is the user, the organisations are the groups.
fn person<'a>(user: &'a str, groups: impl IntoIterator<Item = &'a str>) -> Subject {
    let groups = groups.into_iter().map(|group| (Attribute::Organization, group));
    Subject::new(groups.chain([(Attribute::CommonName, user)]))
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

/// A private key, PEM, and a request for a certificate over it (PKCS #10, PEM) for a node of this name.
///
/// # Errors
/// When the system has no randomness to give.
pub fn node_request(name: &str) -> Result<(String, String), PkiError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = node_name(name);
    let request = params.serialize_request(&key)?.pem()?;
    Ok((key.serialize_pem(), request))
}

/// A certificate in PEM.
#[must_use]
pub fn certificate_pem(der: &[u8]) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = encoded.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Whom a certificate request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestedSubject {
    /// The common name.
    pub(crate) user: String,
    /// The organisations.
    pub(crate) groups: Vec<String>,
    /// Whether it asks for other names.
    pub(crate) has_names: bool,
}

/// Reads a request (PKCS #10, PEM) whose signature fits its key.
pub(crate) fn requested_subject(request_pem: &str) -> Result<RequestedSubject, PkiError> {
    let params = CertificateSigningRequestParams::from_pem(request_pem)?.params;
    let subject = Subject::asked(request_pem)?;
    Ok(RequestedSubject {
        user: subject.all(Attribute::CommonName).into_iter().next().unwrap_or_default(),
        groups: subject.all(Attribute::Organization),
        has_names: !params.subject_alt_names.is_empty(),
    })
}

/// Lower-case hexadecimal SHA-256.
pub(crate) fn fingerprint(public_key_info: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, public_key_info);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The files of a cluster's authorities, relative to the folder: what every member holds.
const SHARED: [&str; 5] = ["ca.crt", "ca.key", "service-accounts.key", "peers/ca.crt", "peers/ca.key"];

/// Reads everything that a new member needs of the authorities kept in `folder`.
///
/// # Errors
/// When a file cannot be read.
pub fn export(folder: &Path) -> Result<Vec<(String, String)>, PkiError> {
    SHARED.iter().map(|name| Ok(((*name).to_owned(), read(&folder.join(name))?))).collect()
}

/// Keeps what [`export`] read elsewhere; anything else is not written.
///
/// # Errors
/// When a file cannot be written or is not among them.
pub fn import(folder: &Path, files: impl Fn(&str) -> Option<String>) -> Result<(), PkiError> {
    create_folder(&folder.join("peers"))?;
    // The certificates last: without them the next start does not take the folder for an authority.
    for name in ["service-accounts.key", "peers/ca.key", "peers/ca.crt", "ca.key", "ca.crt"] {
        let missing = || PkiError::Authority(folder.to_owned(), format!("{name} was not handed over"));
        write(&folder.join(name), &files(name).ok_or_else(missing)?)?;
    }
    Ok(())
}

fn node_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::OrganizationName, NODES);
    distinguished.push(DnType::CommonName, format!("{NODE_USER}{name}"));
    distinguished
}

fn node_params(name: &str, days: i64) -> Result<CertificateParams, PkiError> {
    let mut params = leaf("", ExtendedKeyUsagePurpose::ClientAuth, days);
    params.distinguished_name = node_name(name);
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    params.subject_alt_names.push(SanType::DnsName(name.try_into()?));
    Ok(params)
}

fn leaf(common_name: &str, purpose: ExtendedKeyUsagePurpose, days: i64) -> CertificateParams {
    let mut params = valid_for(days);
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
    fn a_request_gets_a_certificate_for_the_node_and_not_for_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open(folder.path()).unwrap();
        let (key, request) = node_request("n1").unwrap();
        let signed = authority.sign_node(&request, "n2").unwrap();
        let identity = Identity { certificate_pem: signed, key_pem: key };
        authority.server_tls(&identity).unwrap();
        assert!(authority.sign_node("nonsense", "n1").is_err());
        let signed = authority.sign_client(&request, "anna", &["team".into(), "whales".into()], 600).unwrap();
        assert!(signed.starts_with("-----BEGIN CERTIFICATE-----"));
        let subject = requested_subject(&request).unwrap();
        assert_eq!(
            (subject.user.as_str(), subject.groups.as_slice()),
            ("system:node:n1", &["system:nodes".into()][..])
        );
        assert_eq!(authority.fingerprint().len(), 64);
    }

    #[test]
    fn a_new_member_gets_the_authorities_whole_or_none() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = Authority::open(one.path()).unwrap();
        Authority::open(&one.path().join("peers")).unwrap();
        service_account_key(one.path()).unwrap();
        let files = export(one.path()).unwrap();
        let file = |name: &str| files.iter().find(|(file, _)| file == name).map(|(_, text)| text.clone());
        import(other.path(), file).unwrap();
        assert_eq!(Authority::open(other.path()).unwrap().fingerprint(), first.fingerprint());
        let partial = tempfile::tempdir().unwrap();
        assert!(import(partial.path(), |name| file(name).filter(|_| name != "ca.key")).is_err());
        assert!(!partial.path().join("ca.crt").exists());
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
