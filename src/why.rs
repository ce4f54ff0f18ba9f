//! `kogia why`: whether a pod may reach something, and which policy says so. Computed from the cluster's objects by the
//! functions that the network itself asks.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use runtime::network::names::{self, Asker};
use runtime::network::policy::{self, End, Flow, PodFacts, Policies};
use runtime::network::services::Protocol;
use runtime::network::{Config, Decision, Refusal, Resolver, ServiceTable, Source, decide, outside};
use runtime::network_driver::{objects, policies};
use serde::de::DeserializeOwned;

use crate::client::{Client, Target};

#[derive(clap::Args)]
pub struct Args {
    /// Who calls
    #[arg(value_name = "POD")]
    pod: String,
    /// Whom it calls: an address, a name as the pod would say it, or `pod/NAME`; port 80 when none is given
    #[arg(value_name = "TARGET[:PORT]")]
    callee: String,
    /// How it calls
    #[arg(long, value_enum, default_value_t = Transport::Tcp)]
    protocol: Transport,
    #[command(flatten)]
    target: Target,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Transport {
    Tcp,
    Udp,
}

/// What a decision needs to know of the cluster.
struct World {
    policies: Policies,
    services: ServiceTable,
    pods: Vec<PodFacts>,
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&args.target, data_dir).await?;
    let world = World::read(&client).await?;
    let own = args.pod.strip_prefix("pod/").unwrap_or(&args.pod);
    let source = world.pod(&client.namespace, own)?;
    let (host, port) = split(&args.callee)?;
    let protocol = if args.protocol == Transport::Tcp { Protocol::Tcp } else { Protocol::Udp };
    let addresses = match host.strip_prefix("pod/") {
        Some(name) => world.pod(&client.namespace, name)?.addresses.clone(),
        None => world.resolve(source, host).await,
    };
    if addresses.is_empty() {
        bail!("{host} is no name of the cluster and no address");
    }
    let mut reached = false;
    for ip in addresses {
        for (way, allowed, reason) in world.judge(source, SocketAddr::new(ip, port), protocol) {
            println!("{}/{} → {way}: {reason}", source.namespace, source.name);
            reached |= allowed;
        }
    }
    Ok(if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `web`, `web:8080`, `10.42.0.2`, `[fd42::2]:80`, `fd42::2`.
fn split(callee: &str) -> anyhow::Result<(&str, u16)> {
    const HTTP: u16 = 80;
    if callee.parse::<IpAddr>().is_ok() {
        return Ok((callee, HTTP));
    }
    let (host, port) = match callee.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().with_context(|| format!("{port:?} is no port"))?),
        None => (callee, HTTP),
    };
    Ok((host.trim_start_matches('[').trim_end_matches(']'), port))
}

async fn list<K: DeserializeOwned>(client: &Client, path: &str) -> anyhow::Result<Vec<K>> {
    let mut list = client.get(path).await?;
    serde_json::from_value(list["items"].take()).with_context(|| format!("cannot read the answer to {path}"))
}

impl World {
    async fn read(client: &Client) -> anyhow::Result<Self> {
        let (pods, namespaces, policies, services, slices) = tokio::try_join!(
            list::<Pod>(client, "/api/v1/pods"),
            list::<Namespace>(client, "/api/v1/namespaces"),
            list::<NetworkPolicy>(client, "/apis/networking.k8s.io/v1/networkpolicies"),
            list::<Service>(client, "/api/v1/services"),
            list::<EndpointSlice>(client, "/apis/discovery.k8s.io/v1/endpointslices"),
        )?;
        let pods: Vec<PodFacts> = pods.iter().filter_map(policies::pod).collect();
        let policies: Vec<_> = policies.iter().map(policies::policy).collect();
        let namespaces: HashMap<_, _> = namespaces.iter().map(policies::namespace).collect();
        let slices: Vec<_> = slices.iter().filter_map(objects::slice).collect();
        let services = ServiceTable::build(services.iter().map(objects::service).collect(), &slices);
        Ok(Self { policies: Policies::build(&policies, &pods, &namespaces), services, pods })
    }

