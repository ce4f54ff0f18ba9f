//! The part of `kogia bench net` that loads the Ingress, beside other proxies in front of the same pods: a plain one on
//! hyper, in this process, and `haproxy` where it is installed. The others reach the pods through a NodePort.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::house::House;
use super::http::{self as requests, CONNECTIONS, WARM};
use super::load::{self, Aim};
use super::{Metric, free_addresses, median};
use crate::{apply, client, fetch, limits, process};

/// The name of the app, its Service and its host.
const NAME: &str = "proxied";

/// Good answers per second of each contender.
#[derive(Default)]
pub struct Rounds {
    ingress: Vec<f64>,
    hyper: Vec<f64>,
    haproxy: Vec<f64>,
}

impl Rounds {
    /// A line for each peer there was.
    pub fn metrics(self) -> Vec<Metric> {
        let line = |peer| Metric {
            bench: "net",
            name: "net.ingress_rps".to_owned(),
            value: median(self.ingress.clone()),
            unit: "requests/s",
            peer: Some(peer),
        };
        let mut lines = vec![line(("hyper", median(self.hyper)))];
        if !self.haproxy.is_empty() {
            lines.push(line(("haproxy", median(self.haproxy))));
        }
        lines
    }
}

/// Loads all contenders, round by round in turn.
pub async fn measure(house: &House, image: &str, rounds: u32, millis: u64) -> anyhow::Result<Rounds> {
    let api = house.client().await?;
    let ingress = requests::deploy(&api, house, NAME, image, json!({"kogia.dev/instance-reuse": "true"})).await?;
    let port = node_port(&api).await?;
    let behind = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (hyper, _serving) = plain(behind, &ingress).await?;
    let haproxy = Haproxy::start(behind, &ingress).await?;
    let mut all = Rounds::default();
    for _ in 0..rounds {
        all.ingress.push(rate(&ingress, millis).await?);
        all.hyper.push(rate(&hyper, millis).await?);
        if let Some(haproxy) = &haproxy {
            all.haproxy.push(rate(&haproxy.aim, millis).await?);
        }
    }
    Ok(all)
}

async fn rate(aim: &Aim, millis: u64) -> anyhow::Result<f64> {
    load::run(aim, CONNECTIONS, WARM, None).await?;
    let load = load::run(aim, CONNECTIONS, Duration::from_millis(millis), None).await?;
    anyhow::ensure!(load.good > 0, "{} answered no request with 200", aim.address);
    Ok(load.per_second())
}

/// A second Service of the same pods, with a port on the host.
async fn node_port(api: &client::Client) -> anyhow::Result<u16> {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "proxied-port"}, "spec": {
        "type": "NodePort", "selector": {"app": NAME}, "ports": [{"port": 80, "targetPort": 8080}]}});
    apply::one(api, &api.resources().await?, &service, true).await?;
    let made: Value = api.get("/api/v1/namespaces/default/services/proxied-port").await?;
    let port = made["spec"]["ports"][0]["nodePort"].as_u64().context("the Service was given no port of the host")?;
    Ok(u16::try_from(port)?)
}

/// Waits until a contender answers.
async fn answers(aim: &Aim) -> anyhow::Result<()> {
    let begin = Instant::now();
    while fetch::get(aim.address, &aim.host, &aim.path).await.map_or(true, |response| response.status != 200) {
        anyhow::ensure!(begin.elapsed() < limits::START_WAIT, "{} did not answer in time", aim.address);
        sleep(limits::POLL).await;
    }
    Ok(())
}

/// The plainest proxy there is: heads and bodies as they come, connections to the backend kept.
async fn plain(behind: SocketAddr, like: &Aim) -> anyhow::Result<(Aim, AbortOnDropHandle<()>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let aim = Aim { address: listener.local_addr()?, ..like.clone() };
    let pool: Pool<HttpConnector, Incoming> = Pool::builder(TokioExecutor::new()).build_http();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let pool = pool.clone();
            let pass = service_fn(move |request| pass(pool.clone(), behind, request));
            tokio::spawn(async move {
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), pass).await;
            });
        }
    });
    answers(&aim).await?;
    Ok((aim, AbortOnDropHandle::new(serving)))
}

type Passed = http_body_util::combinators::UnsyncBoxBody<Bytes, hyper::Error>;

async fn pass(
    pool: Pool<HttpConnector, Incoming>,
    behind: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Passed>, Infallible> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    if let Ok(uri) = format!("http://{behind}{path}").parse::<Uri>() {
        *request.uri_mut() = uri;
    }
    Ok(match pool.request(request).await {
        Ok(response) => response.map(BodyExt::boxed_unsync),
        Err(_) => {
            let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    })
}

/// An installed `haproxy` with its defaults and connections to the backend kept.
struct Haproxy {
    child: Child,
    file: PathBuf,
    aim: Aim,
}

impl Haproxy {
    /// `None` where none is installed.
    async fn start(behind: SocketAddr, like: &Aim) -> anyhow::Result<Option<Self>> {
        let address = free_addresses(1)?[0];
        let file = std::env::temp_dir().join(format!("kogia-bench-haproxy-{}.cfg", std::process::id()));
        let settings = format!(
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n  http-reuse always\n\
             frontend f\n  bind {address}\n  default_backend b\nbackend b\n  server s {behind}\n"
        );
        std::fs::write(&file, settings)?;
        // Debian keeps it where only root's PATH leads.
        let start = |program: &str| {
            let mut command = Command::new(program);
            command.arg("-db").arg("-f").arg(&file);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        };
        let Ok(child) = start("haproxy").or_else(|_| start("/usr/sbin/haproxy")) else {
            let _ = std::fs::remove_file(&file);
            return Ok(None);
        };
        let haproxy = Self { child, file, aim: Aim { address, ..like.clone() } };
        answers(&haproxy.aim).await?;
        Ok(Some(haproxy))
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = process::ask_to_end(self.child.id());
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.file);
    }
}
