//! A member that lost part of what it had promised comes back as somebody new.
//!
//! raft rests on promises that are never forgotten: a vote given in a term, an entry acknowledged. A member whose log or
//! checkpoint is damaged may have forgotten one, so whatever it said next under its number could elect two leaders in a
//! term, or let a majority overwrite what it had committed. It therefore says nothing at all under that number again:
//!
//! 1. Before anything else a new number is made durable in the roster: above the old one, and never used before, since it
//!    begins with the time. What the member remembered is set aside as files, and it begins with empty ones.
//! 2. It asks every peer it knows to replace it. The leader does so in one step of joint consensus: the old number goes,
//!    the new one is added as a learner. Until that is committed the old number counts as a member that is down, in the
//!    majorities it was in; the step needs a majority of the old members without it, and of the new ones.
//! 3. A learner has no vote and is in no majority. It receives a snapshot and the log like any other that joins.
//! 4. When it has all but the last entries it asks to be promoted, if the old number had a vote. The leader judges by what
//!    was acknowledged under the new number alone, so nothing forgotten ever counts.
//!
//! Every step may be repeated: the wishes are sent until the state says that they came true, and a crash in between goes
//! on where it was. A wish that arrives late, after its sender was damaged again, names a number that is no longer above
//! the one at its address, and is refused. If the others have no majority nothing happens until they have.

use super::membership::wish;
use super::{Member, MemberChange, Output};
use crate::limits::PETITION_MS;

/// What a member that begins anew has to ask for.
#[derive(Clone, Debug)]
pub(crate) struct Healing {
    /// The number it had.
    pub(crate) gone: u64,
    /// Where it is reached.
    pub(crate) address: String,
    /// Whom it asks as long as it does not know the membership.
    pub(crate) peers: Vec<u64>,
    /// Whether it had a vote.
    pub(crate) voter: bool,
    /// What was damaged.
    pub(crate) damage: String,
}

impl Member {
    /// Asks for the next step, now and then, until the state says that nothing is left to ask for.
    pub(super) fn heal(&mut self, out: &mut Vec<Output>) {
        let Some(healing) = &self.healing else { return };
        let m = &self.state.membership;
        let taken_in = m.all().contains(&self.id);
        if taken_in && (m.voters.contains(&self.id) || !healing.voter) {
            self.healing = None;
            out.push(Output::Healed);
            return;
        }
        if self.now.mono_ms < self.petition_ms {
            return;
        }
        self.petition_ms = self.now.mono_ms + PETITION_MS;
        let (change, mut peers) = if taken_in {
            (MemberChange::Promote { member: self.id }, m.all().into_iter().collect())
        } else {
            let (gone, address) = (healing.gone, healing.address.clone());
            (MemberChange::Replace { gone, member: self.id, address }, healing.peers.clone())
        };
        peers.retain(|peer| *peer != self.id);
        let sequence = self.proposals.next_sequence();
        for peer in peers {
            if let Ok(mut message) = wish(self.id, &change, self.origin(sequence)) {
                message.to = peer;
                out.push(Output::Send(message));
            }
        }
    }

    /// What is damaged, as long as the member is not whole again.
    pub(crate) fn healing(&self) -> Option<&str> {
        self.healing.as_ref().map(|healing| healing.damage.as_str())
    }
}
