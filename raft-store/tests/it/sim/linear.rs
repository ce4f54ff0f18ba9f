//! Whether a recorded history is linearizable: some order of its operations, in which each stands between its beginning
//! and its end, explains every answer.
//!
//! The algorithm is Wing and Gong's with Lowe's memory of what was tried: take any operation that could be the next one,
//! since none that is still to come had ended before it began; go on from the state it leads to; go back where nothing
//! fits. Keys are independent, so each has its own history. An operation whose outcome nobody learned has no end: it may
//! stand anywhere after its beginning, or nowhere.
//!
//! The checker believes no revision of the store. It only tries first what the revisions suggest, which makes the good
//! case linear; what they say wrongly costs time, not truth.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

/// What an operation did, as its caller was told. Versions name writes: they are compared for being equal, never ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The key was given a value, or removed, if it was at `expected`.
    Wrote {
        expected: Option<u64>,
        value: Option<Bytes>,
        version: u64,
    },
    /// A compare with `expected` failed: the key was at `current`, 0 for none.
    Refused {
        expected: u64,
        current: u64,
    },
    Read {
        value: Option<Bytes>,
    },
}

/// One operation on one key.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) key: Bytes,
    /// When it began.
    pub(crate) call: u64,
    /// When its caller was told; `None` if the caller never was.
    pub(crate) end: Option<u64>,
    pub(crate) action: Action,
    /// Where to try it first: the revision the store gave it.
    pub(crate) hint: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Register {
    value: Option<Bytes>,
    version: u64,
}

impl Register {
    /// The register after the action; `None` if it cannot happen here.
    fn after(&self, action: &Action) -> Option<Register> {
        match action {
            Action::Wrote { expected, .. } if expected.is_some_and(|expected| expected != self.version) => None,
            Action::Wrote { value, version, .. } => {
                Some(Register { value: value.clone(), version: if value.is_some() { *version } else { 0 } })
            }
            Action::Refused { expected, current } => {
                (*current == self.version && expected != current).then(|| self.clone())
            }
            Action::Read { value } => (*value == self.value).then(|| self.clone()),
        }
    }
}

/// Refuses a history that is not linearizable, with the key it fails for.
pub(crate) fn check(history: Vec<Operation>) -> Result<(), String> {
    let mut keys: BTreeMap<Bytes, Vec<Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(operation.key.clone()).or_default().push(operation);
    }
    for (key, mut operations) in keys {
        operations.sort_by_key(|operation| operation.call);
        let reached = search(&operations);
        if reached < operations.iter().filter(|operation| operation.end.is_some()).count() {
            return Err(format!("the history of {key:?} is not linearizable: at most {reached} operations fit"));
        }
    }
    Ok(())
}

/// Which operations were placed: all before `low`, and those in `above`.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Placed {
    low: usize,
    above: BTreeSet<usize>,
}

impl Placed {
    fn contains(&self, at: usize) -> bool {
        at < self.low || self.above.contains(&at)
    }

    fn with(&self, at: usize) -> Placed {
        let mut next = self.clone();
        next.above.insert(at);
        while next.above.remove(&next.low) {
            next.low += 1;
        }
        next
    }
}

/// Operations that could come next, best first at the end.
fn candidates(operations: &[Operation], placed: &Placed) -> Vec<usize> {
    let open = || (placed.low..operations.len()).filter(|at| !placed.contains(*at));
    let mut earliest_end = u64::MAX;
    let mut found = Vec::new();
    for at in open() {
        let operation = &operations[at];
        if operation.call > earliest_end {
            break;
        }
        earliest_end = earliest_end.min(operation.end.unwrap_or(u64::MAX));
        found.push(at);
    }
    found.retain(|at| operations[*at].call <= earliest_end);
    found.sort_by_key(|at| {
        std::cmp::Reverse((operations[*at].hint, !matches!(operations[*at].action, Action::Wrote { .. }), *at))
    });
    found
}

