//! `kogia scale`: changes the number of replicas through the scale subresource, as kubectl does.

use std::path::Path;
use std::process::ExitCode;

use http::Method;
use serde_json::json;

use crate::client::{Client, Target, named};

#[derive(clap::Args)]
pub struct Args {
    /// `deployment web`, `rs/web-1`
    #[arg(required = true, value_name = "TYPE NAME")]
    what: Vec<String>,
    /// How many
    #[arg(long)]
    replicas: u32,
    #[command(flatten)]
    target: Target,
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&args.target, data_dir).await?;
    let (kind, names) = named(&args.what)?;
    anyhow::ensure!(!names.is_empty(), "name what to scale, such as `deployment/web`");
    let resource = client.resource(&kind).await?;
    for name in names {
        let path = format!("{}/{name}/scale", resource.path(Some(&client.namespace)));
        let patch = json!({"spec": {"replicas": args.replicas}}).to_string().into_bytes();
        client.send(Method::PATCH, &path, Some(("application/merge-patch+json", patch))).await?;
        println!("{}/{name} scaled", resource.shown());
    }
    Ok(ExitCode::SUCCESS)
}
