//! Admission webhooks: a server outside the cluster, reached by URL over TLS, and a component behind a Service.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::harness::{Cluster, Kubectl, eventually};

/// A webhook of the test's own, with a certificate that signs itself. What it answers depends on the path.
struct Server {
    port: u16,
    /// Its certificate, as `caBundle` has it.
    bundle: String,
    /// The requests of the reviews that came, with their paths.
    reviews: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Server {
    fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            bundle: STANDARD.encode(made.cert.pem()),
            reviews: Arc::default(),
        };
        let reviews = server.reviews.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (config, reviews) = (config.clone(), reviews.clone());
                thread::spawn(move || serve(stream, config, &reviews));
            }
        });
        server
    }

    /// A configuration with one webhook of this server, for ConfigMaps of `default` with the label `ask: PATH`.
    fn configuration(&self, kind: &str, path: &str, more: &Value) -> String {
        let mut hook = json!({
            "name": format!("{path}.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://localhost:{}/{path}", self.port), "caBundle": self.bundle},
            "objectSelector": {"matchLabels": {"ask": path}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}],
        });
        hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": path},
            "webhooks": [hook]})
        .to_string()
    }
}

/// One request and its answer. A client that does not like the certificate is gone before it asks.
fn serve(stream: TcpStream, config: Arc<ServerConfig>, reviews: &Mutex<Vec<(String, Value)>>) -> Option<()> {
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(config).ok()?, stream));
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let path = line.split([' ', '?']).nth(1)?.trim_start_matches('/').to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).ok()?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(text) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let review: Value = serde_json::from_slice(&body).ok()?;
    reviews.lock().unwrap().push((path.clone(), review["request"].clone()));
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    match &*path {
        "deny" | "exec" => {
            response["allowed"] = json!(false);
            response["status"] = json!({"code": 403, "message": "the webhook says no"});
        }
        "warn" => response["warnings"] = json!(["the webhook has doubts"]),
        "patch" => {
            let patch = json!([{"op": "add", "path": "/data/by", "value": "webhook"}]);
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(STANDARD.encode(patch.to_string()));
        }
        // It waits until the other side gives up.
        "slow" => return stream.read(&mut [0]).ok().map(|_| ()),
        "huge" => response["warnings"] = json!(["x".repeat(4 << 20)]),
        _ => {}
    }
    let answer = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
    let answer = answer.to_string();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", answer.len());
    let mut stream = stream.into_inner();
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(answer.as_bytes()).ok()?;
    stream.flush().ok()
}

/// A ConfigMap that the webhook of that path is asked about.
fn configmap(name: &str, ask: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"ask": ask}}, "data": {"a": "1"}})
        .to_string()
}

const VALIDATING: &str = "ValidatingWebhookConfiguration";
const MUTATING: &str = "MutatingWebhookConfiguration";

