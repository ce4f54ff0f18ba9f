//! Who belongs to the cluster: changes are planned at the leader and take effect on every member when they are applied.
//!
//! The applied state is the only record of membership; raft is told from it, never the other way round but at the moment
//! of applying.

use std::collections::BTreeMap;

use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry};

use super::ready::unreadable;
use super::{Answer, Member, MemberChange, Output};
use crate::codec::{Reader, Writer};
use crate::command::Origin;
use crate::error::StoreError;
use crate::limits::{MEMBERS_MAX, PROMOTE_LAG_ENTRIES, REQUEST_MS};
use crate::state::Membership;

impl Member {
    pub(super) fn change(&mut self, id: u64, change: MemberChange) -> Result<(), StoreError> {
        if !self.is_leader() {
            return Err(StoreError::NotLeader { leader: self.leader() });
        }
        if self.raw.raft.has_pending_conf() || !self.state.membership.voters_outgoing.is_empty() {
            return Err(StoreError::Busy("another change of membership is under way"));
        }
        let (single, context) = self.plan_change(change)?;
        let mut conf_change = ConfChangeV2 { context: context.into_bytes().into(), ..ConfChangeV2::default() };
        if single.get_change_type() != ConfChangeType::AddLearnerNode {
            conf_change.set_transition(ConfChangeTransition::Implicit);
        }
        conf_change.mut_changes().push(single);
        let sequence = self.proposals.next_sequence();
        let mut w = Writer::default();
        Origin { member: self.id, boot: self.boot, sequence }.encode(&mut w);
        let refused = |_| StoreError::Busy("leadership is being handed over");
        self.raw.propose_conf_change(w.0, conf_change).map_err(refused)?;
        self.changes.insert(sequence, (id, self.now.mono_ms + REQUEST_MS));
        Ok(())
    }

    fn plan_change(&self, change: MemberChange) -> Result<(ConfChangeSingle, String), StoreError> {
        let m = &self.state.membership;
        let invalid = |what: &str| Err(StoreError::Invalid(what.to_owned()));
        let (kind, member, address) = match change {
            MemberChange::AddLearner { member, .. } if member == 0 || m.all().contains(&member) => {
                return invalid("the member's number is 0 or already used");
            }
            MemberChange::AddLearner { .. } if m.all().len() >= MEMBERS_MAX => {
                return invalid("the cluster has as many members as it can have");
            }
            MemberChange::AddLearner { member, address } => (ConfChangeType::AddLearnerNode, member, address),
            MemberChange::Promote { member } if !m.learners.contains(&member) => {
                return invalid("the member is not a learner");
            }
            MemberChange::Promote { member } => {
                let matched = self.raw.raft.prs().get(member).map_or(0, |progress| progress.matched);
                // One that has acknowledged nothing does not know the membership yet: it would count as a voter, let no
                // time pass and so keep to a leader that may be gone.
                if matched == 0 || matched + PROMOTE_LAG_ENTRIES < self.raw.raft.raft_log.last_index() {
                    return Err(StoreError::Busy("the learner has not caught up"));
                }
                (ConfChangeType::AddNode, member, m.addresses.get(&member).cloned().unwrap_or_default())
            }
            MemberChange::Remove { member } if !m.all().contains(&member) => return invalid("there is no such member"),
            MemberChange::Remove { member } if member == self.id => {
                return Err(StoreError::Busy("the leader must hand over leadership before it is removed"));
            }
            MemberChange::Remove { member } => (ConfChangeType::RemoveNode, member, String::new()),
        };
        let mut single = ConfChangeSingle { node_id: member, ..ConfChangeSingle::default() };
        single.set_change_type(kind);
        Ok((single, address))
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
                out.push(Output::Peers(self.state.membership.addresses.clone()));
                Ok(Answer::Done)
            }
            Err(error) => Err(StoreError::Invalid(error.to_string())),
        };
        if let Ok(origin) = Origin::decode(&mut Reader::new(entry.context.clone()))
            && (origin.member, origin.boot) == (self.id, self.boot)
            && let Some((id, _)) = self.changes.remove(&origin.sequence)
        {
            self.answers.push((id, answer));
        }
    }

    fn addresses_after(&self, change: &ConfChangeV2, conf: &ConfState) -> BTreeMap<u64, String> {
        let mut addresses = self.state.membership.addresses.clone();
        if !change.context.is_empty() {
            let address = String::from_utf8_lossy(&change.context).into_owned();
            addresses.extend(change.changes.iter().map(|single| (single.node_id, address.clone())));
        }
        let stays = membership(conf, Default::default()).all();
        addresses.retain(|member, _| stays.contains(member));
        addresses
    }
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
