//! Frames as tables, a client's session as a story, and garbage from seeds.

use std::io::Write;

use bytes::Bytes;
use flate2::Crc;

use super::frame::{Decoder, Frame};
use super::headers::{DICTIONARY, DICTIONARY_ID, HeaderReader, HeaderWriter};
use super::{Broken, Event, Session};
use crate::limits::{SPDY_CONTROL_BYTES_MAX, SPDY_HEADER_BYTES_MAX};

fn bytes(text: &[u8]) -> Bytes {
    Bytes::copy_from_slice(text)
}

fn decode(wire: &[u8]) -> Result<Vec<Frame>, Broken> {
    let mut decoder = Decoder::default();
    decoder.push(wire);
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next()? {
        frames.push(frame);
    }
    Ok(frames)
}

#[test]
fn frames_on_the_wire() {
    let table: [(&[u8], Frame); 9] = [
        (
            &[0x80, 3, 0, 1, 1, 0, 0, 12, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, b'h', b'b'],
            Frame::SynStream { stream: 5, last: true, block: bytes(b"hb") },
        ),
        (
            &[0x80, 3, 0, 2, 0, 0, 0, 5, 0, 0, 0, 5, b'h'],
            Frame::SynReply { stream: 5, last: false, block: bytes(b"h") },
        ),
        (&[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 3], Frame::Reset { stream: 5, code: 3 }),
        (&[0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0], Frame::Settings(bytes(&[0; 4]))),
        (&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7], Frame::Ping(7)),
        (&[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 0], Frame::GoAway { last_stream: 9, code: 0 }),
        (&[0x80, 3, 0, 8, 1, 0, 0, 4, 0, 0, 0, 5], Frame::Headers { stream: 5, last: true, block: Bytes::new() }),
        (&[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 5, 0, 1, 0, 0], Frame::WindowUpdate { stream: 5, delta: 65_536 }),
        (&[0, 0, 0, 5, 1, 0, 0, 2, b'h', b'i'], Frame::Data { stream: 5, last: true, bytes: bytes(b"hi") }),
    ];
    for (wire, frame) in table {
        assert_eq!(decode(wire).unwrap(), std::slice::from_ref(&frame));
        assert_eq!(frame.encode(), wire, "{frame:?}");
        // Byte by byte only data comes in pieces.
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for byte in wire {
            decoder.push(&[*byte]);
            frames.extend(decoder.next().unwrap());
        }
        match frame {
            Frame::Data { .. } => {
                let piece = |last, text: &[u8]| Frame::Data { stream: 5, last, bytes: bytes(text) };
                assert_eq!(frames, [piece(false, b"h"), piece(true, b"i")]);
            }
            other => assert_eq!(frames, [other]),
        }
    }
}

#[test]
fn frames_that_break_the_connection() {
    let long = u32::try_from(SPDY_CONTROL_BYTES_MAX + 1).unwrap().to_be_bytes();
    let table: [(&[u8], Broken); 4] = [
        (&[0x80, 2, 0, 6, 0, 0, 0, 4], Broken::Frame),
        (&[0x80, 3, 0, 6, 0, 0, 0, 3, 0, 0, 0], Broken::Frame),
        (&[0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1], Broken::Frame),
        (&[0x80, 3, 0, 1, 0, long[1], long[2], long[3]], Broken::TooLarge),
    ];
    for (wire, broken) in table {
        assert_eq!(decode(wire), Err(broken), "{wire:?}");
    }
    // A type that is not known is no reason.
    assert_eq!(decode(&[0x80, 3, 0, 99, 0, 0, 0, 1, 7]).unwrap(), [Frame::Other(99)]);
}

