//! Whose turn it is: the container that has used the least CPU time goes next, in it the caller that waited longest, and
//! of that caller its instances in order. Pure.
//!
//! Every container has a lane with a virtual clock that advances by the CPU time it uses, divided by its weight: its
//! CPU request, as in Kubernetes. Ten looping containers and one that wakes up for half a millisecond at a time
//! therefore share the threads as everybody expects: the looping ones by their weights, the other at once. A container
//! that slept does not save up turns: it comes back with at most [`limits::WAKE_CREDIT_NANOS`] of CPU time before those
//! that did not.
//!
//! Within a container its callers go round, a slice each: one that sends a thousand requests waits for itself, and who
//! sends one waits for a slice of each of the others.

use crate::limits;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A container among those that want to run.
#[derive(Debug)]
pub(crate) struct Lane {
    id: u64,
    weight: u64,
    /// Nanoseconds used at weight 1000, moved forward over sleep.
    clock: AtomicU64,
}

impl Lane {
    /// A lane with the weight of a CPU request in thousandths of a CPU.
    pub(crate) fn new(request_millis: Option<u64>) -> Arc<Lane> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let weight = request_millis.unwrap_or(0).max(limits::WEIGHT_MIN);
        Arc::new(Lane { id: NEXT.fetch_add(1, Ordering::Relaxed), weight, clock: AtomicU64::new(0) })
    }

    pub(crate) fn charge(&self, nanos: u64) {
        self.clock.fetch_add(self.scaled(nanos), Ordering::Relaxed);
    }

    /// What CPU time is on this lane's clock.
    fn scaled(&self, nanos: u64) -> u64 {
        nanos.saturating_mul(1000) / self.weight
    }
}

/// What wants to run.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    waiting: HashMap<u64, Waiting<T>>,
    /// Clock and id of every lane in `waiting`.
    order: BTreeSet<(u64, u64)>,
    /// The clock of those that ran last.
    now: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    lane: Arc<Lane>,
    clock: u64,
    round: Round<T>,
}

/// What of one container waits: its callers in the order of their turns, each with its items. What works for no caller
/// counts as one.
#[derive(Debug)]
struct Round<T>(VecDeque<(Option<IpAddr>, VecDeque<T>)>);

impl<T> Round<T> {
    fn push(&mut self, caller: Option<IpAddr>, item: T) {
        match self.0.iter_mut().find(|(other, _)| *other == caller) {
            Some((_, items)) => items.push_back(item),
            None => self.0.push_back((caller, VecDeque::from([item]))),
        }
    }

    fn pop(&mut self) -> Option<T> {
        let (caller, mut items) = self.0.pop_front()?;
        let item = items.pop_front();
        if !items.is_empty() {
            self.0.push_back((caller, items));
        }
        item
    }
}

impl<T> Turns<T> {
    pub(crate) fn new() -> Turns<T> {
        Turns { waiting: HashMap::new(), order: BTreeSet::new(), now: 0 }
    }

    /// Queues an item of a lane behind its caller's others.
    pub(crate) fn push(&mut self, lane: &Arc<Lane>, caller: Option<IpAddr>, item: T) {
        if let Some(waiting) = self.waiting.get_mut(&lane.id) {
            waiting.round.push(caller, item);
            return;
        }
        let clock = self.now.saturating_sub(lane.scaled(limits::WAKE_CREDIT_NANOS));
        let clock = clock.max(lane.clock.fetch_max(clock, Ordering::Relaxed));
        self.order.insert((clock, lane.id));
        let round = Round(VecDeque::from([(caller, VecDeque::from([item]))]));
        self.waiting.insert(lane.id, Waiting { lane: lane.clone(), clock, round });
    }

