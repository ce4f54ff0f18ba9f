//! An operator as people write it for Kubernetes, with `kube`; nothing in it knows Kogia.
//!
//! A Website is a greeting and a number of replicas. The operator makes the Deployment that serves it, tells in the status
//! how far it is, keeps a directory of all sites in a ConfigMap, and takes a site out of it before the site goes: that is
//! what its finalizer is for. The Deployment needs no such care, its owner reference is enough.
//!
//!     cargo run --example operator
//!     kubectl apply -f examples/operator/website.yaml

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::core::object::HasSpec as _;
use kube::core::{ApiResource, GroupVersionKind, Object, ResourceExt as _};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher;
use kube::{Client, Resource as _};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Who writes: its name in `managedFields`.
const MANAGER: &str = "website-operator";
const FINALIZER: &str = "examples.kogia.dev/directory";
/// The ConfigMap that lists the sites of a namespace.
const DIRECTORY: &str = "websites";

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct WebsiteSpec {
    greeting: String,
    replicas: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct WebsiteStatus {
    ready_replicas: i32,
    observed_generation: i64,
}

type Website = Object<WebsiteSpec, WebsiteStatus>;

struct Context {
    client: Client,
    kind: ApiResource,
}

#[derive(Debug)]
enum Error {
    Kube(kube::Error),
    Finalizer(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kube(error) => error.fmt(f),
            Self::Finalizer(error) => f.write_str(error),
        }
    }
}

impl std::error::Error for Error {}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Self::Kube(error)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::try_default().await?;
    define(&client).await?;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("examples.kogia.dev", "v1", "Website"));
    let websites: Api<Website> = Api::all_with(client.clone(), &kind);
    let deployments: Api<Deployment> = Api::all(client.clone());
    let context = Arc::new(Context { client, kind: kind.clone() });
    println!("watching websites");
    Controller::new_with(websites, watcher::Config::default(), kind)
        .owns(deployments, watcher::Config::default())
        .shutdown_on_signal()
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(5)), context)
        .for_each(|outcome| async move {
            match outcome {
                Ok((website, _)) => println!("reconciled {}", website.name),
                Err(error) => eprintln!("{error}"),
            }
        })
        .await;
    Ok(())
}

/// Brings the definition along and waits until the resource is served.
async fn define(client: &Client) -> anyhow::Result<()> {
    let definition: CustomResourceDefinition = serde_norway::from_str(include_str!("definition.yaml"))?;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = definition.name_any();
    definitions.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&definition)).await?;
    let served = await_condition(definitions, &name, conditions::is_crd_established());
    tokio::time::timeout(Duration::from_secs(30), served).await??;
    Ok(())
}

async fn reconcile(website: Arc<Website>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = website.namespace().unwrap_or_default();
    let websites: Api<Website> = Api::namespaced_with(context.client.clone(), &namespace, &context.kind);
    let outcome = finalizer(&websites, FINALIZER, website, |event| async {
        match event {
            Event::Apply(website) => apply(&website, &websites, &context).await,
            Event::Cleanup(website) => list(&website, None, &context).await.map(|()| Action::await_change()),
        }
    });
    outcome.await.map_err(|error| Error::Finalizer(error.to_string()))
}

async fn apply(website: &Website, websites: &Api<Website>, context: &Context) -> Result<Action, Error> {
    list(website, Some(&website.spec().greeting), context).await?;
    let (name, namespace) = (website.name_any(), website.namespace().unwrap_or_default());
    let owner = website.controller_owner_ref(&context.kind);
    let wanted = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "ownerReferences": [owner]},
        "spec": {
            "replicas": website.spec.replicas,
            "selector": {"matchLabels": {"website": name}},
            "template": {
                "metadata": {"labels": {"website": name}},
                "spec": {"containers": [{
                    "name": "web", "image": "hello-http:0.1.0",
                    "env": [{"name": "GREETING", "value": website.spec.greeting}],
                }]},
            },
        },
    });
    let deployments: Api<Deployment> = Api::namespaced(context.client.clone(), &namespace);
    let made = deployments.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&wanted)).await?;

    let ready = made.status.and_then(|status| status.ready_replicas).unwrap_or(0);
    let status =
        WebsiteStatus { ready_replicas: ready, observed_generation: website.meta().generation.unwrap_or_default() };
    if website.status.as_ref() != Some(&status) {
        let told = json!({"apiVersion": context.kind.api_version, "kind": context.kind.kind, "status": status});
        websites.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&told)).await?;
    }
    Ok(Action::await_change())
}

/// Puts a site into the directory, or takes it out.
async fn list(website: &Website, greeting: Option<&str>, context: &Context) -> Result<(), Error> {
    let directory: Api<ConfigMap> = Api::namespaced(context.client.clone(), &website.namespace().unwrap_or_default());
    let data = json!({website.name_any(): greeting});
    // A merge patch: null takes an entry out, and other sites' entries stay.
    let patch = Patch::Merge(json!({"data": data}));
    match directory.patch(DIRECTORY, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(missing)) if missing.code == 404 => {
            let empty = serde_json::from_value(json!({"metadata": {"name": DIRECTORY}}));
            let empty: ConfigMap = empty.map_err(|error| Error::Kube(kube::Error::SerdeError(error)))?;
            match directory.create(&Default::default(), &empty).await {
                Err(kube::Error::Api(taken)) if taken.code == 409 => {}
                made => drop(made?),
            }
            directory.patch(DIRECTORY, &PatchParams::default(), &patch).await?;
        }
        patched => drop(patched?),
    }
    Ok(())
}
