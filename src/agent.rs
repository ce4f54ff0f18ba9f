//! `kogia agent`: a node alone, on any machine that reaches a member of the cluster.
//!
//! It dials out and needs no open port for the control plane. Its certificate is renewed while it runs.

use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use control::pki;
use control::trust::{self, client_tls};
use runtime::members::{self, Servers};
use runtime::network::ApiServers;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::join;
use crate::node::{self, Node};
use crate::running::{Claim, Running};
use crate::{limits, overlay, process};

#[derive(clap::Args, Clone)]
pub struct Args {
    #[command(flatten)]
    join: join::Args,
    /// The node's name; this machine's when not given
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Address on which NodePorts are opened
    #[arg(long, default_value_t = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED))]
    bind: IpAddr,
    /// Address under which other machines reach this one, when it is not the one listened on
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<IpAddr>,
    /// UDP port for other nodes' pods; 6444, or any free one where that is taken, when not given
    #[arg(long, value_name = "PORT")]
    overlay_port: Option<u16>,
    /// Where images and compiled code are; the data directory when not given
    #[arg(long, hide = true, value_name = "DIR")]
    shared: Option<std::path::PathBuf>,
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let Some(claim) = Claim::take(data_dir)? else {
        anyhow::bail!("another process uses {}", data_dir.display());
    };
    let name = args.name.clone().unwrap_or_else(node::machine_name);
    let known = join::as_node(data_dir, &args.join, &name).await?;
    let name = known.membership.name.clone();
    let credentials = Arc::new(trust::Credentials::default());
    credentials.set(&known.identity)?;
    let tls = client_tls(&known.authority_pem, credentials.clone())?;
    let (shown, renewed) = watch::channel(overlay::identity(&known.identity, &known.authority_pem));
    let servers = Servers::new(known.servers.clone(), &tls, None)?;
    let client = servers.client();
    let address = join::advertised(args.bind, args.advertise, known.servers.first().map(String::as_str));
    let mut node = Node::start(node::Config {
        wasi_0_3: true,
        name: name.clone(),
        member: false,
        data_dir: data_dir.to_owned(),
        shared_dir: args.shared.clone().unwrap_or_else(|| data_dir.to_owned()),
        addresses: vec![address],
        client: client.clone(),
        tables: client.clone(),
        bind: args.bind,
        api_servers: ApiServers::new(&known.authority_pem, {
            let servers = servers.clone();
            move || servers.addresses()
        }),
        doors: None,
        registry: None,
        overlay: overlay::Config {
            port: args.overlay_port,
            dns_port: None,
            addresses: vec![address],
            identity: renewed.clone(),
        },
    })?;
    let stop = CancellationToken::new();
    let reach = members::Config {
        client: client.clone(),
        tls: Arc::new(tls),
        renewed,
        kubelet: node.kubelet_service(),
        servers: Some(servers),
        known: known.servers.clone(),
        own: None,
        remember: Some(join::servers_file(data_dir)),
    };
    let reaching = AbortOnDropHandle::new(tokio::spawn(members::run(reach, stop.clone())));
    let show = move |identity: &pki::Identity| {
        credentials.set(identity)?;
        shown.send_replace(overlay::identity(identity, &known.authority_pem));
        Ok(())
    };
    let renewing = renew(client, data_dir.to_owned(), known.membership, show);
    let renewing = AbortOnDropHandle::new(tokio::spawn(renewing));
    claim.announce(&Running::agent(&name))?;
    println!("Node {name} runs. It ends with Ctrl-C; its state stays in {}.", data_dir.display());
    tokio::select! {
        () = process::asked_to_end() => {}
        part = node.failed() => anyhow::bail!("{part} ended; see the lines above, or RUST_LOG=info"),
    }
    println!("Stopping.");
    drop(renewing);
    node.stop().await;
    stop.cancel();
    reaching.await.context("the connections to the members ended badly")?;
    Ok(ExitCode::SUCCESS)
}

/// Asks for a new certificate whenever two thirds of the old one's time are over, and shows it from then on.
async fn renew(
    client: kube::Client,
    data_dir: std::path::PathBuf,
    mut membership: join::Membership,
    show: impl Fn(&pki::Identity) -> anyhow::Result<()> + Send + Sync + 'static,
) {
    loop {
        let due_ms = membership.issued_ms + pki::NODE_DAYS * 24 * 3_600_000 * 2 / 3;
        let wait = u64::try_from(due_ms - join::now_ms()).unwrap_or(0);
        // Looked at again every hour, for a machine that slept.
        if wait > 0 {
            sleep(Duration::from_millis(wait).min(limits::RENEWAL_LOOK)).await;
            continue;
        }
        let renewed = async {
            let identity = join::request_certificate(&client, &membership.name).await?;
            show(&identity)?;
            join::keep_certificate(&data_dir, &membership.name, &identity)
        };
        match renewed.await {
            Ok(new) => membership = new,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the node's certificate could not be renewed");
                sleep(limits::RENEWAL_RETRY).await;
            }
        }
    }
}
