//! `kogia up --with FOLDER`: from a folder to a first response.
//!
//! Build, put the component into the cluster's image store, apply the folder's manifests, wait, call. The manifests
//! are plain Kubernetes YAML; an `image:` that names the package (`NAME` or `NAME:VERSION`) is pinned to the digest
//! just built, so that a changed component rolls out although its version did not change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::build::{self, Built};
use crate::client::{Client, Resource, Target, encode, refusal, text};
use crate::running::Running;
use crate::{apply, delete, fetch, limits};

/// How much of a first response is shown.
const SHOWN_BYTES_MAX: usize = 2048;
/// Waiting reasons of a container that will not go away by waiting.
const HOPELESS: [&str; 6] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// A folder that can be built and applied.
pub struct App {
    folder: PathBuf,
    objects: Vec<Value>,
}

impl App {
    /// Reads the folder's manifests.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        anyhow::ensure!(folder.is_dir(), "{} is not a folder", folder.display());
        let objects = apply::read(&[folder.to_owned()])
            .with_context(|| format!("{} has no manifests to apply", folder.display()))?;
        Ok(Self { folder: folder.to_owned(), objects })
    }

    /// Builds, stores, applies, waits and calls.
    pub async fn deploy(mut self, data_dir: &Path, running: &Running) -> anyhow::Result<()> {
        let folder = self.folder.clone();
        let built = tokio::task::spawn_blocking(move || build::build(&folder)).await??;
        let client = Client::connect(&Target::default(), data_dir).await?;
        let served = client.resources().await?;
        for line in self.start(&client, &served, data_dir, &built).await? {
            println!("{line}");
        }
        for object in &self.objects {
            wait(&client, &served, object).await?;
        }
        self.call(&client, running).await
    }

    /// Stores a built component and applies the manifests; returns a line about each.
    pub async fn start(
        &mut self,
        client: &Client,
        served: &[Resource],
        data_dir: &Path,
        built: &Built,
    ) -> anyhow::Result<Vec<String>> {
        let build::Stored { pinned, line } = build::store(built, data_dir)?;
        let mut lines = vec![line];
        for object in &mut self.objects {
            pin(object, &built.image, &pinned);
            lines.push(apply_or_replace(client, served, object).await?);
        }
        Ok(lines)
    }

    /// The first host that an Ingress of the app names.
    pub fn host(&self) -> Option<String> {
        let ingress = self.objects.iter().find(|object| object["kind"] == "Ingress")?;
        Some(text(&ingress["spec"]["rules"][0]["host"])).filter(|host| !host.is_empty())
    }

    /// Shows what the app answers: each Ingress host's first response, or a Job's output.
    async fn call(&self, client: &Client, running: &Running) -> anyhow::Result<()> {
        for object in &self.objects {
            match object["kind"].as_str() {
                Some("Ingress") => {
                    for rule in object["spec"]["rules"].as_array().into_iter().flatten() {
                        call_host(&text(&rule["host"]), running).await?;
                    }
                }
                Some("Job") => show_output(client, object).await?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Replaces `image: NAME` and `image: NAME:VERSION` by the pinned reference, wherever containers are listed.
fn pin(value: &mut Value, image: &str, pinned: &str) {
    match value {
        Value::Object(fields) => {
            let name = image.split(':').next().unwrap_or(image);
            if let Some(slot) = fields.get_mut("image").filter(|slot| *slot == image || *slot == name) {
                *slot = json!(pinned);
            }
            fields.values_mut().for_each(|field| pin(field, image, pinned));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| pin(item, image, pinned)),
        _ => {}
    }
}

/// Applies an object. What runs once, a Job or a bare Pod, cannot be changed: it is replaced.
async fn apply_or_replace(client: &Client, served: &[Resource], object: &Value) -> anyhow::Result<String> {
    match apply::one(client, served, object, true).await {
        Err(error) if runs_once(object) && refusal(&error).is_some_and(|status| status["code"] == 422) => {
            let (_, path) = apply::place(object, served, &client.namespace)?;
            let uid = text(&client.get(&path).await?["metadata"]["uid"]);
            let options = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Background"}).to_string().into_bytes();
            client.send(Method::DELETE, &path, Some(("application/json", options))).await?;
            delete::gone(client, &path, &uid, Instant::now() + limits::READY_WAIT).await?;
            apply::one(client, served, object, true).await
        }
        other => other,
    }
}

fn runs_once(object: &Value) -> bool {
    matches!(object["kind"].as_str(), Some("Job" | "Pod"))
}

/// Waits until an object has become what it is for; says what is missing meanwhile.
async fn wait(client: &Client, served: &[Resource], object: &Value) -> anyhow::Result<()> {
    let (resource, path) = apply::place(object, served, &client.namespace)?;
    let name = format!("{}/{}", resource.shown(), text(&object["metadata"]["name"]));
    let deadline = Instant::now() + limits::READY_WAIT;
    let mut said = String::new();
    loop {
        let now = client.get(&path).await?;
        let missing = match object["kind"].as_str() {
            Some("Deployment") => deployment_misses(&now),
            Some("Job") => job_misses(&now)?,
            Some("Pod") => pod_misses(&now),
            _ => None,
        };
        let Some(missing) = missing else { return Ok(()) };
        if missing != said {
            println!("{name}: {missing}");
            said = missing;
        }
        if !runs_once(object) {
            give_up_early(client, &now).await?;
        }
        anyhow::ensure!(Instant::now() < deadline, "{name} is not ready after {:?}: {said}", limits::READY_WAIT);
        sleep(limits::POLL).await;
    }
}

fn deployment_misses(now: &Value) -> Option<String> {
    let status = &now["status"];
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let wanted = now["spec"]["replicas"].as_i64().unwrap_or(1);
    let seen = number(&status["observedGeneration"]) >= number(&now["metadata"]["generation"]);
    let available = number(&status["availableReplicas"]).min(number(&status["updatedReplicas"]));
    let old = number(&status["replicas"]) - number(&status["updatedReplicas"]);
    let done = seen && available == wanted && old == 0;
    (!done).then(|| format!("{} of {wanted} pods ready", if seen { available } else { 0 }))
}

fn job_misses(now: &Value) -> anyhow::Result<Option<String>> {
    let conditions = now["status"]["conditions"].as_array().into_iter().flatten();
    for condition in conditions.filter(|condition| condition["status"] == "True") {
        anyhow::ensure!(condition["type"] != "Failed", "the job has failed: {}", text(&condition["message"]));
        if condition["type"] == "Complete" {
            return Ok(None);
        }
    }
    Ok(Some("running".into()))
}

/// A bare pod may be made to fail; it has become what it is for once it has started or ended.
fn pod_misses(now: &Value) -> Option<String> {
    let started = now["status"]["containerStatuses"].as_array().into_iter().flatten().any(|container| {
        container["state"].get("running").is_some()
            || container["state"].get("terminated").is_some()
            || container["restartCount"].as_i64().unwrap_or(0) > 0
    });
    (!started).then(|| "starting".into())
}

/// Fails with the node's own sentence when one of the object's pods cannot start.
async fn give_up_early(client: &Client, owner: &Value) -> anyhow::Result<()> {
    let Some(labels) = owner["spec"]["selector"]["matchLabels"].as_object() else { return Ok(()) };
    let selector: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={}", text(value))).collect();
    let namespace = text(&owner["metadata"]["namespace"]);
    let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector={}", encode(&selector.join(",")));
    let pods = client.get(&path).await?;
    let containers = pods["items"].as_array().into_iter().flatten();
    for status in containers.flat_map(|pod| pod["status"]["containerStatuses"].as_array().into_iter().flatten()) {
        let waiting = &status["state"]["waiting"];
        let hopeless = HOPELESS.iter().any(|reason| waiting["reason"] == *reason);
        anyhow::ensure!(!hopeless, "{}: {}", text(&waiting["reason"]), text(&waiting["message"]));
    }
    Ok(())
}

async fn call_host(host: &str, running: &Running) -> anyhow::Result<()> {
    let authority = match host {
        "" => running.http.to_string(),
        host if running.http.port() == 80 => host.to_owned(),
        host => format!("{host}:{}", running.http.port()),
    };
    // A route is served as soon as the node has seen it: a moment after the pods are ready.
    let deadline = Instant::now() + limits::REQUEST_WAIT;
    let (response, took) = loop {
        let start = Instant::now();
        let response = fetch::get(running.http, &authority, "/").await;
        match response {
            Ok(response) if !matches!(response.status, 404 | 502 | 503) => break (response, start.elapsed()),
            _ if Instant::now() < deadline => sleep(limits::POLL).await,
            Ok(response) => break (response, start.elapsed()),
            Err(error) => return Err(error),
        }
    };
    println!("\nhttp://{authority}/  →  {} in {}", response.status, millis(took));
    let body = String::from_utf8_lossy(&response.body[..response.body.len().min(SHOWN_BYTES_MAX)]).into_owned();
    for line in body.lines() {
        println!("  {line}");
    }
    anyhow::ensure!(response.status < 500, "the app answers {}", response.status);
    Ok(())
}

fn millis(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1e3)
}

async fn show_output(client: &Client, job: &Value) -> anyhow::Result<()> {
    let name = text(&job["metadata"]["name"]);
    let base = format!("/api/v1/namespaces/{}/pods", client.namespace);
    let selector = encode(&format!("batch.kubernetes.io/job-name={name}"));
    let pods = client.get(&format!("{base}?labelSelector={selector}")).await?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let pod = text(&pod["metadata"]["name"]);
        let body = client.stream(&format!("{base}/{pod}/log"), "*/*").await?.collect_bytes().await?;
        println!("\npod/{pod}:");
        for line in String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]).lines() {
            println!("  {line}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_packages_own_image_is_pinned() {
        let mut object = json!({"spec": {"template": {"spec": {"containers": [
            {"image": "web:0.1.0"}, {"image": "web"}, {"image": "web:0.2.0"}, {"image": "other:0.1.0"},
        ]}}}});
        pin(&mut object, "web:0.1.0", "web:0.1.0@sha256:abc");
        let containers = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        let images: Vec<_> = containers.iter().map(|container| container["image"].as_str().unwrap()).collect();
        assert_eq!(images, ["web:0.1.0@sha256:abc", "web:0.1.0@sha256:abc", "web:0.2.0", "other:0.1.0"]);
    }

    #[test]
    fn a_deployment_is_ready_only_with_nothing_old_left() {
        let status = |observed: i64, replicas: i64, updated: i64, available: i64| {
            json!({"metadata": {"generation": 2}, "spec": {"replicas": 3}, "status": {
                "observedGeneration": observed, "replicas": replicas, "updatedReplicas": updated,
                "availableReplicas": available}})
        };
        assert_eq!(deployment_misses(&status(2, 3, 3, 3)), None);
        assert_eq!(deployment_misses(&status(1, 3, 3, 3)).as_deref(), Some("0 of 3 pods ready"));
        assert_eq!(deployment_misses(&status(2, 4, 3, 3)).as_deref(), Some("3 of 3 pods ready"));
    }
}
