//! `kogia logs`: a container's output, past and coming.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use futures::StreamExt;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::client::{Client, Target, encode, text};

#[derive(clap::Args)]
pub struct Args {
    /// A pod, or something that has pods: `deployment/web`, `job/sum`
    #[arg(value_name = "POD | TYPE/NAME")]
    what: String,
    /// The container, when the pod has several
    #[arg(long, short)]
    container: Option<String>,
    /// Go on and print what comes
    #[arg(long, short)]
    follow: bool,
    /// Of the container's previous run
    #[arg(long, short)]
    previous: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// Only what is newer than this: `90`, `90s`, `5m`, `2h`
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    since: Option<u64>,
    /// Each line with its time
    #[arg(long)]
    timestamps: bool,
    #[command(flatten)]
    target: Target,
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&args.target, data_dir).await?;
    let pod = pod(&client, &args.what).await?;
    let mut query = vec![
        format!("follow={}", args.follow),
        format!("previous={}", args.previous),
        format!("timestamps={}", args.timestamps),
    ];
    query.extend(args.container.map(|name| format!("container={}", encode(&name))));
    query.extend(args.tail.map(|lines| format!("tailLines={lines}")));
    query.extend(args.since.map(|seconds| format!("sinceSeconds={seconds}")));
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/log?{}", client.namespace, query.join("&"));
    let mut chunks = client.stream(&path, "*/*").await?.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let mut out = std::io::stdout().lock();
        if out.write_all(&chunk?).and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The pod of that name, or the first one that the named object selects.
async fn pod(client: &Client, what: &str) -> anyhow::Result<String> {
    let Some((kind, name)) = what.split_once('/') else { return Ok(what.to_owned()) };
    let resource = client.resource(kind).await?;
    if resource.kind == "Pod" {
        return Ok(name.to_owned());
    }
    let owner = client.get(&format!("{}/{name}", resource.path(Some(&client.namespace)))).await?;
    let labels = match &owner["spec"]["selector"]["matchLabels"] {
        Value::Null => &owner["spec"]["selector"],
        labels => labels,
    };
    let labels = labels.as_object().with_context(|| format!("{what} selects no pods"))?;
    let selector: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={}", text(value))).collect();
    let path = format!("/api/v1/namespaces/{}/pods?labelSelector={}", client.namespace, encode(&selector.join(",")));
    let pods = client.get(&path).await?;
    let first = pods["items"].as_array().and_then(|items| items.first());
    Ok(text(&first.with_context(|| format!("{what} has no pods"))?["metadata"]["name"]))
}

fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("a time is a number with s, m, h or d".into()),
    };
    number.parse::<u64>().map(|number| number.saturating_mul(factor)).map_err(|error| error.to_string())
}
