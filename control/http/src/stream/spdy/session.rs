//! One SPDY connection as its server sees it: what the peer did with its streams, and what is answered to it at once.

use bytes::Bytes;

use super::Broken;
use super::frame::{Decoder, Frame};
use super::headers::{HeaderReader, HeaderWriter, Headers};

/// What happened on the connection, in order.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::stream) enum Event {
    /// These bytes are to be sent.
    Send(Bytes),
    /// The peer opened a stream, which is accepted.
    Opened { stream: u32, headers: Headers },
    /// Bytes arrived on a stream; one that is not open any more is to be ignored.
    Data { stream: u32, bytes: Bytes },
    /// The peer will send nothing more on the stream.
    Finished { stream: u32 },
    /// The stream is over in both directions.
    Reset { stream: u32 },
}

/// The machine of one connection.
pub(in crate::stream) struct Session {
    decoder: Decoder,
    reader: HeaderReader,
    writer: HeaderWriter,
    /// The client's last stream: its numbers are odd and grow.
    newest: u32,
}

impl Session {
    pub(in crate::stream) fn new() -> Self {
        Self { decoder: Decoder::default(), reader: HeaderReader::new(), writer: HeaderWriter::default(), newest: 0 }
    }

    /// Takes bytes of the peer and appends what came of them to `events`.
    ///
    /// # Errors
    /// [`Broken`]: the connection cannot go on.
    pub(in crate::stream) fn receive(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), Broken> {
        self.decoder.push(bytes);
        while let Some(frame) = self.decoder.next()? {
            self.handle(frame, events)?;
        }
        Ok(())
    }

    fn handle(&mut self, frame: Frame, events: &mut Vec<Event>) -> Result<(), Broken> {
        match frame {
            Frame::SynStream { stream, last, block } => {
                if stream % 2 == 0 || stream <= self.newest {
                    return Err(Broken::StreamNumber);
                }
                self.newest = stream;
                let headers = self.reader.read(&block)?;
                let block = self.writer.write(&[]);
                events.push(Event::Send(Frame::SynReply { stream, last: false, block }.encode()));
                events.push(Event::Opened { stream, headers });
                if last {
                    events.push(Event::Finished { stream });
                }
            }
            Frame::Data { stream, last, bytes } => {
                if !bytes.is_empty() {
                    events.push(Event::Data { stream, bytes });
                }
                if last {
                    events.push(Event::Finished { stream });
                }
            }
            Frame::SynReply { stream, last, block } | Frame::Headers { stream, last, block } => {
                // Read, because every block moves the decompressor on; what it says concerns nobody here.
                self.reader.read(&block)?;
                if last {
                    events.push(Event::Finished { stream });
                }
            }
            Frame::Reset { stream, .. } => events.push(Event::Reset { stream }),
            // A client's pings are odd (§2.6.5); an even one answers a ping of ours, and there are none.
            Frame::Ping(id) if id % 2 == 1 => events.push(Event::Send(Frame::Ping(id).encode())),
            // A client that goes away closes the connection when its streams have ended.
            Frame::Ping(_)
            | Frame::Settings(_)
            | Frame::GoAway { .. }
            | Frame::WindowUpdate { .. }
            | Frame::Other(_) => {}
        }
        Ok(())
    }
}
