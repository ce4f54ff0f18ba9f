//! `kogia reset`: deletes the cluster with all its state, and its context from the user's kubeconfig.

use std::fs;
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::{down, kubeconfig};

#[derive(clap::Args)]
pub struct Args {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// What a data directory of ours holds; a folder with none of these is not one, and is not deleted.
const OURS: [&str; 5] = ["lock", "pki", "store", "images", "member.json"];

pub async fn run(args: &Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    if !OURS.iter().any(|name| data_dir.join(name).exists()) {
        println!("There is no cluster in {}.", data_dir.display());
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !confirmed(data_dir)? {
        println!("Nothing was deleted.");
        return Ok(ExitCode::FAILURE);
    }
    down::stop(data_dir).await?;
    let kubeconfig = data_dir.join("kubeconfig");
    if let Ok(text) = fs::read_to_string(&kubeconfig) {
        kubeconfig::remove_from_users(&text)?;
    }
    fs::remove_dir_all(data_dir).with_context(|| format!("cannot delete {}", data_dir.display()))?;
    println!("Deleted the cluster in {}.", data_dir.display());
    Ok(ExitCode::SUCCESS)
}

fn confirmed(data_dir: &Path) -> anyhow::Result<bool> {
    anyhow::ensure!(std::io::stdin().is_terminal(), "this deletes {}; say --yes", data_dir.display());
    print!("Delete the cluster in {} with all its state? [y/N] ", data_dir.display());
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
