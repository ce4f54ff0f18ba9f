//! Header blocks: names and values, compressed by one zlib stream per direction that starts from SPDY/3's dictionary
//! (§2.6.10).
//!
//! The reader is a raw inflater that is first given the dictionary as a block of its own: what a preset dictionary
//! (RFC 1950 §2.2) means, without a decompressor that knows about them. The writer does not compress at all: what it
//! says is a few bytes long, and a stored block (RFC 1951 §3.2.4) is as good a block as any.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

use super::Broken;
use crate::limits::{SPDY_HEADER_BYTES_MAX, SPDY_HEADERS_MAX};

/// The dictionary of SPDY/3, byte for byte from the protocol's specification.
pub(super) const DICTIONARY: &[u8] = include_bytes!("spdy3.dict");

/// Its Adler-32, which begins every stream that uses it.
pub(super) const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

/// Names and values of one stream, names in lower case.
pub(in crate::stream) type Headers = Vec<(String, String)>;

/// Reads the blocks of one direction, in their order.
pub(super) struct HeaderReader {
    inflater: Decompress,
    started: bool,
}

impl HeaderReader {
    pub(super) fn new() -> Self {
        Self { inflater: Decompress::new(false), started: false }
    }

    /// The headers of a block.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, Broken> {
        let mut block = block;
        if !self.started {
            block = self.start(block)?;
        }
        parse(&self.inflate(block, SPDY_HEADER_BYTES_MAX)?)
    }

    /// Checks the zlib header (RFC 1950 §2.2) and gives the inflater the dictionary.
    fn start<'a>(&mut self, mut block: &'a [u8]) -> Result<&'a [u8], Broken> {
        const DEFLATE: u8 = 8;
        const PRESET: u8 = 0x20;
        if block.len() < 6 {
            return Err(Broken::Headers);
        }
        let (method, flags) = (block.get_u8(), block.get_u8());
        let valid = method & 0x0f == DEFLATE && flags & PRESET != 0 && u16::from_be_bytes([method, flags]) % 31 == 0;
        if !valid || block.get_u32() != DICTIONARY_ID {
            return Err(Broken::Headers);
        }
        let mut known = BytesMut::new();
        put_stored(&mut known, DICTIONARY);
        self.inflate(&known, DICTIONARY.len() + 1)?;
        self.started = true;
        Ok(block)
    }

    fn inflate(&mut self, mut input: &[u8], bytes_max: usize) -> Result<Vec<u8>, Broken> {
        let mut output = Vec::with_capacity(bytes_max);
        while !input.is_empty() {
            let before = self.inflater.total_in();
            let status = self.inflater.decompress_vec(input, &mut output, FlushDecompress::Sync);
            let taken = usize::try_from(self.inflater.total_in() - before).unwrap_or(usize::MAX);
            input = input.get(taken..).ok_or(Broken::Headers)?;
            match status {
                _ if output.len() >= bytes_max => return Err(Broken::TooLarge),
                Ok(Status::Ok) if taken > 0 => {}
                Ok(Status::BufError) if input.is_empty() => {}
                // The stream's end, or no progress: neither can be in a connection that goes on.
                _ => return Err(Broken::Headers),
            }
        }
        Ok(output)
    }
}

fn parse(mut block: &[u8]) -> Result<Headers, Broken> {
    let number = |block: &mut &[u8]| if block.len() < 4 { Err(Broken::Headers) } else { Ok(block.get_u32() as usize) };
    let count = number(&mut block)?;
    if count > SPDY_HEADERS_MAX {
        return Err(Broken::TooLarge);
    }
    let mut headers = Headers::with_capacity(count);
    for _ in 0..count {
        let mut text = || {
            let length = number(&mut block)?;
            let (text, rest) = block.split_at_checked(length).ok_or(Broken::Headers)?;
            block = rest;
            Ok(String::from_utf8_lossy(text).into_owned())
        };
        headers.push((text()?.to_ascii_lowercase(), text()?));
    }
    Ok(headers)
}

/// Writes the blocks of one direction.
#[derive(Default)]
pub(super) struct HeaderWriter {
    started: bool,
}

impl HeaderWriter {
    /// The block of these headers, to be sent before the next one is written.
    pub(super) fn write(&mut self, headers: &[(&str, &str)]) -> Bytes {
        let mut plain = BytesMut::new();
        let number = |n: usize| u32::try_from(n).expect("our own headers are short");
        plain.put_u32(number(headers.len()));
        for (name, value) in headers {
            for text in [name, value] {
                plain.put_u32(number(text.len()));
                plain.put_slice(text.as_bytes());
            }
        }
        let mut block = BytesMut::new();
        if !self.started {
            // Deflate with a window of 32 KiB, fastest, with a dictionary; divisible by 31.
            block.put_u16(0x7820);
            block.put_u32(DICTIONARY_ID);
            self.started = true;
        }
        put_stored(&mut block, &plain);
        // A sync flush (RFC 1951 §3.2.4, no bytes): inflaters such as Go's hand out what they have only at one.
        put_stored(&mut block, &[]);
        block.freeze()
    }
}

/// One stored block that is not the last one.
fn put_stored(block: &mut BytesMut, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("stored blocks here are below 64 KiB");
    block.put_u8(0);
    block.put_u16_le(length);
    block.put_u16_le(!length);
    block.put_slice(bytes);
}
