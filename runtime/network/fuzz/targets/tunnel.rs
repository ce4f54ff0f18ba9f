//! What another node says: openings, answers, datagrams and packets. What is understood is what would have been said.
#![no_main]

use bytes::Bytes;
use network::tunnel::{self, ANSWER_HEAD_BYTES, Answer, Opening};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let message = Bytes::copy_from_slice(bytes);
    if let Ok(opening) = Opening::decode(bytes) {
        assert_eq!(opening.encode(), message);
        assert_eq!(Opening::length(bytes[0]), Ok(bytes.len()));
    }
    if let Ok((ends, payload)) = tunnel::decode_datagram(&message) {
        assert_eq!(tunnel::encode_datagram(&ends, &payload), Ok(message.clone()));
    }
    if let Ok((passage, node, packet)) = tunnel::decode_packet(&message) {
        assert!(tunnel::is_packet(bytes[0]));
        assert_eq!(tunnel::encode_packet(passage, node, &packet).as_ref(), Ok(&message));
    }
    if let Ok(answer) = Answer::decode(bytes) {
        let again = Answer::decode(&answer.encode());
        assert_eq!(again, Ok(answer));
    }
    if let Some(head) = bytes.first_chunk::<ANSWER_HEAD_BYTES>() {
        let _ = Answer::text_length(*head);
    }
});
