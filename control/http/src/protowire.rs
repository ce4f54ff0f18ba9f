//! Writing protobuf: tags, varints, length-delimited fields. Nothing else of protobuf is needed here.

/// One message being written.
#[derive(Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// The encoded message.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).expect("seven bits"));
    }

    /// A length-delimited field (wire type 2).
    pub(crate) fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// Text; empty text is the default and is not written.
    pub(crate) fn text(&mut self, field: u32, text: &str) {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
    }

    /// True; false is the default and is not written.
    pub(crate) fn flag(&mut self, field: u32, flag: bool) {
        if flag {
            self.varint(u64::from(field) << 3);
            self.varint(1);
        }
    }

    /// A nested message.
    pub(crate) fn message(&mut self, field: u32, message: &Message) {
        self.bytes(field, &message.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specifications_examples() {
        let mut inner = Message::default();
        inner.text(2, "testing");
        assert_eq!(inner.0, [0x12, 7, b't', b'e', b's', b't', b'i', b'n', b'g']);
        let mut outer = Message::default();
        outer.flag(1, true);
        outer.flag(2, false);
        outer.message(3, &inner);
        assert_eq!(outer.0[..4], [0x08, 1, 0x1a, 9]);
        let mut long = Message::default();
        long.bytes(1, &[0; 300]);
        assert_eq!(long.0[..3], [0x0a, 0xac, 0x02]);
    }
}
