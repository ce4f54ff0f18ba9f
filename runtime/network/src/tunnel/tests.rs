//! The wire format: tables of what is said, and what seeded mutations of it may never do.

use super::*;
use crate::random::Random;

fn opening(source: &str, destination: &str) -> Result<Opening, Malformed> {
    Opening::new(source.parse().unwrap(), destination.parse().unwrap())
}

#[test]
fn what_is_said_is_understood() {
    let v4 = opening("10.42.0.2:32768", "10.42.16.3:8080").unwrap();
    assert_eq!(&v4.encode()[..], [0x14, 10, 42, 0, 2, 0x80, 0, 10, 42, 16, 3, 0x1f, 0x90]);
    let v6 = opening("[fd42::2]:1", "[fd42:0:0:1::3]:53").unwrap();
    assert_eq!((v6.encode().len(), v6.encode()[0]), (OPENING_BYTES_MAX, 0x16));
    for ends in [v4, v6] {
        let bytes = ends.encode();
        assert_eq!(Opening::length(bytes[0]), Ok(bytes.len()));
        assert_eq!(Opening::decode(&bytes), Ok(ends));
        for payload in [&b""[..], b"ping", &[7; DATAGRAM_BYTES_MAX]] {
            let message = encode_datagram(&ends, payload).unwrap();
            let (read, bytes) = decode_datagram(&message).unwrap();
            assert_eq!((read, &bytes[..]), (ends, payload));
        }
        assert_eq!(encode_datagram(&ends, &[0; DATAGRAM_BYTES_MAX + 1]), Err(Malformed::Long(DATAGRAM_BYTES_MAX + 1)));
    }
    let long = "ä".repeat(REFUSAL_BYTES_MAX);
    let answers = [
        (Answer::Accepted, Answer::Accepted),
        (Answer::Refused(NetError::ConnectionRefused), Answer::Refused(NetError::ConnectionRefused)),
        (Answer::Refused(NetError::Detached), Answer::Refused(NetError::Unreachable)),
        (
            Answer::Refused(NetError::LimitReached("x")),
            Answer::Refused(NetError::LimitReached("connections of the other node")),
        ),
        (Answer::Refused(NetError::Denied("why".into())), Answer::Refused(NetError::Denied("why".into()))),
        (
            Answer::Refused(NetError::Denied(long)),
            Answer::Refused(NetError::Denied("ä".repeat(REFUSAL_BYTES_MAX / "ä".len()))),
        ),
    ];
    for (said, understood) in answers {
        let bytes = said.encode();
        assert_eq!(Answer::decode(&bytes), Ok(understood));
        assert_eq!(Answer::is_whole(bytes[0]), bytes.len() == 1);
    }
}

#[test]
fn what_no_pod_has_is_refused() {
    let cases = [
        ("127.0.0.1:1", "10.42.0.2:1"),
        ("10.42.0.2:1", "127.0.0.1:1"),
        ("10.42.0.2:1", "10.42.0.3:0"),
        ("10.42.0.2:1", "0.0.0.0:1"),
        ("10.42.0.2:1", "255.255.255.255:1"),
        ("10.42.0.2:1", "224.0.0.1:1"),
        ("10.42.0.2:1", "[fd42::3]:1"),
        ("[fd42::3]:1", "10.42.0.2:1"),
        ("[fd42::3]:1", "[::1]:1"),
        ("[::]:1", "[fd42::3]:1"),
        ("[fd42::3]:1", "[ff02::1]:1"),
        ("[fd42::3]:1", "[::ffff:10.42.0.2]:1"),
    ];
    for (source, destination) in cases {
        assert!(matches!(opening(source, destination), Err(Malformed::Address(_))), "{source} {destination}");
    }
    let whole = opening("10.42.0.2:1", "10.42.0.3:1").unwrap().encode();
    assert_eq!(Opening::decode(&[]), Err(Malformed::Short(0)));
    assert_eq!(Opening::decode(&whole[..12]), Err(Malformed::Short(12)));
    assert_eq!(Opening::decode(&[&whole[..], b"x"].concat()), Err(Malformed::Long(14)));
    for first in [0, 0x04, 0x24, 0x15, b'G', 0xff] {
        assert_eq!(Opening::length(first), Err(Malformed::Version(first)));
    }
    assert_eq!(Answer::decode(&[0, 0, 0]), Err(Malformed::Long(3)));
    assert_eq!(Answer::decode(&[3, 0, 2, b'x']), Err(Malformed::Short(4)));
    assert_eq!(Answer::decode(&[9, 0, 0]), Err(Malformed::Answer(9)));
    assert_eq!(Answer::decode(&[3, 0, 1, 0xff]), Err(Malformed::Text));
    assert_eq!(Answer::decode(&[3, 0xff, 0xff]), Err(Malformed::Long(0xffff)));
}

