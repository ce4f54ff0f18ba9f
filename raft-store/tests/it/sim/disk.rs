//! A disk in memory that forgets: what was not synced before a crash is lost, kept or torn, as the seed decides.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Rng;
use crate::disk::{Disk, DiskFile};

pub(crate) const PAGE: u64 = 512;

/// Sparse content in sectors, which copies of it share until one of them writes.
#[derive(Clone, Debug, Default)]
struct Content {
    length: u64,
    sectors: BTreeMap<u64, Arc<[u8; PAGE as usize]>>,
}

impl Content {
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.length = self.length.max(offset + bytes.len() as u64);
        let mut at = offset;
        for part in split(offset, bytes) {
            let sector = self.sectors.entry(at / PAGE).or_insert_with(|| Arc::new([0; PAGE as usize]));
            let within = (at % PAGE) as usize;
            Arc::make_mut(sector)[within..within + part.len()].copy_from_slice(part);
            at += part.len() as u64;
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if offset + buffer.len() as u64 > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.fill(0);
        let end = offset + buffer.len() as u64;
        for (number, sector) in self.sectors.range(offset / PAGE..end.div_ceil(PAGE)) {
            let start = (number * PAGE).max(offset);
            let stop = ((number + 1) * PAGE).min(end);
            let (from, to) = ((start - number * PAGE) as usize, (stop - number * PAGE) as usize);
            buffer[(start - offset) as usize..(stop - offset) as usize].copy_from_slice(&sector[from..to]);
        }
        Ok(())
    }

    fn set_len(&mut self, length: u64) {
        if length < self.length {
            self.sectors.split_off(&length.div_ceil(PAGE));
            if let Some(last) = self.sectors.get_mut(&(length / PAGE)) {
                Arc::make_mut(last)[(length % PAGE) as usize..].fill(0);
            }
        }
        self.length = length;
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(offset, bytes) => self.write(*offset, bytes),
            Change::Length(length) => self.set_len(*length),
        }
    }
}

/// The parts of a write that lie in one sector each.
fn split(offset: u64, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let first = ((PAGE - offset % PAGE) as usize).min(bytes.len());
    let (head, rest) = bytes.split_at(first);
    std::iter::once(head).chain(rest.chunks(PAGE as usize)).filter(|part| !part.is_empty())
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

/// Something the disk was asked to do, or its owner to note beside it.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Opened(String),
    Changed(String, Change),
    Synced(String),
    Removed(String),
    Renamed(String, String),
    NamesSynced,
    Acknowledged(u64),
}

#[derive(Clone, Debug, Default)]
struct FileState {
    durable: Content,
    current: Content,
    unsynced: Vec<Change>,
}

#[derive(Clone, Debug, Default)]
struct DiskState {
    files: BTreeMap<String, FileState>,
    durable_names: BTreeSet<String>,
    // How many syncs are left until all fail.
    syncs_left: Option<u64>,
    full: bool,
    // A sector that does not read: file and offset.
    spoiled: Option<(String, u64)>,
    // New names that are not durable.
    renamed: Vec<(String, String)>,
    steps: Option<Vec<Step>>,
}

impl DiskState {
    fn note(&mut self, step: impl FnOnce() -> Step) {
        if let Some(steps) = &mut self.steps {
            steps.push(step());
        }
    }
}

/// One member's disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimDisk(Arc<Mutex<DiskState>>);

