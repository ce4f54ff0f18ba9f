//! `kogia delete`: deletes objects by type and name, or all that a file describes, and waits until they are gone.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use http::Method;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::client::{Client, Resource, Target, encode, named, text};
use crate::{apply, limits};

#[derive(clap::Args)]
pub struct Args {
    /// `pod web`, `pod/web`, `deployments`
    #[arg(value_name = "TYPE [NAME]", required_unless_present = "filename")]
    what: Vec<String>,
    /// Delete what these files describe; `-` is standard input
    #[arg(long, short, value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// Objects with these labels
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    /// All objects of the type in the namespace
    #[arg(long)]
    all: bool,
    /// Seconds that a pod may take to end
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u32>,
    /// Do not wait until they are gone
    #[arg(long)]
    no_wait: bool,
    /// It is no error if an object is not there
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    target: Target,
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&args.target, data_dir).await?;
    let mut paths = Vec::new();
    if args.filename.is_empty() {
        let (kind, names) = named(&args.what)?;
        let resource = client.resource(&kind).await?;
        for name in names_of(&client, &resource, names, &args).await? {
            let path = format!("{}/{name}", resource.path(Some(&client.namespace)));
            paths.push((path, format!("{} {name:?}", resource.shown())));
        }
    } else {
        let served = client.resources().await?;
        for object in apply::read(&args.filename)? {
            let (resource, path) = apply::place(&object, &served, &client.namespace)?;
            let name = text(&object["metadata"]["name"]);
            paths.push((path, format!("{} {name:?}", resource.shown())));
        }
    }
    let mut uids = Vec::new();
    for (path, shown) in paths {
        if let Some(uid) = delete(&client, &path, &args).await? {
            println!("{shown} deleted");
            uids.push((path, uid));
        }
    }
    if !args.no_wait {
        wait(&client, &uids).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn names_of(
    client: &Client,
    resource: &Resource,
    names: Vec<String>,
    args: &Args,
) -> anyhow::Result<Vec<String>> {
    if !names.is_empty() {
        return Ok(names);
    }
    anyhow::ensure!(args.all || args.selector.is_some(), "name what to delete, or say --all or --selector");
    let selector = args.selector.as_deref().map(|selector| format!("?labelSelector={}", encode(selector)));
    let path = resource.path(Some(&client.namespace)) + &selector.unwrap_or_default();
    let list = client.get(&path).await?;
    Ok(list["items"].as_array().into_iter().flatten().map(|item| text(&item["metadata"]["name"])).collect())
}

/// Deletes one object and returns its uid; `None` when it was not there and that is no error.
async fn delete(client: &Client, path: &str, args: &Args) -> anyhow::Result<Option<String>> {
    if args.ignore_not_found && client.find(path).await?.is_none() {
        return Ok(None);
    }
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    if let Some(seconds) = args.grace_period {
        options["gracePeriodSeconds"] = json!(seconds);
    }
    let body = ("application/json", options.to_string().into_bytes());
    let answer = client.send(Method::DELETE, path, Some(body)).await?;
    let uid = [&answer["metadata"]["uid"], &answer["details"]["uid"]].into_iter().map(text).find(|uid| !uid.is_empty());
    Ok(Some(uid.unwrap_or_default()))
}

/// Waits until every object is gone, or another one has taken its name.
async fn wait(client: &Client, uids: &[(String, String)]) -> anyhow::Result<()> {
    let deadline = Instant::now() + limits::READY_WAIT;
    for (path, uid) in uids {
        gone(client, path, uid, deadline).await?;
    }
    Ok(())
}

/// Waits until the object with this uid is gone.
pub async fn gone(client: &Client, path: &str, uid: &str, deadline: Instant) -> anyhow::Result<()> {
    while client.find(path).await?.is_some_and(|object| text(&object["metadata"]["uid"]) == uid) {
        anyhow::ensure!(Instant::now() < deadline, "{path} is still there; a finalizer may hold it");
        sleep(limits::POLL).await;
    }
    Ok(())
}