/// The most operations with an end that any order explains.
fn search(operations: &[Operation]) -> usize {
    let mut seen = BTreeSet::new();
    let mut path = vec![(Placed::default(), Register::default(), candidates(operations, &Placed::default()), 0)];
    let total = operations.iter().filter(|operation| operation.end.is_some()).count();
    let mut best = 0;
    while let Some((placed, register, next, ended)) = path.last_mut() {
        best = best.max(*ended);
        if best == total {
            return total;
        }
        let Some(at) = next.pop() else {
            path.pop();
            continue;
        };
        let Some(register) = register.after(&operations[at].action) else { continue };
        let placed = placed.with(at);
        let ended = *ended + usize::from(operations[at].end.is_some());
        if seen.insert((placed.clone(), register.clone())) {
            let next = candidates(operations, &placed);
            path.push((placed, register, next, ended));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(call: u64, end: u64, action: Action) -> Operation {
        Operation { key: "k".into(), call, end: (end > 0).then_some(end), action, hint: 0 }
    }

    fn put(call: u64, end: u64, value: &str, version: u64) -> Operation {
        let value = Some(Bytes::copy_from_slice(value.as_bytes()));
        at(call, end, Action::Wrote { expected: None, value, version })
    }

    fn cas(call: u64, end: u64, expected: u64, value: &str, version: u64) -> Operation {
        let value = Some(Bytes::copy_from_slice(value.as_bytes()));
        at(call, end, Action::Wrote { expected: Some(expected), value, version })
    }

    fn read(call: u64, end: u64, value: &str) -> Operation {
        let value = (!value.is_empty()).then(|| Bytes::copy_from_slice(value.as_bytes()));
        at(call, end, Action::Read { value })
    }

    #[test]
    fn histories_are_told_apart() {
        let refused = |call, end, expected, current| at(call, end, Action::Refused { expected, current });
        for (name, history, good) in [
            ("nothing", vec![], true),
            ("one after the other", vec![put(1, 2, "a", 1), read(3, 4, "a")], true),
            ("a read of what was not written", vec![put(1, 2, "a", 1), read(3, 4, "b")], false),
            ("a read beside a write sees either", vec![put(1, 5, "a", 1), read(2, 3, ""), read(3, 4, "a")], true),
            ("but time does not go back", vec![put(1, 9, "a", 1), read(2, 3, "a"), read(4, 5, "")], false),
            ("a stale read", vec![put(1, 2, "a", 1), put(3, 4, "b", 2), read(5, 6, "a")], false),
            ("an unknown write may have happened", vec![put(1, 0, "a", 1), read(5, 6, "a")], true),
            ("or not", vec![put(1, 0, "a", 1), read(5, 6, "")], true),
            ("or late", vec![put(1, 0, "a", 1), read(5, 6, ""), read(7, 8, "a")], true),
            ("but not before it began", vec![read(1, 2, "a"), put(3, 0, "a", 1)], false),
            ("and once", vec![put(1, 0, "a", 1), read(2, 3, "a"), put(4, 5, "b", 2), read(6, 7, "a")], false),
            ("a lost write", vec![put(1, 2, "a", 1), put(3, 4, "b", 2), read(5, 6, "")], false),
            (
                "two compares cannot both hold",
                vec![put(1, 2, "a", 1), cas(3, 9, 1, "b", 2), cas(3, 9, 1, "c", 3)],
                false,
            ),
            ("one after the other can", vec![put(1, 2, "a", 1), cas(3, 9, 1, "b", 2), cas(3, 9, 2, "c", 3)], true),
            ("a refusal tells the truth", vec![put(1, 2, "a", 1), refused(3, 4, 7, 1)], true),
            ("a refusal that lies", vec![put(1, 2, "a", 1), refused(3, 4, 7, 2)], false),
        ] {
            assert_eq!(check(history).is_ok(), good, "{name}");
        }
    }

    #[test]
    fn wrong_hints_change_nothing() {
        for hints in [[1, 2, 3, 4], [4, 3, 2, 1], [2, 2, 1, 9]] {
            let mut history = vec![put(1, 9, "a", 1), put(1, 9, "b", 2), read(10, 11, "a"), read(12, 13, "a")];
            history.iter_mut().zip(hints).for_each(|(operation, hint)| operation.hint = hint);
            assert_eq!(check(history.clone()), Ok(()));
            history[3].action = Action::Read { value: Some("b".into()) };
            assert!(check(history).is_err());
        }
    }

    #[test]
    fn keys_are_independent() {
        let mut other = read(3, 4, "a");
        other.key = "other".into();
        assert!(check(vec![put(1, 2, "a", 1), other]).is_err());
    }
}
