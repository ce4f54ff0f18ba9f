//! A port-forward session in the channels of a WebSocket: one connection per port, made at once.
//!
//! Port number i has channel 2i for its bytes and 2i+1 for its error; the first message of each is the port, two bytes,
//! little endian.

use std::collections::HashMap;

use bytes::{Buf, Bytes};

use super::{Forward, Forwards, Lane, Target, labelled};
use crate::stream::transport::{Incoming, Outgoing};

/// The channel of the close signal (`v5.channel.k8s.io`): the byte after it is the channel that is over.
const CLOSE: u8 = 255;

/// A message of the client.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    Data {
        channel: u8,
        bytes: Bytes,
    },
    Finished {
        channel: u8,
    },
    /// It says nothing, as some clients do to keep a connection alive.
    Nothing,
}

fn read(mut message: Bytes) -> Message {
    match (message.first().copied(), message.get(1).copied()) {
        (Some(CLOSE), Some(channel)) => Message::Finished { channel },
        (None, _) | (Some(CLOSE), None) | (Some(_), None) => Message::Nothing,
        (Some(channel), Some(_)) => {
            message.advance(1);
            Message::Data { channel, bytes: message }
        }
    }
}

/// Serves a session until its client is gone or every connection has ended.
pub(super) async fn serve(target: &Target, ports: &[u16], mut incoming: Incoming, outgoing: Outgoing) {
    let (mut forwards, mut writer) = Forwards::new(target, outgoing);
    let mut open: HashMap<u8, Forward> = HashMap::new();
    for (data, port) in (0..).step_by(2).zip(ports) {
        for channel in [data, data + 1] {
            let _ = forwards.to_client.send(labelled(channel, &port.to_le_bytes())).await;
        }
        open.insert(data, forwards.open(u32::from(data), *port, Lane::Channels { data }));
    }
    while !forwards.pumps.is_empty() {
        tokio::select! {
            _ = forwards.pumps.join_next() => {}
            message = incoming.next() => match message.map(read) {
                None => return,
                Some(Message::Nothing) => {}
                Some(Message::Finished { channel }) => {
                    if let Some(forward) = open.get_mut(&channel) {
                        forward.to_pod = None;
                    }
                }
                Some(Message::Data { channel, bytes }) => {
                    if let Some(forward) = open.get(&channel) {
                        forward.send(bytes).await;
                    }
                }
            },
        }
    }
    // The last bytes go out, then the WebSocket is closed; a client that goes away first ends it, too.
    drop(forwards);
    loop {
        tokio::select! {
            _ = &mut writer => return,
            message = incoming.next() => if message.is_none() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_channels() {
        let data = |channel, bytes: &'static [u8]| Message::Data { channel, bytes: Bytes::from_static(bytes) };
        let table: [(&'static [u8], Message); 6] = [
            (&[], Message::Nothing),
            (&[0], Message::Nothing),
            (&[2, b'h', b'i'], data(2, b"hi")),
            (&[255, 4], Message::Finished { channel: 4 }),
            (&[255], Message::Nothing),
            (&[254, 0], data(254, &[0])),
        ];
        for (bytes, expected) in table {
            assert_eq!(read(Bytes::from_static(bytes)), expected, "{bytes:?}");
        }
    }
}