#[test]
fn the_dictionary_is_the_specifications() {
    let (a, b) = DICTIONARY.iter().fold((1u32, 0u32), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    assert_eq!((DICTIONARY.len(), b << 16 | a), (1_423, DICTIONARY_ID));
}

#[test]
fn header_blocks_continue_one_stream() {
    let (mut writer, mut reader) = (HeaderWriter::default(), HeaderReader::new());
    let table: [&[(&str, &str)]; 3] = [&[("streamtype", "error"), ("port", "8080")], &[], &[("requestid", "1")]];
    for headers in table {
        let read = reader.read(&writer.write(headers)).unwrap();
        let expected: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(read, expected);
    }
}

/// What moby/spdystream sends: compressed, with words taken from the dictionary, flushed after each block.
#[test]
fn header_blocks_of_a_compressing_client() {
    // `zlib.compressobj(zdict=DICTIONARY)` over {streamtype: error, port: 80} and then {streamtype: data, port: 80}.
    let blocks: [&[u8]; 2] = [
        &[
            0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2, 0x02, 0xe5, 0x0e, 0x70, 0x3a, 0x2b, 0x29, 0x4a, 0x4d, 0xcc, 0x85, 0x16,
            0x25, 0xac, 0xa9, 0xa0, 0x80, 0x86, 0x14, 0xcb, 0x45, 0xa0, 0x24, 0xcc, 0x64, 0x61, 0x00, 0x00, 0x00, 0x00,
            0xff, 0xff,
        ],
        &[0xc2, 0xaa, 0x10, 0x54, 0xe6, 0x24, 0xa2, 0xaa, 0x03, 0x00, 0x00, 0x00, 0xff, 0xff],
    ];
    let mut reader = HeaderReader::new();
    for (block, type_) in blocks.into_iter().zip(["error", "data"]) {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(reader.read(block).unwrap(), [pair("streamtype", type_), pair("port", "80")]);
    }
}

#[test]
fn a_header_bomb_is_refused() {
    let mut deflated = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    deflated.write_all(&vec![0; 64 * SPDY_HEADER_BYTES_MAX]).unwrap();
    deflated.flush().unwrap();
    let mut block = vec![0x78, 0x20];
    block.extend_from_slice(&DICTIONARY_ID.to_be_bytes());
    block.extend_from_slice(deflated.get_ref());
    assert!(block.len() < SPDY_CONTROL_BYTES_MAX, "it fits a frame");
    assert_eq!(HeaderReader::new().read(&block), Err(Broken::TooLarge));
}

#[test]
fn a_client_opens_a_stream_and_speaks() {
    let (mut session, mut client) = (Session::new(), HeaderWriter::default());
    let mut events = Vec::new();
    let block = client.write(&[("streamType", "data")]);
    let frames = [
        Frame::SynStream { stream: 1, last: false, block },
        Frame::Data { stream: 1, last: false, bytes: bytes(b"hello") },
        Frame::Ping(1),
        Frame::Ping(2),
        Frame::WindowUpdate { stream: 1, delta: 9 },
        Frame::Data { stream: 1, last: true, bytes: Bytes::new() },
        Frame::Reset { stream: 1, code: 5 },
        Frame::GoAway { last_stream: 0, code: 0 },
    ];
    for frame in frames {
        session.receive(&frame.encode(), &mut events).unwrap();
    }
    let reply = Frame::SynReply { stream: 1, last: false, block: HeaderWriter::default().write(&[]) };
    let expected = [
        Event::Send(reply.encode()),
        Event::Opened { stream: 1, headers: vec![("streamtype".into(), "data".into())] },
        Event::Data { stream: 1, bytes: bytes(b"hello") },
        Event::Send(Frame::Ping(1).encode()),
        Event::Finished { stream: 1 },
        Event::Reset { stream: 1 },
    ];
    assert_eq!(events, expected);
    for stream in [1, 2] {
        let again = Frame::SynStream { stream, last: false, block: client.write(&[]) };
        assert_eq!(session.receive(&again.encode(), &mut events), Err(Broken::StreamNumber));
    }
}

/// Garbage, and garbage that begins like SPDY: an error or nothing, never a panic, and nothing held beyond the bounds.
#[test]
fn garbage_from_seeds() {
    for seed in 0..2_000u32 {
        let mut state = Crc::new();
        state.update(&seed.to_le_bytes());
        let mut random = || {
            state.update(&[1]);
            state.sum()
        };
        let (mut session, mut events) = (Session::new(), Vec::new());
        for _ in 0..random() % 40 {
            let mut piece: Vec<u8> = (0..random() % 64).map(|_| (random() >> 8) as u8).collect();
            if random() % 3 != 0 && piece.len() >= 8 {
                let length = (random() % 80) as u8;
                piece[..8].copy_from_slice(&[0x80, 3, 0, (random() % 11) as u8, (random() % 2) as u8, 0, 0, length]);
            }
            if random() % 4 == 0 && piece.len() >= 24 {
                piece[18..20].copy_from_slice(&[0x78, 0x20]);
                piece[20..24].copy_from_slice(&DICTIONARY_ID.to_be_bytes());
            }
            if session.receive(&piece, &mut events).is_err() {
                break;
            }
        }
    }
}
