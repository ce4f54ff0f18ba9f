//! `kogia token`: who may join. Tokens are Secrets in `kube-system`, as kubeadm makes them.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use control::token::{self, Purpose};
use control::trust::JoinToken;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::client::{Client, Target, refusal, text};

const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a token and print it
    Create(Create),
    /// Show all tokens, without their secrets
    List {
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Make a token useless
    Delete {
        /// The token, or its first part
        id: String,
    },
}

#[derive(clap::Args)]
struct Create {
    /// Allow to join as a member of the control plane, which hands the cluster's keys over
    #[arg(long)]
    member: bool,
    /// How long it can be used: 90m, 24h; 0 for ever
    #[arg(long, default_value = "24h", value_parser = duration)]
    ttl: Duration,
    /// What it is for
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
}

/// `90m`, `24h`, `1h30m`; `0` is none.
fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let parsed: SignedDuration = text.parse().map_err(|_| "expected a time such as 90m or 24h".to_owned())?;
    Duration::try_from(parsed).map_err(|_| "expected a time such as 90m or 24h".to_owned())
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&Target::default(), data_dir).await?;
    match args.command {
        Command::Create(args) => {
            let purpose = if args.member { Purpose::Member } else { Purpose::Node };
            let authority = authority(data_dir)?;
            println!("{}", create(&client, &authority, purpose, args.ttl, &args.description).await?);
        }
        Command::List { json } => list(&client, json).await?,
        Command::Delete { id } => {
            let id = id.split('.').next().unwrap_or_default();
            let deleted = client.send(Method::DELETE, &format!("{SECRETS}/bootstrap-token-{id}"), None).await;
            if let Err(error) = deleted {
                let absent = refusal(&error).is_some_and(|status| status["reason"] == "NotFound");
                return if absent { Err(anyhow::anyhow!("there is no token {id}")) } else { Err(error) };
            }
            println!("Token {id} is of no use any more.");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The certificate of the authority of the cluster whose kubeconfig this data directory has.
pub fn authority(data_dir: &Path) -> anyhow::Result<String> {
    let file = data_dir.join("kubeconfig");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let kubeconfig: serde_norway::Value = serde_norway::from_str(&text)?;
    let data = kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"].as_str();
    let data = data.with_context(|| format!("{} names no authority", file.display()))?;
    Ok(String::from_utf8(STANDARD.decode(data)?)?)
}

/// Makes a token that is good for so long; zero is for ever.
pub async fn create(
    client: &Client,
    authority_pem: &str,
    purpose: Purpose,
    ttl: Duration,
    description: &str,
) -> anyhow::Result<JoinToken> {
    let token = token::generate(&control::trust::authority_fingerprint(authority_pem)?)?;
    let end = (!ttl.is_zero()).then(|| Timestamp::now() + ttl).map(|end| end.round(jiff::Unit::Second));
    let end = end.transpose()?.map(|end| end.to_string());
    let secret = token::secret(&token, purpose, end.as_deref(), description);
    client.send(Method::POST, SECRETS, Some(("application/json", secret.to_string().into_bytes()))).await?;
    Ok(token)
}

async fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    let secrets = client.get(&format!("{SECRETS}?fieldSelector=type=bootstrap.kubernetes.io/token")).await?;
    let mut rows = vec![["ID", "FOR", "UNTIL", "DESCRIPTION"].map(str::to_owned).to_vec()];
    for secret in secrets["items"].as_array().into_iter().flatten() {
        let field = |name: &str| {
            let bytes = STANDARD.decode(text(&secret["data"][name])).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let member = field("auth-extra-groups").split(',').any(|group| group == token::MEMBERS_GROUP);
        let purpose = if member { "members" } else { "nodes" };
        if json {
            let line: Value = json!({
                "id": field("token-id"), "for": purpose, "until": field("expiration"),
                "description": field("description"),
            });
            println!("{line}");
        }
        let until = if field("expiration").is_empty() { "for ever".to_owned() } else { field("expiration") };
        rows.push(vec![field("token-id"), purpose.to_owned(), until, field("description")]);
    }
    if !json {
        crate::get::print_rows(&rows);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_write_them() {
        assert_eq!(duration("90m").unwrap(), Duration::from_secs(5400));
        assert_eq!(duration("24h").unwrap(), Duration::from_secs(86_400));
        assert_eq!(duration("0").unwrap(), Duration::ZERO);
        assert!(duration("soon").is_err() && duration("-1h").is_err());
    }
}
