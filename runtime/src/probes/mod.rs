//! Asking a container whether it is well: HTTP, TCP and gRPC, from the node, over the virtual network; or a command
//! inside it. Over HTTPS nobody's certificate is looked at, as with the kubelet.

mod grpc;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request, StatusCode};
use k8s_openapi::api::core::v1 as k8s;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use network::{Body, Fabric, HttpError, NetError, tls};
use pod::ProbeKind;

use crate::limits::PROBE_TIME_MAX;

/// Asks once.
///
/// # Errors
/// What is wrong, as the kubelet would say it.
pub(crate) async fn ask(
    fabric: &Fabric,
    container: &k8s::Container,
    address: Option<IpAddr>,
    kind: ProbeKind,
) -> Result<(), String> {
    let (Some(probe), Some(address)) = (probe(container, kind), address) else { return Ok(()) };
    let limit = limit(probe);
    let seconds = limit.as_secs();
    if let Some(get) = &probe.http_get {
        let url = url(get, container, address)?;
        let answer = tokio::time::timeout(limit, self::get(fabric, container, get, address, USER_AGENT)).await;
        let Ok(answer) = answer else {
            return Err(format!("Get \"{url}\": context deadline exceeded (no answer within {seconds} s)"));
        };
        return match answer?.as_u16() {
            200..400 => Ok(()),
            status => Err(format!("HTTP probe failed with statuscode: {status}")),
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        let target = SocketAddr::new(address, port(&tcp.port, container)?);
        return fabric.connect(target).map(drop).map_err(|error| format!("dial tcp {target}: {error}"));
    }
    if let Some(asked) = &probe.grpc {
        let port = u16::try_from(asked.port).map_err(|_| format!("couldn't find port: {}", asked.port))?;
        let (target, service) = (SocketAddr::new(address, port), asked.service.as_deref().unwrap_or_default());
        let answer = tokio::time::timeout(limit, grpc::check(fabric, target, service)).await;
        return answer.unwrap_or_else(|_| Err(format!("timeout: health rpc did not complete within {seconds}s")));
    }
    Err("the probe asks for nothing".to_owned())
}

/// The command of an exec probe, and how long it may take.
pub(crate) fn command(container: &k8s::Container, kind: ProbeKind) -> Option<(Vec<String>, Duration)> {
    let probe = probe(container, kind)?;
    Some((probe.exec.as_ref()?.command.clone().unwrap_or_default(), limit(probe)))
}

fn probe(container: &k8s::Container, kind: ProbeKind) -> Option<&k8s::Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
    }
}

fn limit(probe: &k8s::Probe) -> Duration {
    let seconds = u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1);
    Duration::from_secs(seconds).min(PROBE_TIME_MAX)
}

/// What the container reads in `User-Agent`.
const USER_AGENT: &str = "kube-probe/1.33";

fn url(get: &k8s::HTTPGetAction, container: &k8s::Container, address: IpAddr) -> Result<String, String> {
    let target = SocketAddr::new(address, port(&get.port, container)?);
    let scheme = if is_https(get) { "https" } else { "http" };
    Ok(format!("{scheme}://{target}{}", path(get)))
}

fn is_https(get: &k8s::HTTPGetAction) -> bool {
    get.scheme.as_deref() == Some("HTTPS")
}

fn path(get: &k8s::HTTPGetAction) -> &str {
    get.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/")
}

/// Asks a container over HTTP, from the node, and returns the status of its answer.
///
/// # Errors
/// Why there was no answer.
pub(crate) async fn get(
    fabric: &Fabric,
    container: &k8s::Container,
    get: &k8s::HTTPGetAction,
    address: IpAddr,
    user_agent: &'static str,
) -> Result<StatusCode, String> {
    let target = SocketAddr::new(address, port(&get.port, container)?);
    let (url, path) = (url(get, container, address)?, path(get));
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut request = Request::builder()
        .uri(path)
        .header(http::header::HOST, target.to_string())
        .header(http::header::USER_AGENT, user_agent)
        .header(http::header::ACCEPT, "*/*")
        .body(network::body::empty())
        .map_err(|error| format!("Get \"{url}\": {error}"))?;
    for header in get.http_headers.iter().flatten() {
        let name = HeaderName::try_from(&header.name).map_err(|error| error.to_string())?;
        let value = HeaderValue::try_from(&header.value).map_err(|error| error.to_string())?;
        request.headers_mut().insert(name, value);
    }
    let refused = |error: NetError| format!("Get \"{url}\": dial tcp {target}: {error}");
    let response: Result<http::Response<Body>, HttpError> = if is_https(get) {
        tls::send_to_anybody(fabric.connect(target).map_err(refused)?, request).await
    } else {
        fabric.dial(target).map_err(refused)?.send(request).await
    };
    Ok(response.map_err(|error| format!("Get \"{url}\": {error}"))?.status())
}

