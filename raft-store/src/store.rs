//! The handle everybody else holds: asks the member, reads its latest picture, follows its changes.
//!
//! A write is answered once it is durable on a majority and applied here; a read that must be linearizable first learns
//! from the leader how far it has to be. Values are read from the picture on the caller's own thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::command::{Operation, Txn, TxnReply};
use crate::driver::{Clock, Envelope, Reply, Request};
use crate::error::{Cancelled, OpenError, StoreError, WatchError};
use crate::life::Home;
use crate::limits::{INBOX_MAX, MEMBERS_MAX, REQUESTS_MAX};
use crate::member::{Answer, Input, Member, MemberChange};
use crate::mvcc::{Consistency, Mvcc, Range, RangeReply};
use crate::offline;
use crate::state::{Membership, State};
use crate::transport::TransportConfig;
use crate::watch::{ChangeRecord, Cursor, WatchRequest};

/// How to open a member.
pub struct Config {
    /// The member's own directory; created if needed, locked while open.
    pub data_dir: PathBuf,
    /// The member's number: not 0, and never used by another member of this cluster. A member that healed from damage
    /// has another one, which its directory remembers and [`StoreStatus::member_id`] tells; it is still opened with this
    /// one.
    pub member_id: u64,
    /// The cluster's number: members of another one are refused.
    pub cluster_id: u64,
    /// The members an empty directory starts with, by number, each with the address its peers reach it at. Every founding
    /// member names the same; a member that is to be added later names none. Ignored once the directory has a state.
    pub members: Vec<(u64, String)>,
    /// raft's unit of time while there are peers; alone a member keeps no time at all.
    pub tick: Duration,
    /// Ticks between two heartbeats of a leader.
    pub heartbeat_ticks: usize,
    /// Ticks without a leader before an election; a member waits up to twice as long.
    pub election_ticks: usize,
    /// How to reach peers and be reached; `None` for a member that stays alone.
    pub transport: Option<TransportConfig>,
}

impl Config {
    /// A member that is the whole cluster.
    pub fn single(data_dir: impl Into<PathBuf>) -> Config {
        Config {
            data_dir: data_dir.into(),
            member_id: 1,
            cluster_id: 1,
            members: vec![(1, String::new())],
            // 100 ms heartbeats and 1 s elections survive the pauses of small machines under load.
            tick: Duration::from_millis(10),
            heartbeat_ticks: 10,
            election_ticks: 100,
            transport: None,
        }
    }

    fn check(&self) -> Result<Membership, OpenError> {
        let mut voters: Vec<u64> = self.members.iter().map(|(member, _)| *member).collect();
        voters.sort_unstable();
        let refuse = |what| Err(OpenError::Config(what));
        if self.member_id == 0 || voters.contains(&0) {
            return refuse("a member's number must not be 0");
        }
        if voters.windows(2).any(|pair| pair[0] == pair[1]) {
            return refuse("a member is named twice");
        }
        if !voters.is_empty() && !voters.contains(&self.member_id) {
            return refuse("a founding member must be among the members it names");
        }
        if voters.len() > MEMBERS_MAX {
            return refuse("the cluster would have too many members");
        }
        if self.transport.is_none() && voters != [self.member_id] {
            return refuse("a member with peers needs a transport");
        }
        if self.tick < Duration::from_millis(1)
            || self.heartbeat_ticks == 0
            || self.election_ticks <= self.heartbeat_ticks
        {
            return refuse("the election must take longer than a heartbeat, and a tick at least a millisecond");
        }
        Ok(Membership { voters, addresses: self.members.iter().cloned().collect(), ..Membership::default() })
    }
}

/// What a member shows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// The member asked.
    pub member_id: u64,
    /// The leader it knows of.
    pub leader: Option<u64>,
    /// raft's term.
    pub term: u64,
    /// Index of the last log entry applied.
    pub applied: u64,
    /// The latest revision.
    pub revision: u64,
    /// The oldest revision that can be read.
    pub oldest_revision: u64,
    /// Keys that exist.
    pub keys: usize,
    /// Bytes of keys, values and history, as held in memory.
    pub db_size: usize,
    /// A hash of all keys and values: equal on members that applied the same index.
    pub hash: u64,
    /// Who belongs to the cluster.
    pub members: Vec<MemberStatus>,
    /// Whether writes are refused for lack of space.
    pub disk_full: bool,
    /// What was damaged, while the member begins anew and has not come to decide again.
    pub healing: Option<String>,
    /// Why the member ended, once it has.
    pub stopped: Option<String>,
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its number.
    pub member_id: u64,
    /// Where its peers reach it.
    pub address: String,
    /// Whether it takes part in decisions; learners only listen.
    pub voter: bool,
}

