//! Who belongs to the cluster: changes are decided by the leader and take effect on every member when they are applied.
//!
//! Any member may be asked: one that does not lead passes the wish on, as a proposal, and repeats it until it is applied
//! or the request's time is over. A leader asked to remove itself hands over first and is removed by its successor.
//!
//! The applied state is the only record of membership; raft is told from it, never the other way round but at the moment
//! of applying.

use std::collections::BTreeMap;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Message,
    MessageType,
};

use super::ready::unreadable;
use super::{Answer, Member, MemberChange, Output};
use crate::codec::{Reader, Writer};
use crate::command::Origin;
use crate::error::StoreError;
use crate::limits::{MEMBERS_MAX, PROMOTE_LAG_ENTRIES, REQUEST_MS};
use crate::state::Membership;

/// A change somebody waits for.
pub(super) struct OpenChange {
    pub(super) id: u64,
    pub(super) change: MemberChange,
    pub(super) deadline_ms: u64,
}

impl Member {
    /// A wish of a client of this member: proposed if it leads, else passed on to the leader.
    pub(super) fn change(&mut self, id: u64, change: MemberChange) -> Result<(), StoreError> {
        self.check_change(&change)?;
        let sequence = self.proposals.next_sequence();
        if self.is_leader() {
            let handing_over = self.propose_change(&change, self.origin(sequence));
            if change != (MemberChange::Remove { member: self.id }) {
                handing_over?;
            }
        }
        let deadline_ms = self.now.mono_ms + REQUEST_MS;
        self.changes.insert(sequence, OpenChange { id, change, deadline_ms });
        if !self.is_leader() {
            self.pass_on_changes();
        }
        Ok(())
    }

    /// Offers every open change to the leader again: it may have been lost, refused for the time being, or proposed by a
    /// leader that is none any more.
    pub(super) fn pass_on_changes(&mut self) {
        let open: Vec<_> = self.changes.iter().map(|(sequence, open)| (*sequence, open.change.clone())).collect();
        for (sequence, change) in open {
            let origin = self.origin(sequence);
            if self.is_leader() {
                // It is in the log already, or its time has not come.
                drop(self.propose_change(&change, origin));
            } else if let Ok(message) = wish(self.id, &change, origin) {
                // raft sends it to the leader; without one it is offered again later.
                drop(self.raw.step(message));
            }
        }
    }

    /// A wish that another member passed on. Whoever had it asks again until it is applied, so a refusal needs no answer.
    pub(super) fn passed_on(&mut self, message: &Message) {
        for entry in &message.entries {
            let change = ConfChangeV2::parse_from_bytes(&entry.data).ok().and_then(|change| read_change(&change));
            let Some(change) = change.filter(|_| self.is_leader()) else { continue };
            let done = self.check_change(&change).and_then(|()| self.propose_change(&change, entry.context.to_vec()));
            if let Err(error) = done {
                tracing::debug!(from = message.from, ?change, %error, "a change of membership has to wait");
            }
        }
    }

    pub(super) fn origin(&self, sequence: u64) -> Vec<u8> {
        let mut w = Writer::default();
        Origin { member: self.id, boot: self.boot, sequence }.encode(&mut w);
        w.0
    }

