//! From a container's `image` to a component on this node: what is here already, what another node has, or a registry.
//!
//! The pull policies are Kubernetes' own. An image that was built or pushed on this node has no registry to ask, so
//! `Always` takes what is here. An image that is being fetched is fetched once, however many containers want it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use image::{ImageError, Images, Keyring, Remote, Resolved};
use k8s_openapi::api::core::v1 as k8s;
use kube::api::Api;
use pod::{Fetched, ImageFault};
use tokio::sync::{Notify, Semaphore};

use crate::events::Note;
use crate::limits::{PULLS_MAX, REQUEST_TIME_MAX};
use crate::node::Agent;
use crate::{peers, toolbox};

/// Why there is no image: the kind the pod's status shows, and a sentence.
type Failure = (ImageFault, String);

/// The node's way to images.
pub(crate) struct Pulls {
    images: Images,
    plain_registries: Vec<String>,
    /// Made with the first pull: a node that never pulls does not read the machine's roots of trust.
    remote: OnceLock<Remote>,
    /// One lock per image that is being fetched.
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    places: Semaphore,
    /// Something has come.
    pulled: Notify,
}

impl Pulls {
    pub(crate) fn new(images: Images, plain_registries: Vec<String>) -> Self {
        let places = Semaphore::new(PULLS_MAX);
        let pulled = Notify::new();
        Self { images, plain_registries, remote: OnceLock::new(), busy: Mutex::default(), places, pulled }
    }

    /// Waits until something has been fetched since the last time. For one who waits.
    pub(crate) async fn pulled(&self) {
        self.pulled.notified().await;
    }

    /// The container's image, fetched if its policy wants that. `pulling` is told when a transfer begins.
    pub(crate) async fn find(
        &self,
        agent: &Agent,
        pod: &k8s::Pod,
        container: &k8s::Container,
        pulling: Note,
    ) -> Result<(Arc<Resolved>, Option<Fetched>), Failure> {
        let reference = container.image.clone().unwrap_or_default();
        if toolbox::is_meant(&reference) {
            let image = agent.toolbox.image().await.cloned();
            return image.map(|image| (image, None)).map_err(|why| (ImageFault::Missing, why));
        }
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        match self.here(&reference, policy).await? {
            Some(found) => return Ok((found, None)),
            None if policy == "Never" => {
                let message = format!("Container image \"{reference}\" is not present with pull policy of Never");
                return Err((ImageFault::NeverPulled, message));
            }
            None => {}
        }
        let asked = Instant::now();
        let lock = self.lock(&reference);
        let fetched = {
            let _only_one = lock.lock().await;
            // Whoever was first may have brought it.
            match self.here(&reference, policy).await? {
                Some(found) => Ok((found, None)),
                None => {
                    // Never closed, so this fails never.
                    let _place = self.places.acquire().await;
                    agent.events.tell(pulling);
                    self.fetch(agent, pod, &reference, asked).await.map(|(found, fetched)| (found, Some(fetched)))
                }
            }
        };
        self.unlock(&reference, &lock);
        fetched
    }

    /// What is here and may be used under this policy; `None` when it has to be fetched.
    async fn here(&self, reference: &str, policy: &str) -> Result<Option<Arc<Resolved>>, Failure> {
        let (images, reference, always) = (self.images.clone(), reference.to_owned(), policy == "Always");
        let looked = tokio::task::spawn_blocking(move || {
            let put = images.is_put(&reference)?;
            match images.resolve(&reference) {
                Ok(_) if always && !put => Ok(None),
                Ok(found) => Ok(Some(found)),
                // What was fetched can be fetched again.
                Err(ImageError::NotFound(_) | ImageError::Damaged { .. }) if !put => Ok(None),
                Err(error) => Err(error),
            }
        });
        let looked = looked.await.map_err(|error| (ImageFault::Missing, error.to_string()))?;
        looked.map_err(|error| {
            let fault = match error {
                ImageError::InvalidName { .. } => ImageFault::InvalidName,
                _ => ImageFault::Missing,
            };
            (fault, error.to_string())
        })
    }

    async fn fetch(
        &self,
        agent: &Agent,
        pod: &k8s::Pod,
        reference: &str,
        asked: Instant,
    ) -> Result<(Arc<Resolved>, Fetched), Failure> {
        let missing = |error: &dyn std::fmt::Display| (ImageFault::Missing, error.to_string());
        let begun = Instant::now();
        let config = &agent.config;
        if peers::pull(&config.client, &config.name, &self.images, reference).await.is_some() {
            return self.fetched(reference, begun, asked).await;
        }
        let keys = keyring(agent, pod).await.map_err(|error| missing(&error))?;
        let remote = match self.remote.get() {
            Some(remote) => remote,
            None => {
                let remote = Remote::new(self.plain_registries.clone()).map_err(|error| missing(&error))?;
                self.remote.get_or_init(|| remote)
            }
        };
        let pulled = remote.pull(&self.images, reference, &keys).await;
        pulled.map_err(|error| {
            missing(&format!("it is not in the cluster, where `kogia build` puts images, and {error}"))
        })?;
        self.fetched(reference, begun, asked).await
    }

    /// What has just been fetched, and what that took.
    async fn fetched(
        &self,
        reference: &str,
        begun: Instant,
        asked: Instant,
    ) -> Result<(Arc<Resolved>, Fetched), Failure> {
        let missing = |error: &dyn std::fmt::Display| (ImageFault::Missing, error.to_string());
        let (images, name) = (self.images.clone(), reference.to_owned());
        let found = tokio::task::spawn_blocking(move || images.resolve(&name)).await;
        let found = found.map_err(|error| missing(&error))?.map_err(|error| missing(&error))?;
        self.pulled.notify_one();
        let fetched =
            Fetched { took_ms: millis(begun.elapsed()), waited_ms: millis(asked.elapsed()), bytes: found.size };
        Ok((found, fetched))
    }

    fn lock(&self, reference: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.entry(reference.to_owned()).or_default().clone()
    }

    /// Forgets the lock when nobody else waits for it.
    fn unlock(&self, reference: &str, lock: &Arc<tokio::sync::Mutex<()>>) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        // Two are ours: the map's and the caller's.
        if Arc::strong_count(lock) <= 2 {
            busy.remove(reference);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The credentials that the pod's pull secrets hold. A secret that is not there is left out, as the kubelet does: the
/// registry may not want one.
async fn keyring(agent: &Agent, pod: &k8s::Pod) -> Result<Keyring, String> {
    let mut keys = Keyring::default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let secrets: Api<k8s::Secret> = Api::namespaced(agent.config.client.clone(), namespace);
    for named in pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()) {
        let unreadable = |why: &dyn std::fmt::Display| format!("secret \"{}\" could not be read: {why}", named.name);
        let found = tokio::time::timeout(REQUEST_TIME_MAX, secrets.get_opt(&named.name)).await;
        let found = found.map_err(|_| unreadable(&"the API did not answer in time"))?;
        let Some(secret) = found.map_err(|error| unreadable(&error))? else { continue };
        let data = secret.data.unwrap_or_default();
        let bytes = |key: &str| data.get(key).map(|bytes| bytes.0.as_slice());
        let added = match secret.type_.as_deref() {
            Some("kubernetes.io/dockerconfigjson") => bytes(".dockerconfigjson").map(|file| keys.add_config_json(file)),
            Some("kubernetes.io/dockercfg") => bytes(".dockercfg").map(|file| keys.add_config(file)),
            _ => None,
        };
        added.transpose().map_err(|why| unreadable(&why))?;
    }
    Ok(keys)
}
