//! The checkpoint in redb: keys, history and the position in the log, changed together in one durable transaction.
//!
//! Tables: `live` key → create revision · mod revision · value; `past` first revision → (revision · row)*, a row being
//! at_ms · hash · (key · value before)*; `head` one row with index, term, membership, sessions and the hash of all keys (see `State::encode_head`);
//! `member` the identity, the count of lives and their checksum, and how many frames of the log are durable. Two-phase commit, so that a torn commit cannot pass for
//! a whole one. Everything is read once at opening; a hash that does not match, or a table that is gone, refuses the
//! whole checkpoint.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction};

use crate::codec::{Malformed, Reader, Writer};
use crate::disk::{Disk, DiskFile};
use crate::limits::CHECKPOINT_CACHE_BYTES;
use crate::log::{Durable, Identity};
use crate::mvcc::{Change, KeyValue, Mvcc, Revision};
use crate::planted::{Bug, planted};
use crate::state::{Membership, State};

/// File of the checkpoint within the member's directory.
pub(crate) const FILE: &str = "checkpoint.redb";
const LIVE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("live");
const PAST: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("past");
/// Where the first format had one row per revision.
const HISTORY: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("history");
const HEAD: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("head");
const MEMBER: TableDefinition<'_, &str, u64> = TableDefinition::new("member");
const FORMAT: u64 = 2;
const FIRST_FORMAT: u64 = 1;
/// Revisions of the past are kept together up to about this many bytes: one insertion for many of them.
const PAST_BYTES: usize = 64 << 10;

/// What the checkpoint cannot do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    /// Promised bytes are gone.
    #[error("the checkpoint is damaged: {0}")]
    Damaged(String),
    /// It belongs to someone else.
    #[error("the checkpoint belongs to member {member} of cluster {cluster:x}")]
    Foreign { member: u64, cluster: u64 },
    /// Another version wrote it.
    #[error("the checkpoint is of another version")]
    Version,
    /// No space; the transaction did not happen and may be repeated.
    #[error("no space for the checkpoint")]
    Full,
    /// The system refused.
    #[error(transparent)]
    Io(io::Error),
}

impl CheckpointError {
    /// What a panic of redb means.
    pub(crate) fn contradictory() -> Self {
        CheckpointError::Damaged("its pages contradict each other".to_owned())
    }
}

impl<E: Into<redb::Error>> From<E> for CheckpointError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => CheckpointError::Full,
            redb::Error::Io(error) => CheckpointError::Io(error),
            redb::Error::UpgradeRequired(_) => CheckpointError::Version,
            other => CheckpointError::Damaged(other.to_string()),
        }
    }
}

impl From<Malformed> for CheckpointError {
    fn from(_: Malformed) -> Self {
        CheckpointError::Damaged("its records do not add up to the hash it was written with".to_owned())
    }
}

/// What changed since the last checkpoint, and where that leaves the member.
#[derive(Clone, Default)]
pub(crate) struct Delta {
    /// The last thing that happened to each key.
    pub(crate) live: BTreeMap<Bytes, Option<Arc<KeyValue>>>,
    /// Revisions made.
    pub(crate) history: Vec<Arc<Revision>>,
    /// Rough size in memory.
    pub(crate) bytes: usize,
    /// Encoded head of the state after all of this.
    pub(crate) head: Vec<u8>,
    /// Revisions up to this one are forgotten.
    pub(crate) floor: u64,
}

impl Delta {
    /// Adds a revision.
    pub(crate) fn note(&mut self, revision: Arc<Revision>) {
        for change in &revision.changes {
            self.bytes += 2 * change.key.len() + change.now.as_ref().map_or(0, |kv| kv.value.len()) + 128;
            self.live.insert(change.key.clone(), change.now.clone());
        }
        self.history.push(revision);
    }
}

/// The open checkpoint. It is only written; what it holds was read at opening.
pub(crate) struct Checkpoint {
    disk: Arc<dyn Disk>,
    database: Option<Database>,
    frames: u64,
    durable: Durable,
}

