//! Runs the scheduler: feeds it changes, writes its decisions, tells it which were refused.

use std::pin::pin;

use api::Key;
use futures::future::{Fuse, FusedFuture as _, FutureExt as _};
use futures::stream::{self, StreamExt as _};
use objects::{ChangesEnd, Objects, User};
use scheduler::{Decision, Scheduler};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::limits::BINDS_MAX;

/// Runs the scheduler until `stop`, or until the door closes.
pub async fn run(objects: Objects, stop: CancellationToken) {
    let who = User::system(format!("system:{}", scheduler::NAME));
    while !stop.is_cancelled() {
        let view = objects.view();
        let Ok(mut changes) = objects.changes(view.revision()) else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut scheduler = Scheduler::new(&view);
        // One plan is written at a time. What happens meanwhile is taken in: in a burst of pods a scheduler that only
        // waits would be left behind.
        let mut writing = pin!(Fuse::terminated());
        loop {
            if writing.is_terminated() {
                let plan = scheduler.plan(clock::now_ms());
                if !plan.is_empty() {
                    writing.set(carry_out(&objects, &who, plan).fuse());
                }
            }
            let (idle, due) = (writing.is_terminated(), scheduler.wake_at());
            tokio::select! {
                () = stop.cancelled(), if idle => return,
                refused = &mut writing, if !idle => {
                    refused.iter().for_each(|pod| scheduler.refused(pod, clock::now_ms()));
                }
                batch = changes.next() => match batch {
                    Ok(batch) => batch.iter().for_each(|change| scheduler.observe(change)),
                    Err(ChangesEnd::Lagged) => {
                        if !idle {
                            writing.await;
                        }
                        break;
                    }
                    Err(ChangesEnd::Closed) => return,
                },
                () = clock::until(due), if idle => {}
            }
        }
    }
}

/// Writes the decisions, many at a time; returns the pods whose decision did not take.
async fn carry_out(objects: &Objects, who: &User, plan: Vec<Decision>) -> Vec<Key> {
    let written = stream::iter(plan).map(|decision| write(objects, who, decision)).buffer_unordered(BINDS_MAX);
    written.filter_map(std::future::ready).collect().await
}

async fn write(objects: &Objects, who: &User, decision: Decision) -> Option<Key> {
    for action in decision.actions {
        match objects.perform(who, action).await {
            Ok(true) => {}
            // The pod has changed meanwhile: if it still waits, it is planned again.
            Ok(false) => return Some(decision.pod),
            Err(status) => {
                tracing::warn!(pod = %decision.pod, status = %status.message, "could not schedule");
                return Some(decision.pod);
            }
        }
    }
    None
}
