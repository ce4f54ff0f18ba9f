//! `kogia up`: a cluster on this machine, in this process or in one that stays, and an app on it if asked.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;
use control::private;
use tokio::time::{Instant, sleep};

use crate::cluster::{self, Cluster};
use crate::running::{self, Claim, Running, State};
use crate::{app, join, kubeconfig, limits, nodes, process};

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
    /// How many nodes: each further one is a process of its own, as on a machine of its own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::LAPTOP_NODES_MAX)))]
    nodes: Option<u32>,
    /// How many of the nodes are members of the control plane; 3 at most, and an odd number, when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::LAPTOP_NODES_MAX)))]
    members: Option<u32>,
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
    /// Refuse components of WASI 0.3, a young standard in a young implementation
    #[arg(long)]
    without_wasi_0_3: bool,
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    // Look at the app before anything starts: a wrong folder is said at once.
    let app = args.with.as_deref().map(app::App::open).transpose()?;
    if let State::Running(running) = running::state(data_dir)? {
        println!("A cluster already runs in {}.", data_dir.display());
        again(&args, data_dir).await?;
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
    let plan = plan(args, data_dir);
    // Members that are not here yet may be the majority.
    plan.start_known()?;
    let mut cluster = Cluster::start(cluster::Config {
        data_dir: data_dir.to_owned(),
        shared_dir: data_dir.to_owned(),
        join: None,
        name: None,
        bind: args.bind,
        advertise: join::advertised(args.bind, None, None),
        api_port: args.api_port,
        peer_port: nodes::peer_port(args.api_port),
        any_peer_port: true,
        http_port: args.http_port,
        https_port: args.https_port,
        registry_port: args.registry_port,
        overlay_port: args.overlay_port,
        dns_port: args.dns_port,
        toleration_seconds: limits::LAPTOP_TOLERATION_SECONDS,
        wasi_0_3: !args.without_wasi_0_3,
    })
    .await?;
    private::write(&data_dir.join("kubeconfig"), cluster.kubeconfig())?;
    let running = cluster.running();
    let asked = process::asked_to_end();
    tokio::pin!(asked);
    tokio::select! {
        completed = complete(&plan, &running, cluster.kubeconfig(), args.no_merge) => completed?,
        () = &mut asked => {
            nodes::stop(data_dir).await?;
            return stop(cluster).await;
        }
    }
    claim.announce(&running)?;
    greet(&running, data_dir, args);
    let mut outcome = Ok(ExitCode::SUCCESS);
    if app.is_some() {
        tokio::select! {
            deployed = deploy(app, data_dir, &running) => outcome = deployed,
            () = &mut asked => {
                nodes::stop(data_dir).await?;
                return stop(cluster).await;
            }
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
    let (others, own) = tokio::join!(nodes::stop(data_dir), stop(cluster));
    others?;
    own?;
    outcome
}

/// How many nodes there are to be: as many as asked for, or as there are.
fn plan(args: &Args, data_dir: &Path) -> nodes::Plan {
    let there = nodes::existing(data_dir).last().map_or(1, |(number, _)| *number);
    let nodes = args.nodes.unwrap_or(1).max(there);
    // Two members are worse than one: both are needed for every decision.
    let usual = if nodes >= 3 { 3 } else { 1 };
    nodes::Plan {
        data_dir: data_dir.to_owned(),
        bind: args.bind,
        api_port: args.api_port,
        http_port: args.http_port,
        https_port: args.https_port,
        nodes,
        members: args.members.unwrap_or(usual).min(nodes),
    }
}

/// Brings all nodes up, and tells clients where the members are.
async fn complete(plan: &nodes::Plan, first: &Running, kubeconfig: &str, no_merge: bool) -> anyhow::Result<()> {
    plan.complete(first.api).await?;
    let ours = kubeconfig::with_members(kubeconfig, &nodes::apis(&plan.data_dir, first))?;
    private::write(&plan.data_dir.join("kubeconfig"), &ours)?;
    if !no_merge {
        kubeconfig::merge_into_users(&ours).context("cannot merge the kubeconfig (--no-merge skips it)")?;
    }
    Ok(())
}

/// `up` on a cluster that runs: starts the nodes that have ended, and those that are asked for.
async fn again(args: &Args, data_dir: &Path) -> anyhow::Result<()> {
    let plan = plan(args, data_dir);
    let State::Running(first) = running::state(data_dir)? else { return Ok(()) };
    let kubeconfig = std::fs::read_to_string(data_dir.join("kubeconfig"))?;
    let started = plan.complete(first.api).await?;
    if started > 0 {
        let ours = kubeconfig::with_members(&kubeconfig, &nodes::apis(data_dir, &first))?;
        private::write(&data_dir.join("kubeconfig"), &ours)?;
        println!("Started {started} of its {} nodes.", plan.nodes);
    }
    Ok(())
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
    for (flag, number) in [("--nodes", args.nodes), ("--members", args.members)] {
        if let Some(number) = number {
            command.args([flag, &number.to_string()]);
        }
    }
    command.args(args.no_merge.then_some("--no-merge"));
    command.args(args.without_wasi_0_3.then_some("--without-wasi-0-3"));
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
