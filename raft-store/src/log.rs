//! The raft log on disk: segments of fixed size, allocated ahead, written in place, recycled.
//!
//! ```text
//! segment   = header (4096 bytes) · frame* · zeros or leftovers of an earlier use
//! header    = "KGLOG" 0 0 1 · epoch u64 · first sequence u64 · member u64 · cluster u64 · crc32c u32 of all before
//! frame     = length u32 · crc32c u32 · epoch u64 · sequence u64 · synced u64 · payload, padded to 8 bytes
//!             the crc covers everything after itself and the length; `synced` is the last sequence known durable
//! payload   = record*
//! record    = 1 · term u64 · vote u64 · commit u64                          the hard state from here on
//!           | 2 · index u64 · term u64                                      the log restarts behind a snapshot
//!           | 3 · type u8 · term u64 · index u64 · context bytes · data bytes
//!           | 4                                                             everything before is durable
//!           | 5                                                             the log goes on in the next segment
//! ```
//!
//! A use of a segment has its own epoch, so leftovers of an earlier use never pass for frames. A frame that does not
//! check ends the log: writes that were never synced may be missing or torn. If a later frame says that the bad one had
//! been durable, bytes that were promised are gone, and opening refuses with [`LogError::Damaged`].
//!
//! **Damage and torn writes.** A torn write was never synced, so nothing was promised by it; damage hits what was. Four
//! witnesses tell them apart. (1) Every frame carries how far the log was durable when it was written. (2) When nothing
//! more is to be written after a sync, a mark follows that carries it: written at once, which a killed process survives,
//! and synced when the log has been quiet for [`crate::limits::MARK_MS`], which a power cut survives. (3) A segment that
//! is full ends in a record that the log goes on in the next one, synced before that is used: a missing or shortened
//! segment is missed. (4) The checkpoint and the roster know of frames and files that must be there. What is left is one
//! case: the power fails within that time after the last write, and the same bytes are damaged besides. They look like
//! the torn write they almost were, and are taken for one.
//!
//! Errors of a sync are final: the caller stops, since the kernel may have dropped the writes.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, HardState};

use crate::codec::{Malformed, Reader, Writer};
use crate::disk::{Disk, DiskFile};
use crate::limits::{FRAME_BYTES_MAX, FREE_SEGMENTS_MAX, SEGMENT_BYTES};
use crate::planted::{Bug, planted};

const MAGIC: &[u8; 8] = b"KGLOG\0\0\x01";
const HEADER_BYTES: u64 = 4096;
/// The fields of a header and their checksum.
const HEADER_FIELD_BYTES: usize = 44;
const FRAME_HEAD_BYTES: usize = 32;

/// What the log cannot do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// Promised bytes are gone.
    #[error("{0}")]
    Damaged(String),
    /// The log was written by another member or for another cluster.
    #[error("the log belongs to member {member} of cluster {cluster:x}")]
    Foreign { member: u64, cluster: u64 },
    /// The system refused; after a sync nothing may be assumed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) member: u64,
    pub(crate) cluster: u64,
}

/// One thing to remember.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    Hard(HardState),
    /// Everything before is replaced by a snapshot of this index and term.
    Restart {
        index: u64,
        term: u64,
    },
    Entry(Entry),
    /// Everything before is durable.
    Mark,
    /// The log goes on in the next segment.
    Continued,
}

/// How many frames are durable, for whoever wants to know while the log is written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durable(Arc<AtomicU64>);

impl Durable {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self, frames: u64) {
        self.0.store(frames, Ordering::Release);
    }
}

/// What the log remembered: the last hard state, and the entries since the last restart, without gaps.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) hard: HardState,
    pub(crate) entries: VecDeque<Entry>,
}

