//! Runs the controllers: wakes keys as changes come, gives each key one turn at a time, and does what the turn says.
//!
//! It chooses nothing. A write through the door returns when this member's view has it, and a key's next turn starts
//! after its last write; so a turn always sees what its predecessor did.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api::{Action, Change, ChangeKind, Key, Status, View};
use controllers::{Controller, Heard, Settings, World};
use futures::stream::{self, StreamExt as _};
use http_api::{Lost, Measured};
use objects::{ChangesEnd, Objects, User};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::clock::{self, Pauses};
use crate::limits::{TURNS_MAX, WRITES_MAX};
use crate::workqueue::{Outcome, Workqueue};

/// A controller's place in the table, and one of its keys.
type Work = (usize, Key);

/// Runs every controller until `stop`, or until the door closes. Turns that are running are let finish.
/// `cluster_ca` is the PEM text that pods verify the API server with; `lost` tells which nodes have no connection, and
/// `usage` is what nodes measured last.
pub async fn run(
    objects: Objects,
    cluster_ca: String,
    mut lost: watch::Receiver<Lost>,
    usage: Measured,
    stop: CancellationToken,
) {
    let mut driver = Driver {
        objects,
        settings: Arc::new(Settings { cluster_ca: cluster_ca.into(), ..Settings::default() }),
        usage,
        queue: Workqueue::default(),
        turns: JoinSet::new(),
        running: HashMap::new(),
        heard: Arc::new(Heard {
            since_ms: clock::now_ms(),
            lost: lost.borrow_and_update().clone(),
            ..Heard::default()
        }),
        pauses: Pauses::start(),
        refusals: HashMap::new(),
    };
    while !stop.is_cancelled() {
        let view = driver.objects.view();
        let Ok(mut changes) = driver.objects.changes(view.revision()) else {
            tokio::task::yield_now().await;
            continue;
        };
        driver.wake_all(&view);
        loop {
            driver.notice_pause();
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
                Ok(()) = lost.changed() => driver.hear(lost.borrow_and_update().clone()),
                () = clock::until(due) => {}
            }
        }
    }
    driver.drain().await;
}

struct Driver {
    objects: Objects,
    settings: Arc<Settings>,
    usage: Measured,
    queue: Workqueue<Work>,
    turns: JoinSet<Ended>,
    running: HashMap<Id, Work>,
    heard: Arc<Heard>,
    pauses: Pauses,
    /// Why the last turn of a key was refused a write.
    refusals: HashMap<Work, String>,
}

/// How a turn ended, and which refusal it met.
struct Ended {
    outcome: Outcome,
    refusal: Option<String>,
}

impl Driver {
    /// Connections of nodes ended, or are there again.
    fn hear(&mut self, lost: Lost) {
        let differs = |node: &&String| self.heard.lost.get(*node) != lost.get(*node);
        let news: HashSet<&String> = self.heard.lost.keys().chain(lost.keys()).filter(differs).collect();
        for work in news.into_iter().filter_map(|node| controllers::woken_by_news_of(node)) {
            self.queue.wake(work);
        }
        Arc::make_mut(&mut self.heard).lost = lost;
    }

    /// After a pause of the machine nothing was heard of anybody, which means nothing: everybody gets time to show
    /// themselves.
    fn notice_pause(&mut self) {
        if self.pauses.look() {
            tracing::info!("this machine was paused, or its clock was set: nodes get time to show themselves");
            let heard = Arc::make_mut(&mut self.heard);
            heard.since_ms = clock::now_ms();
            heard.renewed.clear();
        }
    }

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
            if let Some(node) = controllers::sign_of_life(change) {
                Arc::make_mut(&mut self.heard).renewed.insert(node.to_owned(), clock::now_ms());
            }
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
            let refused = self.refusals.remove(&work);
            let (settings, heard, usage) = (self.settings.clone(), self.heard.clone(), self.usage.clone());
            let known = Known { settings, heard, usage, refused };
            let turn = turn(self.objects.clone(), known, controller, work.1.clone());
            let id = self.turns.spawn(turn).id();
            self.running.insert(id, work);
        }
    }

    fn end_turn(&mut self, ended: Result<(Id, Ended), JoinError>) {
        let (id, ended) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "a controller's turn broke off");
                (error.id(), Ended { outcome: Outcome::Failed, refusal: None })
            }
        };
        if let Some(work) = self.running.remove(&id) {
            self.queue.done(&work, ended.outcome, clock::now_ms());
            if let Some(refusal) = ended.refusal {
                self.refusals.insert(work, refusal);
            }
        }
    }

    async fn drain(mut self) {
        while self.turns.join_next().await.is_some() {}
    }
}