impl Checkpoint {
    /// Opens the checkpoint, counts this life and returns its number with the state. An empty directory is given the
    /// initial membership, which counts from then on whatever a later start says; one `known` to have been opened before
    /// is not empty.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        identity: Identity,
        initial: &Membership,
        known: bool,
    ) -> Result<(Checkpoint, u64, State), CheckpointError> {
        let gone = || CheckpointError::Damaged("everything in it is gone".to_owned());
        if known && !disk.names().map_err(CheckpointError::Io)?.iter().any(|name| name == FILE) {
            return Err(gone());
        }
        let database = open_database(disk.as_ref())?;
        let found = load(&database)?;
        if known && found.is_none() {
            return Err(gone());
        }
        let write = begin(&database)?;
        let begun = found.is_some();
        let state = match found {
            Some(mut state) => {
                if planted(Bug::MembershipFromConfig) {
                    state.membership = initial.clone();
                }
                state
            }
            None => {
                let state = State::new(initial.clone());
                write_delta(&write, &Delta { head: encode_head(&state), ..Delta::default() })?;
                state
            }
        };
        let (boot, frames) = {
            let mut member = write.open_table(MEMBER)?;
            let get = |name: &str| Ok::<_, CheckpointError>(member.get(name)?.map(|guard| guard.value()));
            let found = [get("id")?, get("cluster")?, get("format")?, get("boot")?];
            // A directory written before there was a check has none.
            if get("check")?.is_some_and(|check| check != check_of(found.map(Option::unwrap_or_default))) {
                return Err(CheckpointError::Damaged("whose it is and its count of lives do not check".to_owned()));
            }
            let [id, cluster, format, boot] = found;
            // Both are written by the first opening, together.
            if boot.is_some() != begun {
                return Err(CheckpointError::Damaged("a part of it is gone".to_owned()));
            }
            let owner =
                Identity { member: id.unwrap_or(identity.member), cluster: cluster.unwrap_or(identity.cluster) };
            if owner != identity {
                return Err(CheckpointError::Foreign { member: owner.member, cluster: owner.cluster });
            }
            if format == Some(FIRST_FORMAT) {
                write.delete_table(HISTORY)?;
                write_past(&write, state.mvcc.history(), state.mvcc.floor())?;
            }
            let boot = boot.unwrap_or(0) + 1;
            let rows = [("id", owner.member), ("cluster", owner.cluster), ("format", FORMAT), ("boot", boot)];
            for (name, value) in rows {
                member.insert(name, value)?;
            }
            member.insert("check", check_of(rows.map(|(_, value)| value)))?;
            let frames = member.get("frames")?.map_or(0, |guard| guard.value());
            (boot, frames)
        };
        write.commit()?;
        disk.sync_names().map_err(CheckpointError::Io)?;
        let durable = Durable::default();
        Ok((Checkpoint { disk, database: Some(database), frames, durable }, boot, state))
    }

    /// How many frames of the log are known to have been durable.
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// From now on every transaction notes how many frames of the log are durable, so that a log that lost some is known
    /// by it.
    pub(crate) fn witness(&mut self, durable: Durable) {
        self.durable = durable;
    }

    /// The log begins anew: nothing is known of its frames.
    pub(crate) fn restart_frames(&mut self) -> Result<(), CheckpointError> {
        (self.frames, self.durable) = (0, Durable::default());
        self.transaction(|_| Ok(()))
    }

    /// Whose checkpoint this is; `None` when there is none.
    pub(crate) fn identity(disk: &dyn Disk) -> Result<Option<Identity>, CheckpointError> {
        if !disk.names().map_err(CheckpointError::Io)?.iter().any(|name| name == FILE) {
            return Ok(None);
        }
        // Dropping the database would end what reads from it.
        let database = open_database(disk)?;
        let read = database.begin_read()?;
        let table = match read.open_table(MEMBER) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table?,
        };
        let get = |name: &str| Ok::<_, CheckpointError>(table.get(name)?.map(|guard| guard.value()));
        Ok(get("id")?.zip(get("cluster")?).map(|(member, cluster)| Identity { member, cluster }))
    }

    /// Makes the changes durable, all or none. After [`CheckpointError::Full`] the same call may be repeated.
    pub(crate) fn commit(&mut self, delta: &Delta) -> Result<(), CheckpointError> {
        if planted(Bug::IndexApart) {
            let index = Delta { head: delta.head.clone(), ..Delta::default() };
            self.transaction(|write| write_delta(write, &index))?;
        }
        self.transaction(|write| write_delta(write, delta))
    }

    /// Replaces everything by a state received from a peer.
    pub(crate) fn install(&mut self, state: &State) -> Result<(), CheckpointError> {
        self.transaction(|write| {
            write.delete_table(LIVE)?;
            write.delete_table(PAST)?;
            let mut delta = Delta::default();
            delta.live.extend(state.mvcc.live().map(|kv| (kv.key.clone(), Some(kv.clone()))));
            delta.history.extend(state.mvcc.history().cloned());
            write_delta(write, &Delta { head: encode_head(state), ..delta })
        })
    }

    /// One durable transaction. redb panics where pages that it had not read when it was opened contradict each other: that is
    /// damage like any other.
    fn transaction(
        &mut self,
        fill: impl FnOnce(&WriteTransaction) -> Result<(), CheckpointError>,
    ) -> Result<(), CheckpointError> {
        let written = catch_unwind(AssertUnwindSafe(|| self.write(fill)));
        written.unwrap_or_else(|_| Err(CheckpointError::contradictory()))
    }

    /// redb refuses everything after an I/O error, hence a full disk means opening it again.
    fn write(
        &mut self,
        fill: impl FnOnce(&WriteTransaction) -> Result<(), CheckpointError>,
    ) -> Result<(), CheckpointError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open_database(self.disk.as_ref())?,
        };
        let write = begin(&database)?;
        fill(&write)?;
        let frames = self.durable.get().max(self.frames);
        write.open_table(MEMBER)?.insert("frames", frames)?;
        write.commit()?;
        self.frames = frames;
        self.database = Some(database);
        Ok(())
    }
}

