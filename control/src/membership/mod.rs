//! Brings the store's membership to what the members' Leases say, one change at a time, from the leader.
//!
//! Whoever joined has a Lease; the leader adds it as a learner, and promotes it once it has caught up. Whoever is to go
//! is marked on its Lease, removed from the store, and its Lease deleted; a leader hands over first. A Lease that merely
//! disappears changes nothing: members are never lost by a slip of the hand. [`endpoints`] tells clients where all are.

mod endpoints;

use api::{Action, Object};
use objects::{ChangesEnd, Objects, User};
use raft_store::{MemberChange, Store, StoreError, StoreStatus};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::limits::MEMBER_RETRY;
use crate::member::{self, Announced};

/// What is to be done next about the membership.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Change(MemberChange),
    Transfer(u64),
    /// The Lease of a member that is gone.
    Forget(usize),
    /// It leads, as a person wanted.
    Settled(usize),
}

/// The next step, decided by the leader; `None` when all is as it should be.
fn plan(members: &[Announced], status: &StoreStatus, now_ms: i64) -> Option<Step> {
    let me = status.member_id;
    let seen = |number: u64| status.members.iter().find(|member| member.member_id == number);
    let stays = |number: u64| !members.iter().any(|member| member.number == number && member.remove);
    let successor = || {
        let others = status.members.iter().filter(|other| other.voter && other.member_id != me);
        others.map(|other| other.member_id).find(|number| stays(*number))
    };
    for (at, member) in members.iter().enumerate().filter(|(_, member)| member.remove) {
        match seen(member.number) {
            None => return Some(Step::Forget(at)),
            Some(_) if member.number == me => {
                if let Some(successor) = successor() {
                    return Some(Step::Transfer(successor));
                }
            }
            Some(_) => return Some(Step::Change(MemberChange::Remove { member: member.number })),
        }
    }
    let wanted = |member: &&Announced| !member.remove && member.number != 0 && !member.peer.is_empty();
    for member in members.iter().filter(wanted) {
        let (number, address) = (member.number, member.peer.clone());
        match seen(number) {
            // One that has not been seen for long may be from before a snapshot was restored; one whose address another
            // number has healed under that number, and its Lease will say so.
            None if member.is_fresh(now_ms) && !status.members.iter().any(|known| known.address == address) => {
                return Some(Step::Change(MemberChange::AddLearner { member: number, address }));
            }
            Some(known) if !known.voter => return Some(Step::Change(MemberChange::Promote { member: number })),
            _ => {}
        }
    }
    for (at, member) in members.iter().enumerate().filter(|(_, member)| member.lead && !member.remove) {
        match seen(member.number) {
            Some(_) if member.number == me => return Some(Step::Settled(at)),
            Some(known) if known.voter => return Some(Step::Transfer(member.number)),
            _ => {}
        }
    }
    None
}

