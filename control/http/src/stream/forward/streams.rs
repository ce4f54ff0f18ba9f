//! A port-forward session over SPDY: any number of connections, as its client opens them.

use std::collections::HashMap;

use bytes::Bytes;
use tracing::debug;

use super::pairing::{Paired, Pairing};
use super::{Forward, Forwards, Target};
use crate::limits::FORWARDS_MAX;
use crate::stream::spdy::{Event, Frame, Session};
use crate::stream::transport::{Incoming, Outgoing};

/// REFUSED_STREAM (§2.6.3): the stream was not acted upon.
const REFUSED: u32 = 3;

/// Serves a session until its client is gone; what still waits for that client goes with it.
pub(super) async fn serve(target: &Target, mut incoming: Incoming, outgoing: Outgoing) {
    let (forwards, _writer) = Forwards::new(target, outgoing);
    let mut streams = Streams { forwards, pairing: Pairing::default(), open: HashMap::new() };
    let mut session = Session::new();
    let mut events = Vec::new();
    while let Some(bytes) = incoming.next().await {
        let outcome = session.receive(&bytes, &mut events);
        for event in events.drain(..) {
            streams.take(event).await;
        }
        if let Err(error) = outcome {
            return debug!(%error, "a port-forward session broke");
        }
    }
}

struct Streams {
    forwards: Forwards,
    pairing: Pairing,
    /// By data stream.
    open: HashMap<u32, Forward>,
}

impl Streams {
    async fn take(&mut self, event: Event) {
        while let Some(ended) = self.forwards.pumps.try_join_next() {
            if let Ok(stream) = ended {
                self.open.remove(&stream);
            }
        }
        match event {
            Event::Send(bytes) => self.send(bytes).await,
            Event::Opened { stream, headers } => match self.pairing.add(stream, &headers) {
                Paired::Waiting => {}
                Paired::Complete { port, lane } if self.open.len() < FORWARDS_MAX => {
                    self.open.insert(stream, self.forwards.open(stream, port, lane));
                }
                Paired::Complete { lane, .. } => {
                    let message = format!("at most {FORWARDS_MAX} connections can be forwarded at a time");
                    self.send(lane.error(message)).await;
                    for piece in lane.end(false) {
                        self.send(piece).await;
                    }
                }
                Paired::Refused => self.send(Frame::Reset { stream, code: REFUSED }.encode()).await,
            },
            Event::Data { stream, bytes } => {
                if let Some(forward) = self.open.get(&stream) {
                    forward.send(bytes).await;
                }
            }
            Event::Finished { stream } => {
                if let Some(forward) = self.open.get_mut(&stream) {
                    forward.to_pod = None;
                }
            }
            Event::Reset { stream } => {
                self.pairing.forget(stream);
                if let Some(forward) = self.open.get(&stream) {
                    forward.abort.cancel();
                }
            }
        }
    }

    /// Sends to the client; when it is gone the reader is about to notice.
    async fn send(&self, bytes: Bytes) {
        let _ = self.forwards.to_client.send(bytes).await;
    }
}
