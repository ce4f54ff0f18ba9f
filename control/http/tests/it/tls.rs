//! A certificate authority for a test: a server on 127.0.0.1, clients that are whoever they say.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};

/// Signs the server's and the clients' certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "loopback-authority");
        CertifiedIssuer::self_signed(params, KeyPair::generate()?).map(Self)
    }

    /// What `serve` wants: client certificates are verified, but nobody has to have one.
    pub(crate) fn server(&self) -> Result<Arc<rustls::ServerConfig>, Box<dyn Error>> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        let certificate = params.signed_by(&key, &self.0)?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier.allow_unauthenticated().build()?)
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?,
            )?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// A kubeconfig for a user in a group.
    pub(crate) fn kubeconfig(&self, server: &str, user: &str, group: &str) -> Result<Value, rcgen::Error> {
        self.kubeconfig_for(server, user, group, Duration::from_secs(3600))
    }

    /// The same with a certificate that is over after this time.
    pub(crate) fn kubeconfig_for(
        &self,
        server: &str,
        user: &str,
        group: &str,
        time: Duration,
    ) -> Result<Value, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.not_after = (SystemTime::now() + time).into();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let certificate = params.signed_by(&key, &self.0)?;
        let base64 = |text: String| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
        Ok(json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "loopback",
            "clusters": [{"name": "loopback", "cluster":
                {"server": server, "certificate-authority-data": base64(self.0.pem())}}],
            "users": [{"name": user, "user": {"client-certificate-data": base64(certificate.pem()),
                "client-key-data": base64(key.serialize_pem())}}],
            "contexts": [{"name": "loopback", "context": {"cluster": "loopback", "user": user}}],
        }))
    }
}