#[test]
fn packets_are_passed_on_as_they_are() {
    for (passage, first) in [(Passage::Onward, 0x11), (Passage::Passed, 0x12)] {
        for packet in [&b""[..], b"packet", &[7; PACKET_BYTES_MAX]] {
            let message = encode_packet(passage, "laptop", packet).unwrap();
            assert_eq!(message[..8], [&[first, 6][..], b"laptop"].concat());
            assert!(is_packet(message[0]));
            assert_eq!(decode_packet(&message), Ok((passage, "laptop", Bytes::copy_from_slice(packet))));
        }
    }
    let long = "x".repeat(passing::NAME_BYTES_MAX + 1);
    assert_eq!(encode_packet(Passage::Onward, &long, b""), Err(Malformed::Long(254)));
    assert_eq!(encode_packet(Passage::Onward, "a", &[0; PACKET_BYTES_MAX + 1]), Err(Malformed::Long(1502)));
    let refused: [(&[u8], Malformed); 7] = [
        (b"", Malformed::Short(0)),
        (b"\x11", Malformed::Short(1)),
        (b"\x12\x03ab", Malformed::Short(4)),
        (b"\x12\xff", Malformed::Long(2)),
        (b"\x11\x01\xff", Malformed::Text),
        (b"\x21\x01a", Malformed::Version(0x21)),
        (&[&b"\x11\x01a"[..], &[0; PACKET_BYTES_MAX + 1]].concat(), Malformed::Long(PACKET_BYTES_MAX + 4)),
    ];
    for (message, error) in refused {
        assert_eq!(decode_packet(&Bytes::copy_from_slice(message)), Err(error), "{message:?}");
    }
}

/// Flips, cuts, doublings and noise: the decoders answer, and what they accept they would have said themselves.
#[test]
fn no_bytes_do_harm() {
    let said = [
        opening("10.42.0.2:32768", "10.42.16.3:8080").unwrap().encode(),
        opening("[fd42::2]:1", "[fd42:0:0:1::3]:53").unwrap().encode(),
        encode_datagram(&opening("10.42.0.2:9", "10.42.16.3:53").unwrap(), &[7; 300]).unwrap(),
        Answer::Accepted.encode(),
        Answer::Refused(NetError::Denied("denied; no rule".into())).encode(),
        encode_packet(Passage::Onward, "laptop", &[7; 300]).unwrap(),
        encode_packet(Passage::Passed, "laptop", b"packet").unwrap(),
    ];
    let (mut accepted, mut refused) = (0, 0);
    for seed in 1..20_000 {
        let mut random = Random(seed);
        let mut bytes = said[random.below(said.len())].to_vec();
        for _ in 0..=random.below(4) {
            mutate(&mut bytes, &mut random);
        }
        let message = Bytes::from(bytes.clone());
        match Opening::decode(&bytes) {
            Ok(opening) => assert_eq!(opening.encode(), message, "seed {seed}"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        if let Ok((passage, node, packet)) = decode_packet(&message) {
            assert_eq!(encode_packet(passage, node, &packet).as_ref(), Ok(&message), "seed {seed}");
            assert!(is_packet(message[0]));
        }
        match decode_datagram(&message) {
            Ok((ends, payload)) => {
                assert_eq!(encode_datagram(&ends, &payload), Ok(message), "seed {seed}");
                accepted += 1;
            }
            Err(_) => refused += 1,
        }
        if let Ok(answer) = Answer::decode(&bytes) {
            let again = Answer::decode(&answer.encode());
            assert_eq!(again, Ok(answer), "seed {seed}");
        }
        if let Some(head) = bytes.first_chunk::<ANSWER_HEAD_BYTES>() {
            assert!(Answer::text_length(*head).is_ok_and(|length| length <= REFUSAL_BYTES_MAX) || head[1] >= 4);
        }
    }
    assert!(accepted > 1000 && refused > 1000, "{accepted} and {refused}: the mutations say little");
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    match random.below(5) {
        0 => bytes.truncate(at),
        1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        2 => bytes.insert(at, random.below(256) as u8),
        3 if at < bytes.len() => bytes[at] = random.below(256) as u8,
        _ => bytes.extend((0..random.below(40)).map(|_| 0xff)),
    }
}
