//! A whole API server over an empty state: for trying clients against the API without scheduler, controllers or nodes.
//!
//! `cargo run -p kogia-http --example api_server -- DIR` listens on a free port of 127.0.0.1, writes `DIR/kubeconfig`
//! and runs until it is interrupted.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http_api::{Config, serve, service};
use objects::{Objects, User, WriteOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::PrivateKeyDer;
use serde_json::json;
use tokio_util::sync::CancellationToken;

type Issuer = CertifiedIssuer<'static, KeyPair>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter("info").with_writer(std::io::stderr).init();
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("usage: api_server DIR")?);
    let store = raft_store::Store::open(raft_store::Config::single(dir.join("data"))).await?;
    let objects = Objects::open(store).await?;
    let catalog = objects.catalog();
    let namespaces = catalog.by_name("namespaces").ok_or("no namespaces")?;
    for name in ["default", "kube-system", "kube-node-lease"] {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let who = User::system("system:bootstrap");
        // They may be there from an earlier run.
        let _ = objects.create(&who, namespaces, "", body, &WriteOptions::manager("bootstrap")).await;
    }
    let authority = authority()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    write_kubeconfig(&dir.join("kubeconfig"), &format!("https://{address}"), &authority)?;
    println!("{}", dir.join("kubeconfig").display());
    let stop = CancellationToken::new();
    let ending = stop.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        ending.cancel();
    });
    serve(listener, Arc::new(tls(&authority)?), service(objects, Config::default()), stop).await;
    Ok(())
}

fn authority() -> Result<Issuer, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "api-server-example");
    Issuer::self_signed(params, KeyPair::generate()?)
}

fn tls(authority: &Issuer) -> Result<rustls::ServerConfig, Box<dyn Error>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    let certificate = params.signed_by(&key, authority)?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone())?;
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
    Ok(config)
}

fn write_kubeconfig(path: &Path, server: &str, authority: &Issuer) -> Result<(), Box<dyn Error>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    let certificate = params.signed_by(&key, authority)?;
    let base64 = |text: String| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    // JSON is YAML.
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "example",
        "clusters": [{"name": "example", "cluster":
            {"server": server, "certificate-authority-data": base64(authority.pem())}}],
        "users": [{"name": "admin", "user": {"client-certificate-data": base64(certificate.pem()),
            "client-key-data": base64(key.serialize_pem())}}],
        "contexts": [{"name": "example", "context": {"cluster": "example", "user": "admin"}}],
    });
    std::fs::write(path, config.to_string())?;
    Ok(())
}
