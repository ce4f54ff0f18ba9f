//! What a guest reads from stdin: what somebody sends into its container, out of a bounded pipe. Without one, stdin is at
//! its end from the start.

use bytes::Bytes;
use network::pipe::{Read, Reader};
use std::sync::Arc;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;
use wasmtime_wasi::cli::{IsTerminal, StdinStream};
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{InputStream, StreamError, StreamResult};

use crate::limits::CHUNK_BYTES_MAX;

/// The stdin of one instance. Every stream a guest makes of it reads from the same pipe.
#[derive(Clone)]
pub(crate) struct Source {
    pipe: Arc<Reader>,
    terminal: bool,
}

impl Source {
    pub(crate) fn new(pipe: Arc<Reader>, terminal: bool) -> Source {
        Source { pipe, terminal }
    }
}

impl IsTerminal for Source {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdinStream for Source {
    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        let chunks = futures::stream::unfold(self.pipe.clone(), |pipe| async move {
            loop {
                match pipe.read(CHUNK_BYTES_MAX) {
                    Read::Bytes(bytes) => return Some((Ok::<_, std::io::Error>(bytes), pipe)),
                    Read::End => return None,
                    Read::Broken(broken) => return Some((Err(broken.into()), pipe)),
                    Read::Pending => pipe.ready().await,
                }
            }
        });
        Box::new(StreamReader::new(Box::pin(chunks)))
    }
}

#[wasmtime_wasi_io::async_trait]
impl Pollable for Source {
    async fn ready(&mut self) {
        self.pipe.ready().await;
    }
}

impl InputStream for Source {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        match self.pipe.read(size.min(CHUNK_BYTES_MAX)) {
            Read::Bytes(bytes) => Ok(bytes),
            Read::Pending => Ok(Bytes::new()),
            Read::End => Err(StreamError::Closed),
            Read::Broken(broken) => Err(StreamError::LastOperationFailed(std::io::Error::from(broken).into())),
        }
    }
}
