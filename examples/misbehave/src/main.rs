//! Everything a bad guest does, one word each, so that you can see what becomes of its neighbours: nothing.

use std::collections::HashMap;
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

/// Whom to annoy: the app of the next folder.
const NEIGHBOUR: &str = "hello:80";
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n";

fn main() {
    let how = std::env::args().nth(1).unwrap_or_default();
    let ways: HashMap<&str, fn()> = HashMap::from([
        ("trap", trap as fn()),
        ("loop", endless_loop),
        ("recurse", recurse),
        ("memory", memory),
        ("flood", flood),
        ("wait", wait),
        ("sockets", sockets),
        ("fork", fork),
        ("slow", slow),
        ("headers", headers),
        ("endless", endless),
    ]);
    let Some(way) = ways.get(how.as_str()) else {
        let mut names: Vec<_> = ways.keys().copied().collect();
        names.sort_unstable();
        eprintln!("usage: misbehave {}", names.join("|"));
        kogia_sdk::exit(2)
    };
    println!("about to {how}");
    way();
}

/// Panics, which traps.
fn trap() {
    fn inner(depth: u32) {
        assert!(depth > 0, "misbehaving as asked");
        inner(black_box(depth - 1));
        black_box(depth);
    }
    inner(3);
}

/// Never yields.
fn endless_loop() {
    let mut turns = 0u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

/// Runs out of stack.
#[allow(unconditional_recursion, reason = "that is the point")]
fn recurse() {
    fn deeper(depth: u64) -> u64 {
        let here = black_box([depth; 64]);
        deeper(depth + 1) + here[0]
    }
    println!("{}", deeper(0));
}

/// Asks for memory until there is none.
fn memory() {
    let mut hoard = Vec::new();
    loop {
        hoard.push(black_box(vec![1u8; 1 << 20]));
    }
}

/// Writes as fast as it can, in lines without end as well.
fn flood() {
    let line = "flood ".repeat(1 << 10);
    let mut out = std::io::stdout();
    loop {
        let _ = out.write_all(line.as_bytes());
    }
}

/// Does not go when asked to.
fn wait() {
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}

/// Opens sockets and keeps them, and when it is given no more it goes on asking.
fn sockets() {
    let mut hoard = Vec::new();
    loop {
        match UdpSocket::bind("0.0.0.0:0") {
            Ok(socket) => hoard.push(socket),
            Err(_) => drop(black_box(UdpSocket::bind("0.0.0.0:0"))),
        }
    }
}

/// Asks its neighbour as fast as it can and does not wait for an answer.
fn fork() {
    loop {
        if let Ok(mut stream) = TcpStream::connect(NEIGHBOUR) {
            let _ = stream.write_all(REQUEST);
        }
    }
}

/// Asks its neighbour over and over, keeps every connection and reads no answer.
fn slow() {
    let mut open = Vec::new();
    loop {
        match TcpStream::connect(NEIGHBOUR) {
            Ok(mut stream) => {
                let _ = stream.write_all(REQUEST);
                open.push(stream);
            }
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    }
}

/// Answers with a head that has no end.
fn headers() {
    answer(b"HTTP/1.1 200 OK\r\n", &format!("X-Rude: {}\r\n", "a".repeat(8 << 10)));
}

/// Answers with a body that has no end.
fn endless() {
    let chunk = "endless ".repeat(1 << 10);
    answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &format!("{:x}\r\n{chunk}\r\n", chunk.len()));
}

fn answer(begin: &[u8], again: &str) {
    let listener = TcpListener::bind("0.0.0.0:8080").expect("the port is free in a pod of its own");
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut request = [0; 1024];
        let _ = stream.read(&mut request);
        let mut going = stream.write_all(begin).is_ok();
        while going {
            going = stream.write_all(again.as_bytes()).is_ok();
        }
    }
}