    /// Refuses what makes no sense for the membership as this member knows it.
    fn check_change(&self, change: &MemberChange) -> Result<(), StoreError> {
        let m = &self.state.membership;
        let invalid = |what: &str| Err(StoreError::Invalid(what.to_owned()));
        match change {
            MemberChange::AddLearner { member, .. } | MemberChange::Replace { member, .. }
                if *member == 0 || m.all().contains(member) =>
            {
                invalid("the member's number is 0 or already used")
            }
            // A wish may arrive late, when its member has begun anew under another number.
            MemberChange::AddLearner { address, .. } if m.at(address).is_some() => {
                invalid("there is already a member at this address")
            }
            MemberChange::AddLearner { .. } if m.all().len() >= MEMBERS_MAX => {
                invalid("the cluster has as many members as it can have")
            }
            MemberChange::Promote { member } if !m.learners.contains(member) => invalid("the member is not a learner"),
            MemberChange::Remove { member } if !m.all().contains(member) => invalid("there is no such member"),
            MemberChange::Remove { member } if m.voters == [*member] => invalid("the last voter cannot be removed"),
            MemberChange::Replace { gone, member, address } => match self.replaced(*gone, address) {
                None => invalid("there is no such member"),
                Some(gone) if gone >= *member => invalid("a successor's number is above that of whom it replaces"),
                Some(gone) if m.voters == [gone] => invalid("the last voter cannot be replaced"),
                Some(_) => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Whom a successor replaces: the member it names, or else the one that was reached at its address. A member that
    /// lost everything may know no more of itself than where it is.
    fn replaced(&self, gone: u64, address: &str) -> Option<u64> {
        let m = &self.state.membership;
        if m.all().contains(&gone) { Some(gone) } else { m.at(address) }
    }

    /// Puts a checked change into the log of this member, which leads.
    fn propose_change(&mut self, change: &MemberChange, origin: Vec<u8>) -> Result<(), StoreError> {
        if self.raw.raft.has_pending_conf() || !self.state.membership.voters_outgoing.is_empty() {
            return Err(StoreError::Busy("another change of membership is under way"));
        }
        let mut change = change.clone();
        match &mut change {
            MemberChange::Promote { member } => {
                let matched = self.raw.raft.prs().get(*member).map_or(0, |progress| progress.matched);
                // One that has acknowledged nothing does not know the membership yet: it would count as a voter, let no
                // time pass and so keep to a leader that may be gone.
                if matched == 0 || matched + PROMOTE_LAG_ENTRIES < self.raw.raft.raft_log.last_index() {
                    return Err(StoreError::Busy("the learner has not caught up"));
                }
            }
            MemberChange::Remove { member } if *member == self.id => {
                self.hand_over();
                return Err(StoreError::Busy("the leader hands over leadership before it is removed"));
            }
            MemberChange::Replace { gone, address, .. } => {
                *gone = self.replaced(*gone, address).unwrap_or(*gone);
                if *gone == self.id {
                    return Err(StoreError::Invalid("the leader has not lost its memory".to_owned()));
                }
            }
            MemberChange::AddLearner { .. } | MemberChange::Remove { .. } => {}
        }
        let refused = |_| StoreError::Busy("leadership is being handed over");
        self.raw.propose_conf_change(origin, conf_change(&change)).map_err(refused)
    }

    /// Hands leadership to the voter that has the most of the log, if there is another one.
    pub(super) fn hand_over(&mut self) -> bool {
        let others = self.state.membership.voters.iter().copied().filter(|voter| *voter != self.id);
        let matched = |voter: &u64| self.raw.raft.prs().get(*voter).map_or(0, |progress| progress.matched);
        let successor = others.max_by_key(matched);
        if let Some(successor) = successor {
            self.raw.transfer_leader(successor);
            self.settle_timeout();
        }
        successor.is_some()
    }

    pub(super) fn transfer(&mut self, to: u64) -> Result<(), StoreError> {
        if !self.is_leader() {
            return Err(StoreError::NotLeader { leader: self.leader() });
        }
        if !self.state.membership.voters.contains(&to) {
            return Err(StoreError::Invalid("leadership can only go to a voter".to_owned()));
        }
        self.raw.transfer_leader(to);
        self.settle_timeout();
        Ok(())
    }

    pub(super) fn apply_change(&mut self, entry: &Entry, out: &mut Vec<Output>) {
        let Ok(change) = ConfChangeV2::parse_from_bytes(&entry.data) else {
            out.push(unreadable(entry.index));
            return;
        };
        let answer = match self.raw.apply_conf_change(&change) {
            Ok(conf) => {
                let addresses = self.addresses_after(&change, &conf);
                self.state.membership = membership(&conf, addresses);
                self.raw.mut_store().conf = conf_state(&self.state.membership);
                out.push(Output::Peers(self.state.membership.clone()));
                Ok(Answer::Done)
            }
            Err(error) => Err(StoreError::Invalid(error.to_string())),
        };
        if let Ok(origin) = Origin::decode(&mut Reader::new(entry.context.clone()))
            && (origin.member, origin.boot) == (self.id, self.boot)
            && let Some(open) = self.changes.remove(&origin.sequence)
        {
            self.answers.push((open.id, answer));
        }
    }

    fn addresses_after(&self, change: &ConfChangeV2, conf: &ConfState) -> BTreeMap<u64, String> {
        let mut addresses = self.state.membership.addresses.clone();
        if !change.context.is_empty() {
            let address = String::from_utf8_lossy(&change.context).into_owned();
            let added = change.changes.iter().filter(|one| one.get_change_type() == ConfChangeType::AddLearnerNode);
            addresses.extend(added.map(|one| (one.node_id, address.clone())));
        }
        let stays = membership(conf, Default::default()).all();
        addresses.retain(|member, _| stays.contains(member));
        addresses
    }
}

/// raft's words for a change.
fn conf_change(change: &MemberChange) -> ConfChangeV2 {
    let (kinds, address) = match change {
        MemberChange::AddLearner { member, address } => {
            (vec![(ConfChangeType::AddLearnerNode, *member)], address.as_str())
        }
        MemberChange::Promote { member } => (vec![(ConfChangeType::AddNode, *member)], ""),
        MemberChange::Remove { member } => (vec![(ConfChangeType::RemoveNode, *member)], ""),
        MemberChange::Replace { gone, member, address } => {
            (vec![(ConfChangeType::RemoveNode, *gone), (ConfChangeType::AddLearnerNode, *member)], address.as_str())
        }
    };
    let mut conf_change =
        ConfChangeV2 { context: Bytes::copy_from_slice(address.as_bytes()), ..ConfChangeV2::default() };
    if !matches!(change, MemberChange::AddLearner { .. }) {
        conf_change.set_transition(ConfChangeTransition::Implicit);
    }
    for (kind, member) in kinds {
        let mut single = ConfChangeSingle { node_id: member, ..ConfChangeSingle::default() };
        single.set_change_type(kind);
        conf_change.mut_changes().push(single);
    }
    conf_change
}

/// The change that [`conf_change`] wrote; `None` for anything else.
pub(crate) fn read_change(change: &ConfChangeV2) -> Option<MemberChange> {
    let address = || String::from_utf8(change.context.to_vec()).ok();
    let kinds: Vec<_> = change.changes.iter().map(|one| (one.get_change_type(), one.node_id)).collect();
    match kinds[..] {
        [(ConfChangeType::AddLearnerNode, member)] => Some(MemberChange::AddLearner { member, address: address()? }),
        [(ConfChangeType::AddNode, member)] => Some(MemberChange::Promote { member }),
        [(ConfChangeType::RemoveNode, member)] => Some(MemberChange::Remove { member }),
        [(ConfChangeType::RemoveNode, gone), (ConfChangeType::AddLearnerNode, member)] => {
            Some(MemberChange::Replace { gone, member, address: address()? })
        }
        _ => None,
    }
}

/// A change as it travels to the leader: raft's message for proposals.
pub(super) fn wish(from: u64, change: &MemberChange, origin: Vec<u8>) -> protobuf::ProtobufResult<Message> {
    let data = conf_change(change).write_to_bytes()?.into();
    let mut entry = Entry { data, context: origin.into(), ..Entry::default() };
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    let mut message = Message { from, ..Message::default() };
    message.set_msg_type(MessageType::MsgPropose);
    message.mut_entries().push(entry);
    Ok(message)
}

/// raft's words for a membership.
pub(crate) fn conf_state(membership: &Membership) -> ConfState {
    ConfState {
        voters: membership.voters.clone(),
        learners: membership.learners.clone(),
        voters_outgoing: membership.voters_outgoing.clone(),
        learners_next: membership.learners_next.clone(),
        auto_leave: membership.auto_leave,
        ..ConfState::default()
    }
}

/// Our words for raft's; sorted, since raft's order differs between members.
fn membership(conf: &ConfState, addresses: BTreeMap<u64, String>) -> Membership {
    let sorted = |members: &[u64]| {
        let mut members = members.to_vec();
        members.sort_unstable();
        members
    };
    Membership {
        voters: sorted(&conf.voters),
        learners: sorted(&conf.learners),
        voters_outgoing: sorted(&conf.voters_outgoing),
        learners_next: sorted(&conf.learners_next),
        auto_leave: conf.auto_leave,
        addresses,
    }
}
