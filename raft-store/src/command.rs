//! What clients may ask and what is replicated: transactions, compactions and hash checks, as bytes.
//!
//! A command is decided when it is applied, on every member alike; nothing here reads a clock. The proposer stamps the
//! time and its own [`Origin`], which makes a repeated proposal harmless. Encoding (little-endian, lengths as u32):
//!
//! ```text
//! command   = version u8 (1) · origin (member u64 · boot u64 · sequence u64) · at_ms u64 · kind u8 · body
//! txn     1 = count · compare* · count · write*
//! compare   = key bytes · target u8 (1 mod revision u64 | 2 value bytes | 3 exists u8)
//! write     = 1 · key bytes · value bytes | 2 · key bytes
//! compact 2 = revision u64          check 3 = revision u64 · hash u64          compare 4 =
//! ```

use std::collections::HashSet;

use bytes::Bytes;

use crate::codec::{Malformed, Reader, Writer};
use crate::error::StoreError;
use crate::limits::{KEY_BYTES_MAX, TXN_BYTES_MAX, TXN_OPERATIONS_MAX, VALUE_BYTES_MAX};

const VERSION: u8 = 1;

/// A condition on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// The key looked at.
    pub key: Bytes,
    /// What must hold.
    pub target: Target,
}

/// What must hold for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The key was last written at this revision; 0 means it does not exist.
    ModRevision(u64),
    /// The key exists and holds exactly these bytes.
    Value(Bytes),
    /// The key exists, or does not.
    Exists(bool),
}

/// One write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Creates or replaces.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Removes; a key that does not exist is left so.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl Write {
    /// The key written.
    pub fn key(&self) -> &Bytes {
        match self {
            Write::Put { key, .. } | Write::Delete { key } => key,
        }
    }
}

/// If every compare holds, all writes take effect at one new revision; else none does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions, all of which must hold.
    pub compares: Vec<Compare>,
    /// The writes; no key twice.
    pub then: Vec<Write>,
}

impl Txn {
    /// Refuses what exceeds the limits or names a key twice.
    pub fn check(&self) -> Result<(), StoreError> {
        let refuse = |what: &str| Err(StoreError::Invalid(what.to_owned()));
        if self.compares.len() + self.then.len() > TXN_OPERATIONS_MAX {
            return refuse("the transaction has too many operations");
        }
        let mut bytes = 0;
        let mut written = HashSet::new();
        for write in &self.then {
            let value = match write {
                Write::Put { value, .. } => value.len(),
                Write::Delete { .. } => 0,
            };
            if value > VALUE_BYTES_MAX {
                return refuse("the value is too large");
            }
            bytes += write.key().len() + value;
            if !written.insert(write.key()) {
                return refuse("the transaction writes a key twice");
            }
        }
        for compare in &self.compares {
            bytes += compare.key.len() + if let Target::Value(value) = &compare.target { value.len() } else { 0 };
        }
        let mut keys = self.then.iter().map(Write::key).chain(self.compares.iter().map(|c| &c.key));
        if keys.any(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
            return refuse("a key is empty or too long");
        }
        if bytes > TXN_BYTES_MAX { refuse("the transaction is too large") } else { Ok(()) }
    }
}

/// The outcome of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnReply {
    /// Whether every compare held.
    pub succeeded: bool,
    /// The revision of the writes, or the revision at which the decision was taken when nothing was written.
    pub revision: u64,
    /// After a failed compare: each key compared with the revision it was last written at, `None` if it does not exist.
    pub current: Vec<(Bytes, Option<u64>)>,
}

/// Who proposed: the member, its life, and its count. A proposal seen twice is applied once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    pub(crate) member: u64,
    pub(crate) boot: u64,
    pub(crate) sequence: u64,
}

/// What every member applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) origin: Origin,
    /// Milliseconds since 1970 by the proposer's clock.
    pub(crate) at_ms: u64,
    pub(crate) operation: Operation,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Txn(Txn),
    /// Forgets the history up to and including this revision.
    Compact {
        revision: u64,
    },
    /// The proposer's keys at this revision added up to this hash.
    Check {
        revision: u64,
        hash: u64,
    },
    /// Every member is to add up its keys as of here.
    Compare,
}

impl Origin {
    pub(crate) fn encode(&self, w: &mut Writer) {
        w.u64(self.member);
        w.u64(self.boot);
        w.u64(self.sequence);
    }

    pub(crate) fn decode(r: &mut Reader) -> Result<Origin, Malformed> {
        Ok(Origin { member: r.u64()?, boot: r.u64()?, sequence: r.u64()? })
    }
}

