//! What only the leader does, for as long as it leads: it begins with a picture that holds everything its predecessors
//! acknowledged, and ends with the term.

use std::time::Duration;

use objects::Objects;
use raft_store::Store;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::limits::{MEMBER_RETRY, TERM_END_MAX};

/// Runs the duties in every term of this member until `stop`; returns earlier only if one of them ended by itself, and
/// names it.
pub(crate) async fn run(
    objects: Objects,
    store: Store,
    stop: CancellationToken,
    duties: impl Fn(CancellationToken) -> JoinSet<&'static str>,
) -> &'static str {
    const OURS: &str = "what the leader does";
    while !stop.is_cancelled() {
        let mine = store.wait_for(|status| status.leader == Some(status.member_id));
        let status = tokio::select! {
            () = stop.cancelled() => return OURS,
            status = mine => match status {
                Ok(status) => status,
                // The store has ended; whoever runs it says why.
                Err(_) => return OURS,
            },
        };
        let caught_up = tokio::select! {
            () = stop.cancelled() => return OURS,
            view = objects.fresh_view() => view.is_ok(),
        };
        if !caught_up {
            tokio::time::sleep(MEMBER_RETRY).await;
            continue;
        }
        tracing::info!(term = status.term, "this member leads");
        let term = stop.child_token();
        let mut tasks = duties(term.clone());
        let over = store.wait_for(|now| now.term != status.term || now.leader != Some(now.member_id));
        let ended = tokio::select! {
            () = stop.cancelled() => None,
            _ = over => None,
            Some(ended) = tasks.join_next() => Some(ended.unwrap_or(OURS)),
        };
        term.cancel();
        end(&mut tasks, TERM_END_MAX).await;
        if let Some(part) = ended.filter(|_| !stop.is_cancelled()) {
            return part;
        }
        tracing::info!(term = status.term, "this member leads no more");
    }
    OURS
}

/// Lets tasks end by themselves for a while. What they have begun without a majority would not end otherwise.
async fn end(tasks: &mut JoinSet<&'static str>, patience: Duration) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(patience, all).await.is_err() {
        tasks.shutdown().await;
    }
}