/// What the machine shows after a turn: the map, and the machine's status.
#[derive(Clone, Default)]
pub(crate) struct Picture {
    pub(crate) mvcc: Mvcc,
    pub(crate) status: StoreStatus,
}

impl Picture {
    pub(crate) fn of(member: &Member) -> Picture {
        let state = member.state();
        let membership = &state.membership;
        let describe = |member_id: u64| MemberStatus {
            member_id,
            address: membership.addresses.get(&member_id).cloned().unwrap_or_default(),
            voter: membership.voters.contains(&member_id),
        };
        let status = StoreStatus {
            member_id: member.id(),
            leader: member.leader(),
            term: member.term(),
            applied: state.index,
            revision: state.mvcc.revision(),
            oldest_revision: state.mvcc.floor(),
            keys: state.mvcc.keys(),
            db_size: state.mvcc.bytes(),
            hash: state.mvcc.hash(),
            members: membership.all().into_iter().map(describe).collect(),
            disk_full: member.is_full(),
            healing: member.healing().map(str::to_owned),
            stopped: None,
        };
        Picture { mvcc: state.mvcc.clone(), status }
    }
}

/// A member that is open. Clones share it; when the last one goes without [`Store::close`], the member ends at once and
/// the next start replays what the checkpoint lacks.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    inbox: SyncSender<Envelope>,
    places: Arc<Semaphore>,
    pictures: watch::Receiver<Picture>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A full inbox cannot be: requests hold places, and nobody is left to make one. An ended member needs no notice.
        drop(self.inbox.try_send(Envelope::End("the store was dropped".to_owned())));
    }
}

impl Store {
    /// Opens a member; it serves as soon as it knows a leader, and requests wait for that. Must run within tokio.
    pub async fn open(config: Config) -> Result<Store, OpenError> {
        let runtime = tokio::runtime::Handle::current();
        let opened = tokio::task::spawn_blocking(move || start(config, runtime));
        opened.await.map_err(|panic| OpenError::Io(std::io::Error::other(panic)))?
    }

