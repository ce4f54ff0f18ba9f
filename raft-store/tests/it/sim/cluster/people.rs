//! Who uses the simulated cluster and what befalls it: clients, an operator, misfortunes.

use bytes::Bytes;

use super::super::checks::Op;
use super::{Cluster, Event, JOINER, Process};
use crate::command::{Compare, Operation, Target, Txn, Write};
use crate::error::StoreError;
use crate::member::{Answer, Input, MemberChange};
use crate::mvcc::Range;

const KEYS: u64 = 4;

impl Cluster {
    pub(super) fn client(&mut self, client: u64) {
        self.current.remove(&client);
        if self.healed {
            return;
        }
        self.last_request += 1;
        let request = self.last_request;
        let key: Bytes = format!("k{}", self.rng.below(KEYS)).into();
        // Now and then a value that makes a batch span frames of the log.
        let size = if self.rng.chance(5) { 6000 } else { 8 };
        let value: Bytes = format!("v{request:<size$}").into();
        let op = match self.rng.below(10) {
            0..4 => Op::Put { key, value },
            4..6 => {
                let expected = self.known.get(&key).copied().unwrap_or(0);
                Op::Cas { key, expected, value }
            }
            6 => Op::Delete { key },
            _ => Op::Read { key },
        };
        let id = self.anyone();
        if self.process(id).live.is_none() {
            return self.after(50, Event::Client(client));
        }
        self.checks.began(request, op.clone());
        self.waiting.insert(request, (client, op.clone()));
        self.current.insert(client, request);
        let patience = 1000 + self.rng.below(4000);
        self.after(patience, Event::Patience(client, request));
        let write = |compares, write| Operation::Txn(Txn { compares, then: vec![write] });
        let input = match op {
            Op::Put { key, value } => {
                Input::Proposed { id: request, operation: write(Vec::new(), Write::Put { key, value }) }
            }
            Op::Delete { key } => Input::Proposed { id: request, operation: write(Vec::new(), Write::Delete { key }) },
            Op::Cas { key, expected, value } => {
                let compare = Compare { key: key.clone(), target: Target::ModRevision(expected) };
                Input::Proposed { id: request, operation: write(vec![compare], Write::Put { key, value }) }
            }
            Op::Read { .. } => Input::ReadRequested { id: request },
        };
        self.step(id, vec![input]);
    }

    pub(super) fn answered(&mut self, id: u64, request: u64, answer: Result<Answer, StoreError>) {
        let waiting = self.waiting.remove(&request);
        match answer {
            Ok(Answer::Txn(reply)) => {
                if let Some((_, Op::Put { key, .. } | Op::Cas { key, .. })) = &waiting {
                    let current = reply.current.first().map_or(reply.revision, |(_, revision)| revision.unwrap_or(0));
                    self.known.insert(key.clone(), current);
                }
                self.checks.answered(request, Ok(reply));
            }
            Ok(Answer::Revision(revision)) => {
                let Some((_, Op::Read { key })) = &waiting else { return };
                let live = self.processes[&id].live.as_ref().expect("an answer comes from a live member");
                let seen = live.member.state().mvcc.range(&Range::key(key.clone())).expect("the present can be read");
                assert!(seen.revision >= revision, "a picture is behind what was answered");
                self.checks.read(request, seen.revision, seen.items.first().map(|kv| &kv.value));
            }
            Ok(Answer::Done) => {}
            Err(error) => self.checks.answered(request, Err(error)),
        }
        if let Some((client, _)) = waiting {
            self.current.remove(&client);
            let pause = self.rng.below(40);
            self.after(pause, Event::Client(client));
        }
    }

    pub(super) fn misfortune(&mut self) {
        if self.healed {
            return;
        }
        let (victim, other) = (self.anyone(), self.anyone());
        match self.rng.below(10) {
            0 | 1 => {
                if self.process(victim).live.is_some() {
                    self.crash(victim);
                }
            }
            2 => {
                let after = self.rng.below(8);
                self.process(victim).disk.fail_syncs(after);
            }
            7 => {
                let full = self.rng.chance(50);
                self.summary.full_disks += u64::from(full);
                self.process(victim).disk.set_full(full);
            }
            3 => {
                self.summary.partitions += 1;
                for peer in self.processes.keys() {
                    self.cut.extend([(victim, *peer), (*peer, victim)]);
                }
            }
            4 => {
                self.summary.partitions += 1;
                self.cut.push((victim, other));
            }
            5 => {
                self.summary.pauses += 1;
                let until = self.now + self.rng.below(4000);
                self.process(victim).paused_until = until;
            }
            6 => {
                for id in self.processes.keys().copied().collect::<Vec<_>>() {
                    if self.rng.chance(60) && self.process(id).live.is_some() {
                        self.crash(id);
                    }
                }
            }
            _ => self.cut.clear(),
        }
        let pause = 100 + self.rng.below(3000);
        self.after(pause, Event::Misfortune);
    }

    /// A member that still bears its number.
    pub(super) fn anyone(&mut self) -> u64 {
        let all: Vec<u64> = self.processes.iter().filter(|(_, process)| !process.retired).map(|(id, _)| *id).collect();
        all[self.rng.below(all.len() as u64) as usize]
    }

    /// Changes membership, hands over leadership and compacts, at a member that may or may not lead.
    pub(super) fn operate(&mut self) {
        if self.healed {
            return;
        }
        let pause = 200 + self.rng.below(2000);
        self.after(pause, Event::Operator);
        let leading = |process: &Process| process.live.as_ref().is_some_and(|live| live.member.is_leader());
        let Some((&leading, leader)) = self.processes.iter().find(|(_, process)| leading(process)) else { return };
        let state = leader.live.as_ref().expect("it leads").member.state();
        let (m, revision) = (state.membership.clone(), state.mvcc.revision());
        // Every second wish is told to some member, which passes it on.
        let id = if self.rng.chance(50) { leading } else { self.anyone() };
        self.last_request += 1;
        let request = self.last_request;
        let change = |change| Input::ChangeRequested { id: request, change };
        let input = match self.rng.below(6) {
            // A number is never used again.
            0..3 if !m.all().contains(&JOINER) && !self.processes[&JOINER].retired => {
                change(MemberChange::AddLearner { member: JOINER, address: format!("m{JOINER}") })
            }
            0..3 if m.learners.contains(&JOINER) => change(MemberChange::Promote { member: JOINER }),
            3 | 4 => Input::TransferRequested { id: request, to: self.anyone() },
            _ => {
                Input::Proposed { id: request, operation: Operation::Compact { revision: revision.saturating_sub(30) } }
            }
        };
        match &input {
            Input::ChangeRequested { .. } => self.summary.member_changes += 1,
            Input::TransferRequested { .. } => self.summary.transfers += 1,
            _ => self.summary.compactions += 1,
        }
        self.step(id, vec![input]);
    }
}
