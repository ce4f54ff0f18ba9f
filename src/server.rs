//! `kogia server`: one member of the control plane with its node, on any machine; the first one founds the cluster, the
//! others join it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use control::private;

use crate::cluster::{self, Cluster};
use crate::running::Claim;
use crate::{join, limits, process};

#[derive(clap::Args, Clone)]
pub struct Args {
    #[command(flatten)]
    join: join::Args,
    /// The name of the member and its node; this machine's when not given
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))]
    bind: IpAddr,
    /// Address under which other machines reach this one, when it is not the one listened on
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<IpAddr>,
    /// Port of the Kubernetes API; 0 is any free one
    #[arg(long, default_value_t = 6443)]
    api_port: u16,
    /// Port for the other members; 0 is any free one, and the same from then on
    #[arg(long, default_value_t = 6444)]
    peer_port: u16,
    /// Port of the Ingress for HTTP; 0 is any free one
    #[arg(long, default_value_t = 8080)]
    http_port: u16,
    /// Port of the Ingress for HTTPS; 0 is any free one
    #[arg(long, default_value_t = 8443)]
    https_port: u16,
    /// UDP port for other nodes' pods; 6444, or any free one where that is taken, when not given
    #[arg(long, value_name = "PORT")]
    overlay_port: Option<u16>,
    /// Where images and compiled code are; the data directory when not given
    #[arg(long, hide = true, value_name = "DIR")]
    shared: Option<PathBuf>,
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let Some(claim) = Claim::take(data_dir)? else {
        anyhow::bail!("another process uses {}", data_dir.display());
    };
    let mut cluster = Cluster::start(cluster::Config {
        wasi_0_3: true,
        data_dir: data_dir.to_owned(),
        shared_dir: args.shared.unwrap_or_else(|| data_dir.to_owned()),
        advertise: join::advertised(args.bind, args.advertise, args.join.join.as_deref()),
        join: Some(args.join).filter(|join| join.join.is_some()),
        name: args.name,
        bind: args.bind,
        api_port: args.api_port,
        peer_port: args.peer_port,
        any_peer_port: false,
        http_port: args.http_port,
        https_port: args.https_port,
        registry_port: None,
        overlay_port: args.overlay_port,
        dns_port: None,
        toleration_seconds: limits::TOLERATION_SECONDS,
    })
    .await?;
    private::write(&data_dir.join("kubeconfig"), cluster.kubeconfig())?;
    let running = cluster.running();
    claim.announce(&running)?;
    println!("Member {} runs.", running.name);
    println!("  Kubernetes API  https://{}", running.api);
    println!("  Ingress         http://{}   https://{}", running.http, running.https);
    println!("  Kubeconfig      {}", data_dir.join("kubeconfig").display());
    println!("It ends with Ctrl-C; its state stays in {}.", data_dir.display());
    tokio::select! {
        () = process::asked_to_end() => {}
        failed = cluster.failed() => return Err(failed),
    }
    println!("Stopping.");
    cluster.stop().await;
    Ok(ExitCode::SUCCESS)
}