    /// Applies the writes if every compare holds.
    pub async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        txn.check()?;
        match self.ask(Request::Propose(Operation::Txn(txn))).await? {
            Answer::Txn(reply) => Ok(reply),
            Answer::Revision(_) | Answer::Done => unreachable!("a transaction is answered as one"),
        }
    }

    /// Reads keys in order.
    pub async fn range(&self, range: Range) -> Result<RangeReply, StoreError> {
        if range.consistency == Consistency::Linearizable {
            self.read_index().await?;
        }
        let mvcc = self.picture(|picture| picture.mvcc.clone())?;
        mvcc.range(&range)
    }

    /// The revision a linearizable read must have seen; what [`Consistency::Local`] shows from now on has seen it.
    pub async fn read_index(&self) -> Result<u64, StoreError> {
        match self.ask(Request::Read).await? {
            Answer::Revision(revision) => Ok(revision),
            Answer::Txn(_) | Answer::Done => unreachable!("a read is answered by a revision"),
        }
    }

    /// Follows changes from a revision on.
    pub fn watch(&self, request: WatchRequest) -> Result<Watch, WatchError> {
        let mut pictures = self.shared.pictures.clone();
        let mvcc = pictures.borrow_and_update().mvcc.clone();
        pictures.mark_changed();
        Ok(Watch { cursor: Cursor::new(request, &mvcc)?, pictures })
    }

    /// Forgets the history up to and including `revision`, on every member.
    pub async fn compact(&self, revision: u64) -> Result<(), StoreError> {
        self.ask(Request::Propose(Operation::Compact { revision })).await.map(|_| ())
    }

    /// Adds, promotes, removes or replaces a member; may be asked of any member, which passes it on to the leader and
    /// repeats it until it is applied here or [`crate::limits::REQUEST_MS`] are over. One change at a time. A learner is
    /// promoted once it has caught up: a leader says [`StoreError::Busy`] until then, any other member waits for it.
    pub async fn change_members(&self, change: MemberChange) -> Result<(), StoreError> {
        self.ask(Request::Change(change)).await.map(|_| ())
    }

    /// Begins to hand leadership to a voter; [`Store::status`] tells when it has happened.
    pub async fn transfer_leader(&self, to: u64) -> Result<(), StoreError> {
        self.ask(Request::Transfer(to)).await.map(|_| ())
    }

    /// What the member shows of itself now.
    pub fn status(&self) -> StoreStatus {
        self.shared.pictures.borrow().status.clone()
    }

    /// Waits until the member's status satisfies `condition`, or the member has ended.
    pub async fn wait_for(&self, mut condition: impl FnMut(&StoreStatus) -> bool) -> Result<StoreStatus, StoreError> {
        let mut pictures = self.shared.pictures.clone();
        let ended = |picture: &Picture| picture.status.stopped.clone();
        match pictures.wait_for(|picture| ended(picture).is_some() || condition(&picture.status)).await {
            Ok(picture) => match ended(&picture) {
                Some(reason) => Err(StoreError::Stopped(reason)),
                None => Ok(picture.status.clone()),
            },
            Err(_) => Err(StoreError::Stopped("it ended".to_owned())),
        }
    }

    /// Everything as of one index, for [`crate::snapshot`].
    pub(crate) async fn capture(&self) -> Result<State, StoreError> {
        let (to, captured) = oneshot::channel();
        self.send(Envelope::Capture(to))?;
        captured.await.map_err(|_| self.stopped())
    }

    /// Stops in order: hands over leadership, completes the checkpoint, ends the threads. Other clones then answer
    /// [`StoreError::Stopped`].
    pub async fn close(self) {
        // An ended member has nothing left to do in order.
        drop(self.send(Envelope::Input(Input::StopRequested)));
        let thread = self.shared.thread.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(thread) = thread {
            // The thread reports its own failure in the status.
            drop(tokio::task::spawn_blocking(move || thread.join()).await);
        }
    }

    fn picture<T>(&self, read: impl FnOnce(&Picture) -> T) -> Result<T, StoreError> {
        let picture = self.shared.pictures.borrow();
        match &picture.status.stopped {
            Some(reason) => Err(StoreError::Stopped(reason.clone())),
            None if picture.status.healing.is_some() && picture.status.applied == 0 => {
                Err(StoreError::Busy("the member is damaged and has nothing to show until its peers have healed it"))
            }
            None => Ok(read(&picture)),
        }
    }

    fn stopped(&self) -> StoreError {
        StoreError::Stopped(self.status().stopped.unwrap_or_else(|| "it is ending".to_owned()))
    }

    fn send(&self, envelope: Envelope) -> Result<(), StoreError> {
        self.shared.inbox.send(envelope).map_err(|_| self.stopped())
    }

    async fn ask(&self, request: Request) -> Result<Answer, StoreError> {
        let places = self.shared.places.clone();
        let place = places.acquire_owned().await.map_err(|_| self.stopped())?;
        let (to, answer) = oneshot::channel();
        self.send(Envelope::Request(request, Reply { to, _place: place }))?;
        answer.await.map_err(|_| self.stopped())?
    }
}

/// Changes as they happen.
pub struct Watch {
    cursor: Cursor,
    pictures: watch::Receiver<Picture>,
}

impl Watch {
    /// The next changes: at least one, in order of revisions, all changes of a revision together.
    pub async fn next(&mut self) -> Result<Vec<ChangeRecord>, Cancelled> {
        loop {
            let (mvcc, stopped) = {
                let picture = self.pictures.borrow_and_update();
                (picture.mvcc.clone(), picture.status.stopped.is_some())
            };
            let found = self.cursor.collect(&mvcc)?;
            if !found.is_empty() {
                return Ok(found);
            }
            if stopped || self.pictures.changed().await.is_err() {
                return Err(Cancelled::Stopped);
            }
        }
    }

    /// Every change below this revision has been returned: a bookmark.
    pub fn next_revision(&self) -> u64 {
        self.cursor.next_revision()
    }
}

/// Opens the disk and starts the threads.
fn start(config: Config, runtime: tokio::runtime::Handle) -> Result<Store, OpenError> {
    let founders = config.check()?;
    let disk = Arc::new(offline::lock(&config.data_dir)?);
    let (inbox, received) = sync_channel(INBOX_MAX);
    let (pictures, seen) = watch::channel(Picture::default());
    let clock = Clock::start();
    let home = Home { config, founders, disk, runtime, clock, inbox: inbox.clone(), pictures };
    let first = home.begin(received)?;
    let thread = std::thread::Builder::new().name("store-member".to_owned()).spawn(move || home.live(first))?;
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    Ok(Store { shared: Arc::new(Shared { inbox, places, pictures: seen, thread: Some(thread).into() }) })
}

/// A key and the value it is to have: shorthand for the commonest write.
pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> crate::command::Write {
    crate::command::Write::Put { key: key.into(), value: value.into() }
}