/// Checksum of the rows that say whose checkpoint it is and how often it was opened.
fn check_of(rows: [u64; 4]) -> u64 {
    let mut w = Writer::default();
    for row in rows {
        w.u64(row);
    }
    u64::from(crc32c::crc32c(&w.0))
}

fn open_database(disk: &dyn Disk) -> Result<Database, CheckpointError> {
    let backend = Backend(disk.open(FILE).map_err(CheckpointError::Io)?);
    Ok(Builder::new().set_cache_size(CHECKPOINT_CACHE_BYTES).create_with_backend(backend)?)
}

fn begin(database: &Database) -> Result<WriteTransaction, CheckpointError> {
    let mut write = database.begin_write()?;
    write.set_two_phase_commit(true);
    write.set_quick_repair(true);
    Ok(write)
}

fn write_delta(write: &WriteTransaction, delta: &Delta) -> Result<(), CheckpointError> {
    let mut live = write.open_table(LIVE)?;
    for (key, now) in &delta.live {
        match now {
            Some(kv) => live.insert(&key[..], &encode_live(kv)[..])?,
            None => live.remove(&key[..])?,
        };
    }
    write_past(write, delta.history.iter(), delta.floor)?;
    write.open_table(HEAD)?.insert("head", &delta.head[..])?;
    Ok(())
}

/// Adds revisions to the past, and drops what lies wholly below the floor.
fn write_past<'a>(
    write: &WriteTransaction,
    revisions: impl Iterator<Item = &'a Arc<Revision>>,
    floor: u64,
) -> Result<(), CheckpointError> {
    let mut past = write.open_table(PAST)?;
    let below: Vec<u64> =
        past.range(..=floor)?.map(|row| row.map(|(first, _)| first.value())).collect::<Result<_, _>>()?;
    // The last of them may reach above it.
    for first in &below[..below.len().saturating_sub(1)] {
        past.remove(first)?;
    }
    let mut rows = Writer::default();
    let mut first = None;
    for revision in revisions.filter(|past| past.revision > floor) {
        first.get_or_insert(revision.revision);
        rows.u64(revision.revision);
        rows.bytes(&encode_history(revision));
        if rows.0.len() >= PAST_BYTES
            && let Some(first) = first.take()
        {
            past.insert(first, &rows.0[..])?;
            rows.0.clear();
        }
    }
    if let Some(first) = first {
        past.insert(first, &rows.0[..])?;
    }
    Ok(())
}