    fn pod(&self, namespace: &str, name: &str) -> anyhow::Result<&PodFacts> {
        let found = self.pods.iter().find(|pod| pod.namespace == namespace && pod.name == name);
        found.with_context(|| format!("there is no running pod {name} in namespace {namespace}"))
    }

    /// The addresses of a name as the pod gets them; this machine's resolver answers for the node's.
    async fn resolve(&self, source: &PodFacts, name: &str) -> Vec<IpAddr> {
        let domain = Config::default().domain;
        let (namespace, hostname, addresses) = (&source.namespace, &source.name, &source.addresses);
        let resolver = Resolver::default();
        let asker = Asker { namespace, hostname, addresses, domain: &domain, resolver: &resolver };
        let inside = names::resolve(name, &asker, &self.services);
        match names::outside(name, &asker, &self.services) {
            Some(outside) if inside.is_empty() => {
                let found = tokio::net::lookup_host((outside, 0)).await;
                found.into_iter().flatten().map(|address| address.ip()).collect()
            }
            _ => inside,
        }
    }

    /// Where a flow leads, whether it is allowed there, and why.
    fn judge(&self, source: &PodFacts, destination: SocketAddr, protocol: Protocol) -> Vec<(String, bool, String)> {
        let owner = |ip: IpAddr| self.pods.iter().find(|pod| pod.addresses.contains(&ip));
        let flow = |address: SocketAddr| {
            let own = source.addresses.iter().find(|own| own.is_ipv4() == address.is_ipv4());
            let own = own.copied().unwrap_or(address.ip());
            let from = End::Pod { namespace: &source.namespace, name: &source.name, address: own };
            let (to, shown) = match owner(address.ip()) {
                Some(pod) => (
                    End::Pod { namespace: &pod.namespace, name: &pod.name, address: address.ip() },
                    format!("{}/{} {address}", pod.namespace, pod.name),
                ),
                None => (End::Address(address.ip()), address.to_string()),
            };
            let flow = Flow { source: from, destination: to, port: address.port(), protocol };
            let verdict = policy::decide(&self.policies, &flow);
            (shown, verdict.allowed(), verdict.to_string())
        };
        let known = |ip| owner(ip).is_some();
        match decide(&self.services, known, Source::Pod, destination, protocol) {
            Decision::Own(address) => vec![(address.to_string(), true, "allowed; its own loopback".into())],
            Decision::Pod(address) => vec![flow(address)],
            Decision::Balance(balancer) => {
                let flows = balancer.endpoints().iter().map(|endpoint| flow(*endpoint));
                flows.map(|(way, allowed, reason)| (format!("{destination} → {way}"), allowed, reason)).collect()
            }
            Decision::Refuse(Refusal::Outside) => {
                // Which addresses are the node's own is known there only.
                match outside::judge(destination.ip(), &Config::default().cluster, |_| false) {
                    Ok(()) => vec![flow(SocketAddr::new(destination.ip().to_canonical(), destination.port()))],
                    Err(forbidden) => vec![(destination.to_string(), false, format!("denied; {forbidden}"))],
                }
            }
            Decision::Refuse(refusal) => vec![(destination.to_string(), false, format!("denied; {refusal}"))],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_names_or_addresses_with_a_port() {
        let cases = [
            ("web", "web", 80),
            ("web.shop:8080", "web.shop", 8080),
            ("pod/web:1", "pod/web", 1),
            ("10.42.0.2", "10.42.0.2", 80),
            ("10.42.0.2:443", "10.42.0.2", 443),
            ("fd42::2", "fd42::2", 80),
            ("[fd42::2]:443", "fd42::2", 443),
        ];
        for (callee, host, port) in cases {
            assert_eq!(split(callee).unwrap(), (host, port), "{callee}");
        }
        assert!(split("web:http").is_err());
    }
}
