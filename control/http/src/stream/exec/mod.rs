//! `pods/exec` and `pods/attach`: a conversation with a program, one request to the pod's node.
//!
//! The node is asked before the client's connection is upgraded, so that a refusal is an HTTP answer. From then on the
//! frames of [`api::channels`] go to and from the node, and [`wire`] writes them as the client wants them: as messages
//! of a WebSocket or as streams of a SPDY session.

mod wire;

use std::convert::Infallible;

use api::channels::{self, Decoder};
use api::{Object, Status};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body::Frame as BodyFrame;
use http_body_util::{BodyExt, Limited, StreamBody};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::agreement::{Encoding, Offer, agree};
use super::transport::{self, Incoming, Outgoing};
use super::{Upgrading, node_of, switching};
use crate::container;
use crate::limits::{REFUSAL_BYTES_MAX, STREAM_LINGER, STREAM_PIECES_MAX, STREAMS_OPEN_MAX};
use crate::query::Query;
use crate::reply::{Reply, boxed};
use crate::service::{Call, Inner};
use crate::{Body, BoxError};
use wire::{Client, Said, Wire};

const OFFER: Offer =
    Offer { spdy: &["v4.channel.k8s.io"], tunnel: &[], channels: &["v5.channel.k8s.io", "v4.channel.k8s.io"] };

/// GET or POST `pods/NAME/exec` and `pods/NAME/attach`.
pub(crate) async fn exec(inner: &Inner, call: &Call, pod: &Object, subresource: &str) -> Result<Reply, Status> {
    let node = node_of(pod)?;
    let container = container::choose(pod, &call.query)?;
    let streams = Streams::read(&call.query)?;
    let query = streams.query(&call.query, subresource == "exec")?;
    let agreement = agree(&call.headers, &OFFER)?;
    let upgrading = Upgrading::new(call, &inner.sessions)?;

    let (to_node, from_client) = mpsc::channel(STREAM_PIECES_MAX);
    let frames = futures::stream::unfold(from_client, |mut from_client: mpsc::Receiver<Bytes>| async {
        let bytes = from_client.recv().await?;
        Some((Ok::<_, Infallible>(BodyFrame::data(bytes)), from_client))
    });
    let uri = format!("http://node/{subresource}/{}/{}/{container}?{query}", pod.namespace(), pod.name());
    let request = Request::post(uri).body(boxed(StreamBody::new(frames)));
    let request = request.map_err(|error| Status::bad_request(error.to_string()))?;
    let unreachable = |why: &str| Status::internal(format!("error dialing backend: node {node:?} {why}"));
    let answer = inner.config.node_relay.send(&node, request).ok_or_else(|| unreachable("is not connected"))?;
    let response = answer.await.map_err(|error| unreachable(&format!("cannot be reached: {error}")))?;
    if response.status() != StatusCode::OK {
        return Err(refused(response).await);
    }
    let encoding = agreement.encoding;
    upgrading.begin(call, move |upgraded| async move {
        let (incoming, mut outgoing) = transport::open(upgraded, encoding.is_websocket()).await;
        outgoing.ping().await;
        let client = Client::new(incoming, encoding == Encoding::Channels);
        talk(client, outgoing, streams, to_node, response.into_body()).await;
    });
    Ok(switching(&agreement))
}

/// What a node refuses, in its words.
async fn refused(response: Response<Body>) -> Status {
    let code = response.status();
    // Boxed, because the compiler cannot see that `Limited` is `Send` for every lifetime of its error.
    let said: BoxFuture<'static, Result<_, BoxError>> =
        Box::pin(Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect());
    let message = match said.await {
        Ok(said) => String::from_utf8_lossy(&said.to_bytes()).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    match code {
        StatusCode::NOT_FOUND => Status::new(404, "NotFound", message),
        StatusCode::TOO_MANY_REQUESTS => Status::too_many_requests(&message, 1),
        code if code.is_client_error() => Status::bad_request(message),
        _ => Status::internal(message),
    }
}

/// Which streams a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    fn read(query: &Query) -> Result<Self, Status> {
        let tty = query.flag("tty")?;
        // A terminal has one output; upstream drops the other one, too.
        let stderr = query.flag("stderr")? && !tty;
        let streams = Self { stdin: query.flag("stdin")?, stdout: query.flag("stdout")?, stderr, tty };
        if !streams.stdin && !streams.stdout && !streams.stderr {
            return Err(Status::bad_request("you must specify at least one of stdin, stdout, stderr"));
        }
        Ok(streams)
    }

    /// The query for the node.
    fn query(self, query: &Query, with_command: bool) -> Result<String, Status> {
        let mut text = form_urlencoded::Serializer::new(String::new());
        if with_command {
            let mut words = query.all("command").peekable();
            if words.peek().is_none() {
                return Err(Status::bad_request("you must specify at least one command for the container"));
            }
            text.extend_pairs(words.map(|word| ("command", word)));
        }
        let flags = [("stdin", self.stdin), ("stdout", self.stdout), ("stderr", self.stderr), ("tty", self.tty)];
        text.extend_pairs(flags.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| (name, "true")));
        Ok(text.finish())
    }

    /// The channels a client opens a stream for.
    fn channels(self) -> impl Iterator<Item = u8> {
        let all = [
            (channels::STATUS, true),
            (channels::STDIN, self.stdin),
            (channels::STDOUT, self.stdout),
            (channels::STDERR, self.stderr),
        ];
        all.into_iter().filter(|(_, wanted)| *wanted).map(|(channel, _)| channel)
    }
}