/// The head row of a state.
pub(crate) fn encode_head(state: &State) -> Vec<u8> {
    let mut w = Writer::default();
    state.encode_head(&mut w);
    w.0
}

fn load(database: &Database) -> Result<Option<State>, CheckpointError> {
    let read = database.begin_read()?;
    let head = match read.open_table(HEAD) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        table => table?,
    };
    let Some(row) = head.get("head")? else { return Ok(None) };
    // Before anything else is read: what a later version wrote is not damaged because this one cannot read it.
    let format = read.open_table(MEMBER)?.get("format")?.map(|format| format.value());
    let first_format = match format {
        Some(FIRST_FORMAT) => true,
        Some(FORMAT) | None => false,
        Some(_) => return Err(CheckpointError::Version),
    };
    let head = State::decode_head(&mut Reader::copy(row.value()))?;
    let mut live = Vec::new();
    for row in read.open_table(LIVE)?.iter()? {
        let (key, value) = row?;
        live.push(decode_live(Bytes::copy_from_slice(key.value()), &mut Reader::copy(value.value()))?);
    }
    let mut history = Vec::new();
    if first_format {
        for row in read.open_table(HISTORY)?.iter()? {
            let (revision, value) = row?;
            history.push(decode_history(revision.value(), &mut Reader::copy(value.value()))?);
        }
    } else {
        for rows in read.open_table(PAST)?.iter()? {
            let (_, rows) = rows?;
            let mut rows = Reader::copy(rows.value());
            while !rows.is_empty() {
                let revision = rows.u64()?;
                history.push(decode_history(revision, &mut Reader::new(rows.bytes()?))?);
            }
        }
        history.retain(|past| past.revision > head.floor);
    }
    let mvcc = Mvcc::restore(live.into_iter(), history, head.floor, head.revision)?;
    Ok(Some(head.complete(mvcc)?))
}

/// Value and revisions of a key; the key itself stands beside.
pub(crate) fn encode_live(kv: &KeyValue) -> Vec<u8> {
    let mut w = Writer::default();
    w.u64(kv.create_revision);
    w.u64(kv.mod_revision);
    w.bytes(&kv.value);
    w.0
}

pub(crate) fn decode_live(key: Bytes, r: &mut Reader) -> Result<KeyValue, Malformed> {
    let (create_revision, mod_revision) = (r.u64()?, r.u64()?);
    Ok(KeyValue { key, create_revision, mod_revision, value: r.bytes()? })
}

/// What a revision replaced; what it wrote is found in the revision after it, or in the keys as they are now.
pub(crate) fn encode_history(past: &Revision) -> Vec<u8> {
    let mut w = Writer::default();
    w.u64(past.at_ms);
    w.u64(past.hash);
    w.count(past.changes.len());
    for change in &past.changes {
        w.bytes(&change.key);
        w.u8(u8::from(change.before.is_some()));
        if let Some(before) = &change.before {
            w.0.extend_from_slice(&encode_live(before));
        }
    }
    w.0
}

pub(crate) fn decode_history(revision: u64, r: &mut Reader) -> Result<Revision, Malformed> {
    let (at_ms, hash) = (r.u64()?, r.u64()?);
    let changes = r.many(|r| {
        let key = r.bytes()?;
        let before = match r.u8()? {
            0 => None,
            _ => Some(Arc::new(decode_live(key.clone(), r)?)),
        };
        Ok(Change { key, now: None, before })
    })?;
    Ok(Revision { revision, at_ms, hash, changes })
}

