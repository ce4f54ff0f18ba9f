//! A program that listens by itself: sends every line back, one connection after the other, for ever.
//!
//! While nobody calls it, it does not run at all: see the annotation in `app.yaml`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

/// Longer lines are cut into pieces.
const LINE_BYTES_MAX: u64 = 4096;

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("0.0.0.0:7000")?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (client, address) = listener.accept()?;
        if let Err(error) = echo(&client) {
            println!("{address}: {error}");
        }
    }
}

fn echo(client: &TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(client);
    let mut line = Vec::new();
    while lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)? > 0 {
        let mut out = client;
        out.write_all(&line)?;
        line.clear();
    }
    Ok(())
}
