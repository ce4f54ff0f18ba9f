//! Which pods are bound to this node: one task for each, told about every change of its object.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::ground;
use crate::node::Agent;
use crate::pod_driver::{self, Known};
use crate::resident::Resident;

/// Watches until `stop`; then every pod's task has ended.
pub(crate) async fn run(agent: Arc<Agent>, stop: CancellationToken) {
    let pods: Api<Pod> = Api::all(agent.config.client.clone());
    let mine = watcher::Config::default().fields(&format!("spec.nodeName={}", agent.config.name));
    // Who wrote which field is of no use here and often half of an object.
    let slim = watcher(pods, mine).default_backoff().modify(|pod| pod.metadata.managed_fields = None);
    let mut changes = slim.boxed();
    let leftovers = ground::leftovers(&agent.config.data_dir).unwrap_or_default();
    let mut household = Household { agent, tasks: JoinSet::new(), pods: HashMap::new(), listed: None, leftovers };
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(change) = changes.next() => match change {
                Ok(change) => household.take(change),
                Err(error) => tracing::debug!(%error, "watch of pods interrupted"),
            },
            Some(ended) = household.tasks.join_next() => household.forget(ended),
        }
    }
    // Guests end when their task is dropped.
    household.tasks.shutdown().await;
}

/// A pod is known by its uid: a namesake that follows it is another pod.
type Uid = String;

/// One pod, from the first news of it to the last.
struct Entry {
    known: watch::Sender<Known>,
    /// Its task has ended; late news of it are of no interest.
    over: bool,
}

struct Household {
    agent: Arc<Agent>,
    /// Each ends with its pod's uid, and whether the pod is over or the task failed.
    tasks: JoinSet<(Uid, bool)>,
    pods: HashMap<Uid, Entry>,
    /// While a list is arriving: whom it has named.
    listed: Option<HashSet<Uid>>,
    /// Folders that were here before the first list came, by the uid of their pod.
    leftovers: Vec<(Uid, PathBuf)>,
}

impl Household {
    fn take(&mut self, change: Event<Pod>) {
        match change {
            Event::Init => self.listed = Some(HashSet::new()),
            Event::InitApply(pod) | Event::Apply(pod) => self.see(pod),
            Event::Delete(pod) => self.lose(&pod.metadata.uid.unwrap_or_default()),
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let lost: Vec<Uid> = self.pods.keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
                lost.iter().for_each(|uid| self.lose(uid));
                self.sweep(&listed);
            }
        }
    }

    /// Removes what pods left that went while the node was away.
    fn sweep(&mut self, listed: &HashSet<Uid>) {
        let leftovers = std::mem::take(&mut self.leftovers).into_iter();
        let orphans: Vec<PathBuf> = leftovers.filter(|(uid, _)| !listed.contains(uid)).map(|(_, path)| path).collect();
        tokio::task::spawn_blocking(move || {
            for path in orphans {
                if let Err(error) = std::fs::remove_dir_all(&path) {
                    tracing::warn!(path = %path.display(), %error, "files of an earlier pod are left behind");
                }
            }
        });
    }

    fn see(&mut self, pod: Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if let Some(listed) = &mut self.listed {
            listed.insert(uid.clone());
        }
        let pod = Resident::new(pod);
        if let Some(entry) = self.pods.get(&uid) {
            entry.known.send_modify(|known| known.pod = pod);
            return;
        }
        let (sender, known) = watch::channel(Known { pod, removed: false });
        self.pods.insert(uid.clone(), Entry { known: sender, over: false });
        let driver = AssertUnwindSafe(pod_driver::run(self.agent.clone(), known)).catch_unwind();
        // An `async` block would have room for the driver twice: as what it captured, and as what it awaits.
        self.tasks.spawn(driver.map(move |ended| (uid, ended.is_ok())));
    }

    fn lose(&mut self, uid: &str) {
        match self.pods.get(uid) {
            Some(entry) if entry.over => drop(self.pods.remove(uid)),
            Some(entry) => entry.known.send_modify(|known| known.removed = true),
            None => {}
        }
    }

    /// A task ended. Its entry stays until the API has forgotten the pod too, so that the last echoes of it start
    /// nothing.
    fn forget(&mut self, ended: Result<(Uid, bool), tokio::task::JoinError>) {
        let (uid, over) = match ended {
            Ok(ended) => ended,
            Err(error) => return tracing::error!(%error, "a pod's task was ended"),
        };
        if !over {
            tracing::error!(uid, "the task of a pod failed; the pod is taken up anew when its object changes");
        }
        match self.pods.get_mut(&uid) {
            Some(entry) if over && !entry.known.borrow().removed => entry.over = true,
            _ => drop(self.pods.remove(&uid)),
        }
    }
}