impl Recovered {
    fn replay(&mut self, record: Record) -> Result<(), Malformed> {
        match record {
            Record::Hard(hard) => self.hard = hard,
            Record::Restart { .. } => self.entries.clear(),
            Record::Mark | Record::Continued => {}
            Record::Entry(entry) => {
                while self.entries.back().is_some_and(|last| last.index >= entry.index) {
                    self.entries.pop_back();
                }
                if self.entries.back().is_some_and(|last| last.index.checked_add(1) != Some(entry.index)) {
                    return Err(Malformed);
                }
                self.entries.push_back(entry);
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Segment {
    name: String,
    file: Arc<dyn DiskFile>,
    epoch: u64,
    first_sequence: u64,
    end: u64,
    last_index: u64,
    // Its last record says that there is a next segment.
    continued: bool,
}

/// The open log: the one writer of its files.
#[derive(Debug)]
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    identity: Identity,
    sealed: VecDeque<Segment>,
    active: Segment,
    free: Vec<(String, Arc<dyn DiskFile>)>,
    next_sequence: u64,
    synced: u64,
    durable: Durable,
    hard: HardState,
    // Sequence after the last mark: nothing was written since.
    marked: u64,
}

impl Log {
    /// Opens the log, creating it in an empty directory; one `known` to have been opened before is not empty.
    pub(crate) fn open(disk: Arc<dyn Disk>, identity: Identity, known: bool) -> Result<(Log, Recovered), LogError> {
        let (mut segments, mut free) = find_segments(&disk, identity)?;
        if known && segments.is_empty() && !planted(Bug::TruncatedTailAccepted) {
            return Err(LogError::Damaged("every segment of the log is gone".to_owned()));
        }
        let mut recovered = Recovered::default();
        let mut next_sequence = segments.front().map_or(1, |oldest| oldest.first_sequence);
        let last = segments.len().saturating_sub(1);
        let mut unused = false;
        for (number, segment) in segments.iter_mut().enumerate() {
            // A segment is begun before the one before it says so, and used only once that is durable.
            if number > 0 && number == last && segment.first_sequence == next_sequence + 1 && is_unused(segment)? {
                unused = true;
                break;
            }
            if segment.first_sequence != next_sequence {
                return Err(LogError::Damaged(format!("frames before {} are missing", segment.name)));
            }
            next_sequence = scan(segment, &mut recovered)?;
        }
        if let Some(begun) = segments.pop_back_if(|_| unused) {
            // Its number will be given again.
            begun.file.write_at(0, &[0; HEADER_FIELD_BYTES])?;
            begun.file.sync()?;
            free.push((begun.name, begun.file));
        }
        if let Some(newest) = segments.back().filter(|newest| newest.continued && !planted(Bug::TruncatedTailAccepted))
        {
            return Err(LogError::Damaged(format!("the segment after {} is gone", newest.name)));
        }
        check_headless(&free, segments.back(), next_sequence)?;
        let hard = recovered.hard.clone();
        let synced = next_sequence - 1;
        let active = match segments.pop_back() {
            Some(active) => active,
            None => begin_segment(&disk, identity, &mut free, 1, 1)?,
        };
        let (durable, marked) = (Durable::default(), 0);
        let mut log =
            Log { disk, identity, sealed: segments, active, free, next_sequence, synced, durable, hard, marked };
        // What was read may sit in the page cache only: promise nothing on top of it before it is durable.
        log.active.file.sync()?;
        log.durable.set(synced);
        log.limit_free()?;
        Ok((log, recovered))
    }

    /// How many frames are durable, now and later.
    pub(crate) fn durable(&self) -> Durable {
        self.durable.clone()
    }

    /// Writes records in order, as few frames as fit; durable after [`Log::sync`].
    pub(crate) fn write(&mut self, records: &[Record]) -> Result<(), LogError> {
        let mut w = Writer::default();
        let mut last_index = 0;
        for record in records {
            if let Record::Hard(hard) = record {
                self.hard = hard.clone();
            }
            let start = w.0.len();
            encode_record(record, &mut w);
            if w.0.len() > FRAME_BYTES_MAX && start > 0 {
                let rest = w.0.split_off(start);
                self.write_frame(&w.0, last_index)?;
                w.0 = rest;
                last_index = 0;
            }
            if let Record::Entry(entry) = record {
                last_index = last_index.max(entry.index);
            }
        }
        if w.0.is_empty() { Ok(()) } else { self.write_frame(&w.0, last_index) }
    }

    fn write_frame(&mut self, payload: &[u8], last_index: u64) -> Result<(), LogError> {
        if self.active.end + frame_size(payload.len()) > SEGMENT_BYTES - frame_size(1) {
            self.roll()?;
        }
        self.append_frame(payload, last_index)
    }

    fn append_frame(&mut self, payload: &[u8], last_index: u64) -> Result<(), LogError> {
        let frame = encode_frame(self.active.epoch, self.next_sequence, self.synced, payload);
        self.active.file.write_at(self.active.end, &frame)?;
        self.active.end += frame.len() as u64;
        self.active.last_index = self.active.last_index.max(last_index);
        self.next_sequence += 1;
        Ok(())
    }

    /// Begins a new segment with the hard state, so that older segments are never needed for it.
    fn roll(&mut self) -> Result<(), LogError> {
        self.sync()?;
        let epoch = self.active.epoch + 1;
        let next = begin_segment(&self.disk, self.identity, &mut self.free, epoch, self.next_sequence + 1)?;
        let mut continued = Writer::default();
        encode_record(&Record::Continued, &mut continued);
        self.append_frame(&continued.0, 0)?;
        self.sync()?;
        self.sealed.push_back(std::mem::replace(&mut self.active, next));
        let mut w = Writer::default();
        encode_record(&Record::Hard(self.hard.clone()), &mut w);
        self.write_frame(&w.0, 0)
    }

    /// Makes everything written durable.
    pub(crate) fn sync(&mut self) -> Result<(), LogError> {
        if self.synced + 1 < self.next_sequence {
            match self.active.file.sync() {
                Err(_) if planted(Bug::SyncErrorIgnored) => {}
                done => done?,
            }
            self.synced = self.next_sequence - 1;
            self.durable.set(self.synced);
        }
        Ok(())
    }

    /// Says behind what was synced that it was, unless that is said already; itself durable after the next sync.
    pub(crate) fn mark(&mut self) -> Result<(), LogError> {
        if self.marked == self.next_sequence || self.synced + 1 < self.next_sequence {
            return Ok(());
        }
        let mut w = Writer::default();
        encode_record(&Record::Mark, &mut w);
        self.write_frame(&w.0, 0)?;
        self.marked = self.next_sequence;
        Ok(())
    }

    /// Entries up to and including `index` are no longer needed; whole segments of them become free.
    pub(crate) fn truncate(&mut self, index: u64) -> Result<(), LogError> {
        while self.sealed.front().is_some_and(|oldest| oldest.last_index <= index) {
            if let Some(oldest) = self.sealed.pop_front() {
                self.free.push((oldest.name, oldest.file));
            }
        }
        self.limit_free()
    }

    fn limit_free(&mut self) -> Result<(), LogError> {
        while self.free.len() > FREE_SEGMENTS_MAX {
            if let Some((name, _)) = self.free.pop() {
                self.disk.remove(&name)?;
            }
        }
        Ok(())
    }
}

type Found = (VecDeque<Segment>, Vec<(String, Arc<dyn DiskFile>)>);

/// Reads every header: segments in use by epoch, and files whose header was never finished.
fn find_segments(disk: &Arc<dyn Disk>, identity: Identity) -> Result<Found, LogError> {
    let mut used = Vec::new();
    let mut free = Vec::new();
    for name in disk.names()?.into_iter().filter(|name| name.starts_with("log-")) {
        let file = disk.open(&name)?;
        match read_header(file.as_ref())? {
            Some((found, epoch, first_sequence)) if found == identity => {
                used.push(Segment {
                    name,
                    file,
                    epoch,
                    first_sequence,
                    end: HEADER_BYTES,
                    last_index: 0,
                    continued: false,
                });
            }
            Some((found, ..)) => return Err(LogError::Foreign { member: found.member, cluster: found.cluster }),
            None => free.push((name, file)),
        }
    }
    used.sort_by_key(|segment| segment.epoch);
    // Free segments keep their old header: what lies before a break in the sequence was truncated.
    let mut in_use: VecDeque<Segment> = VecDeque::new();
    let mut newest_first = used.into_iter().rev();
    if let Some(newest) = newest_first.next() {
        let mut epoch = newest.epoch;
        in_use.push_front(newest);
        for segment in newest_first {
            if segment.epoch + 1 == epoch {
                epoch = segment.epoch;
                in_use.push_front(segment);
            } else {
                free.push((segment.name, segment.file));
            }
        }
    }
    free.sort_by(|a, b| a.0.cmp(&b.0));
    Ok((in_use, free))
}

fn read_header(file: &dyn DiskFile) -> Result<Option<(Identity, u64, u64)>, LogError> {
    if file.len()? < SEGMENT_BYTES {
        return Ok(None);
    }
    let mut bytes = [0; HEADER_FIELD_BYTES];
    file.read_at(0, &mut bytes)?;
    let mut r = Reader::copy(&bytes[8..]);
    let mut next = || r.u64().expect("the header has room for its fields");
    let (epoch, first_sequence, member, cluster) = (next(), next(), next(), next());
    let crc = r.u32().expect("the header has room for its checksum");
    let valid = bytes[..8] == MAGIC[..] && crc == crc32c::crc32c(&bytes[..40]);
    Ok(valid.then_some((Identity { member, cluster }, epoch, first_sequence)))
}

fn begin_segment(
    disk: &Arc<dyn Disk>,
    identity: Identity,
    free: &mut Vec<(String, Arc<dyn DiskFile>)>,
    epoch: u64,
    first_sequence: u64,
) -> Result<Segment, LogError> {
    let (name, file) = match free.pop() {
        Some(reused) => reused,
        None => {
            let name = format!("log-{epoch:016x}");
            let file = disk.open(&name)?;
            (name, file)
        }
    };
    if file.len()? != SEGMENT_BYTES {
        file.allocate(SEGMENT_BYTES)?;
    }
    let mut w = Writer(MAGIC.to_vec());
    for field in [epoch, first_sequence, identity.member, identity.cluster] {
        w.u64(field);
    }
    let crc = crc32c::crc32c(&w.0);
    w.u32(crc);
    file.write_at(0, &w.0)?;
    file.sync()?;
    disk.sync_names()?;
    Ok(Segment { name, file, epoch, first_sequence, end: HEADER_BYTES, last_index: 0, continued: false })
}

/// Whether a segment was begun and holds no frame of this use.
fn is_unused(segment: &Segment) -> Result<bool, LogError> {
    let mut content = vec![0; FRAME_BYTES_MAX + FRAME_HEAD_BYTES + 8];
    segment.file.read_at(HEADER_BYTES, &mut content)?;
    Ok(read_frame(&content.into(), 0, segment.epoch).is_none_or(|frame| frame.sequence != segment.first_sequence))
}

/// Replays a segment's frames; returns the sequence after the last good one.
fn scan(segment: &mut Segment, recovered: &mut Recovered) -> Result<u64, LogError> {
    let mut content = vec![0; usize::try_from(SEGMENT_BYTES - HEADER_BYTES).expect("a segment fits in memory")];
    segment.file.read_at(HEADER_BYTES, &mut content)?;
    let content = Bytes::from(content);
    let mut sequence = segment.first_sequence;
    let mut at = 0;
    let continues = |frame: &Frame, sequence| frame.sequence == sequence || planted(Bug::LeftoversAccepted);
    while let Some(frame) = read_frame(&content, at, segment.epoch).filter(|frame| continues(frame, sequence)) {
        let note = |record: &Record| match record {
            Record::Entry(entry) => segment.last_index = segment.last_index.max(entry.index),
            Record::Continued => segment.continued = true,
            _ => {}
        };
        replay_payload(frame.payload.clone(), recovered, note)
            .map_err(|_| LogError::Damaged(format!("{} holds records that do not follow each other", segment.name)))?;
        at += usize::try_from(frame_size(frame.payload.len())).expect("a frame fits in a segment");
        sequence += 1;
    }
    segment.end = HEADER_BYTES + at as u64;
    clear_tail(segment, &content, at, sequence)?;
    Ok(sequence)
}

/// Replays what is in a frame.
fn replay_payload(payload: Bytes, recovered: &mut Recovered, mut note: impl FnMut(&Record)) -> Result<(), Malformed> {
    let mut records = Reader::new(payload);
    while !records.is_empty() {
        let record = decode_record(&mut records)?;
        note(&record);
        recovered.replay(record)?;
    }
    Ok(())
}

/// What a frame alone would leave remembered.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn decode_payload(payload: Bytes) -> Result<Recovered, Malformed> {
    let mut recovered = Recovered::default();
    replay_payload(payload, &mut recovered, |_| {})?;
    Ok(recovered)
}

/// Looks at what follows the last good frame. A frame written when the bad one was already durable proves damage; what
/// else is left of this use of the segment was never synced and is erased, or it could later continue a rewritten log.
fn clear_tail(segment: &Segment, content: &Bytes, from: usize, bad: u64) -> Result<(), LogError> {
    const STEP: usize = 4096;
    let epoch = segment.epoch.to_le_bytes();
    let mut residue = false;
    for start in (from..content.len()).step_by(STEP) {
        let chunk = &content[start..content.len().min(start + STEP)];
        if *chunk == [0; STEP][..chunk.len()] {
            continue;
        }
        for at in (start..start + chunk.len()).step_by(8).filter(|at| content.get(at + 8..at + 16) == Some(&epoch[..]))
        {
            residue = true;
            let later =
                read_frame(content, at, segment.epoch).filter(|frame| frame.sequence > bad && frame.synced >= bad);
            if let Some(later) = later.filter(|_| !planted(Bug::TruncatedTailAccepted)) {
                return Err(LogError::Damaged(format!(
                    "frame {bad} of {} was durable and no longer reads, while frame {} after it does",
                    segment.name, later.sequence
                )));
            }
        }
    }
    if residue && !planted(Bug::TornTailKept) {
        segment.file.write_at(segment.end, &vec![0; content.len() - from])?;
        segment.file.sync()?;
    }
    Ok(())
}

/// A file without a valid header must not hold frames that continue the log: its header would have been durable.
fn check_headless(
    free: &[(String, Arc<dyn DiskFile>)],
    newest: Option<&Segment>,
    next_sequence: u64,
) -> Result<(), LogError> {
    let epoch = newest.map_or(1, |segment| segment.epoch + 1);
    for (name, file) in free {
        if file.len()? < SEGMENT_BYTES {
            continue;
        }
        let mut content = vec![0; FRAME_BYTES_MAX + FRAME_HEAD_BYTES + 8];
        file.read_at(HEADER_BYTES, &mut content[..FRAME_HEAD_BYTES])?;
        if content[8..16] != epoch.to_le_bytes() {
            continue;
        }
        file.read_at(HEADER_BYTES, &mut content)?;
        if read_frame(&content.into(), 0, epoch).is_some_and(|frame| frame.sequence == next_sequence) {
            return Err(LogError::Damaged(format!("the header of {name} no longer reads, its frames do")));
        }
    }
    Ok(())
}

pub(crate) struct Frame {
    sequence: u64,
    synced: u64,
    payload: Bytes,
}

fn frame_size(payload: usize) -> u64 {
    (FRAME_HEAD_BYTES + payload.next_multiple_of(8)) as u64
}

fn encode_frame(epoch: u64, sequence: u64, synced: u64, payload: &[u8]) -> Vec<u8> {
    let mut w = Writer(Vec::with_capacity(FRAME_HEAD_BYTES + payload.len() + 8));
    w.count(payload.len());
    w.u32(0);
    w.u64(epoch);
    w.u64(sequence);
    w.u64(synced);
    w.0.extend_from_slice(payload);
    let crc = crc32c::crc32c(&w.0[8..]);
    w.0[4..8].copy_from_slice(&crc.to_le_bytes());
    w.0.resize(w.0.len().next_multiple_of(8), 0);
    w.0
}

pub(crate) fn read_frame(content: &Bytes, at: usize, epoch: u64) -> Option<Frame> {
    let rest = content.slice(at.min(content.len())..);
    let mut r = Reader::new(rest.clone());
    let (length, crc) = (r.u32().ok()? as usize, r.u32().ok()?);
    let (found, sequence, synced) = (r.u64().ok()?, r.u64().ok()?, r.u64().ok()?);
    let checked = rest.get(8..FRAME_HEAD_BYTES.checked_add(length)?)?;
    let ours = found == epoch || planted(Bug::LeftoversAccepted);
    (length > 0 && ours && crc == crc32c::crc32c(checked)).then(|| Frame {
        sequence,
        synced,
        payload: rest.slice(FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + length),
    })
}

fn encode_record(record: &Record, w: &mut Writer) {
    match record {
        Record::Hard(hard) => {
            w.u8(1);
            w.u64(hard.term);
            w.u64(hard.vote);
            w.u64(hard.commit);
        }
        Record::Restart { index, term } => {
            w.u8(2);
            w.u64(*index);
            w.u64(*term);
        }
        Record::Entry(entry) => {
            w.u8(3);
            w.u8(match entry.get_entry_type() {
                EntryType::EntryNormal => 0,
                EntryType::EntryConfChange => 1,
                EntryType::EntryConfChangeV2 => 2,
            });
            w.u64(entry.term);
            w.u64(entry.index);
            w.bytes(&entry.context);
            w.bytes(&entry.data);
        }
        Record::Mark => w.u8(4),
        Record::Continued => w.u8(5),
    }
}

fn decode_record(r: &mut Reader) -> Result<Record, Malformed> {
    match r.u8()? {
        1 => {
            let mut hard = HardState::default();
            (hard.term, hard.vote, hard.commit) = (r.u64()?, r.u64()?, r.u64()?);
            Ok(Record::Hard(hard))
        }
        2 => Ok(Record::Restart { index: r.u64()?, term: r.u64()? }),
        3 => {
            let mut entry = Entry::default();
            entry.set_entry_type(match r.u8()? {
                0 => EntryType::EntryNormal,
                1 => EntryType::EntryConfChange,
                2 => EntryType::EntryConfChangeV2,
                _ => return Err(Malformed),
            });
            (entry.term, entry.index) = (r.u64()?, r.u64()?);
            // Copies: a slice would keep the whole segment in memory.
            entry.context = Bytes::copy_from_slice(&r.bytes()?);
            entry.data = Bytes::copy_from_slice(&r.bytes()?);
            Ok(Record::Entry(entry))
        }
        4 => Ok(Record::Mark),
        5 => Ok(Record::Continued),
        _ => Err(Malformed),
    }
}