/// redb on our disk.
#[derive(Debug)]
struct Backend(Arc<dyn DiskFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Operation, Origin, Txn, Write};
    use crate::disk::Directory;
    use crate::mvcc::Range;

    const IDENTITY: Identity = Identity { member: 1, cluster: 7 };

    fn open(disk: &Arc<dyn Disk>, known: bool) -> Result<(Checkpoint, u64, State), CheckpointError> {
        let founders = Membership { voters: vec![1], ..Membership::default() };
        Checkpoint::open(disk.clone(), IDENTITY, &founders, known)
    }

    /// Some keys written, one of them twice and one deleted, and the first revision forgotten.
    fn filled(disk: &Arc<dyn Disk>) -> State {
        let (mut checkpoint, _, mut state) = open(disk, false).unwrap();
        let mut delta = Delta::default();
        let put = |key: &str, value: &str| Write::Put { key: key.to_owned().into(), value: value.to_owned().into() };
        let writes = [
            put("a", "1"),
            put("b", "2"),
            put("a", "3"),
            Write::Delete { key: "b".into() },
            put("c", &"4".repeat(9000)),
        ];
        for (sequence, write) in (1..).zip(writes) {
            let operation = Operation::Txn(Txn { compares: Vec::new(), then: vec![write] });
            let command = Command { origin: Origin { member: 1, boot: 1, sequence }, at_ms: sequence, operation };
            delta.history.extend(state.apply(command).1);
        }
        state.mvcc.compact(1);
        delta.live.extend(state.mvcc.live().map(|kv| (kv.key.clone(), Some(kv.clone()))));
        (delta.head, delta.floor) = (encode_head(&state), state.mvcc.floor());
        checkpoint.commit(&delta).unwrap();
        state
    }

    /// The same directory as the first format had it: a row per revision.
    fn lower(disk: &Arc<dyn Disk>, format: u64) {
        let database = open_database(disk.as_ref()).unwrap();
        let state = load(&database).unwrap().unwrap();
        let write = begin(&database).unwrap();
        write.delete_table(PAST).unwrap();
        {
            let mut history = write.open_table(HISTORY).unwrap();
            for past in state.mvcc.history() {
                history.insert(past.revision, &encode_history(past)[..]).unwrap();
            }
            let mut member = write.open_table(MEMBER).unwrap();
            let boot = member.get("boot").unwrap().unwrap().value();
            let rows = [("id", IDENTITY.member), ("cluster", IDENTITY.cluster), ("format", format), ("boot", boot)];
            for (name, value) in rows {
                member.insert(name, value).unwrap();
            }
            member.insert("check", check_of(rows.map(|(_, value)| value))).unwrap();
        }
        write.commit().unwrap();
    }

    #[test]
    fn a_directory_of_the_first_format_is_raised_with_all_that_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(Directory::lock(dir.path().join("member")).unwrap());
        let before = filled(&disk);
        lower(&disk, FIRST_FORMAT);
        // Raised by the first opening, and found so by the second.
        for life in [2, 3] {
            let (checkpoint, boot, state) = open(&disk, true).unwrap();
            assert_eq!((boot, state.fingerprint()), (life, before.fingerprint()));
            for revision in before.mvcc.floor()..=before.mvcc.revision() {
                let range = Range::prefix("").at(revision);
                assert_eq!(state.mvcc.range(&range), before.mvcc.range(&range), "at {revision}");
            }
            drop(checkpoint);
            let database = open_database(disk.as_ref()).unwrap();
            let read = database.begin_read().unwrap();
            assert!(matches!(read.open_table(HISTORY), Err(redb::TableError::TableDoesNotExist(_))));
            assert_eq!(read.open_table(MEMBER).unwrap().get("format").unwrap().unwrap().value(), FORMAT);
        }
    }

    #[test]
    fn a_format_of_the_future_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(Directory::lock(dir.path().join("member")).unwrap());
        filled(&disk);
        lower(&disk, FORMAT + 1);
        for _ in 0..2 {
            assert!(matches!(open(&disk, true), Err(CheckpointError::Version)));
        }
    }
}
