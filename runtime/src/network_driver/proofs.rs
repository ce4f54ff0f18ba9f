//! What ACME servers want to see under the names of this cluster: Challenges become a table that the Ingress answers by, and
//! each is told once that it is answered.

use std::sync::Arc;

use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use network::Challenges;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::custom::Challenge;

/// Challenges that are answered at a time, far more than an authority lets anybody have open; the others wait.
const CHALLENGES_MAX: usize = 1024;

/// Statuses that wait to be written; what does not fit is seen to with the next table.
const WRITES_MAX: usize = 256;

/// The table of what is open.
pub(super) fn table(challenges: &[Arc<Challenge>]) -> Challenges {
    let mut table = Challenges::default();
    let open = challenges.iter().filter(|one| one.metadata.deletion_timestamp.is_none());
    for challenge in open.filter(|one| one.spec["type"] == "HTTP-01").take(CHALLENGES_MAX) {
        let text = |field: &str| challenge.spec[field].as_str().unwrap_or_default();
        if !text("token").is_empty() {
            table.add(text("dnsName"), text("token"), text("key"));
        }
    }
    table
}

/// Says of Challenges that they are answered.
pub(super) struct Presenter(mpsc::Sender<Arc<Challenge>>);

impl Presenter {
    pub(super) fn new(client: Client, stop: CancellationToken) -> Self {
        let (writes, wanted) = mpsc::channel(WRITES_MAX);
        tokio::spawn(async move { stop.run_until_cancelled(write(client, wanted)).await });
        Self(writes)
    }

    /// Has it said of those in the installed table of which nobody has said it.
    pub(super) fn present(&self, challenges: &[Arc<Challenge>], installed: &Challenges) {
        for challenge in challenges.iter().filter(|one| one.status["presented"] != true) {
            let text = |field: &str| challenge.spec[field].as_str().unwrap_or_default();
            if installed.key(&text("dnsName").to_ascii_lowercase(), text("token")).is_some() {
                // What finds no room is seen to with the next change.
                let _ = self.0.try_send(challenge.clone());
            }
        }
    }
}

async fn write(client: Client, mut wanted: mpsc::Receiver<Arc<Challenge>>) {
    while let Some(challenge) = wanted.recv().await {
        let (namespace, name) = (challenge.namespace().unwrap_or_default(), challenge.name_any());
        let challenges: Api<Challenge> = Api::namespaced(client.clone(), &namespace);
        let patch = json!({"status": {"presented": true, "processing": true, "state": "pending"}});
        if let Err(error) = challenges.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            tracing::debug!(%namespace, %name, %error, "cannot say that a challenge is answered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_over_http_that_are_open_are_answered() {
        let challenge = |name: &str, kind: &str| {
            Arc::new(Challenge {
                spec: json!({"type": kind, "dnsName": format!("{name}.test"), "token": name, "key": "k"}),
                ..Challenge::default()
            })
        };
        let mut leaving = Challenge { spec: challenge("gone", "HTTP-01").spec.clone(), ..Challenge::default() };
        leaving.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("written here"));
        let table = table(&[challenge("a", "HTTP-01"), challenge("b", "DNS-01"), Arc::new(leaving)]);
        assert_eq!(table.len(), 1);
        assert_eq!(table.answer("a.test", "/.well-known/acme-challenge/a"), Some("k"));
    }
}