/// Carries a conversation until the node has said its last or the client is gone; then whatever still runs is let go.
async fn talk(mut client: Client, outgoing: Outgoing, streams: Streams, to_node: mpsc::Sender<Bytes>, from_node: Body) {
    let (to_client, pieces) = mpsc::channel(STREAM_PIECES_MAX);
    let mut writer = AbortOnDropHandle::new(tokio::spawn(transport::write(pieces, outgoing)));
    let opened = tokio::time::timeout(STREAMS_OPEN_MAX, client.open(streams, &to_client)).await;
    let Ok(Some(wire)) = opened else { return };
    let mut speaking = AbortOnDropHandle::new(tokio::spawn(speak(from_node, wire, to_client.clone())));
    tokio::select! {
        () = listen(&mut client, &to_node, &to_client) => return,
        _ = &mut speaking => {}
    }
    drop((to_client, to_node));
    // The last bytes go out. A client that still sends is heard a little longer: closing on it would make its system
    // throw away what it has not read.
    let lingering = async {
        loop {
            tokio::select! {
                _ = &mut writer => break,
                said = client.next() => if said.is_none() { return },
            }
        }
        while client.next().await.is_some() {}
    };
    let _ = tokio::time::timeout(STREAM_LINGER, lingering).await;
}

/// From the client to the node, until the client is gone.
async fn listen(client: &mut Client, to_node: &mpsc::Sender<Bytes>, to_client: &mpsc::Sender<Bytes>) {
    while let Some(said) = client.next().await {
        for said in said {
            // A node that does not listen any more is about to say how it ended.
            let _ = match said {
                Said::Data { channel, bytes } => to_node.send(channels::encode(channel, &bytes)).await,
                Said::Finished { channel } => to_node.send(channels::close(channel)).await,
                Said::Answer(bytes) => to_client.send(bytes).await,
            };
        }
    }
}

/// From the node to the client, until the node has said its last.
async fn speak(from_node: Body, wire: Wire, to_client: mpsc::Sender<Bytes>) -> Option<()> {
    let mut body = from_node;
    let mut decoder = Decoder::default();
    let mut broken = None;
    'conversation: while let Some(frame) = body.frame().await {
        match frame.map(BodyFrame::into_data) {
            Ok(Ok(bytes)) => decoder.push(&bytes),
            Ok(Err(_trailers)) => continue,
            Err(error) => {
                broken = Some(error.to_string());
                break;
            }
        }
        loop {
            match decoder.frame() {
                Ok(Some(frame)) => {
                    for piece in wire.data(frame.channel, &frame.bytes) {
                        to_client.send(piece).await.ok()?;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    broken = Some(error.to_string());
                    break 'conversation;
                }
            }
        }
    }
    if let Some(why) = broken {
        let message = format!("Internal error occurred: the connection to the pod's node broke: {why}");
        let status =
            json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": message, "code": 500});
        for piece in wire.data(channels::STATUS, &status.to_string().into()) {
            to_client.send(piece).await.ok()?;
        }
    }
    for piece in wire.end() {
        to_client.send(piece).await.ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_of_a_query() {
        let read = |query: &str| Streams::read(&Query::parse(query));
        let streams = |stdin, stdout, stderr, tty| Streams { stdin, stdout, stderr, tty };
        let table = [
            ("stdout=true&stderr=true", Some(streams(false, true, true, false))),
            ("stdin=true&stdout=true&tty=true&stderr=true", Some(streams(true, true, false, true))),
            ("stdin=1&stderr=0", Some(streams(true, false, false, false))),
            ("tty=true", None),
            ("stdout=maybe", None),
        ];
        for (query, expected) in table {
            assert_eq!(read(query).ok(), expected, "{query}");
        }
        let query = Query::parse("command=sh&command=-c&command=a%20%26%20b&stdout=true&container=x");
        let text = Streams::read(&query).unwrap().query(&query, true).unwrap();
        assert_eq!(text, "command=sh&command=-c&command=a+%26+b&stdout=true");
        assert_eq!(read("stdout=true").unwrap().query(&Query::parse(""), true).unwrap_err().code, 400);
    }
}