/// What a turn knows beside the cluster's picture.
struct Known {
    settings: Arc<Settings>,
    heard: Arc<Heard>,
    usage: Measured,
    refused: Option<String>,
}

/// One turn of one key: look, decide, do.
async fn turn(objects: Objects, known: Known, controller: &'static Controller, key: Key) -> Ended {
    let actions = {
        let view = objects.view();
        let usage = known.usage.table();
        let world = World {
            view: &view,
            now_ms: clock::now_ms(),
            settings: &known.settings,
            heard: Some(&known.heard),
            usage: &usage,
            refused: known.refused.as_deref(),
        };
        (controller.reconcile)(&world, &key)
    };
    let who = User::system(format!("system:{}", controller.name));
    let again = actions.iter().filter_map(|action| match action {
        Action::Again { after_ms } => Some(*after_ms),
        _ => None,
    });
    let again = again.min();
    match perform(&objects, &who, actions).await {
        Ok(true) => Ended { outcome: again.map_or(Outcome::Done, Outcome::Again), refusal: None },
        // Somebody else wrote first. Nothing says that their change wakes this key, so it looks again by itself.
        Ok(false) => Ended { outcome: Outcome::Failed, refusal: None },
        Err(status) => {
            tracing::warn!(controller = controller.name, %key, status = %status.message, "could not act");
            let refusal = is_refusal(&status).then_some(status.message.clone());
            Ended { outcome: Outcome::Failed, refusal }
        }
    }
}

/// Whether the cluster does not want this, rather than cannot answer now.
fn is_refusal(status: &Status) -> bool {
    (400..500).contains(&status.code) && status.code != 429
}

/// Does the actions in their order; a run of creations or deletions goes together, for their order says nothing.
/// Answers whether all of them still applied. What is refused does not keep the rest from being done, but nobody is
/// told that it was done; the first refusal is the answer.
async fn perform(objects: &Objects, who: &User, actions: Vec<Action>) -> Result<bool, Status> {
    let mut all = true;
    let mut undone: Vec<Arc<str>> = Vec::new();
    let mut refusal: Option<Status> = None;
    let mut rest = actions.into_iter().peekable();
    while let Some(first) = rest.next() {
        let kind = std::mem::discriminant(&first);
        let together = matches!(first, Action::Create { .. } | Action::Delete { .. } | Action::Tell { .. });
        let mut group = vec![first];
        while together && let Some(next) = rest.next_if(|next| std::mem::discriminant(next) == kind) {
            group.push(next);
        }
        group.retain(|action| !tells_of(action, &undone));
        let mut writes = stream::iter(group).map(|action| attempt(objects, who, action)).buffer_unordered(WRITES_MAX);
        let mut broken = None;
        while let Some((name, written)) = writes.next().await {
            match written {
                Ok(true) => continue,
                Ok(false) => all = false,
                Err(status) if is_refusal(&status) => refusal = refusal.or(Some(status)),
                Err(status) => broken = broken.or(Some(status)),
            }
            undone.extend(name);
        }
        if let Some(status) = broken {
            return Err(status);
        }
    }
    refusal.map_or(Ok(all), Err)
}

/// Does one action; a child that cannot be made is told about. Also returns the name of what it was to make or end.
async fn attempt(objects: &Objects, who: &User, action: Action) -> (Option<Arc<str>>, Result<bool, Status>) {
    let name = match &action {
        Action::Create { key, .. } | Action::Delete { key, .. } => Some(key.name.clone()),
        _ => None,
    };
    let child = matches!(action, Action::Create { .. }).then(|| action.clone());
    let written = objects.perform(who, action).await;
    if let (Some(child), Err(status)) = (child, &written)
        && is_refusal(status)
        && let Some(tell) = controllers::complaint(&child, &status.message)
        && let Err(status) = objects.perform(who, tell).await
    {
        tracing::warn!(status = %status.message, "could not tell of a refusal");
    }
    (name, written)
}

/// Whether this would tell people that something was done which was not.
fn tells_of(action: &Action, undone: &[Arc<str>]) -> bool {
    match action {
        Action::Tell { message, .. } => undone.iter().any(|name| !name.is_empty() && message.contains(&**name)),
        _ => false,
    }
}

#[cfg(test)]
#[path = "drivers_tests.rs"]
mod tests;