/// A port by number or by the name the container gives it.
fn port(wanted: &IntOrString, container: &k8s::Container) -> Result<u16, String> {
    let number = match wanted {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    let unknown = || format!("couldn't find port: {wanted:?}");
    number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Response;
    use network::{BoxFuture, HttpService, PodIdentity};
    use serde_json::{Value, json};

    use super::*;

    /// Answers each path with the status it names; `/slow` never.
    struct Statuses;

    impl HttpService for Statuses {
        fn call(
            self: Arc<Self>,
            request: Request<Body>,
            _: IpAddr,
        ) -> BoxFuture<'static, Result<Response<Body>, HttpError>> {
            Box::pin(async move {
                let path = request.uri().path().trim_start_matches('/').to_owned();
                if path == "slow" {
                    std::future::pending::<()>().await;
                }
                let mut response = Response::new(network::body::empty());
                *response.status_mut() = path.parse().unwrap_or(http::StatusCode::OK);
                Ok(response)
            })
        }
    }

    /// A program that speaks TLS by itself, with a certificate that nobody signed.
    async fn serve_tls(listener: network::Listener) {
        let made = rcgen::generate_simple_self_signed(["nobody".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let chain = vec![made.cert.der().clone()];
        let config = builder.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        while let Ok(conn) = listener.accept().await {
            let Ok(stream) = acceptor.accept(conn).await else { continue };
            let answer = hyper::service::service_fn(|request| {
                Arc::new(Statuses).call(Request::map(request, network::body::boxed), IpAddr::from([10, 42, 0, 1]))
            });
            let served = hyper::server::conn::http1::Builder::new();
            let _ = served.serve_connection(hyper_util::rt::TokioIo::new(stream), answer).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_each_probe_answers() {
        let fabric = Fabric::new(network::Config::default());
        let address = IpAddr::from([10, 42, 0, 9]);
        let text = |text: &str| text.to_owned();
        let (namespace, name) = (text("default"), text("web"));
        let identity = PodIdentity { namespace, hostname: name.clone(), name, addresses: vec![address] };
        let net = fabric.attach(identity);
        let _bound = net.serve_http(8080, Arc::new(Statuses)).unwrap();
        let _tls = tokio::spawn(serve_tls(net.listen(SocketAddr::new(address, 8443), 8).unwrap()));
        let get = |path: &str, port: Value| json!({"httpGet": {"path": path, "port": port}});
        let table = [
            (get("/", json!(8080)), ""),
            (get("204", json!("http")), ""),
            (get("/399", json!(8080)), ""),
            (get("/500", json!(8080)), "HTTP probe failed with statuscode: 500"),
            (get("/slow", json!(8080)), "context deadline exceeded"),
            (get("/", json!(9)), "dial tcp 10.42.0.9:9"),
            (get("/", json!("ghost")), "couldn't find port"),
            (json!({"httpGet": {"port": 8443, "scheme": "HTTPS"}}), ""),
            (json!({"httpGet": {"port": 8443, "scheme": "HTTPS", "path": "/500"}}), "statuscode: 500"),
            (json!({"httpGet": {"port": 8080, "scheme": "HTTPS"}}), "Get \"https://10.42.0.9:8080/\": no TLS"),
            (json!({"tcpSocket": {"port": 8080}}), ""),
            (json!({"tcpSocket": {"port": 9}}), "dial tcp 10.42.0.9:9"),
            (json!({"grpc": {"port": 9}}), "error: failed to connect service at \"10.42.0.9:9\": connection refused"),
        ];
        for (probe, complaint) in table {
            let container = json!({
                "name": "web", "livenessProbe": probe, "ports": [{"name": "http", "containerPort": 8080}],
            });
            let container = serde_json::from_value(container).unwrap();
            match ask(&fabric, &container, Some(address), ProbeKind::Liveness).await {
                Ok(()) => assert_eq!(complaint, "", "{probe}"),
                Err(error) => assert!(!complaint.is_empty() && error.contains(complaint), "{probe}: {error}"),
            }
        }
    }
}
