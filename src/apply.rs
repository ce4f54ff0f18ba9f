//! `kogia apply`: makes the cluster hold what the files say, by server-side apply.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use http::Method;
use serde_json::Value;

use crate::client::{Client, Resource, Target, text};
use crate::limits;

/// Who owns the fields that this command sets.
const MANAGER: &str = "kogia";

#[derive(clap::Args)]
pub struct Args {
    /// Files or folders of manifests; `-` is standard input
    #[arg(long, short, required = true, value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// Take over fields that others own
    #[arg(long)]
    force_conflicts: bool,
    #[command(flatten)]
    target: Target,
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&args.target, data_dir).await?;
    let mut failed = false;
    let served = client.resources().await?;
    for object in read(&args.filename)? {
        match one(&client, &served, &object, args.force_conflicts).await {
            Ok(line) => println!("{line}"),
            Err(error) => {
                failed = true;
                eprintln!("error: {error:#}");
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Applies one object and returns kubectl's line about it.
pub async fn one(client: &Client, served: &[Resource], object: &Value, force: bool) -> anyhow::Result<String> {
    let (resource, path) = place(object, served, &client.namespace)?;
    let before = client.find(&path).await?;
    let query = format!("fieldManager={MANAGER}&fieldValidation=Strict&force={force}");
    let body = ("application/apply-patch+yaml", object.to_string().into_bytes());
    let after = client.send(Method::PATCH, &format!("{path}?{query}"), Some(body)).await?;
    let version = |object: &Value| text(&object["metadata"]["resourceVersion"]);
    let what = match before {
        None => "created",
        Some(before) if version(&before) == version(&after) => "unchanged",
        Some(_) => "configured",
    };
    Ok(format!("{}/{} {what}", resource.shown(), text(&object["metadata"]["name"])))
}

/// The resource of a manifest and the object's URL path.
pub fn place(object: &Value, served: &[Resource], namespace: &str) -> anyhow::Result<(Resource, String)> {
    let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let name = text(&object["metadata"]["name"]);
    anyhow::ensure!(!version.is_empty() && !kind.is_empty(), "a manifest has no apiVersion or no kind");
    anyhow::ensure!(!name.is_empty(), "a manifest of kind {kind} has no metadata.name");
    let (group, short) = version.split_once('/').unwrap_or(("", &version));
    let fits = |resource: &&Resource| resource.group == group && resource.version == short && resource.kind == kind;
    let resource = served
        .iter()
        .find(fits)
        .with_context(|| format!("no matches for kind {kind:?} in version {version:?}"))?
        .clone();
    let own = text(&object["metadata"]["namespace"]);
    let path = resource.path(Some(if own.is_empty() { namespace } else { &own }));
    Ok((resource, format!("{path}/{name}")))
}

/// The objects of files, of folders' `*.yaml`, `*.yml` and `*.json`, or of standard input; lists are unfolded.
pub fn read(paths: &[PathBuf]) -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for path in paths {
        for (name, text) in texts(path)? {
            let documents = api::yaml::documents(&text).map_err(|status| anyhow::anyhow!("{name}: {status}"))?;
            for document in documents {
                match document["items"].as_array() {
                    Some(items) if text_ends_with_list(&document) => objects.extend(items.iter().cloned()),
                    _ => objects.push(document),
                }
            }
            anyhow::ensure!(objects.len() <= limits::DOCUMENTS_MAX, "more than {} manifests", limits::DOCUMENTS_MAX);
        }
    }
    anyhow::ensure!(!objects.is_empty(), "there is no manifest in what was named");
    Ok(objects)
}

fn text_ends_with_list(document: &Value) -> bool {
    document["kind"].as_str().is_some_and(|kind| kind.ends_with("List"))
}

fn texts(path: &Path) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let shown = path.display().to_string();
    if shown == "-" {
        let mut text = Vec::new();
        std::io::stdin().lock().read_to_end(&mut text)?;
        return Ok(vec![("standard input".into(), text)]);
    }
    let context = || format!("cannot read {shown}");
    if !path.is_dir() {
        return Ok(vec![(shown.clone(), std::fs::read(path).with_context(context)?)]);
    }
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(path).with_context(context)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json"));
    files.sort();
    files.iter().map(|file| Ok((file.display().to_string(), std::fs::read(file)?))).collect()
}
