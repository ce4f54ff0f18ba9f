//! Which two streams of a SPDY session are one connection.

use std::collections::HashMap;

use super::Lane;
use crate::limits::FORWARDS_MAX;

/// The error streams that wait for their data stream, by request.
#[derive(Debug, Default)]
pub(super) struct Pairing(HashMap<String, u32>);

/// What a new stream means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Paired {
    /// It is an error stream; its data stream is to come.
    Waiting,
    /// It is a data stream, and the connection can be made.
    Complete { port: u16, lane: Lane },
    /// It fits nothing.
    Refused,
}

impl Pairing {
    /// A stream was opened. Every client opens a connection's error stream first.
    ///
    /// Clients older than `requestID` opened both in turn, so that the numbers tell.
    pub(super) fn add(&mut self, stream: u32, headers: &[(String, String)]) -> Paired {
        let header = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let request = |error: u32| header("requestid").map_or_else(|| format!("stream {error}"), str::to_owned);
        let port = header("port").and_then(|port| port.parse().ok()).filter(|port| *port > 0);
        match (header("streamtype"), port) {
            (Some("error"), Some(_)) if self.0.len() < FORWARDS_MAX => {
                self.0.insert(request(stream), stream);
                Paired::Waiting
            }
            (Some("data"), Some(port)) => match self.0.remove(&request(stream.saturating_sub(2))) {
                Some(error) => Paired::Complete { port, lane: Lane::Streams { data: stream, error } },
                None => Paired::Refused,
            },
            _ => Paired::Refused,
        }
    }

    /// A stream ended before it had its other half.
    pub(super) fn forget(&mut self, stream: u32) {
        self.0.retain(|_, error| *error != stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(text: &str) -> Vec<(String, String)> {
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn two_streams_of_one_request_are_a_connection() {
        let complete = |data, error| Paired::Complete { port: 80, lane: Lane::Streams { data, error } };
        let table = [
            (1, "streamtype=error port=80 requestid=0", Paired::Waiting),
            (3, "streamtype=error port=80 requestid=1", Paired::Waiting),
            (5, "streamtype=data port=80 requestid=1", complete(5, 3)),
            (7, "streamtype=data port=80 requestid=0", complete(7, 1)),
            (9, "streamtype=data port=80 requestid=0", Paired::Refused),
            (11, "streamtype=error port=80", Paired::Waiting),
            (13, "streamtype=data port=80", complete(13, 11)),
            (15, "streamtype=error port=0", Paired::Refused),
            (17, "streamtype=error port=many", Paired::Refused),
            (19, "streamtype=stdin port=80", Paired::Refused),
            (21, "", Paired::Refused),
        ];
        let mut pairing = Pairing::default();
        for (stream, text, expected) in table {
            assert_eq!(pairing.add(stream, &headers(text)), expected, "{stream}: {text}");
        }
    }

    #[test]
    fn halves_are_bounded_and_forgotten() {
        let mut pairing = Pairing::default();
        let add = |pairing: &mut Pairing, stream: u32| {
            pairing.add(stream, &headers(&format!("streamtype=error port=80 requestid={stream}")))
        };
        for n in 0..FORWARDS_MAX {
            assert_eq!(add(&mut pairing, 2 * u32::try_from(n).unwrap() + 1), Paired::Waiting);
        }
        assert_eq!(add(&mut pairing, 9_999), Paired::Refused);
        pairing.forget(1);
        assert_eq!(add(&mut pairing, 10_001), Paired::Waiting);
    }
}
