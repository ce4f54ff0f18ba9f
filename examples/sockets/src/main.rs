//! Plain sockets in a pod: a server that says back what it heard, over TCP or UDP, and a caller that shows the answer.
//!
//! `sockets serve tcp|udp ADDRESS:PORT`
//! `sockets call tcp|udp HOST:PORT TEXT`
//! `sockets talk HOST:PORT LINES` says line after line over one TCP connection

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A server may be started after its callers; they wait this long for it.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
/// Between two lines of a talk.
const BREATH: Duration = Duration::from_millis(100);
/// A datagram and its answer may be lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["serve", "tcp", address] => serve_tcp(address),
        ["serve", "udp", address] => serve_udp(address),
        ["call", "tcp", address, text] => call(|| call_tcp(address, text)),
        ["call", "udp", address, text] => call(|| call_udp(address, text)),
        ["talk", address, lines] => talk(address, lines.parse().unwrap_or(1)),
        _ => {
            eprintln!(
                "usage: sockets serve tcp|udp ADDRESS:PORT\n       sockets call tcp|udp HOST:PORT TEXT\n       \
                 sockets talk HOST:PORT LINES"
            );
            kogia_sdk::exit(2)
        }
    };
    match done {
        Ok(()) => kogia_sdk::exit(0),
        Err(error) => {
            eprintln!("{error}");
            kogia_sdk::exit(1)
        }
    }
}

fn answer(text: &str, from: impl ToString, to: impl ToString) -> String {
    format!("{} heard {} from {}\n", to.to_string(), text.trim(), from.to_string())
}

fn serve_tcp(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("listening on {address}/tcp");
    loop {
        let (stream, peer) = listener.accept()?;
        // A caller that goes away half-way is no reason to end.
        if let Err(error) = serve_lines(stream) {
            eprintln!("{peer}: {error}");
        }
    }
}

fn serve_lines(stream: TcpStream) -> io::Result<()> {
    let (own, peer) = (stream.local_addr()?, stream.peer_addr()?);
    let mut writer = &stream;
    for line in BufReader::new(&stream).lines() {
        writer.write_all(answer(&line?, peer, own).as_bytes())?;
    }
    Ok(())
}

fn serve_udp(address: &str) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    println!("listening on {address}/udp");
    let mut datagram = [0; 4096];
    loop {
        let (length, peer) = socket.recv_from(&mut datagram)?;
        let text = String::from_utf8_lossy(&datagram[..length]);
        socket.send_to(answer(&text, peer, address).as_bytes(), peer)?;
    }
}

/// Calls until there is an answer.
fn call(once: impl Fn() -> io::Result<String>) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match once() {
            Ok(answer) => {
                print!("{answer}");
                return Ok(());
            }
            Err(error) if began.elapsed() > PATIENCE => return Err(error),
            Err(_) => sleep(PAUSE),
        }
    }
}

fn call_tcp(address: &str, text: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(format!("{text}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.ends_with('\n') { Ok(answer) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// One connection from the first line to the last; what becomes of it on the way is shown.
fn talk(address: &str, lines: u32) -> io::Result<()> {
    let stream = TcpStream::connect(address)?;
    let (mut writer, mut reader) = (&stream, BufReader::new(&stream));
    for number in 1..=lines {
        let said = writer.write_all(format!("{number}\n").as_bytes());
        let mut answer = String::new();
        let heard = said.and_then(|()| reader.read_line(&mut answer));
        if let Err(error) = heard {
            return Err(io::Error::new(error.kind(), format!("line {number}: {:?}: {error}", error.kind())));
        }
        if !answer.contains(&format!(" heard {number} from ")) {
            return Err(io::Error::other(format!("line {number} was answered with {answer:?}")));
        }
        println!("{number} answered");
        sleep(BREATH);
    }
    Ok(())
}

fn call_udp(address: &str, text: &str) -> io::Result<String> {
    let server = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    // WASI knows no timeout for datagrams.
    socket.set_nonblocking(true)?;
    socket.send_to(text.as_bytes(), server)?;
    let (mut datagram, deadline) = ([0; 4096], Instant::now() + ANSWER_TIMEOUT);
    let (length, from) = loop {
        match socket.recv_from(&mut datagram) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                sleep(PAUSE);
            }
            received => break received?,
        }
    };
    if from != server {
        return Err(io::Error::other(format!("{from} answered instead of {server}")));
    }
    Ok(String::from_utf8_lossy(&datagram[..length]).into_owned())
}
