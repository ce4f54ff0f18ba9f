//! Commands that pass bytes on: all of them, the first, the last, or only their number.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::thread;
use std::time::Duration;

use crate::{Done, Failure, Streams, about, options};

/// How often `tail -f` looks for more.
const FOLLOW_PAUSE: Duration = Duration::from_millis(500);

/// Bytes moved at once.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// Hands every source to `each`: the files, or stdin for `-` and where there are none.
fn sources(
    paths: &[&str],
    streams: &mut Streams<'_>,
    mut each: impl FnMut(&str, &mut dyn Read, &mut dyn Write) -> io::Result<()>,
) -> Done {
    for path in if paths.is_empty() { &["-"] } else { paths } {
        let done = match *path {
            "-" => each(path, streams.stdin, streams.stdout),
            _ => File::open(path).and_then(|mut file| each(path, &mut file, streams.stdout)),
        };
        done.map_err(|error| about(path, &error))?;
    }
    Ok(())
}

/// Moves everything; `io::copy` would move 8 KiB at a time.
pub(crate) fn pass(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<u64> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut total = 0;
    loop {
        let length = from.read(&mut piece)?;
        if length == 0 {
            to.flush()?;
            return Ok(total);
        }
        to.write_all(&piece[..length])?;
        // Whoever watches sees it now: these are no files but conversations.
        to.flush()?;
        total += length as u64;
    }
}

/// `cat [FILE…]`
pub(crate) fn cat(args: &[String], streams: &mut Streams<'_>) -> Done {
    let (_, paths) = options(args, "u")?;
    sources(&paths, streams, |_, from, to| pass(from, to).map(drop))
}

/// `tee [-a] [FILE…]`
pub(crate) fn tee(args: &[String], streams: &mut Streams<'_>) -> Done {
    let (letters, paths) = options(args, "a")?;
    let mut files = Vec::new();
    for path in paths {
        let append = letters.contains('a');
        let file = File::options().create(true).write(true).append(append).truncate(!append).open(path);
        files.push(file.map_err(|error| about(path, &error))?);
    }
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = streams.stdin.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        streams.stdout.write_all(&piece[..length])?;
        for file in &mut files {
            file.write_all(&piece[..length])?;
        }
    }
}

/// What `head` and `tail` count, and how many.
struct Amount {
    count: u64,
    bytes: bool,
    /// `tail -n +5`: from there to the end.
    from: bool,
    follow: bool,
}

/// `-n 5`, `-n5`, `-5`, `-c 5`, `-n +5`, `-f`
fn amount(args: &[String]) -> Result<(Amount, Vec<&str>), Failure> {
    let mut amount = Amount { count: 10, bytes: false, from: false, follow: false };
    let mut paths = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let number = match arg.strip_prefix('-') {
            Some("f") => {
                amount.follow = true;
                continue;
            }
            Some(rest) if rest.starts_with(['n', 'c']) => {
                amount.bytes = rest.starts_with('c');
                match &rest[1..] {
                    "" => args.next().ok_or("how many?")?.as_str(),
                    attached => attached,
                }
            }
            Some(rest) if rest.starts_with(|letter: char| letter.is_ascii_digit()) => rest,
            Some(rest) if !rest.is_empty() => return Err(format!("unknown option -{rest}").into()),
            _ => {
                paths.push(arg.as_str());
                continue;
            }
        };
        amount.from = number.starts_with('+');
        let digits = number.trim_start_matches('+');
        amount.count = digits.parse().map_err(|_| format!("invalid number {number:?}"))?;
    }
    Ok((amount, paths))
}

/// `head [-n LINES | -c BYTES] [FILE…]`
pub(crate) fn head(args: &[String], streams: &mut Streams<'_>) -> Done {
    let (amount, paths) = amount(args)?;
    sources(&paths, streams, |_, from, to| {
        let mut from = BufReader::with_capacity(PIECE_BYTES, from);
        if amount.bytes {
            return pass(&mut from.take(amount.count), to).map(drop);
        }
        let mut line = Vec::new();
        for _ in 0..amount.count {
            line.clear();
            if from.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            to.write_all(&line)?;
        }
        Ok(())
    })
}

/// `tail [-n LINES | -c BYTES] [-f] [FILE…]`
pub(crate) fn tail(args: &[String], streams: &mut Streams<'_>) -> Done {
    let (amount, paths) = amount(args)?;
    sources(&paths, streams, |_, from, to| {
        let mut from = BufReader::with_capacity(PIECE_BYTES, from);
        last(&amount, &mut from, to)?;
        to.flush()?;
        if !amount.follow {
            return Ok(());
        }
        // Until whoever watches goes away, which ends the command.
        loop {
            if pass(&mut from, to)? == 0 {
                thread::sleep(FOLLOW_PAUSE);
            }
        }
    })
}

fn last(amount: &Amount, from: &mut impl BufRead, to: &mut dyn Write) -> io::Result<()> {
    let kept = usize::try_from(amount.count).unwrap_or(usize::MAX);
    let passed = amount.count.saturating_sub(1);
    if amount.bytes && amount.from {
        io::copy(&mut from.take(passed), &mut io::sink())?;
        return pass(from, to).map(drop);
    }
    if amount.bytes {
        let mut held: VecDeque<u8> = VecDeque::new();
        loop {
            let piece = from.fill_buf()?;
            if piece.is_empty() {
                return to.write_all(held.make_contiguous());
            }
            let length = piece.len();
            held.extend(piece);
            from.consume(length);
            held.drain(..held.len().saturating_sub(kept));
        }
    }
    let (mut held, mut number) = (VecDeque::new(), 0);
    loop {
        let mut line = Vec::new();
        if from.read_until(b'\n', &mut line)? == 0 {
            return held.iter().try_for_each(|line: &Vec<u8>| to.write_all(line));
        }
        number += 1;
        if amount.from {
            if number > passed {
                to.write_all(&line)?;
            }
            continue;
        }
        held.push_back(line);
        if held.len() > kept {
            held.pop_front();
        }
    }
}

/// `wc [-lwc] [FILE…]`
pub(crate) fn count(args: &[String], streams: &mut Streams<'_>) -> Done {
    let (letters, paths) = options(args, "lwc")?;
    let letters = if letters.is_empty() { "lwc" } else { &letters };
    sources(&paths, streams, |path, from, to| {
        let (mut lines, mut words, mut bytes, mut inside) = (0_u64, 0_u64, 0_u64, false);
        let mut from = BufReader::with_capacity(PIECE_BYTES, from);
        loop {
            let piece = from.fill_buf()?;
            if piece.is_empty() {
                break;
            }
            for byte in piece {
                lines += u64::from(*byte == b'\n');
                words += u64::from(!inside && !byte.is_ascii_whitespace());
                inside = !byte.is_ascii_whitespace();
            }
            let length = piece.len();
            bytes += length as u64;
            from.consume(length);
        }
        let counts = [('l', lines), ('w', words), ('c', bytes)];
        let shown = counts.iter().filter(|(letter, _)| letters.contains(*letter));
        let shown: Vec<String> = shown.map(|(_, number)| number.to_string()).collect();
        let name = if path == "-" { String::new() } else { format!(" {path}") };
        writeln!(to, "{}{name}", shown.join(" "))
    })
}
