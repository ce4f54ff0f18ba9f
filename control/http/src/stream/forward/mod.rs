//! `pods/portforward`: connections to a pod's ports, each one request to the pod's node.
//!
//! In SPDY a connection is two streams with the same `requestID`: one for the bytes, one on which the server says what
//! went wrong. In channels it is two channels per port that the query names, and there is one connection per port. A
//! connection that fails ends alone; the session ends with its client.

mod channels;
mod pairing;
mod streams;

use std::convert::Infallible;

use api::{Object, Status};
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body::Frame as BodyFrame;
use http_body_util::{BodyExt, Limited, StreamBody};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::agreement::{Encoding, Offer, agree};
use super::spdy::Frame;
use super::transport::{self, Outgoing};
use super::{Upgrading, node_of, switching};
use crate::limits::{FORWARD_PORTS_MAX, FORWARD_STALL_MAX, REFUSAL_BYTES_MAX, STREAM_PIECE_BYTES, STREAM_PIECES_MAX};
use crate::query::Query;
use crate::relay::Relay;
use crate::reply::{Reply, boxed};
use crate::service::{Call, Inner};
use crate::{Body, BoxError};

const OFFER: Offer = Offer {
    spdy: &["portforward.k8s.io"],
    tunnel: &["SPDY/3.1+portforward.k8s.io"],
    channels: &["v5.channel.k8s.io", "v4.channel.k8s.io"],
};

/// CANCEL (SPDY §2.6.3): nobody wants the stream any more.
const CANCEL: u32 = 5;

/// GET or POST `pods/NAME/portforward`.
pub(crate) fn forward(inner: &Inner, call: &Call, pod: &Object) -> Result<Reply, Status> {
    let node = node_of(pod)?;
    let agreement = agree(&call.headers, &OFFER)?;
    let encoding = agreement.encoding;
    let ports = if encoding == Encoding::Channels { ports(&call.query)? } else { Vec::new() };
    let upgrading = Upgrading::new(call, &inner.sessions)?;
    let target = Target {
        relay: inner.config.node_relay.clone(),
        node,
        namespace: pod.namespace().to_owned(),
        pod: pod.name().to_owned(),
    };
    upgrading.begin(call, move |upgraded| async move {
        let (incoming, outgoing) = transport::open(upgraded, encoding.is_websocket()).await;
        match encoding {
            Encoding::Spdy | Encoding::Tunnel => streams::serve(&target, incoming, outgoing).await,
            Encoding::Channels => channels::serve(&target, &ports, incoming, outgoing).await,
        }
    });
    Ok(switching(&agreement))
}

/// `?ports=80,443` or `?ports=80&ports=443`.
fn ports(query: &Query) -> Result<Vec<u16>, Status> {
    let parse = |text: &str| match text.trim().parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(Status::bad_request(format!("unable to parse {text:?} as a port"))),
    };
    let ports = query.all("ports").flat_map(|list| list.split(',')).map(parse).collect::<Result<Vec<_>, _>>()?;
    match ports.len() {
        0 => Err(Status::bad_request("query parameter \"ports\" is required")),
        count if count > FORWARD_PORTS_MAX => {
            Err(Status::bad_request(format!("at most {FORWARD_PORTS_MAX} ports can be forwarded by one WebSocket")))
        }
        _ => Ok(ports),
    }
}

/// The pod, and how to reach it.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) relay: Relay,
    pub(crate) node: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
}

/// How a connection's bytes are labelled on the way to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Streams { data: u32, error: u32 },
    Channels { data: u8 },
}

impl Lane {
    fn data(self, bytes: Bytes) -> Bytes {
        match self {
            Self::Streams { data, .. } => Frame::Data { stream: data, last: false, bytes }.encode(),
            Self::Channels { data } => labelled(data, &bytes),
        }
    }

    fn error(self, message: String) -> Bytes {
        match self {
            Self::Streams { error, .. } => Frame::Data { stream: error, last: false, bytes: message.into() }.encode(),
            Self::Channels { data } => labelled(data + 1, message.as_bytes()),
        }
    }

    /// What says that the connection is over. Channels have no such message: their WebSocket ends with the last one.
    fn end(self, reset: bool) -> Vec<Bytes> {
        let Self::Streams { data, error } = self else { return Vec::new() };
        let last = |stream| Frame::Data { stream, last: true, bytes: Bytes::new() }.encode();
        let end = if reset { Frame::Reset { stream: data, code: CANCEL }.encode() } else { last(data) };
        vec![end, last(error)]
    }
}

fn labelled(channel: u8, bytes: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(channel);
    message.put_slice(bytes);
    message.freeze()
}

/// One connection as the session's reader holds it.
struct Forward {
    /// Bytes for the pod; without it the client has said its last.
    to_pod: Option<mpsc::Sender<Bytes>>,
    abort: CancellationToken,
}

impl Forward {
    /// Hands bytes on. A pod that closed its side does not get the rest, and one that does not read for too long loses
    /// this connection: everything else of the session waits behind it.
    async fn send(&self, bytes: Bytes) {
        let Some(to_pod) = &self.to_pod else { return };
        if tokio::time::timeout(FORWARD_STALL_MAX, to_pod.send(bytes)).await.is_err() {
            self.abort.cancel();
        }
    }
}

