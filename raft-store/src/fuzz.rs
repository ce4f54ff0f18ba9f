//! One entry point for every decoder that meets bytes of a disk, a file or a peer, for the fuzz targets in `fuzz/`.
//!
//! Each takes any bytes at all and says whether they were accepted. It puts the right checksum in front where the format
//! has one, since a fuzzer would not get past it, and holds what was accepted to what must be true of it. The crate's own
//! tests call the same functions with seeded changes of good examples, so every run of the tests builds and uses them.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::ConfChangeV2;

use crate::checkpoint::{decode_history, decode_live};
use crate::codec::{Reader, Writer};
use crate::command::Command;
use crate::log::{decode_payload, read_frame};
use crate::member::read_change;
use crate::roster;
use crate::snapshot::{Assembly, CHUNK_HEAD_BYTES, chunk_length};
use crate::state::State;
use crate::transport::{read_hello, read_message};

/// A target: its name, and the decoder.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// Every target, by the name of its file in `fuzz/fuzz_targets`.
pub const TARGETS: [Target; 12] = [
    ("command", command),
    ("head", head),
    ("live_row", live_row),
    ("history_row", history_row),
    ("member_change", member_change),
    ("log_frame", log_frame),
    ("log_payload", log_payload),
    ("roster", roster),
    ("snapshot_rows", snapshot_rows),
    ("snapshot_stream", snapshot_stream),
    ("hello", hello),
    ("wire_message", wire_message),
];

/// A replicated command.
pub fn command(bytes: &[u8]) -> bool {
    let Ok(command) = Command::decode(Bytes::copy_from_slice(bytes)) else { return false };
    assert_eq!(Command::decode(command.encode()).as_ref(), Ok(&command), "a command reads back");
    true
}

/// The head of a state, behind its checksum.
pub fn head(bytes: &[u8]) -> bool {
    let mut w = Writer::default();
    w.bytes(bytes);
    w.u32(crc32c::crc32c(bytes));
    State::decode_head(&mut Reader::new(w.0.into())).is_ok()
}

/// A key of the checkpoint.
pub fn live_row(bytes: &[u8]) -> bool {
    decode_live(Bytes::from_static(b"key"), &mut Reader::copy(bytes)).is_ok()
}

/// A revision of the checkpoint.
pub fn history_row(bytes: &[u8]) -> bool {
    decode_history(1, &mut Reader::copy(bytes)).is_ok()
}

/// A change of membership, as it is in the log and as members pass it on.
pub fn member_change(bytes: &[u8]) -> bool {
    ConfChangeV2::parse_from_bytes(bytes).is_ok_and(|change| read_change(&change).is_some())
}

/// What follows a segment's header, checksums included.
pub fn log_frame(bytes: &[u8]) -> bool {
    read_frame(&Bytes::copy_from_slice(bytes), 0, 1).is_some()
}

/// What is in a frame whose checksum is right.
pub fn log_payload(bytes: &[u8]) -> bool {
    let Ok(recovered) = decode_payload(Bytes::copy_from_slice(bytes)) else { return false };
    let mut indexes = recovered.entries.iter().map(|entry| entry.index);
    let first = indexes.next().unwrap_or_default();
    assert!(indexes.zip(first + 1..).all(|(index, expected)| index == expected), "entries leave no gap");
    true
}

/// The roster, behind its checksum.
pub fn roster(bytes: &[u8]) -> bool {
    roster::decode_body(&mut Reader::copy(bytes)).is_ok()
}

/// One chunk of a snapshot with the right checksum, and its end.
pub fn snapshot_rows(bytes: &[u8]) -> bool {
    let mut assembly = Assembly::default();
    let chunk = |length: usize, check: u32| {
        let mut w = Writer::default();
        w.count(length);
        w.u32(check);
        <[u8; CHUNK_HEAD_BYTES]>::try_from(w.0).expect("a head has its length")
    };
    if bytes.is_empty() {
        return false;
    }
    let rows = Bytes::copy_from_slice(bytes);
    assembly.add(&chunk(bytes.len(), crc32c::crc32c(bytes)), rows).is_ok()
        && assembly.add(&chunk(0, assembly.rows()), Bytes::new()).is_ok()
}

/// The chunks of a snapshot one after the other, as they come from a file or a peer.
pub fn snapshot_stream(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut assembly = Assembly::default();
    while let Some((head, after)) = rest.split_first_chunk::<CHUNK_HEAD_BYTES>() {
        let Ok(length) = chunk_length(head) else { return false };
        let Some((rows, after)) = after.split_at_checked(length) else { return false };
        match assembly.add(head, Bytes::copy_from_slice(rows)) {
            Ok(None) => rest = after,
            Ok(Some(_)) => return true,
            Err(_) => return false,
        }
    }
    false
}

/// How a peer introduces itself.
pub fn hello(bytes: &[u8]) -> bool {
    at_once(read_hello(&mut { bytes })).is_ok()
}

/// A message of a peer with its length in front.
pub fn wire_message(bytes: &[u8]) -> bool {
    at_once(read_message(&mut { bytes })).is_ok()
}

/// What is wired to end at once, since all bytes are there.
fn at_once<T>(work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match work.as_mut().poll(&mut context) {
        std::task::Poll::Ready(done) => done,
        std::task::Poll::Pending => panic!("reading from memory waits for nothing"),
    }
}