impl SimDisk {
    fn state(&self) -> MutexGuard<'_, DiskState> {
        self.0.lock().unwrap()
    }

    /// The machine stops: each unsynced write is kept, lost or torn between sectors, independently of the others.
    pub(crate) fn crash(&self, rng: &mut Rng) {
        let mut state = self.state();
        state.syncs_left = None;
        state.full = false;
        for (from, to) in std::mem::take(&mut state.renamed).into_iter().rev() {
            if rng.chance(50)
                && let Some(file) = state.files.remove(&to)
            {
                state.files.insert(from.clone(), file);
                state.durable_names.remove(&to);
                state.durable_names.insert(from);
            }
        }
        let names = state.durable_names.clone();
        state.files.retain(|name, _| names.contains(name) || rng.chance(50));
        // All or nothing is the common case; any mixture is possible.
        let mood = rng.below(4);
        for file in state.files.values_mut() {
            for change in std::mem::take(&mut file.unsynced) {
                let keep = match mood {
                    0 => false,
                    1 => true,
                    _ => rng.chance(50),
                };
                match change {
                    Change::Write(offset, bytes) if mood == 3 => {
                        let mut at = offset;
                        for part in split(offset, &bytes) {
                            if rng.chance(50) {
                                file.durable.write(at, part);
                            }
                            at += part.len() as u64;
                        }
                    }
                    change if keep => file.durable.apply(&change),
                    _ => {}
                }
            }
            file.current = file.durable.clone();
        }
    }

    /// After this many more syncs every sync fails, until the next crash.
    pub(crate) fn fail_syncs(&self, after: u64) {
        self.state().syncs_left = Some(after);
    }

    /// There is no more space, or there is again.
    pub(crate) fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.state().full
    }

    /// The durable bytes of a file.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        let content = &state.files[name].durable;
        let mut bytes = vec![0; content.length as usize];
        content.read(0, &mut bytes).unwrap();
        bytes
    }

    /// Changes one bit at rest.
    pub(crate) fn flip(&self, name: &str, at: u64, bit: u64) {
        let mut bytes = self.bytes(name);
        bytes[at as usize] ^= 1 << bit;
        self.overwrite(name, &bytes);
    }

    /// The sector at this offset does not read any more.
    pub(crate) fn spoil(&self, name: &str, offset: u64) {
        self.state().spoiled = Some((name.to_owned(), offset));
    }

    /// Every sector reads again.
    pub(crate) fn mend(&self) {
        self.state().spoiled = None;
    }

    /// Replaces the durable bytes of a file.
    pub(crate) fn overwrite(&self, name: &str, bytes: &[u8]) {
        let mut state = self.state();
        let file = state.files.entry(name.to_owned()).or_default();
        file.durable = Content::default();
        file.durable.write(0, bytes);
        file.current = file.durable.clone();
        file.unsynced.clear();
        state.durable_names.insert(name.to_owned());
    }

    /// What would be there if the machine stopped now and every unsynced write arrived up to the `kept`-th.
    pub(crate) fn crashed_after(&self, kept: usize) -> SimDisk {
        let other = SimDisk::default();
        other.state().spoiled = self.state().spoiled.clone();
        let mut left = kept;
        for (name, file) in &self.state().files {
            let mut content = file.durable.clone();
            for change in file.unsynced.iter().take(left) {
                content.apply(change);
            }
            left = left.saturating_sub(file.unsynced.len());
            let copy = FileState { durable: content.clone(), current: content, unsynced: Vec::new() };
            other.state().files.insert(name.clone(), copy);
            other.state().durable_names.insert(name.clone());
        }
        other
    }

    /// The disk as it is, to be crashed apart from it.
    pub(crate) fn crashed_after_all(&self) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Writes down everything from now on.
    pub(crate) fn record(&self) {
        self.state().steps = Some(Vec::new());
    }

    pub(crate) fn recorded(&self) -> Vec<Step> {
        self.state().steps.take().unwrap_or_default()
    }

    pub(crate) fn note(&self, step: Step) {
        self.state().note(|| step);
    }

    /// Does what was written down.
    pub(crate) fn repeat(&self, step: &Step) {
        let file = |name: &str| SimFile { disk: self.clone(), name: name.to_owned() };
        match step {
            Step::Opened(name) => drop(self.open(name).unwrap()),
            Step::Changed(name, change) => file(name).change(change.clone()).unwrap(),
            Step::Synced(name) => file(name).sync().unwrap(),
            Step::Removed(name) => self.remove(name).unwrap(),
            Step::Renamed(from, to) => self.rename(from, to).unwrap(),
            Step::NamesSynced => self.sync_names().unwrap(),
            Step::Acknowledged(_) => {}
        }
    }

    /// Writes that are not durable.
    pub(crate) fn unsynced(&self) -> usize {
        self.state().files.values().map(|file| file.unsynced.len()).sum()
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.state().note(|| Step::Opened(name.to_owned()));
        self.state().files.entry(name.to_owned()).or_default();
        Ok(Arc::new(SimFile { disk: self.clone(), name: name.to_owned() }))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.state().files.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.state().note(|| Step::Removed(name.to_owned()));
        self.state().files.remove(name);
        self.state().durable_names.remove(name);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.note(|| Step::Renamed(from.to_owned(), to.to_owned()));
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        if state.durable_names.remove(from) {
            state.durable_names.insert(to.to_owned());
            state.renamed.push((from.to_owned(), to.to_owned()));
        }
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.state();
        state.note(|| Step::NamesSynced);
        state.renamed.clear();
        state.durable_names = state.files.keys().cloned().collect();
        Ok(())
    }

    fn free_bytes(&self) -> Option<u64> {
        Some(if self.state().full { 0 } else { u64::MAX })
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    name: String,
}

impl SimFile {
    fn with<T>(&self, work: impl FnOnce(&mut FileState) -> T) -> io::Result<T> {
        Ok(work(self.disk.state().files.get_mut(&self.name).ok_or(io::ErrorKind::NotFound)?))
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.disk.state().note(|| Step::Changed(self.name.clone(), change.clone()));
        self.with(|file| {
            file.current.apply(&change);
            file.unsynced.push(change);
        })
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|file| file.current.length)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(Change::Length(length))
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        if self.disk.state().full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.set_len(length)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        if self
            .disk
            .state()
            .spoiled
            .as_ref()
            .is_some_and(|(name, at)| *name == self.name && *at < end && offset < at + PAGE)
        {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.with(|file| file.current.read(offset, buffer))?
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.disk.state().full && self.len()? < offset + bytes.len() as u64 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.change(Change::Write(offset, bytes.to_vec()))
    }

    fn sync(&self) -> io::Result<()> {
        if let Some(left) = &mut self.disk.state().syncs_left {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::other("the simulated disk failed"))?;
        }
        self.disk.state().note(|| Step::Synced(self.name.clone()));
        self.with(|file| {
            for change in std::mem::take(&mut file.unsynced) {
                file.durable.apply(&change);
            }
        })
    }
}
