//! Load over HTTP/1.1: so many connections, each asking again as soon as it is answered.
//!
//! The client is as thin as can be, since it shares the processors with what it measures: it counts what it was
//! answered by status and reads bodies by their `Content-Length` or chunks, nothing more.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What a load came to.
#[derive(Default)]
pub struct Load {
    /// Answers with status 200.
    pub good: u64,
    /// Other answers.
    pub other: u64,
    /// How long each good answer took, in microseconds, sorted.
    latencies: Vec<u32>,
    seconds: f64,
}

impl Load {
    /// Good answers per second.
    pub fn per_second(&self) -> f64 {
        self.good as f64 / self.seconds
    }

    /// The latency that `part` of the good answers stayed within, in milliseconds.
    pub fn quantile_ms(&self, part: f64) -> f64 {
        let at = ((self.latencies.len() as f64 * part) as usize).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).map_or(f64::NAN, |micros| f64::from(*micros) / 1e3)
    }

    fn add(&mut self, other: Load) {
        self.good += other.good;
        self.other += other.other;
        self.latencies.extend(other.latencies);
    }
}

/// Where a load goes.
#[derive(Clone, Debug)]
pub struct Aim {
    pub address: SocketAddr,
    pub host: String,
    pub path: String,
}

/// Asks over `connections` connections for so long. With a `pause`, each connection rests that long between requests.
pub async fn run(aim: &Aim, connections: usize, time: Duration, pause: Option<Duration>) -> anyhow::Result<Load> {
    let begin = Instant::now();
    let mut asking = JoinSet::new();
    for _ in 0..connections {
        let aim = aim.clone();
        asking.spawn(async move { ask(&aim, begin + time, pause).await });
    }
    let mut all = Load::default();
    while let Some(one) = asking.join_next().await {
        all.add(one??);
    }
    all.latencies.sort_unstable();
    all.seconds = begin.elapsed().as_secs_f64();
    Ok(all)
}

async fn ask(aim: &Aim, until: Instant, pause: Option<Duration>) -> anyhow::Result<Load> {
    let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", aim.path, aim.host).into_bytes();
    let mut load = Load::default();
    let mut connection: Option<TcpStream> = None;
    let mut buffer = Vec::with_capacity(4096);
    while Instant::now() < until {
        let stream = match &mut connection {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect(aim.address).await;
                let stream = stream.with_context(|| format!("cannot connect to {}", aim.address))?;
                stream.set_nodelay(true)?;
                none.insert(stream)
            }
        };
        let begin = Instant::now();
        let answer = timeout(crate::limits::REQUEST_WAIT, exchange(stream, &request, &mut buffer));
        let answer = answer.await.with_context(|| format!("{} did not answer in time", aim.address))?;
        match answer {
            Ok((200, stays)) => {
                load.good += 1;
                load.latencies.push(u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX));
                if !stays {
                    connection = None;
                }
            }
            Ok(_) => {
                load.other += 1;
                connection = None;
            }
            // A server that ends a connection between two requests may do so; the next one is asked anew.
            Err(_) => {
                load.other += 1;
                connection = None;
            }
        }
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
    Ok(load)
}

/// Sends one request and waits for the first bytes of its answer.
pub async fn first_bytes(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> anyhow::Result<()> {
    stream.write_all(request).await?;
    buffer.clear();
    read_more(stream, buffer).await
}

/// One request and its whole answer: the status, and whether the connection stays open.
async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> anyhow::Result<(u16, bool)> {
    first_bytes(stream, request, buffer).await?;
    rest(stream, buffer).await
}

/// What follows the first bytes of an answer: the status, and whether the connection stays open.
pub async fn rest(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<(u16, bool)> {
    let head = loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            break end + 4;
        }
        read_more(stream, buffer).await?;
    };
    let text = std::str::from_utf8(&buffer[..head])?.to_ascii_lowercase();
    let status = text.split_whitespace().nth(1).context("no status")?.parse()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim));
    if let Some(length) = field("content-length") {
        let length: usize = length.parse()?;
        while buffer.len() < head + length {
            read_more(stream, buffer).await?;
        }
    } else {
        // Chunks end with an empty one, and what is asked for here has no trailers.
        while !buffer[head..].ends_with(b"0\r\n\r\n") {
            read_more(stream, buffer).await?;
        }
    }
    Ok((status, field("connection") != Some("close")))
}

async fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> anyhow::Result<()> {
    anyhow::ensure!(buffer.len() < ANSWER_BYTES_MAX, "the answer is too long");
    anyhow::ensure!(stream.read_buf(buffer).await? > 0, "the connection was closed");
    Ok(())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_of_both_lengths_are_read_to_their_end() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answers = [
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            ];
            for answer in answers {
                let mut asked = [0; 1024];
                assert!(stream.read(&mut asked).await.unwrap() > 0);
                let (first, rest) = answer.split_at(20);
                stream.write_all(first.as_bytes()).await.unwrap();
                stream.write_all(rest.as_bytes()).await.unwrap();
            }
        });
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut buffer = Vec::new();
        let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        for expected in [(200, true), (200, true), (503, false)] {
            assert_eq!(exchange(&mut stream, request, &mut buffer).await.unwrap(), expected);
        }
        server.await.unwrap();
    }

    #[test]
    fn quantiles_are_of_what_was_measured() {
        let load = Load { good: 4, other: 0, latencies: vec![1000, 2000, 3000, 4000], seconds: 2.0 };
        assert_eq!((load.per_second(), load.quantile_ms(0.5), load.quantile_ms(0.99)), (2.0, 3.0, 4.0));
        assert!(Load::default().quantile_ms(0.5).is_nan());
    }
}
