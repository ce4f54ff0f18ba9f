//! Which encoding a request asks for, and the headers that agree to it.

use api::Status;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// Kubernetes' own header of SPDY requests: the subprotocol.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What a server adds to a WebSocket's key before hashing it (RFC 6455 §1.3).
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// How the bytes of a conversation are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// SPDY/3.1 in place of HTTP.
    Spdy,
    /// SPDY/3.1 in the binary messages of a WebSocket.
    Tunnel,
    /// WebSocket messages whose first byte is the channel.
    Channels,
}

impl Encoding {
    pub(super) fn is_websocket(self) -> bool {
        self != Self::Spdy
    }
}

/// What was agreed: the encoding, and the headers of the answer beside `Connection`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    pub(super) encoding: Encoding,
    /// The subprotocol; empty when the client named none.
    pub(super) protocol: &'static str,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// The subprotocols of one subresource, best first.
pub(super) struct Offer {
    pub(super) spdy: &'static [&'static str],
    pub(super) tunnel: &'static [&'static str],
    pub(super) channels: &'static [&'static str],
}

/// Agrees to what the client asks for.
///
/// # Errors
/// 400 when it asks for no upgrade; 403 for protocols that are not spoken here, in the words clients know.
pub(super) fn agree(headers: &HeaderMap, offer: &Offer) -> Result<Agreement, Status> {
    let asks = |name: &HeaderName, what: &str| list(headers, name).any(|token| token.eq_ignore_ascii_case(what));
    if !asks(&header::CONNECTION, "upgrade") {
        return Err(Status::bad_request("unable to upgrade: missing upgrade headers in request"));
    }
    if asks(&header::UPGRADE, "SPDY/3.1") {
        let protocol = first_of(offer.spdy, headers, &STREAM_PROTOCOL);
        let protocol = protocol.ok_or_else(|| unknown_protocol(headers, &STREAM_PROTOCOL, offer.spdy))?;
        return Ok(Agreement {
            encoding: Encoding::Spdy,
            protocol,
            headers: vec![
                (header::UPGRADE, HeaderValue::from_static("SPDY/3.1")),
                (STREAM_PROTOCOL, HeaderValue::from_static(protocol)),
            ],
        });
    }
    if asks(&header::UPGRADE, "websocket") { websocket(headers, offer) } else { Err(no_upgrade(headers)) }
}

fn websocket(headers: &HeaderMap, offer: &Offer) -> Result<Agreement, Status> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok());
    let key = key.ok_or_else(|| Status::bad_request("unable to upgrade: Sec-WebSocket-Key is missing"))?;
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Status::bad_request("unable to upgrade: Sec-WebSocket-Version must be 13"));
    }
    let asked = list(headers, &header::SEC_WEBSOCKET_PROTOCOL).next().is_some();
    let tunnel = first_of(offer.tunnel, headers, &header::SEC_WEBSOCKET_PROTOCOL);
    let (encoding, protocol) = match tunnel {
        Some(protocol) => (Encoding::Tunnel, protocol),
        // A client without subprotocols means channels, as every server understood it before there were any.
        None if !asked => (Encoding::Channels, ""),
        None => {
            let protocol = first_of(offer.channels, headers, &header::SEC_WEBSOCKET_PROTOCOL);
            let refused = || unknown_protocol(headers, &header::SEC_WEBSOCKET_PROTOCOL, offer.channels);
            (Encoding::Channels, protocol.ok_or_else(refused)?)
        }
    };
    let accept = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{WEBSOCKET_GUID}").as_bytes());
    let accept = HeaderValue::from_str(&STANDARD.encode(accept)).expect("base64 is a header value");
    let mut agreed =
        vec![(header::UPGRADE, HeaderValue::from_static("websocket")), (header::SEC_WEBSOCKET_ACCEPT, accept)];
    if !protocol.is_empty() {
        agreed.push((header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol)));
    }
    Ok(Agreement { encoding, protocol, headers: agreed })
}

/// The comma-separated values of all headers of a name.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|value| !value.is_empty())
}

/// The best of `spoken` that the client offers.
fn first_of(spoken: &[&'static str], headers: &HeaderMap, name: &HeaderName) -> Option<&'static str> {
    spoken.iter().copied().find(|protocol| list(headers, name).any(|offered| offered == *protocol))
}

fn no_upgrade(headers: &HeaderMap) -> Status {
    let asked: Vec<&str> = list(headers, &header::UPGRADE).collect();
    Status::bad_request(format!("unable to upgrade to {:?}: SPDY/3.1 and websocket are known", asked.join(", ")))
}

fn unknown_protocol(headers: &HeaderMap, name: &HeaderName, spoken: &[&str]) -> Status {
    let asked: Vec<&str> = list(headers, name).collect();
    let message = format!(
        "unable to upgrade: unable to negotiate protocol: client supports {asked:?}, server accepts {spoken:?}"
    );
    Status::new(403, "Forbidden", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: Offer = Offer {
        spdy: &["portforward.k8s.io"],
        tunnel: &["SPDY/3.1+portforward.k8s.io"],
        channels: &["v5.channel.k8s.io", "v4.channel.k8s.io"],
    };

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn each_client_gets_its_encoding() {
        let websocket = |protocol: Option<&'static str>| {
            let mut lines = vec![
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ];
            lines.extend(protocol.map(|protocol| ("sec-websocket-protocol", protocol)));
            headers(&lines)
        };
        let spdy = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "portforward.k8s.io"),
        ]);
        let table = [
            ("kubectl 1.30", spdy, Encoding::Spdy, "portforward.k8s.io"),
            (
                "kubectl 1.33",
                websocket(Some("SPDY/3.1+portforward.k8s.io")),
                Encoding::Tunnel,
                "SPDY/3.1+portforward.k8s.io",
            ),
            (
                "kube-rs",
                websocket(Some("v5.channel.k8s.io, v4.channel.k8s.io")),
                Encoding::Channels,
                "v5.channel.k8s.io",
            ),
            ("kr8s", websocket(None), Encoding::Channels, ""),
        ];
        for (client, request, encoding, protocol) in table {
            let agreed = agree(&request, &OFFER).unwrap();
            assert_eq!((agreed.encoding, agreed.protocol), (encoding, protocol), "{client}");
        }
        // RFC 6455 §1.3 works this example.
        let agreed = agree(&websocket(None), &OFFER).unwrap();
        assert_eq!(agreed.headers[1].1, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_cannot_be_agreed_to_is_refused() {
        let table: [(u16, &[(&'static str, &'static str)]); 5] = [
            (400, &[]),
            (400, &[("connection", "upgrade"), ("upgrade", "h2c")]),
            (403, &[("connection", "upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v0")]),
            (400, &[("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")]),
            (400, &[("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "x")]),
        ];
        for (code, lines) in table {
            assert_eq!(agree(&headers(lines), &OFFER).unwrap_err().code, code, "{lines:?}");
        }
    }
}
