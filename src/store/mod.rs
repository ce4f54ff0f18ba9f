//! `kogia store`: the cluster's memory as a file, and what is left to do when members are lost for good.
//!
//! A snapshot is saved from a running cluster through its API, from a stopped one out of its directory. The rest works
//! on directories of clusters that do not run, and refuses others with a sentence that says what to do.

pub mod load;
pub mod member;

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use control::member::Record;
use control::server::FOUNDER;
use control::store::{self, Config, OpenError, SnapshotError, SnapshotStatus, Store};
use futures::StreamExt;
use http_body_util::BodyExt;

use crate::client::{Client, Target};
use crate::running::{self, State};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Save, restore or look at a snapshot file
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Make this member alone the cluster, when the others are lost for good
    ForceNewCluster(Force),
    /// Run one bare member that obeys its standard input
    #[command(hide = true)]
    Member(member::Args),
}

#[derive(clap::Subcommand)]
enum Snapshot {
    /// Write everything the cluster holds to a new file; it may run meanwhile
    Save { file: PathBuf },
    /// Fill an empty store from a file
    Restore { file: PathBuf },
    /// Verify a file and say what is in it
    Status {
        file: PathBuf,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct Force {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Member(args) => return member::run(args, data_dir).await,
        Command::Snapshot(Snapshot::Save { file }) => save(data_dir, &file).await?,
        Command::Snapshot(Snapshot::Restore { file }) => restore(data_dir, &file)?,
        Command::Snapshot(Snapshot::Status { file, json }) => status(&file, json)?,
        Command::ForceNewCluster(args) => return force(&args, data_dir),
    }
    Ok(ExitCode::SUCCESS)
}

async fn save(data_dir: &Path, file: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(!file.exists(), "{} exists already; a snapshot is saved to a new file", file.display());
    let saved = match running::state(data_dir)? {
        State::Running(_) => save_running(data_dir, file).await?,
        _ => Store::save_stopped(&store::directory(data_dir), file).map_err(|error| explain(error, data_dir))?,
    };
    println!("Saved {} to {}.", contents(&saved), file.display());
    Ok(())
}

/// Reads the snapshot of a running cluster; the file is there under its name only once it is complete and durable.
async fn save_running(data_dir: &Path, file: &Path) -> anyhow::Result<SnapshotStatus> {
    let client = Client::connect(&Target::default(), data_dir).await?;
    let mut chunks = client.stream("/kogia/snapshot", "*/*").await?.into_data_stream();
    let part = file.with_extension("part");
    let context = || format!("cannot write {}", part.display());
    let mut out = std::fs::File::create(&part).with_context(context)?;
    while let Some(chunk) = chunks.next().await {
        out.write_all(&chunk?).with_context(context)?;
    }
    out.sync_all().with_context(context)?;
    let saved = SnapshotStatus::read(&part).context("the snapshot broke off")?;
    std::fs::rename(&part, file).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(saved)
}

fn restore(data_dir: &Path, file: &Path) -> anyhow::Result<()> {
    let directory = store::directory(data_dir);
    let whole = Config::single(&directory);
    let restored = Store::restore_snapshot(file, directory, whole.member_id, whole.cluster_id);
    let restored = restored.map_err(|error| match error {
        SnapshotError::NotEmpty(path) => anyhow::anyhow!(
            "{0} holds a store already; move it away (`mv {0} {0}.old`) and restore again",
            path.display()
        ),
        SnapshotError::Malformed => anyhow::anyhow!("{} is no complete snapshot", file.display()),
        error => explain(error, data_dir),
    })?;
    // Whoever this directory was before, with a restored store it is the founder of a cluster of one.
    if let Some(record) = Record::load(data_dir)? {
        Record { number: FOUNDER, peer: String::new(), removed: false, ..record }.save(data_dir)?;
    }
    println!("Restored {}. `kogia up` starts a cluster of one member with it.", contents(&restored));
    println!("What was written after the snapshot was saved is not in it.");
    Ok(())
}

fn status(file: &Path, json: bool) -> anyhow::Result<()> {
    let found = SnapshotStatus::read(file).with_context(|| format!("cannot use {}", file.display()))?;
    if json {
        let bytes = std::fs::metadata(file)?.len();
        let all = serde_json::json!({
            "revision": found.revision, "oldestRevision": found.oldest_revision, "keys": found.keys,
            "applied": found.applied, "hash": format!("{:016x}", found.hash), "bytes": bytes,
        });
        println!("{all}");
    } else {
        println!("{} is complete: {}, hash {:016x}.", file.display(), contents(&found), found.hash);
    }
    Ok(())
}

fn force(args: &Force, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let directory = store::directory(data_dir);
    println!("This makes the member in {} the whole cluster.", directory.display());
    println!("* What was acknowledged by the other members without this one is lost.");
    println!("* The other members must never run again; add new ones with empty directories instead.");
    println!("* It is for a cluster that has lost its majority for good. One that has not heals by itself.");
    if !args.yes && !confirmed()? {
        println!("Nothing was changed.");
        return Ok(ExitCode::FAILURE);
    }
    let kept = Store::force_new_cluster(&directory).map_err(|error| explain(error, data_dir))?;
    println!("Done: the cluster has one member now, with {}.", contents(&kept));
    Ok(ExitCode::SUCCESS)
}

fn confirmed() -> anyhow::Result<bool> {
    anyhow::ensure!(std::io::stdin().is_terminal(), "writes may be lost; say --yes");
    print!("Go on? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Adds what to do to an error that a user can do something about.
fn explain(error: SnapshotError, data_dir: &Path) -> anyhow::Error {
    match error {
        SnapshotError::Open(OpenError::InUse(_)) => anyhow::anyhow!(
            "the cluster in {} runs; stop it first (`kogia down`), which takes a second and loses nothing",
            data_dir.display()
        ),
        SnapshotError::NoStore(_) => anyhow::anyhow!("there is no cluster in {}", data_dir.display()),
        error => error.into(),
    }
}

fn contents(status: &SnapshotStatus) -> String {
    format!("{} keys at revision {}", status.keys, status.revision)
}
