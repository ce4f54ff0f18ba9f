//! The 512 bytes before each entry of an archive: POSIX `ustar` (IEEE 1003.1 §pax), read also as GNU writes it.

use super::BLOCK;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    Link,
    /// `x`: attributes of the next entry.
    Attributes,
    /// GNU's `L`: the name of the next entry.
    LongName,
    /// GNU's `K`: the link of the next entry.
    LongLink,
    /// Devices, pipes, hard links, attributes for the whole archive: passed over.
    Other(u8),
}

/// One header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) size: u64,
    /// Seconds since 1970.
    pub(super) changed: u64,
    pub(super) link: String,
}

/// Where a field stands.
const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const OWNERS: std::ops::Range<usize> = 108..124;
const SIZE: std::ops::Range<usize> = 124..136;
const CHANGED: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const KIND: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..265;
const PREFIX: std::ops::Range<usize> = 345..500;

impl Header {
    /// Reads a block; `Ok(None)` for one of zeros, which ends an archive.
    pub(super) fn read(block: &[u8; BLOCK]) -> Result<Option<Self>, &'static str> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if number(&block[CHECKSUM]) != Some(checksum(block)) {
            return Err("this does not look like a tar archive");
        }
        let mut name = text(&block[NAME]);
        if block[MAGIC].starts_with(b"ustar\0") && block[PREFIX.start] != 0 {
            name = format!("{}/{name}", text(&block[PREFIX]));
        }
        let kind = match block[KIND] {
            // Old archives say that an entry is a folder by its name alone.
            b'0' | 0 | b'7' if name.ends_with('/') => Kind::Folder,
            b'0' | 0 | b'7' => Kind::File,
            b'5' => Kind::Folder,
            b'2' => Kind::Link,
            b'x' => Kind::Attributes,
            b'L' => Kind::LongName,
            b'K' => Kind::LongLink,
            other => Kind::Other(other),
        };
        let size = number(&block[SIZE]).ok_or("a size cannot be read")?;
        let changed = number(&block[CHANGED]).unwrap_or(0);
        Ok(Some(Self { name, kind, size, changed, link: text(&block[LINK]) }))
    }

    /// The block. A name or link that does not fit is cut: [`long`] has come before it.
    pub(super) fn write(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        put(&mut block[NAME], self.name.as_bytes());
        put(&mut block[MODE], if self.kind == Kind::Folder { b"0000755\0" } else { b"0000644\0" });
        put(&mut block[OWNERS], b"0000000\x000000000\0");
        put_number(&mut block[SIZE], self.size);
        put_number(&mut block[CHANGED], self.changed);
        block[KIND] = match self.kind {
            Kind::File => b'0',
            Kind::Folder => b'5',
            Kind::Link => b'2',
            Kind::Attributes => b'x',
            Kind::LongName => b'L',
            Kind::LongLink => b'K',
            Kind::Other(letter) => letter,
        };
        put(&mut block[LINK], self.link.as_bytes());
        put(&mut block[MAGIC], b"ustar  \0");
        let sum = checksum(&block);
        put(&mut block[CHECKSUM], format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// The blocks that carry a name of any length before its entry, as GNU has it.
pub(super) fn long(kind: Kind, text: &str) -> Vec<u8> {
    let size = text.len() as u64 + 1;
    let head = Header { name: "././@LongLink".to_owned(), kind, size, changed: 0, link: String::new() };
    let mut blocks = head.write().to_vec();
    blocks.extend_from_slice(text.as_bytes());
    blocks.resize(blocks.len().div_ceil(BLOCK) * BLOCK + if text.len().is_multiple_of(BLOCK) { BLOCK } else { 0 }, 0);
    blocks
}

/// Whether a name has to be carried by [`long`].
pub(super) fn is_long(text: &str) -> bool {
    text.len() > NAME.len()
}

fn put(field: &mut [u8], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

/// Octal digits, or, where they do not suffice, GNU's base 256.
fn put_number(field: &mut [u8], number: u64) {
    let digits = format!("{number:0width$o}\0", width = field.len() - 1);
    if digits.len() <= field.len() {
        return put(field, digits.as_bytes());
    }
    let start = field.len() - 8;
    field[start..].copy_from_slice(&number.to_be_bytes());
    field[0] = 0x80;
}

fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len().checked_sub(8)?);
        let fits = high.iter().enumerate().all(|(at, byte)| if at == 0 { *byte == 0x80 } else { *byte == 0 });
        return fits.then(|| u64::from_be_bytes(low.try_into().unwrap_or_default()));
    }
    let digits = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// The sum of all bytes, the checksum's own counted as blanks.
fn checksum(block: &[u8; BLOCK]) -> u64 {
    let bytes = block.iter().enumerate();
    bytes.map(|(at, byte)| if CHECKSUM.contains(&at) { 32 } else { u64::from(*byte) }).sum()
}
