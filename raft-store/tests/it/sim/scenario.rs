//! Stories about a cluster as text: what is done, and under it, indented, what came of it.
//!
//! ```text
//! add-members N            founders 1 to N, on empty disks     join ID            a member that is to be added
//! campaign ID              only its clock runs until it leads  time MS            every clock runs
//! clock ID MS              only its clock runs
//! propose ID KEY=VALUE · read ID KEY · compact ID REVISION
//! add-learner ID NEW [PLACE] · promote ID MEMBER · remove ID MEMBER
//! partition ID… | ID…      who cannot hear each other          heal
//! crash ID · restart ID                                        status             who knows what
//! kill ID          a crash of its process alone, whose connections its system closes
//! lose ID          a crash after which its checkpoint is gone      corrupt ID KEY=VALUE      in its memory alone
//! ```
//! `UPDATE=1` writes down what came of it; the reviewer reads the difference. One thread, no luck: messages arrive in the
//! order they are sent, disks sync at once.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::Rng;
use super::disk::SimDisk;
use crate::checkpoint::{self, Checkpoint};
use crate::command::{Operation, Txn, Write};
use crate::disk::Disk;
use crate::log::{Identity, Log};
use crate::member::{Answer, Input, Member, MemberChange, Now, Output, Start};
use crate::mvcc::Range;
use crate::recovery::{self, Opened};
use crate::roster::{self, Roster};
use crate::state::Membership;

const TICK_MS: u64 = 50;
const CAMPAIGN_TICKS_MAX: u64 = 100;

struct Live {
    member: Member,
    log: Log,
    checkpoint: Checkpoint,
    roster: Roster,
}

struct Place {
    // The number it was founded with.
    configured: u64,
    disk: SimDisk,
    founders: Membership,
    live: Option<Live>,
    now_ms: u64,
}

#[derive(Default)]
struct Stage {
    places: BTreeMap<u64, Place>,
    cut: Vec<(u64, u64)>,
    inputs: VecDeque<(u64, Input)>,
    // The key of a read that waits for its answer.
    reading: Option<Bytes>,
    told: String,
}

impl Stage {
    fn add(&mut self, id: u64, founders: Membership) {
        let place = Place { configured: id, disk: SimDisk::default(), founders, live: None, now_ms: 1000 };
        self.places.insert(id, place);
        self.restart(id);
    }

    /// Whom the story calls by this number: who was founded with it.
    fn now(&self, configured: u64) -> u64 {
        let found = self.places.iter().rev().find(|(_, place)| place.configured == configured);
        found.map_or(configured, |(id, _)| *id)
    }

    fn restart(&mut self, id: u64) {
        let mut place = self.places.remove(&id).unwrap();
        let identity = Identity { member: place.configured, cluster: 1 };
        let disk: Arc<dyn Disk> = Arc::new(place.disk.clone());
        let Opened { memory: opened, roster, healing } =
            recovery::open(&disk, identity, &place.founders, place.now_ms).unwrap();
        if roster.member != id {
            writeln!(self.told, "  {id} begins anew as {}: {}", roster.member, roster.damage).unwrap();
        }
        let id = roster.member;
        let start = Start {
            healing,
            member: id,
            boot: opened.boot,
            tick_ms: TICK_MS,
            heartbeat_ticks: 2,
            election_ticks: 10,
            seed: id,
            state: opened.state,
            tail: opened.tail,
            restart_log: opened.restart_log,
        };
        let now = Now { mono_ms: place.now_ms, wall_ms: place.now_ms };
        let member = Member::new(start, now, &slog::Logger::root(slog::Discard, slog::o!())).unwrap();
        place.live = Some(Live { member, log: opened.log, checkpoint: opened.checkpoint, roster });
        self.places.insert(id, place);
        self.step(id, None);
    }

    fn step(&mut self, id: u64, input: Option<Input>) {
        let Some(place) = self.places.get_mut(&id) else { return };
        let Some(live) = place.live.as_mut() else { return };
        let mut out = Vec::new();
        live.member.step(Now { mono_ms: place.now_ms, wall_ms: place.now_ms }, input, &mut out);
        for output in out {
            // A member that diverged ends in the midst of its outputs.
            if self.places.contains_key(&id) {
                self.perform(id, output);
            }
        }
    }

