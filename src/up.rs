//! `kogia up`: a cluster on this machine, in this process or in one that stays, and an app on it if asked.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;
use control::private;
use tokio::time::{Instant, sleep};

use crate::cluster::{self, Cluster};
use crate::running::{self, Claim, Running, State};
use crate::{app, kubeconfig, limits, process};

#[derive(clap::Args, Clone)]
pub struct Args {
    /// Build the app in this folder, start it on the cluster and call it
    #[arg(long, value_name = "FOLDER")]
    with: Option<PathBuf>,
    /// Return once the cluster is ready, and leave it running
    #[arg(long, short)]
    detach: bool,
    /// Leave the user's kubeconfig alone; DIR/kubeconfig is always written
    #[arg(long)]
    no_merge: bool,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// Port of the Kubernetes API; 0 is any free one
    #[arg(long, default_value_t = 6443)]
    api_port: u16,
    /// Port of the Ingress for HTTP; 0 is any free one
    #[arg(long, default_value_t = 8080)]
    http_port: u16,
    /// Port of the Ingress for HTTPS; 0 is any free one
    #[arg(long, default_value_t = 8443)]
    https_port: u16,
    /// Port of the image registry on loopback [default: 5000, or any free one where that is taken]
    #[arg(long)]
    registry_port: Option<u16>,
    /// UDP port under which other nodes reach this one's pods; 6444 unless that is taken, 0 is any free one
    #[arg(long, value_name = "PORT")]
    overlay_port: Option<u16>,
    /// Port on which people may ask the cluster's DNS; 0 is any free one
    #[arg(long, value_name = "PORT")]
    dns_port: Option<u16>,
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    // Look at the app before anything starts: a wrong folder is said at once.
    let app = args.with.as_deref().map(app::App::open).transpose()?;
    if let State::Running(running) = running::state(data_dir)? {
        println!("A cluster already runs in {}.", data_dir.display());
        return deploy(app, data_dir, &running).await;
    }
    if args.detach {
        let running = detached(&args, data_dir).await?;
        greet(&running, data_dir, &args);
        return deploy(app, data_dir, &running).await;
    }
    foreground(&args, app, data_dir).await
}

async fn foreground(args: &Args, app: Option<app::App>, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let Some(claim) = Claim::take(data_dir)? else {
        anyhow::bail!("another process is starting the cluster in {}", data_dir.display());
    };
    let mut cluster = Cluster::start(cluster::Config {
        data_dir: data_dir.to_owned(),
        bind: args.bind,
        api_port: args.api_port,
        http_port: args.http_port,
        https_port: args.https_port,
        registry_port: args.registry_port,
        overlay_port: args.overlay_port,
        dns_port: args.dns_port,
    })
    .await?;
    private::write(&data_dir.join("kubeconfig"), cluster.kubeconfig())?;
    if !args.no_merge {
        kubeconfig::merge_into_users(cluster.kubeconfig())
            .context("cannot merge the kubeconfig (--no-merge skips it)")?;
    }
    let running = cluster.running();
    claim.announce(&running)?;
    greet(&running, data_dir, args);
    let asked = process::asked_to_end();
    tokio::pin!(asked);
    let mut outcome = Ok(ExitCode::SUCCESS);
    if app.is_some() {
        tokio::select! {
            deployed = deploy(app, data_dir, &running) => outcome = deployed,
            () = &mut asked => return stop(cluster).await,
            failed = cluster.failed() => return Err(failed),
        }
    }
    if let Err(error) = &outcome {
        // The cluster is fine; the app is not. Both can be looked at while it runs.
        eprintln!("error: {error:#}");
        outcome = Ok(ExitCode::FAILURE);
    }
    println!("\nThe cluster runs until you press Ctrl-C; its state stays in {}.", data_dir.display());
    tokio::select! {
        () = &mut asked => {}
        failed = cluster.failed() => return Err(failed),
    }
    stop(cluster).await?;
    outcome
}

async fn stop(cluster: Cluster) -> anyhow::Result<ExitCode> {
    println!("Stopping.");
    cluster.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn deploy(app: Option<app::App>, data_dir: &Path, running: &Running) -> anyhow::Result<ExitCode> {
    if let Some(app) = app {
        app.deploy(data_dir, running).await?;
    }
    Ok(ExitCode::SUCCESS)
}

fn greet(running: &Running, data_dir: &Path, args: &Args) {
    let kubeconfig = data_dir.join("kubeconfig");
    let kubectl = match args.no_merge {
        true => format!("kubectl --kubeconfig {}", kubeconfig.display()),
        false => format!("kubectl --context {}", kubeconfig::NAME),
    };
    println!("Kogia {} is up.", running.version);
    println!("  Kubernetes API  https://{}   ({kubectl} get pods)", running.api);
    println!("  Ingress         http://{}   https://{}", running.http, running.https);
    if let Some(registry) = running.registry {
        println!("  Registry        http://{registry}   (push to localhost:{}/NAME:TAG)", registry.port());
    }
    println!("  Kubeconfig      {}", kubeconfig.display());
}

/// Starts the same command without `--detach` in a process that stays, and waits until it says that it is ready.
async fn detached(args: &Args, data_dir: &Path) -> anyhow::Result<Running> {
    running::create_private(data_dir)?;
    let output = data_dir.join("kogia.out");
    let file = std::fs::File::create(&output).with_context(|| format!("cannot write {}", output.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--data-dir").arg(data_dir).arg("up");
    command.args(["--bind", &args.bind.to_string(), "--api-port", &args.api_port.to_string()]);
    command.args(["--http-port", &args.http_port.to_string(), "--https-port", &args.https_port.to_string()]);
    command.args(args.registry_port.map(|port| format!("--registry-port={port}")));
    for (flag, port) in [("--overlay-port", args.overlay_port), ("--dns-port", args.dns_port)] {
        if let Some(port) = port {
            command.args([flag, &port.to_string()]);
        }
    }
    command.args(args.no_merge.then_some("--no-merge"));
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    process::stay(&mut command);
    let mut child = command.spawn().context("cannot start the cluster's process")?;
    let deadline = Instant::now() + limits::START_WAIT;
    loop {
        if let State::Running(running) = running::state(data_dir)? {
            return Ok(running);
        }
        if let Some(status) = child.try_wait()? {
            let said = std::fs::read_to_string(&output).unwrap_or_default();
            anyhow::bail!("the cluster did not start ({status}):\n{}", said.trim_end());
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            anyhow::bail!("the cluster was not ready within {:?}; see {}", limits::START_WAIT, output.display());
        }
        sleep(limits::POLL).await;
    }
}