impl Command {
    pub(crate) fn encode(&self) -> Bytes {
        let mut w = Writer::default();
        w.u8(VERSION);
        self.origin.encode(&mut w);
        w.u64(self.at_ms);
        match &self.operation {
            Operation::Txn(txn) => {
                w.u8(1);
                encode_txn(txn, &mut w);
            }
            Operation::Compact { revision } => {
                w.u8(2);
                w.u64(*revision);
            }
            Operation::Check { revision, hash } => {
                w.u8(3);
                w.u64(*revision);
                w.u64(*hash);
            }
            Operation::Compare => w.u8(4),
        }
        w.0.into()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Command, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u8()? != VERSION {
            return Err(Malformed);
        }
        let origin = Origin::decode(&mut r)?;
        let at_ms = r.u64()?;
        let operation = match r.u8()? {
            1 => Operation::Txn(Txn { compares: r.many(decode_compare)?, then: r.many(decode_write)? }),
            2 => Operation::Compact { revision: r.u64()? },
            3 => Operation::Check { revision: r.u64()?, hash: r.u64()? },
            4 => Operation::Compare,
            _ => return Err(Malformed),
        };
        r.end()?;
        Ok(Command { origin, at_ms, operation })
    }
}

fn encode_txn(txn: &Txn, w: &mut Writer) {
    w.count(txn.compares.len());
    for compare in &txn.compares {
        w.bytes(&compare.key);
        match &compare.target {
            Target::ModRevision(revision) => {
                w.u8(1);
                w.u64(*revision);
            }
            Target::Value(value) => {
                w.u8(2);
                w.bytes(value);
            }
            Target::Exists(exists) => {
                w.u8(3);
                w.u8(u8::from(*exists));
            }
        }
    }
    w.count(txn.then.len());
    for write in &txn.then {
        match write {
            Write::Put { key, value } => {
                w.u8(1);
                w.bytes(key);
                w.bytes(value);
            }
            Write::Delete { key } => {
                w.u8(2);
                w.bytes(key);
            }
        }
    }
}

fn decode_compare(r: &mut Reader) -> Result<Compare, Malformed> {
    let key = r.bytes()?;
    let target = match r.u8()? {
        1 => Target::ModRevision(r.u64()?),
        2 => Target::Value(r.bytes()?),
        3 => Target::Exists(r.u8()? != 0),
        _ => return Err(Malformed),
    };
    Ok(Compare { key, target })
}

fn decode_write(r: &mut Reader) -> Result<Write, Malformed> {
    match r.u8()? {
        1 => Ok(Write::Put { key: r.bytes()?, value: r.bytes()? }),
        2 => Ok(Write::Delete { key: r.bytes()? }),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Command {
        Command {
            origin: Origin { member: 1, boot: 2, sequence: 3 },
            at_ms: 1_700_000_000_000,
            operation: Operation::Txn(Txn {
                compares: vec![
                    Compare { key: "a".into(), target: Target::ModRevision(7) },
                    Compare { key: "b".into(), target: Target::Value("x".into()) },
                    Compare { key: "c".into(), target: Target::Exists(true) },
                ],
                then: vec![Write::Put { key: "a".into(), value: "1".into() }, Write::Delete { key: "b".into() }],
            }),
        }
    }

    #[test]
    fn a_command_reads_back_and_every_cut_or_longer_form_is_refused() {
        let command = example();
        let bytes = command.encode();
        assert_eq!(Command::decode(bytes.clone()), Ok(command));
        for cut in 0..bytes.len() {
            assert_eq!(Command::decode(bytes.slice(..cut)), Err(Malformed), "cut at {cut}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert_eq!(Command::decode(longer.into()), Err(Malformed));
    }

    #[test]
    fn changed_bytes_never_panic_the_decoder() {
        let bytes = example().encode().to_vec();
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = bytes.clone();
                bad[at] = value;
                let _ = Command::decode(bad.into());
            }
        }
    }

    #[test]
    fn limits_are_refused_by_name() {
        let put = |key: &str, size: usize| Write::Put { key: key.to_owned().into(), value: vec![0; size].into() };
        let check = |then: Vec<Write>| Txn { compares: Vec::new(), then }.check().err().map(|e| e.to_string());
        assert_eq!(check(vec![put("a", VALUE_BYTES_MAX)]), None);
        assert_eq!(check(vec![put("a", VALUE_BYTES_MAX + 1)]).as_deref(), Some("the value is too large"));
        assert_eq!(check(vec![put("", 1)]).as_deref(), Some("a key is empty or too long"));
        assert_eq!(check(vec![put("a", 1), put("a", 1)]).as_deref(), Some("the transaction writes a key twice"));
        let large = vec![put("a", VALUE_BYTES_MAX), put("b", VALUE_BYTES_MAX)];
        assert_eq!(check(large).as_deref(), Some("the transaction is too large"));
        let many = (0..=TXN_OPERATIONS_MAX).map(|i| put(&i.to_string(), 0)).collect();
        assert_eq!(check(many).as_deref(), Some("the transaction has too many operations"));
    }
}
