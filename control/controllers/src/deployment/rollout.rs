//! The two ways from an old template to a new one.

use super::Turn;
use crate::pods;

impl Turn<'_> {
    /// One step of the strategy.
    pub(super) fn roll(&mut self) {
        if self.spec.recreate { self.recreate() } else { self.rolling_update() }
    }

    /// Everything old goes before anything new comes.
    fn recreate(&mut self) {
        self.sync_revision(false);
        let mut shrunk = false;
        for index in self.old() {
            if self.sets[index].replicas > 0 {
                shrunk |= self.resize(index, 0);
            }
        }
        if shrunk || self.old_pods_exist() {
            return;
        }
        match self.new {
            None => self.sync_revision(true),
            Some(index) => {
                self.resize(index, self.spec.replicas);
                self.tidy_if_complete();
            }
        }
    }

    fn old_pods_exist(&self) -> bool {
        let owned = |index: usize| self.world.view.owned(self.sets[index].object.uid());
        self.old().into_iter().flat_map(owned).any(|pod| &*pod.key.resource == "pods" && !pods::is_finished(pod))
    }

    /// New pods come as far as the surge allows, old pods go as far as enough others are available.
    fn rolling_update(&mut self) {
        self.sync_revision(true);
        let Some(new) = self.new else { return };
        let target = self.new_replicas(self.sets[new].replicas);
        if self.resize(new, target) || self.shrink_old(new) {
            return;
        }
        self.tidy_if_complete();
    }

    /// How many replicas the current ReplicaSet, having `now`, should have next.
    pub(super) fn new_replicas(&self, now: i64) -> i64 {
        let wanted = self.spec.replicas;
        if self.spec.recreate || now >= wanted {
            return wanted;
        }
        let room = wanted + self.spec.max_surge - self.total();
        now + room.clamp(0, wanted - now)
    }

    fn shrink_old(&mut self, new: usize) -> bool {
        let old = self.old();
        if old.iter().map(|index| self.sets[*index].replicas).sum::<i64>() == 0 {
            return false;
        }
        let minimum = self.spec.replicas - self.spec.max_unavailable;
        let new_unavailable = self.sets[new].replicas - self.sets[new].available;
        // Every pod may go that is neither needed for the minimum nor a new one that may yet fail to come up.
        let budget = self.total() - minimum - new_unavailable;
        if budget <= 0 {
            return false;
        }
        let before: i64 = self.total();
        self.shrink_broken(&old, budget);
        self.shrink_available(&old, minimum);
        self.total() < before
    }

    /// Old pods that do not serve go first: nobody misses them, and they might block the rollout for ever.
    fn shrink_broken(&mut self, old: &[usize], mut budget: i64) {
        for &index in old {
            let set = &self.sets[index];
            let broken = (set.replicas - set.available).clamp(0, budget);
            if broken > 0 {
                budget -= broken;
                self.resize(index, self.sets[index].replicas - broken);
            }
        }
    }

    fn shrink_available(&mut self, old: &[usize], minimum: i64) {
        // Pods beyond what their ReplicaSet is asked to keep are as good as gone, though its status may still count them.
        let available: i64 = self.sets.iter().map(|set| set.available.min(set.replicas)).sum();
        let mut spare = available - minimum;
        for &index in old {
            let step = self.sets[index].replicas.min(spare);
            if step > 0 {
                spare -= step;
                self.resize(index, self.sets[index].replicas - step);
            }
        }
    }

    fn tidy_if_complete(&mut self) {
        let observed = self.deployment.field("status.observedGeneration").as_i64().unwrap_or(0);
        if self.counts().complete(self.spec.replicas) && observed >= self.deployment.generation() {
            self.tidy_history();
        }
    }
}