    fn perform(&mut self, id: u64, output: Output) {
        let live = self.places.get_mut(&id).and_then(|place| place.live.as_mut()).unwrap();
        match output {
            Output::Write(batch) => {
                live.log.write(&batch.records).unwrap();
                live.log.sync().unwrap();
                self.inputs.push_back((id, Input::LogSynced { number: batch.number }));
            }
            Output::Truncate(index) => live.log.truncate(index).unwrap(),
            Output::Checkpoint(delta) => {
                live.checkpoint.commit(&delta).unwrap();
                self.inputs.push_back((id, Input::CheckpointDone));
            }
            Output::Install(state) => {
                live.checkpoint.install(&state).unwrap();
                writeln!(self.told, "  {id} takes over the state of entry {}", state.index).unwrap();
                self.inputs.push_back((id, Input::CheckpointDone));
            }
            Output::Send(message) if !self.cut.contains(&(id, message.to)) => {
                self.inputs.push_back((message.to, Input::Received(message)));
            }
            Output::SendSnapshot(message, state) => {
                let to = message.to;
                let delivered = !self.cut.contains(&(id, to)) && self.places.get(&to).is_some_and(|p| p.live.is_some());
                if delivered {
                    writeln!(self.told, "  {id} sends the state of entry {} to {to}", state.index).unwrap();
                    self.inputs.push_back((to, Input::SnapshotReceived(message, state)));
                }
                self.inputs.push_back((id, Input::SnapshotSent { to, delivered }));
            }
            Output::Peers(membership) => {
                let disk = self.places[&id].disk.clone();
                let live = self.places.get_mut(&id).and_then(|place| place.live.as_mut()).unwrap();
                live.roster.note(&membership);
                live.roster.write(&disk).unwrap();
            }
            Output::Hash(mvcc) => {
                let (revision, hash) = (mvcc.revision(), mvcc.added_up());
                self.inputs.push_back((id, Input::Hashed { revision, hash }));
            }
            Output::Healed => {
                live.roster.stage = roster::Stage::Whole;
                let roster = live.roster.clone();
                roster.write(&self.places[&id].disk).unwrap();
                writeln!(self.told, "  {id} is whole again").unwrap();
            }
            Output::Diverged(what) => {
                let roster = Roster { stage: roster::Stage::Damaged, damage: what, ..live.roster.clone() };
                roster.write(&self.places[&id].disk).unwrap();
                self.restart(id);
            }
            Output::Answer(_, answer) => self.answered(id, answer),
            Output::Fail(reason) => panic!("member {id} failed: {reason}"),
            Output::Send(_) | Output::CheckSpace | Output::Publish | Output::Stopped => {}
        }
    }

    fn answered(&mut self, id: u64, answer: Result<Answer, crate::error::StoreError>) {
        let text = match answer {
            Ok(Answer::Txn(reply)) => format!("written at revision {}", reply.revision),
            Ok(Answer::Done) => "done".to_owned(),
            Ok(Answer::Revision(revision)) => {
                let live = self.places[&id].live.as_ref().unwrap();
                let key = self.reading.take().unwrap();
                let found = live.member.state().mvcc.range(&Range::key(key)).unwrap();
                let value =
                    found.items.first().map_or("nothing".into(), |kv| String::from_utf8_lossy(&kv.value).into_owned());
                format!("read {value} at revision {revision}")
            }
            Err(error) => error.to_string(),
        };
        writeln!(self.told, "  {id}: {text}").unwrap();
    }

    fn settle(&mut self) {
        while let Some((id, input)) = self.inputs.pop_front() {
            self.step(id, Some(input));
        }
    }