#[test]
fn a_server_outside_is_asked_over_tls() {
    let Some(kubectl) = Kubectl::newest() else { return };
    let (server, cluster) = (Server::start(), Cluster::start());
    let create = |name: &str, ask: &str| kubectl.run_with(&cluster, &["create", "-f", "-"], &configmap(name, ask));
    let configure = |kind: &str, path: &str, more: Value| {
        cluster.apply(&server.configuration(kind, path, &more)).ok();
    };
    configure(VALIDATING, "deny", json!({}));
    configure(VALIDATING, "warn", json!({}));
    configure(MUTATING, "patch", json!({}));
    configure(VALIDATING, "slow", json!({"timeoutSeconds": 1}));
    configure(VALIDATING, "huge", json!({}));
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    let url = format!("https://localhost:{}/stranger", server.port);
    configure(VALIDATING, "stranger", json!({"clientConfig": {"url": url, "caBundle": STANDARD.encode(stranger)}}));

    let said = create("a", "deny").fails();
    assert!(said.contains("admission webhook \"deny.example.com\" denied the request: the webhook says no"), "{said}");
    assert!(cluster.find("configmap", "a").is_none());
    let warned = create("b", "warn");
    assert!(warned.err.contains("Warning: the webhook has doubts"), "{}", warned.err);
    warned.ok();
    create("c", "patch").ok();
    assert_eq!(cluster.get("configmap", "c")["data"], json!({"a": "1", "by": "webhook"}));

    let begun = Instant::now();
    let said = create("d", "slow").fails();
    let expected = format!(
        "failed calling webhook \"slow.example.com\": failed to call webhook: Post \
         \"https://localhost:{}/slow?timeout=1s\": context deadline exceeded",
        server.port
    );
    assert!(said.contains(&expected), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let said = create("e", "huge").fails();
    assert!(said.contains("length limit exceeded"), "{said}");
    let said = create("f", "stranger").fails();
    assert!(said.contains("failed calling webhook \"stranger.example.com\"") && said.contains("tls: "), "{said}");
    configure(
        VALIDATING,
        "stranger",
        json!({"failurePolicy": "Ignore",
        "clientConfig": {"url": format!("https://127.0.0.1:{}/stranger", server.port)}}),
    );
    create("f", "stranger").ok();

    // A dry run is asked about as such, and a client that patches is asked about what comes of it.
    let dry = kubectl.run_with(&cluster, &["create", "--dry-run=server", "-f", "-"], &configmap("g", "warn"));
    dry.ok();
    kubectl.run(&cluster, &["label", "configmap", "b", "more=yes"]).ok();
    kubectl.run(&cluster, &["delete", "configmap", "b"]).ok();
    let reviews = server.reviews.lock().unwrap();
    let told: Vec<(&str, bool)> = reviews
        .iter()
        .filter(|(path, _)| path == "warn")
        .map(|(_, request)| (request["operation"].as_str().unwrap(), request["dryRun"] == true))
        .collect();
    assert_eq!(told, [("CREATE", false), ("CREATE", true), ("UPDATE", false), ("DELETE", false)]);
    let (_, first) = reviews.iter().find(|(path, _)| path == "warn").unwrap();
    assert_eq!((&first["userInfo"]["username"], &first["object"]["data"]["a"]), (&json!("kogia-admin"), &json!("1")));
}

#[test]
fn a_component_behind_a_service_is_asked() {
    let Some(kubectl) = Kubectl::newest() else { return };
    let (server, cluster) = (Server::start(), Cluster::start());
    cluster.with("admission");
    cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {admission: checked}}}").ok();
    let pod = |name: &str, image: &str, namespace: &str| {
        kubectl.run(&cluster, &["-n", namespace, "run", name, &format!("--image={image}")])
    };
    let refused = eventually("the webhook to be reached", || {
        let said = pod("loose", "hello-http", "shop").fails();
        said.contains("denied the request").then_some(said)
    });
    let expected =
        "admission webhook \"check.admission.kogia.dev\" denied the request: image hello-http has no version";
    assert!(refused.contains(expected), "{refused}");
    pod("web", "hello-http:0.1.0", "shop").ok();
    let labels = kubectl.run(&cluster, &["-n", "shop", "get", "pod", "web", "-o", "jsonpath={.metadata.labels}"]).ok();
    let labels: Value = serde_json::from_str(&labels).unwrap();
    assert_eq!(labels, json!({"run": "web", "admitted": "yes"}));
    // Elsewhere nobody asks.
    pod("loose", "hello-http", "default").ok();

    // A conversation with a pod is asked about before it begins.
    let rules =
        json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CONNECT"], "resources": ["pods/exec"]}]);
    cluster.apply(&server.configuration(VALIDATING, "exec", &json!({"rules": rules, "objectSelector": {}}))).ok();
    let said = kubectl.run(&cluster, &["exec", "deployment/admission", "--", "ls"]).fails();
    assert!(said.contains("admission webhook \"exec.example.com\" denied the request: the webhook says no"), "{said}");
    let reviews = server.reviews.lock().unwrap();
    let (_, request) = reviews.iter().find(|(path, _)| path == "exec").unwrap();
    let seen = (&request["kind"]["kind"], &request["object"]["command"]);
    assert_eq!(seen, (&json!("PodExecOptions"), &json!(["ls"])));
}
