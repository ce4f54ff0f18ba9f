//! Certificates from a real ACME server: pebble, which Let's Encrypt tests its own clients with, and its name server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;

use crate::harness::{Cluster, eventually};
use crate::store::free_address;

/// The server and its name server, for which every name is this machine; they end with the test.
struct Pebble {
    processes: Vec<Child>,
    address: SocketAddr,
    management: SocketAddr,
    /// Who vouches for the server itself.
    roots_pem: String,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Pebble {
    /// Starts it; it looks at names on this port. `None` where it is not installed, which CI does not allow.
    fn start(dir: &Path, http_port: u16) -> Option<Self> {
        let there = Command::new("pebble-challtestsrv").arg("-version").stderr(Stdio::null()).status().is_ok();
        if !there {
            assert!(std::env::var_os("CI").is_none(), "CI needs pebble (Debian: pebble)");
            eprintln!("there is no pebble on PATH: this test shows nothing here");
            return None;
        }
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(dir.join(name), text).unwrap();
            dir.join(name)
        };
        let certificate = write("pebble.crt", &made.cert.pem());
        let key = write("pebble.key", &made.signing_key.serialize_pem());
        let (address, management, names) = (free_address(), free_address(), free_address());
        let config = json!({"pebble": {
            "listenAddress": address, "managementListenAddress": management, "certificate": certificate, "privateKey": key,
            "httpPort": http_port, "tlsPort": free_address().port(), "ocspResponderURL": "", "externalAccountBindingRequired": false,
        }});
        let config = write("pebble.json", &config.to_string());
        let quiet = |command: &mut Command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let mut resolver = Command::new("pebble-challtestsrv");
        resolver.args([
            "-defaultIPv4",
            "127.0.0.1",
            "-defaultIPv6",
            "",
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
        ]);
        resolver.arg("-dns01").arg(names.to_string()).arg("-management").arg(free_address().to_string());
        let mut server = Command::new("pebble");
        server.arg("-config").arg(config).args(["-strict", "-dnsserver", &names.to_string()]);
        // It waits some seconds before it looks, as real ones may; a test need not.
        server.env("PEBBLE_VA_NOSLEEP", "1");
        let processes = vec![quiet(&mut resolver), quiet(&mut server)];
        Some(Self { processes, address, management, roots_pem: made.cert.pem() })
    }

    /// Whom to trust for what it signs: it makes its authority anew with every start.
    fn authority(&self) -> String {
        eventually("pebble to answer", || {
            let answer = ask(self.management, "localhost", &self.roots_pem, "/roots/0").ok()?;
            Some(answer[answer.find("-----BEGIN")?..].to_owned())
        })
    }

    fn issuer(&self, name: &str) -> String {
        let server = format!("https://localhost:{}/dir", self.address.port());
        json!({
            "apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": {"name": name},
            "spec": {"acme": {
                "server": server, "email": "owner@example.com", "caBundle": STANDARD.encode(&self.roots_pem),
                "privateKeySecretRef": {"name": format!("{name}-account")},
                "solvers": [{"http01": {"ingress": {"ingressClassName": "kogia"}}}],
            }},
        })
        .to_string()
    }
}

/// GETs over TLS from a host whose certificate these roots vouch for: the whole answer.
fn ask(address: SocketAddr, host: &str, roots_pem: &str, path: &str) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots_pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut stream = StreamOwned::new(ClientConnection::new(config, name).unwrap(), TcpStream::connect(address)?);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // Some servers end without saying so.
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

fn ready(cluster: &Cluster, kind: &str, name: &str) -> Option<(String, String)> {
    let object = cluster.find(kind, name)?;
    let condition = object["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == "Ready")?.clone();
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    Some((text("reason"), text("message")))
}

#[test]
fn an_acme_server_signs_for_an_ingress_and_refuses_what_is_not_shown() {
    let cluster = Cluster::start();
    let Some(pebble) = Pebble::start(cluster.scratch(), cluster.http().port()) else { return };
    let authority = pebble.authority();
    cluster.with("hello-http");
    cluster.apply(&pebble.issuer("acme")).ok();
    eventually("the account to be registered", || {
        ready(&cluster, "issuer", "acme").filter(|(reason, _)| reason == "ACMEAccountRegistered")
    });
    cluster
        .apply(
            "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, annotations: {cert-manager.io/issuer: acme}}
spec:
  tls: [{hosts: [web.test, www.web.test], secretName: web-tls}]
  rules: [{host: web.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: hello, port: {number: 80}}}}]}}]
",
        )
        .ok();
    eventually("the certificate", || ready(&cluster, "certificate", "web-tls").filter(|(reason, _)| reason == "Ready"));
    // What is served is what was signed, and it leads to the server's authority.
    let answer = eventually("TLS under the new certificate", || {
        ask(cluster.https(), "web.test", &authority, "/").ok().filter(|answer| answer.starts_with("HTTP/1.1 200"))
    });
    assert!(answer.contains("hello, world"), "{answer}");
    let orders = cluster.kogia(&["get", "orders,challenges"]).out;
    assert!(orders.contains("valid") && !orders.contains("pending"), "{orders}");

    // A wildcard is not to be shown over HTTP: it says so, and is not asked for again at once.
    cluster
        .apply(
            "
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: wild}
spec: {secretName: wild, dnsNames: ['*.web.test'], issuerRef: {name: acme}}
",
        )
        .ok();
    let (_, message) =
        eventually("a refusal", || ready(&cluster, "certificate", "wild").filter(|(reason, _)| reason == "Failed"));
    assert!(message.contains("needs DNS"), "{message}");
    let status = cluster.get("certificate", "wild")["status"].clone();
    assert_eq!(status["failedIssuanceAttempts"], 1, "{status:#}");
    assert!(cluster.find("secret", "wild").is_none());
}