    fn tick(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(place) = self.places.get_mut(id) {
                place.now_ms += TICK_MS;
            }
            self.step(*id, None);
            self.settle();
        }
    }

    fn leads(&self, id: u64) -> bool {
        self.places[&id].live.as_ref().is_some_and(|live| live.member.is_leader())
    }

    fn status(&mut self) {
        for (id, place) in &self.places {
            let Some(live) = &place.live else {
                writeln!(self.told, "  {id} down").unwrap();
                continue;
            };
            let (m, state) = (&live.member, live.member.state());
            let role = if m.is_leader() { "leads" } else { "follows" };
            let membership = &state.membership;
            let line = format!(
                "  {id} {role} in term {}: entry {}, revision {}, voters {:?}, learners {:?}",
                m.term(),
                state.index,
                state.mvcc.revision(),
                membership.voters,
                membership.learners
            );
            writeln!(self.told, "{line}").unwrap();
        }
    }

    fn ask(&mut self, id: u64, input: Input) {
        self.step(id, Some(input));
        self.settle();
    }

    fn act(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let now: BTreeMap<u64, u64> = (1..=9).map(|configured| (configured, self.now(configured))).collect();
        let number = |at: usize| -> u64 {
            let number = words[at].parse().unwrap_or_else(|_| panic!("{line}: no number"));
            now.get(&number).copied().unwrap_or(number)
        };
        let change = |change| Input::ChangeRequested { id: 1, change };
        let propose = |operation| Input::Proposed { id: 1, operation };
        match words[0] {
            "add-members" => {
                let voters: Vec<u64> = (1..=number(1)).collect();
                let addresses: BTreeMap<_, _> = voters.iter().map(|id| (*id, format!("m{id}"))).collect();
                for id in voters.clone() {
                    let (voters, addresses) = (voters.clone(), addresses.clone());
                    self.add(id, Membership { voters, addresses, ..Membership::default() });
                }
            }
            "join" => self.add(number(1), Membership::default()),
            "campaign" => {
                let ticks = (0..CAMPAIGN_TICKS_MAX).find(|_| {
                    self.tick(&[number(1)]);
                    self.leads(number(1))
                });
                let led = ticks.is_some();
                writeln!(self.told, "  {} {}", words[1], if led { "leads" } else { "does not win" }).unwrap();
            }
            "time" => {
                let ids: Vec<u64> = self.places.keys().copied().collect();
                (0..number(1) / TICK_MS).for_each(|_| self.tick(&ids));
            }
            "clock" => (0..words[2].parse::<u64>().unwrap() / TICK_MS).for_each(|_| self.tick(&[number(1)])),
            "propose" => {
                let (key, value) = words[2].split_once('=').unwrap();
                let put = Write::Put { key: key.to_owned().into(), value: value.to_owned().into() };
                self.ask(number(1), propose(Operation::Txn(Txn { compares: Vec::new(), then: vec![put] })));
            }
            "read" => {
                self.reading = Some(words[2].to_owned().into());
                self.ask(number(1), Input::ReadRequested { id: 1 });
            }
            "compact" => self.ask(number(1), propose(Operation::Compact { revision: number(2) })),
            "add-learner" => {
                let (member, address) = (number(2), format!("m{}", words.get(3).unwrap_or(&words[2])));
                self.ask(number(1), change(MemberChange::AddLearner { member, address }));
            }
            "promote" => self.ask(number(1), change(MemberChange::Promote { member: number(2) })),
            "remove" => self.ask(number(1), change(MemberChange::Remove { member: number(2) })),
            "status" => self.status(),
            _ => self.befall(&words, &number),
        }
    }

    /// What happens to members without their doing.
    fn befall(&mut self, words: &[&str], number: &impl Fn(usize) -> u64) {
        match words[0] {
            "partition" => {
                let split = words.iter().position(|word| *word == "|").unwrap();
                let sides = (&words[1..split], &words[split + 1..]);
                for (a, b) in sides.0.iter().flat_map(|a| sides.1.iter().map(move |b| (a, b))) {
                    let (a, b): (u64, u64) = (a.parse().unwrap(), b.parse().unwrap());
                    self.cut.extend([(a, b), (b, a)]);
                }
            }
            "heal" => self.cut.clear(),
            "crash" => {
                let place = self.places.get_mut(&number(1)).unwrap();
                place.live = None;
                place.disk.crash(&mut Rng::new(1));
                self.inputs.retain(|(to, _)| *to != number(1));
            }
            "kill" => {
                self.places.get_mut(&number(1)).unwrap().live = None;
                self.inputs.retain(|(to, _)| *to != number(1));
                let others: Vec<u64> = self.places.keys().copied().filter(|id| *id != number(1)).collect();
                self.inputs.extend(others.into_iter().map(|id| (id, Input::PeerLost(number(1)))));
                self.settle();
            }
            "restart" => {
                self.restart(number(1));
                self.settle();
            }
            "lose" => {
                let place = self.places.get_mut(&number(1)).unwrap();
                place.live = None;
                place.disk.remove(checkpoint::FILE).unwrap();
                self.inputs.retain(|(to, _)| *to != number(1));
            }
            "corrupt" => {
                let (key, value) = words[2].split_once('=').unwrap();
                let live = self.places.get_mut(&number(1)).and_then(|place| place.live.as_mut()).unwrap();
                live.member.corrupt(&key.to_owned().into(), &value.to_owned().into());
            }
            other => panic!("nobody can {other}"),
        }
    }
}

fn play(story: &str) -> String {
    let mut stage = Stage::default();
    for line in story.lines().filter(|line| !line.starts_with("  ")) {
        writeln!(stage.told, "{line}").unwrap();
        if !line.is_empty() && !line.starts_with('#') {
            stage.act(line);
        }
    }
    stage.told
}

#[test]
fn stories_end_as_they_are_told() {
    tell(std::env::var_os("UPDATE").is_some());
}

/// Every story, for the ledger of planted bugs.
pub(crate) fn all() {
    tell(false);
}

fn tell(update: bool) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(paths.len() >= 5, "the stories are gone");
    for path in paths {
        let told = std::fs::read_to_string(&path).unwrap();
        let found = play(&told);
        if update {
            std::fs::write(&path, found).unwrap();
        } else {
            assert_eq!(found, told, "{}", path.display());
        }
    }
}
