//! Runs the controllers: wakes keys as changes come, gives each key one turn at a time, and does what the turn says.
//!
//! It chooses nothing. A write through the door returns when this member's view has it, and a key's next turn starts
//! after its last write; so a turn always sees what its predecessor did.

use std::collections::HashMap;
use std::sync::Arc;

use api::{Action, Change, ChangeKind, Key, Status, View};
use controllers::{Controller, Settings, World};
use futures::stream::{self, StreamExt as _};
use objects::{ChangesEnd, Objects, User};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::limits::{TURNS_MAX, WRITES_MAX};
use crate::workqueue::{Outcome, Workqueue};

/// A controller's place in the table, and one of its keys.
type Work = (usize, Key);

/// Runs every controller until `stop`, or until the door closes. Turns that are running are let finish.
/// `cluster_ca` is the PEM text that pods verify the API server with.
pub async fn run(objects: Objects, cluster_ca: String, stop: CancellationToken) {
    let mut driver = Driver {
        objects,
        settings: Arc::new(Settings { cluster_ca: cluster_ca.into(), ..Settings::default() }),
        queue: Workqueue::default(),
        turns: JoinSet::new(),
        running: HashMap::new(),
    };
    while !stop.is_cancelled() {
        let view = driver.objects.view();
        let Ok(mut changes) = driver.objects.changes(view.revision()) else {
            tokio::task::yield_now().await;
            continue;
        };
        driver.wake_all(&view);
        loop {
            driver.start_turns();
            let due = driver.queue.wake_at();
            tokio::select! {
                () = stop.cancelled() => break,
                batch = changes.next() => match batch {
                    Ok(batch) => driver.wake(&batch),
                    Err(ChangesEnd::Lagged) => break,
                    Err(ChangesEnd::Closed) => return driver.drain().await,
                },
                Some(ended) = driver.turns.join_next_with_id() => driver.end_turn(ended),
                () = clock::until(due) => {}
            }
        }
    }
    driver.drain().await;
}

struct Driver {
    objects: Objects,
    settings: Arc<Settings>,
    queue: Workqueue<Work>,
    turns: JoinSet<Outcome>,
    running: HashMap<Id, Work>,
}

impl Driver {
    /// Wakes whatever the whole picture concerns: how a driver starts, and how it catches up.
    fn wake_all(&mut self, view: &View) {
        for resource in view.resources() {
            for object in view.list(resource) {
                let change = Change {
                    revision: object.revision,
                    kind: ChangeKind::Added,
                    object: object.clone(),
                    previous: None,
                };
                self.wake_one(&change, view);
            }
        }
    }

    fn wake(&mut self, batch: &[Arc<Change>]) {
        let view = self.objects.view();
        for change in batch {
            self.wake_one(change, &view);
        }
    }

    fn wake_one(&mut self, change: &Change, view: &View) {
        for (index, controller) in controllers::table().iter().enumerate() {
            for key in (controller.keys)(change, view) {
                self.queue.wake((index, key));
            }
        }
    }

    fn start_turns(&mut self) {
        while self.turns.len() < TURNS_MAX {
            let Some(work) = self.queue.take(clock::now_ms()) else { return };
            let controller = &controllers::table()[work.0];
            let turn = turn(self.objects.clone(), self.settings.clone(), controller, work.1.clone());
            let id = self.turns.spawn(turn).id();
            self.running.insert(id, work);
        }
    }

    fn end_turn(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "a controller's turn broke off");
                (error.id(), Outcome::Failed)
            }
        };
        if let Some(work) = self.running.remove(&id) {
            self.queue.done(&work, outcome, clock::now_ms());
        }
    }

    async fn drain(mut self) {
        while self.turns.join_next().await.is_some() {}
    }
}

/// One turn of one key: look, decide, do.
async fn turn(objects: Objects, settings: Arc<Settings>, controller: &'static Controller, key: Key) -> Outcome {
    let actions = {
        let view = objects.view();
        let world = World { view: &view, now_ms: clock::now_ms(), settings: &settings };
        (controller.reconcile)(&world, &key)
    };
    let who = User::system(format!("system:{}", controller.name));
    let again = actions.iter().filter_map(|action| match action {
        Action::Again { after_ms } => Some(*after_ms),
        _ => None,
    });
    let again = again.min();
    match perform(&objects, &who, actions).await {
        Ok(true) => again.map_or(Outcome::Done, Outcome::Again),
        // Somebody else wrote first. Nothing says that their change wakes this key, so it looks again by itself.
        Ok(false) => Outcome::Failed,
        Err(status) => {
            tracing::warn!(controller = controller.name, %key, status = %status.message, "could not act");
            Outcome::Failed
        }
    }
}

/// Does the actions in their order; a run of creations or deletions goes together, for their order says nothing.
/// Answers whether all of them still applied.
async fn perform(objects: &Objects, who: &User, actions: Vec<Action>) -> Result<bool, Status> {
    let mut all = true;
    let mut rest = actions.into_iter().peekable();
    while let Some(first) = rest.next() {
        let kind = std::mem::discriminant(&first);
        let together = matches!(first, Action::Create { .. } | Action::Delete { .. } | Action::Tell { .. });
        let mut group = vec![first];
        while together && let Some(next) = rest.next_if(|next| std::mem::discriminant(next) == kind) {
            group.push(next);
        }
        let mut writes = stream::iter(group).map(|action| objects.perform(who, action)).buffer_unordered(WRITES_MAX);
        let mut refusal = None;
        while let Some(written) = writes.next().await {
            match written {
                Ok(done) => all &= done,
                Err(status) => refusal = refusal.or(Some(status)),
            }
        }
        if let Some(status) = refusal {
            return Err(status);
        }
    }
    Ok(all)
}

#[cfg(test)]
#[path = "drivers_tests.rs"]
mod tests;
