//! The `kogia` program: one file per command.
//!
//! # Layout
//! * `up`, `down`, `status`, `reset`: a cluster on this machine. [`cluster`], [`node`] and [`overlay`] put it together,
//!   [`running`] knows whether one runs, [`kubeconfig`] tells clients how to reach it.
//! * `up --nodes`: [`nodes`] runs further ones. `server`, `agent`: the same on other machines, which [`join`] by a
//!   [`token`]; [`members`]: who takes part in the control plane.
//! * `up --with`: [`app`] builds a folder into an image, applies its manifests and waits.
//! * `build`, `images`, `pull`, `push`: what the cluster's image store holds.
//! * `apply`, `get`, `describe`, `logs`, `delete`, `scale`: a client for people without kubectl, over [`client`].
//! * `why`: who may reach whom, and which policy says so.
//! * [`store`]: snapshots of the cluster's memory, and disaster recovery.
//! * [`bench`]: measures this product on the user's machine.
//!
//! Commands decide nothing about clusters: they parse, call and print.
// A program exports nothing; `pub` here means: for the other commands.
#![allow(unreachable_pub, missing_docs)]

mod agent;
mod app;
mod apply;
mod bench;
mod build;
mod client;
mod cluster;
mod delete;
mod describe;
mod down;
mod fetch;
mod get;
mod images;
mod join;
mod kubeconfig;
mod limits;
mod logs;
mod members;
mod node;
mod nodes;
mod overlay;
mod process;
mod pull;
mod push;
mod reset;
mod running;
mod scale;
mod server;
mod status;
mod store;
mod token;
mod up;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Most of what the program allocates are the small maps of API objects, by many threads at once. A node fills with pods
/// a third faster with this allocator than with glibc's (`kogia bench pods`). Without huge pages: they would cost an idle
/// cluster 40 MiB (`kogia bench up`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Kubernetes for WebAssembly, in one binary.
#[derive(Parser)]
#[command(name = "kogia", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    /// Where the cluster keeps everything
    #[arg(long, global = true, env = "KOGIA_DATA_DIR", value_name = "DIR", default_value_os_t = default_data_dir())]
    data_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster on this machine, and an app on it if asked
    Up(up::Args),
    /// Stop the cluster; its state stays
    Down,
    /// Run a member of the control plane with its node on this machine
    Server(server::Args),
    /// Run a node on this machine for a cluster elsewhere
    Agent(agent::Args),
    /// Show and change who takes part in the control plane
    Members(members::Args),
    /// Make tokens with which machines join
    Token(token::Args),
    /// Say what runs, and where
    Status(status::Args),
    /// Delete the cluster with all its state
    Reset(reset::Args),
    /// Build a component and put it into the cluster's image store
    Build(build::Args),
    /// List the images in the cluster's image store
    Images,
    /// Fetch an image from a registry
    Pull(pull::Args),
    /// Send an image to a registry
    Push(push::Args),
    /// Apply manifests
    Apply(apply::Args),
    /// Show objects
    Get(get::Args),
    /// Show one object with its events
    Describe(describe::Args),
    /// Print a container's output
    Logs(logs::Args),
    /// Delete objects
    Delete(delete::Args),
    /// Change the number of replicas
    Scale(scale::Args),
    /// Say whether a pod may reach something, and why
    Why(why::Args),
    /// Save and restore the cluster's memory
    Store(store::Args),
    /// Measure this product on this machine
    Bench(bench::Args),
    /// Compile one component; the node calls this in a process of its own
    #[command(name = runtime::engine::COMPILE_COMMAND, hide = true)]
    CompileComponent { wasm: PathBuf, out: PathBuf, settings: String },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    trace();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Command::CompileComponent { wasm, out, settings } = cli.command {
        return Ok(runtime::engine::compile_main([wasm.into(), out.into(), settings.into()]));
    }
    let data_dir = std::path::absolute(cli.data_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(1, usize::from).min(limits::CONTROL_THREADS_MAX))
        .thread_name("kogia-control")
        .enable_all()
        .build()?;
    let code = runtime.block_on(async {
        match cli.command {
            Command::Up(args) => up::run(args, &data_dir).await,
            Command::Down => down::run(&data_dir).await,
            Command::Server(args) => server::run(args, &data_dir).await,
            Command::Agent(args) => agent::run(args, &data_dir).await,
            Command::Members(args) => members::run(args, &data_dir).await,
            Command::Token(args) => token::run(args, &data_dir).await,
            Command::Status(args) => status::run(&args, &data_dir).await,
            Command::Reset(args) => reset::run(&args, &data_dir).await,
            Command::Build(args) => build::run(args, &data_dir).await,
            Command::Images => images::run(&data_dir),
            Command::Pull(args) => pull::run(args, &data_dir).await,
            Command::Push(args) => push::run(args, &data_dir).await,
            Command::Apply(args) => apply::run(args, &data_dir).await,
            Command::Get(args) => get::run(args, &data_dir).await,
            Command::Describe(args) => describe::run(args, &data_dir).await,
            Command::Logs(args) => logs::run(args, &data_dir).await,
            Command::Delete(args) => delete::run(args, &data_dir).await,
            Command::Scale(args) => scale::run(args, &data_dir).await,
            Command::Why(args) => why::run(args, &data_dir).await,
            Command::Store(args) => store::run(args, &data_dir).await,
            Command::Bench(args) => bench::run(args, &data_dir).await,
            Command::CompileComponent { .. } => unreachable!("it has no use for a runtime"),
        }
    });
    // Whatever still runs has been asked to stop; it does not hold the process.
    runtime.shutdown_timeout(limits::SHUTDOWN_GRACE);
    code
}

/// `~/.kogia`; the current folder's `.kogia` where there is no home.
fn default_data_dir() -> PathBuf {
    std::env::home_dir().unwrap_or_default().join(".kogia")
}

/// Our own trace goes to standard error; `RUST_LOG` chooses what.
fn trace() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
}
