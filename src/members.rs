//! `kogia members`: who takes part in the control plane, and changes of it while it runs.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::client::{Client, Target, refusal, text};
use crate::limits;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show the members
    List {
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Take a member out of the control plane, for good; its node stays
    Remove {
        /// Its name
        name: String,
    },
    /// Let a member lead
    Transfer {
        /// Its name
        name: String,
    },
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&Target::default(), data_dir).await?;
    match args.command {
        Command::List { json } => list(&client, json).await?,
        Command::Remove { name } => {
            let last = members(&client).await?.len() == 1;
            anyhow::ensure!(!last, "{name} is the only member: without it there is no cluster (`kogia reset`)");
            mark(&client, &name, "kogia.dev/remove").await?;
            until(&client, &format!("{name} to be gone"), |members| !members.iter().any(|m| m["name"] == *name))
                .await?;
            println!("{name} is no member any more. Its process can be ended, and its directory deleted.");
        }
        Command::Transfer { name } => {
            mark(&client, &name, "kogia.dev/lead").await?;
            let leads = |members: &[Value]| members.iter().any(|m| m["name"] == *name && m["role"] == "leader");
            until(&client, &format!("{name} to lead"), leads).await?;
            println!("{name} leads.");
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn members(client: &Client) -> anyhow::Result<Vec<Value>> {
    let status = client.get("/kogia/status").await?;
    Ok(status["members"].as_array().cloned().unwrap_or_default())
}

async fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    let members = members(client).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&members)?);
        return Ok(());
    }
    let mut rows = vec![["NAME", "ROLE", "API", "PEERS", "VERSION", "NUMBER"].map(str::to_owned).to_vec()];
    for member in &members {
        let number = member["id"].as_u64().unwrap_or_default().to_string();
        let of = |field: &str| Some(text(&member[field])).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".into());
        rows.push(vec![of("name"), of("role"), of("api"), of("address"), of("version"), number]);
    }
    crate::get::print_rows(&rows);
    Ok(())
}

/// Says on a member's Lease what is wanted of it.
async fn mark(client: &Client, name: &str, annotation: &str) -> anyhow::Result<()> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kogia-member-{name}");
    let patch = json!({"metadata": {"annotations": {annotation: "true"}}}).to_string().into_bytes();
    match client.send(Method::PATCH, &path, Some(("application/merge-patch+json", patch))).await {
        Err(error) if refusal(&error).is_some_and(|status| status["reason"] == "NotFound") => {
            anyhow::bail!("there is no member {name}; `kogia members list` shows all")
        }
        other => other.map(drop),
    }
}

async fn until(client: &Client, what: &str, reached: impl Fn(&[Value]) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + limits::REQUEST_WAIT;
    loop {
        // A change of leadership may cost one answer.
        let seen = members(client).await;
        if seen.as_ref().is_ok_and(|members| reached(members)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return seen
                .map(drop)
                .and_then(|()| Err(anyhow::anyhow!("it takes too long")))
                .context(format!("waited for {what}"));
        }
        sleep(limits::POLL).await;
    }
}
