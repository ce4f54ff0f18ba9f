//! `sha256sum`: whether a file arrived as it was sent. SHA-256 is FIPS 180-4, §5 and §6.2.

use std::fs::File;
use std::io::{self, Read};

use crate::text::PIECE_BYTES;
use crate::{Done, Streams, about, options};

/// Fractions of the square roots of the first eight primes.
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// `sha256sum [FILE…]`
pub(crate) fn sum(args: &[String], streams: &mut Streams<'_>) -> Done {
    let (_, paths) = options(args, "b")?;
    for path in if paths.is_empty() { vec!["-"] } else { paths } {
        let digest = match path {
            "-" => digest(streams.stdin),
            _ => File::open(path).and_then(|mut file| digest(&mut file)),
        };
        let digest = digest.map_err(|error| about(path, &error))?;
        writeln!(streams.stdout, "{digest}  {path}")?;
    }
    Ok(())
}

pub(crate) fn digest(from: &mut dyn Read) -> io::Result<String> {
    let (mut state, rounds) = (INITIAL, rounds());
    let (mut held, mut total) = (Vec::new(), 0_u64);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = from.read(&mut piece)?;
        if length == 0 {
            break;
        }
        total += length as u64;
        held.extend_from_slice(&piece[..length]);
        let whole = held.len() / 64 * 64;
        held[..whole].chunks_exact(64).for_each(|block| compress(&mut state, &rounds, block));
        held.drain(..whole);
    }
    held.push(0x80);
    while held.len() % 64 != 56 {
        held.push(0);
    }
    held.extend_from_slice(&(total * 8).to_be_bytes());
    held.chunks_exact(64).for_each(|block| compress(&mut state, &rounds, block));
    Ok(state.iter().map(|word| format!("{word:08x}")).collect())
}

/// The first 32 bits of the fractions of the cube roots of the first 64 primes, found by integer search.
fn rounds() -> [u32; 64] {
    let mut primes = (2_u128..).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0));
    std::array::from_fn(|_| {
        // The largest r with r³ ≤ prime · 2⁹⁶ is the root with 32 bits of fraction.
        let target = primes.next().unwrap_or(2) << 96;
        let (mut low, mut high) = (0_u128, 1_u128 << 36);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if middle * middle * middle <= target { low = middle } else { high = middle }
        }
        (low & 0xffff_ffff) as u32
    })
}

fn compress(state: &mut [u32; 8], rounds: &[u32; 64], block: &[u8]) {
    let mut words = [0_u32; 64];
    for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
        *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    for i in 16..64 {
        let (near, far) = (words[i - 2], words[i - 15]);
        let s0 = far.rotate_right(7) ^ far.rotate_right(18) ^ (far >> 3);
        let s1 = near.rotate_right(17) ^ near.rotate_right(19) ^ (near >> 10);
        words[i] = words[i - 16].wrapping_add(s0).wrapping_add(words[i - 7]).wrapping_add(s1);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (round, word) in rounds.iter().zip(words) {
        let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let first = h.wrapping_add(s1).wrapping_add((e & f) ^ (!e & g)).wrapping_add(*round).wrapping_add(word);
        let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let second = s0.wrapping_add((a & b) ^ (a & c) ^ (b & c));
        (h, g, f, e) = (g, f, e, d.wrapping_add(first));
        (d, c, b, a) = (c, b, a, first.wrapping_add(second));
    }
    for (sum, part) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *sum = sum.wrapping_add(part);
    }
}