/// The connections of a session: each is a task that ends with the number it was opened under.
struct Forwards {
    target: Target,
    to_client: mpsc::Sender<Bytes>,
    pumps: JoinSet<u32>,
}

impl Forwards {
    fn new(target: &Target, outgoing: Outgoing) -> (Self, AbortOnDropHandle<()>) {
        let (to_client, from_pods) = mpsc::channel(STREAM_PIECES_MAX);
        let writer = AbortOnDropHandle::new(tokio::spawn(transport::write(from_pods, outgoing)));
        (Self { target: target.clone(), to_client, pumps: JoinSet::new() }, writer)
    }

    fn open(&mut self, number: u32, port: u16, lane: Lane) -> Forward {
        let (to_pod, from_client) = mpsc::channel(STREAM_PIECES_MAX);
        let abort = CancellationToken::new();
        let (target, to_client, aborted) = (self.target.clone(), self.to_client.clone(), abort.clone());
        self.pumps.spawn(async move {
            let reset = tokio::select! {
                () = aborted.cancelled() => true,
                // A client that cannot be told any more ends the session by itself.
                _ = pump(&target, port, lane, from_client, &to_client) => false,
            };
            for piece in lane.end(reset) {
                let _ = to_client.send(piece).await;
            }
            number
        });
        Forward { to_pod: Some(to_pod), abort }
    }
}

/// One connection: a request to the node, its body the client's bytes, the answer's body the pod's. `None` when the
/// client is gone.
async fn pump(
    target: &Target,
    port: u16,
    lane: Lane,
    from_client: mpsc::Receiver<Bytes>,
    to_client: &mpsc::Sender<Bytes>,
) -> Option<()> {
    let response = match connect(target, port, from_client).await {
        Ok(response) => response,
        Err(why) => {
            let message = format!("error forwarding port {port} to pod {}: {why}", target.pod);
            return to_client.send(lane.error(message)).await.ok();
        }
    };
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        match frame.map(BodyFrame::into_data) {
            Ok(Ok(mut bytes)) => {
                while !bytes.is_empty() {
                    let piece = bytes.split_to(bytes.len().min(STREAM_PIECE_BYTES));
                    to_client.send(lane.data(piece)).await.ok()?;
                }
            }
            Ok(Err(_trailers)) => {}
            Err(error) => {
                let message = format!("error forwarding port {port} to pod {}: {error}", target.pod);
                return to_client.send(lane.error(message)).await.ok();
            }
        }
    }
    Some(())
}

/// The node's answer once the pod has accepted; else a sentence that says why not.
pub(crate) async fn connect(
    target: &Target,
    port: u16,
    from_client: mpsc::Receiver<Bytes>,
) -> Result<Response<Body>, String> {
    let frames = futures::stream::unfold(from_client, |mut from_client| async {
        let bytes = from_client.recv().await?;
        Some((Ok::<_, Infallible>(BodyFrame::data(bytes)), from_client))
    });
    let Target { relay, node, namespace, pod } = target;
    let request = Request::post(format!("http://node/portForward/{namespace}/{pod}/{port}"));
    let request = request.body(boxed(StreamBody::new(frames))).map_err(|error| error.to_string())?;
    let answer = relay.send(node, request).ok_or_else(|| format!("its node {node:?} is not connected"))?;
    let response = answer.await.map_err(|error| format!("its node {node:?} cannot be reached: {error}"))?;
    if response.status() == StatusCode::OK {
        return Ok(response);
    }
    // Boxed, because the compiler cannot see that `Limited` is `Send` for every lifetime of its error.
    let said: BoxFuture<'static, Result<_, BoxError>> =
        Box::pin(Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect());
    let said = said.await.map_err(|error| error.to_string())?.to_bytes();
    Err(String::from_utf8_lossy(&said).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_does_not_read_loses_its_connection() {
        let (to_pod, mut from_client) = mpsc::channel(1);
        let mut forward = Forward { to_pod: Some(to_pod), abort: CancellationToken::new() };
        forward.send(Bytes::from_static(b"1")).await;
        assert!(!forward.abort.is_cancelled());
        forward.send(Bytes::from_static(b"2")).await;
        assert!(forward.abort.is_cancelled());
        assert_eq!(from_client.recv().await.unwrap(), "1");
        forward.to_pod = None;
        forward.send(Bytes::from_static(b"3")).await;
        assert_eq!(from_client.recv().await, None);
    }

    #[test]
    fn ports_of_a_query() {
        let many = (1..=128).map(|port: u16| port.to_string()).collect::<Vec<_>>().join(",");
        let table = [
            ("ports=80", Some(vec![80])),
            ("ports=80,443&ports=1", Some(vec![80, 443, 1])),
            ("", None),
            ("ports=", None),
            ("ports=65536", None),
            ("ports=0", None),
            (&*format!("ports={many}"), None),
        ];
        for (query, expected) in table {
            assert_eq!(ports(&Query::parse(query)).ok(), expected, "{query}");
        }
    }
}
