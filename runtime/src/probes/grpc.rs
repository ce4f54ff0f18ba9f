//! gRPC's own question after health, `grpc.health.v1.Health/Check`, over HTTP/2 without TLS. Sentences are the kubelet's.
//!
//! A message has one field on either side: the service's name, and a number that says how it is.

use std::net::SocketAddr;
use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use network::{Body, Fabric};

use super::USER_AGENT;
use crate::limits::HEALTH_BYTES_MAX;

const METHOD: &str = "/grpc.health.v1.Health/Check";
/// gRPC's status of a method that the server does not know.
const UNIMPLEMENTED: &str = "12";
/// What the service may answer; one number counts as healthy.
const ANSWERS: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: u64 = 1;

/// Asks once. The caller bounds the time.
pub(super) async fn check(fabric: &Fabric, target: SocketAddr, service: &str) -> Result<(), String> {
    let connected = fabric.dial(target);
    let connected = connected.map_err(|error| format!("error: failed to connect service at \"{target}\": {error}"))?;
    let request = Request::post(METHOD)
        .header(http::header::HOST, target.to_string())
        .header(http::header::USER_AGENT, USER_AGENT)
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .body(network::body::full(question(service)))
        .map_err(failed)?;
    let response = connected.over_h2().send(request).await.map_err(failed)?;
    match status(response).await.map_err(failed)? {
        Ok(SERVING) => Ok(()),
        Ok(other) => {
            let known = usize::try_from(other).ok().and_then(|index| ANSWERS.get(index).copied());
            let shown = known.map_or_else(|| other.to_string(), str::to_owned);
            Err(format!("service unhealthy (responded with \"{shown}\")"))
        }
        Err((code, why)) if code == UNIMPLEMENTED => Err(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {why}"
        )),
        Err((code, why)) => Err(failed(format!("rpc error: code = {code} desc = {why}"))),
    }
}

fn failed(why: impl std::fmt::Display) -> String {
    format!("error: health rpc probe failed: {why}")
}

/// The answer's number, or gRPC's own status and message where there is no answer.
///
/// # Errors
/// Why what came is neither.
async fn status(response: Response<Body>) -> Result<Result<u64, (String, String)>, String> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("unexpected HTTP status code received from server: {}", head.status.as_u16()));
    }
    let collected: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(Limited::new(body, HEALTH_BYTES_MAX).collect());
    let collected = collected.await.map_err(|error: network::BoxError| error.to_string())?;
    // A server that refuses at once says so in the head: there is nothing before the trailers.
    let trailers = collected.trailers().cloned().unwrap_or(head.headers);
    let text = |name: &str| header(&trailers, name);
    match text("grpc-status").as_deref() {
        Some("0") => {}
        Some(code) => return Ok(Err((code.to_owned(), text("grpc-message").unwrap_or_default()))),
        None => return Err("server closed the stream without sending trailers".to_owned()),
    }
    answer(&collected.to_bytes()).map(Ok).ok_or_else(|| "the answer is not a health message".to_owned())
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// A framed `HealthCheckRequest`: not compressed, its length, and field 1, a string, unless that is empty.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        put_number(&mut message, service.len() as u64);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], &message].concat().into()
}

/// The number in a framed `HealthCheckResponse`: field 1, which is 0 where it is absent.
fn answer(frame: &[u8]) -> Option<u64> {
    let (head, mut message) = frame.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?);
    if head[0] != 0 || message.len() != usize::try_from(length).ok()? {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let tag = number(&mut message)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = number(&mut message)?,
            (_, 0) => drop(number(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(number(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use http_body_util::Full;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use network::{PodIdentity, PodNet};

    use super::*;

    #[test]
    fn messages_are_read_and_written() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("db")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'd', b'b']);
        let long = question(&"x".repeat(300));
        assert_eq!(long[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02]);
        let table: [(&[u8], Option<u64>); 8] = [
            (&[0, 0, 0, 0, 2, 8, 1], Some(1)),
            (&[0, 0, 0, 0, 0], Some(0)),
            // Fields of a later version are passed over.
            (&[0, 0, 0, 0, 9, 0x12, 1, b'x', 8, 2, 0x1d, 0, 0, 0], None),
            (&[0, 0, 0, 0, 10, 0x12, 1, b'x', 8, 2, 0x1d, 0, 0, 0, 0], Some(2)),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 3, 8, 1], None),
            (&[0, 0, 0, 0, 1, 8], None),
            (&[0, 0], None),
        ];
        for (frame, expected) in table {
            assert_eq!(answer(frame), expected, "{frame:?}");
        }
    }

    /// A server of HTTP/2 that knows the services `up`, `down` and `odd`, and nothing of health where it is `deaf`.
    fn serve(net: &PodNet, port: u16, deaf: bool) {
        let listener = net.listen(SocketAddr::new(net.addresses()[0], port), 0).unwrap();
        tokio::spawn(async move {
            while let Ok(conn) = listener.accept().await {
                let answer = service_fn(move |request: Request<Incoming>| async move {
                    assert_eq!(
                        (request.uri().path(), &request.headers()["te"]),
                        (METHOD, &"trailers".parse().unwrap())
                    );
                    let asked = request.into_body().collect().await.unwrap().to_bytes();
                    let (frame, code): (&'static [u8], _) = match asked.get(7..).unwrap_or_default() {
                        _ if deaf => (b"", UNIMPLEMENTED),
                        b"" | b"up" => (&[0, 0, 0, 0, 2, 8, 1], "0"),
                        b"down" => (&[0, 0, 0, 0, 2, 8, 2], "0"),
                        b"odd" => (&[9], "0"),
                        _ => (b"", "5"),
                    };
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", code.parse().unwrap());
                    trailers.insert("grpc-message", "who?".parse().unwrap());
                    let body =
                        Full::new(Bytes::from_static(frame)).with_trailers(std::future::ready(Some(Ok(trailers))));
                    Ok::<_, std::convert::Infallible>(Response::new(body))
                });
                let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(served.serve_connection(TokioIo::new(conn), answer));
            }
        });
    }

    #[tokio::test]
    async fn a_server_is_healthy_when_it_says_that_it_serves() {
        let fabric = Fabric::new(network::Config::default());
        let address = IpAddr::from([10, 42, 0, 9]);
        let name = "db".to_owned();
        let identity =
            PodIdentity { namespace: "d".to_owned(), hostname: name.clone(), name, addresses: vec![address] };
        let net = fabric.attach(identity);
        serve(&net, 80, false);
        serve(&net, 81, true);
        let table = [
            (80, "", ""),
            (80, "up", ""),
            (80, "down", "service unhealthy (responded with \"NOT_SERVING\")"),
            (80, "odd", "error: health rpc probe failed: the answer is not a health message"),
            (80, "ghost", "error: health rpc probe failed: rpc error: code = 5 desc = who?"),
            (81, "", "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): who?"),
            (82, "", "error: failed to connect service at \"10.42.0.9:82\": connection refused"),
        ];
        for (port, service, complaint) in table {
            let answer = check(&fabric, SocketAddr::new(address, port), service).await;
            assert_eq!(answer.err().unwrap_or_default(), complaint, "{port} {service:?}");
        }
    }
}