    /// Takes the item whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let (clock, id) = self.order.pop_first()?;
        self.now = self.now.max(clock);
        let waiting = self.waiting.get_mut(&id)?;
        let item = waiting.round.pop();
        if waiting.round.0.is_empty() {
            self.waiting.remove(&id);
        } else {
            waiting.clock = waiting.lane.clock.load(Ordering::Relaxed);
            self.order.insert((waiting.clock, id));
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Runs `slices` turns of a millisecond; every item comes back at once. Returns how many each lane got.
    fn run(turns: &mut Turns<usize>, lanes: &[Arc<Lane>], slices: usize) -> Vec<usize> {
        let mut ran = vec![0; lanes.len()];
        for _ in 0..slices {
            let Some(lane) = turns.pop() else { break };
            ran[lane] += 1;
            lanes[lane].charge(MS);
            turns.push(&lanes[lane], None, lane);
        }
        ran
    }

    #[test]
    fn containers_share_equally_however_many_instances_they_have() {
        let lanes = [None, None].map(Lane::new);
        let mut turns = Turns::new();
        (0..50).for_each(|_| turns.push(&lanes[0], None, 0));
        turns.push(&lanes[1], None, 1);
        let ran = run(&mut turns, &lanes, 1000);
        assert!(ran[0].abs_diff(ran[1]) <= 2, "{ran:?}");
    }

    #[test]
    fn who_wakes_goes_first_but_has_saved_nothing_up() {
        let lanes = [None, None, None].map(Lane::new);
        let mut turns = Turns::new();
        turns.push(&lanes[0], None, 0);
        turns.push(&lanes[1], None, 1);
        run(&mut turns, &lanes, 10_000);
        turns.push(&lanes[2], None, 2);
        assert_eq!(turns.pop(), Some(2), "the next turn is that of who just woke");
        lanes[2].charge(MS);
        turns.push(&lanes[2], None, 2);
        let ran = run(&mut turns, &lanes, 300);
        assert!(ran.iter().all(|turns| turns.abs_diff(100) <= 6), "{ran:?}");
    }

    #[test]
    fn who_uses_less_than_its_share_never_waits_for_a_round() {
        let lanes: Vec<_> = (0..21).map(|_| Lane::new(None)).collect();
        let mut turns = Turns::new();
        (0..20).for_each(|lane| turns.push(&lanes[lane], None, lane));
        run(&mut turns, &lanes, 1000);
        for _ in 0..1000 {
            run(&mut turns, &lanes, 6);
            turns.push(&lanes[20], None, 20);
            assert_eq!(turns.pop(), Some(20));
            lanes[20].charge(MS / 4);
        }
    }

    #[test]
    fn cpu_requests_are_weights() {
        let lanes = [Some(500), Some(1500)].map(Lane::new);
        let mut turns = Turns::new();
        (0..2).for_each(|lane| turns.push(&lanes[lane], None, lane));
        let ran = run(&mut turns, &lanes, 4000);
        assert!(ran[0].abs_diff(1000) <= 10, "{ran:?}");
    }

    #[test]
    fn who_asks_once_waits_for_no_crowd_of_another_caller() {
        let lane = Lane::new(None);
        let callers = [1, 2].map(|last| Some(IpAddr::from([10, 42, 0, last])));
        let mut turns = Turns::new();
        (0..100).for_each(|number| turns.push(&lane, callers[0], number));
        turns.push(&lane, callers[1], 200);
        turns.push(&lane, callers[1], 201);
        let order: Vec<_> = std::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(order[..6], [0, 200, 1, 201, 2, 3]);
        assert_eq!(order.len(), 102);
    }

    #[test]
    fn nothing_waits_for_ever() {
        let lanes: Vec<_> = (0..20).map(|_| Lane::new(Some(1000))).collect();
        let mut turns = Turns::new();
        (0..20).for_each(|lane| turns.push(&lanes[lane], None, lane));
        let ran = run(&mut turns, &lanes, 2000);
        assert!(ran.iter().all(|turns| *turns == 100), "{ran:?}");
        assert_eq!(std::iter::from_fn(|| turns.pop()).count(), 20);
    }
}