/// Runs on the leader until `stop`.
pub(crate) async fn run(objects: Objects, store: Store, stop: CancellationToken) {
    let who = User::system("system:kogia-membership");
    let concerns = |object: &Object| member::concerns(object) || endpoints::concerns(object);
    while !stop.is_cancelled() {
        let Ok(mut changes) = objects.changes(objects.view().revision()) else {
            tokio::task::yield_now().await;
            continue;
        };
        loop {
            let again = turn(&objects, &store, &who).await;
            let woken = async {
                loop {
                    match changes.next().await {
                        Ok(batch) if !batch.iter().any(|change| concerns(&change.object)) => {}
                        Ok(_) => return Ok(()),
                        Err(end) => return Err(end),
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                woken = woken => match woken {
                    Ok(()) => {}
                    Err(ChangesEnd::Lagged) => break,
                    Err(ChangesEnd::Closed) => return,
                },
                () = tokio::time::sleep(MEMBER_RETRY), if again => {}
            }
        }
    }
}

/// Looks, does one step, and says whether to look again soon although no object changed.
async fn turn(objects: &Objects, store: &Store, who: &User) -> bool {
    let view = objects.view();
    let members = member::announced(&view);
    let status = store.status();
    for action in endpoints::plan(&view, &members, &status) {
        perform(objects, who, action).await;
    }
    let Some(step) = plan(&members, &status, clock::now_ms()) else { return false };
    match &step {
        Step::Forget(at) => {
            let (key, precondition) = (members[*at].key.clone(), member::same(&members[*at]));
            perform(objects, who, Action::Delete { key, precondition, grace_seconds: None }).await;
        }
        Step::Settled(at) => perform(objects, who, member::settle_lead(&members[*at])).await,
        Step::Transfer(to) => report(&step, store.transfer_leader(*to).await),
        Step::Change(change) => report(&step, store.change_members(change.clone()).await),
    }
    true
}

fn report(step: &Step, done: Result<(), StoreError>) {
    match done {
        Ok(()) => tracing::info!(?step, "the membership changes"),
        Err(StoreError::Busy(why)) => tracing::debug!(?step, why, "the membership cannot change yet"),
        Err(error) => tracing::warn!(?step, %error, "the membership could not be changed"),
    }
}

async fn perform(objects: &Objects, who: &User, action: Action) {
    if let Err(status) = objects.perform(who, action).await {
        tracing::warn!(status = %status.message, "what is known of the members could not be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_store::MemberStatus;

    const NOW: i64 = 1_700_000_000_000;

    fn announced(number: u64, marks: &str) -> Announced {
        Announced {
            key: member::key(&format!("n{number}")),
            uid: String::new(),
            number,
            name: format!("n{number}"),
            peer: format!("h{number}:1"),
            api: None,
            version: String::new(),
            instance: String::new(),
            renewed_ms: if marks.contains('o') { 0 } else { NOW },
            remove: marks.contains('r'),
            lead: marks.contains('l'),
        }
    }

    /// `1v 2l@h9:1`: numbers, voter or learner, and an address other than the announced one.
    fn status(members: &str) -> StoreStatus {
        let member = |word: &str| {
            let (who, address) = word.split_once('@').unwrap_or((word, ""));
            let member_id: u64 = who[..1].parse().unwrap();
            let address = if address.is_empty() { format!("h{member_id}:1") } else { address.to_owned() };
            MemberStatus { member_id, address, voter: who.ends_with('v') }
        };
        StoreStatus {
            member_id: 1,
            leader: Some(1),
            members: members.split_whitespace().map(member).collect(),
            ..StoreStatus::default()
        }
    }

    #[test]
    fn one_step_at_a_time_towards_what_the_leases_say() {
        let change = |change| Some(Step::Change(change));
        let address = |number: u64| format!("h{number}:1");
        for (what, leases, members, expected) in [
            ("all is well", "1 2", "1v 2v", None),
            ("new", "1 2", "1v", change(MemberChange::AddLearner { member: 2, address: address(2) })),
            ("new, but silent for long", "1 2o", "1v", None),
            ("learning", "1 2", "1v 2l", change(MemberChange::Promote { member: 2 })),
            ("healed under another number", "1 2", "1v 3v@h2:1", None),
            ("to go", "1 2r", "1v 2v", change(MemberChange::Remove { member: 2 })),
            ("gone", "1 2r", "1v", Some(Step::Forget(1))),
            ("the leader is to go", "1r 2", "1v 2v", Some(Step::Transfer(2))),
            ("all are to go", "1r", "1v", None),
            ("without a Lease", "1", "1v 2v", None),
            ("another is to lead", "1 2l", "1v 2v", Some(Step::Transfer(2))),
            ("it leads", "1l 2", "1v 2v", Some(Step::Settled(0))),
            ("a learner cannot lead yet", "1 2l", "1v 2l", change(MemberChange::Promote { member: 2 })),
        ] {
            let leases: Vec<Announced> =
                leases.split_whitespace().map(|word| announced(word[..1].parse().unwrap(), &word[1..])).collect();
            assert_eq!(plan(&leases, &status(members), NOW), expected, "{what}");
        }
    }
}
