//! Everything a bad guest does, one word each, so that you can see what becomes of its neighbours: nothing.

use std::collections::HashMap;
use std::hint::black_box;
use std::io::Write;

fn main() {
    let how = std::env::args().nth(1).unwrap_or_default();
    let ways: HashMap<&str, fn()> = HashMap::from([
        ("trap", trap as fn()),
        ("loop", endless_loop),
        ("recurse", recurse),
        ("memory", memory),
        ("flood", flood),
        ("wait", wait),
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
