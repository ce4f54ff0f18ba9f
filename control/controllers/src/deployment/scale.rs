//! `spec.replicas` changed while several templates have pods: every ReplicaSet gets its share.
//!
//! Worked example: 10 replicas, surge 3, `old` 8 and `new` 5, scaled to 30 (33 with surge): 20 more are wanted; `old`
//! grows by 20·8/13 ≈ 12, `new` gets the rest, and the rollout continues from there.

use super::{DESIRED, MAX, Turn};

impl Turn<'_> {
    /// Whether some ReplicaSet was last scaled for another number of replicas than is wanted now.
    pub(super) fn is_scaling(&self) -> bool {
        self.sets.iter().filter(|set| set.replicas > 0).any(|set| {
            let noted = set.object.annotation(DESIRED).and_then(|number| number.parse::<i64>().ok());
            noted.is_some_and(|noted| noted != self.spec.replicas)
        })
    }

    /// Brings the ReplicaSets to a changed number of replicas.
    pub(super) fn scale(&mut self) {
        let active: Vec<usize> = (0..self.sets.len()).filter(|index| self.sets[*index].replicas > 0).collect();
        let alone = match *active {
            [] => self.new.or_else(|| self.old().last().copied()),
            [index] => Some(index),
            _ => None,
        };
        if let Some(index) = alone {
            self.resize(index, self.spec.replicas);
        } else if self.new.is_some_and(|new| self.is_saturated(new)) {
            for index in self.old() {
                if self.sets[index].replicas > 0 {
                    self.resize(index, 0);
                }
            }
        } else if !self.spec.recreate {
            self.spread(active);
        }
    }

    /// The current ReplicaSet alone already does what is wanted.
    fn is_saturated(&self, new: usize) -> bool {
        let set = &self.sets[new];
        let noted = set.object.annotation(DESIRED).and_then(|number| number.parse::<i64>().ok());
        set.replicas == self.spec.replicas && noted == Some(self.spec.replicas) && set.available == self.spec.replicas
    }

    fn spread(&mut self, mut active: Vec<usize>) {
        let allowed = if self.spec.replicas > 0 { self.spec.replicas + self.spec.max_surge } else { 0 };
        let change = allowed - self.total();
        // The largest first; of equals the newest when growing, the oldest when shrinking.
        active.sort_by_key(|&index| {
            let age = i64::try_from(index).unwrap_or(i64::MAX);
            (-self.sets[index].replicas, if change > 0 { -age } else { age })
        });
        let mut left = change;
        let mut sizes: Vec<i64> = Vec::with_capacity(active.len());
        for &index in &active {
            let part = if left == 0 { 0 } else { self.share_of(index, change) };
            let part = if change > 0 { part.clamp(0, left) } else { part.clamp(left.min(0), 0) };
            left -= part;
            sizes.push(self.sets[index].replicas + part);
        }
        // Rounding leaves a rest; the largest takes it.
        if let Some(first) = sizes.first_mut() {
            *first = (*first + left).max(0);
        }
        for (index, size) in active.into_iter().zip(sizes) {
            self.resize(index, size);
        }
    }

    /// How much of a change falls to one ReplicaSet, by its share of what was wanted before.
    fn share_of(&self, index: usize, change: i64) -> i64 {
        let set = &self.sets[index];
        if self.spec.replicas == 0 {
            return -set.replicas;
        }
        let noted = set.object.annotation(MAX).and_then(|number| number.parse::<i64>().ok());
        let before = noted.filter(|&max| max > 0).unwrap_or_else(|| (self.total()).max(1));
        let after = self.spec.replicas + self.spec.max_surge;
        let share = div_round(set.replicas * after, before) - set.replicas;
        if change == 0 { 0 } else { share }
    }
}

/// Division of non-negative numbers, rounded half up.
fn div_round(number: i64, by: i64) -> i64 {
    (2 * number + by) / (2 * by)
}
