//! What a pod reads in `/etc`: `hosts`, `hostname` and `resolv.conf`, as the kubelet writes them. And the way in which the
//! virtual network looks up names for it, which is what those files say.
//!
//! Pure but for [`Etc`], [`mount`] and [`host_resolv_conf`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use engine::Mount;
use k8s_openapi::api::core::v1 as k8s;
use network::names::search_path;
use network::{PodIdentity, Resolver};

use crate::dns;

/// Where a guest sees the files.
const PLACE: &str = "/etc";

/// What stands in a pod's `resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dns {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<(String, Option<String>)>,
}

impl Dns {
    /// What `dnsPolicy` and `dnsConfig` come to; `host` reads the node's own `resolv.conf`, which few ask for.
    pub(crate) fn of(pod: &k8s::Pod, domain: &str, host: impl FnOnce() -> String) -> Self {
        let spec = pod.spec.as_ref();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
        let mut dns = match policy {
            "None" => Self::default(),
            "Default" => Self::parse(&host()),
            _ => Self {
                nameservers: vec![dns::ADDRESSES[0].to_string()],
                searches: search_path(namespace, domain).to_vec(),
                options: vec![("ndots".to_owned(), Some(Resolver::default().ndots.to_string()))],
            },
        };
        if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
            add(&mut dns.nameservers, config.nameservers.as_deref());
            add(&mut dns.searches, config.searches.as_deref());
            for option in config.options.iter().flatten() {
                let name = option.name.clone().unwrap_or_default();
                dns.options.retain(|(known, _)| *known != name);
                dns.options.push((name, option.value.clone()));
            }
        }
        dns
    }

    fn parse(text: &str) -> Self {
        let mut dns = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => dns.nameservers.extend(words.next().map(str::to_owned)),
                Some("search") => dns.searches = words.map(str::to_owned).collect(),
                Some("options") => dns.options.extend(words.map(|word| match word.split_once(':') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (word.to_owned(), None),
                })),
                _ => {}
            }
        }
        dns
    }

    fn render(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text = format!("search {}\n", self.searches.join(" "));
        }
        text.extend(self.nameservers.iter().map(|server| format!("nameserver {server}\n")));
        let options =
            self.options.iter().map(|(name, value)| match value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            });
        let options: Vec<String> = options.collect();
        if !options.is_empty() {
            // Writing to memory cannot fail.
            let _ = writeln!(text, "options {}", options.join(" "));
        }
        text
    }

    /// The same for the network, which is what a guest's own look-ups ask. Who names the cluster's DNS asks the cluster;
    /// other servers are the host's matter.
    pub(crate) fn resolver(&self, pod: &k8s::Pod) -> Resolver {
        let ours = dns::ADDRESSES.map(|address| address.to_string());
        let ndots = self.options.iter().find(|(name, _)| name == "ndots");
        let ndots = ndots.and_then(|(_, value)| value.as_ref()?.parse().ok());
        Resolver {
            aliases: aliases(pod).flat_map(|(ip, names)| names.iter().map(move |name| (name.clone(), ip))).collect(),
            cluster: self.nameservers.iter().any(|server| ours.contains(server)),
            search: Some(self.searches.clone()),
            // resolv.conf(5): one, where the file says nothing.
            ndots: ndots.unwrap_or(1),
        }
    }
}

fn add(known: &mut Vec<String>, more: Option<&[String]>) {
    for word in more.unwrap_or_default() {
        if !known.contains(word) {
            known.push(word.clone());
        }
    }
}

fn aliases(pod: &k8s::Pod) -> impl Iterator<Item = (IpAddr, &[String])> {
    let all = pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten());
    all.filter_map(|alias| Some((alias.ip.parse().ok()?, alias.hostnames.as_deref().unwrap_or_default())))
}

/// The files by name.
pub(crate) fn files(pod: &k8s::Pod, identity: &PodIdentity, dns: &Dns) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("hostname", format!("{}\n", identity.hostname)),
        ("hosts", hosts(pod, identity)),
        ("resolv.conf", dns.render()),
    ])
}

fn hosts(pod: &k8s::Pod, identity: &PodIdentity) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n\
                    127.0.0.1\tlocalhost\n\
                    ::1\tlocalhost ip6-localhost ip6-loopback\n"
        .to_owned();
    text.extend(identity.addresses.iter().map(|address| format!("{address}\t{}\n", identity.hostname)));
    let mut heading = "\n# Entries added by HostAliases.\n";
    for (ip, names) in aliases(pod) {
        let _ = writeln!(text, "{heading}{ip}\t{}", names.join("\t"));
        heading = "";
    }
    text
}

/// The node's own `resolv.conf`; empty where it has none.
pub(crate) fn host_resolv_conf() -> String {
    fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

/// A pod's files and the folder for them.
#[derive(Debug)]
pub(crate) struct Etc {
    pub(crate) folder: PathBuf,
    pub(crate) files: BTreeMap<&'static str, String>,
}

impl Etc {
    /// Writes the files into the folder.
    pub(crate) fn write(&self) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        self.files.iter().try_for_each(|(name, text)| fs::write(self.folder.join(name), text))
    }
}

/// Shows a container the files at `/etc`, for reading. A volume of its own there, or at the root, is what it wants instead;
/// single files that it mounts there (in `stage`) stand among ours.
pub(crate) fn mount(mut mounts: Vec<Mount>, etc: &Etc, stage: &Path) -> io::Result<Vec<Mount>> {
    match mounts.iter().find(|mount| mount.guest == PLACE) {
        Some(own) if own.host.starts_with(stage) => {
            for (name, text) in &etc.files {
                if !own.host.join(name).exists() {
                    fs::write(own.host.join(name), text)?;
                }
            }
        }
        None if !mounts.iter().any(|mount| mount.guest == "/") => {
            mounts.push(Mount { host: etc.folder.clone(), guest: PLACE.to_owned(), read_only: true });
        }
        _ => {}
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const HOST: &str = "# of the host\nnameserver 192.0.2.1\nsearch house.test\noptions edns0 ndots:2\n";

    fn host() -> String {
        HOST.to_owned()
    }

    fn pod(spec: Value) -> k8s::Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec})).unwrap()
    }

    #[test]
    fn resolv_conf_is_what_policy_and_config_come_to() {
        let cluster = "search shop.svc.cluster.local svc.cluster.local cluster.local";
        let table = [
            (json!({}), format!("{cluster}\nnameserver 10.43.0.10\noptions ndots:5\n")),
            (
                json!({"dnsPolicy": "Default"}),
                "search house.test\nnameserver 192.0.2.1\noptions edns0 ndots:2\n".to_owned(),
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.9"], "searches": ["a.test"],
                    "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]}}),
                "search a.test\nnameserver 192.0.2.9\noptions ndots:2 rotate\n".to_owned(),
            ),
            (
                json!({"dnsConfig": {"nameservers": ["10.43.0.10", "192.0.2.9"], "searches": ["a.test"],
                    "options": [{"name": "ndots", "value": "2"}]}}),
                format!("{cluster} a.test\nnameserver 10.43.0.10\nnameserver 192.0.2.9\noptions ndots:2\n"),
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(Dns::of(&pod(spec.clone()), "cluster.local", host).render(), expected, "{spec}");
        }
    }

    #[test]
    fn the_network_looks_up_names_as_the_files_say() {
        let spec = json!({"hostAliases": [{"ip": "192.0.2.5", "hostnames": ["a.test", "b.test"]}, {"ip": "x"}]});
        let pod = pod(spec);
        let resolver = Dns::of(&pod, "cluster.local", host).resolver(&pod);
        let five: IpAddr = "192.0.2.5".parse().unwrap();
        assert_eq!(resolver.aliases, [("a.test".to_owned(), five), ("b.test".to_owned(), five)]);
        assert_eq!((resolver.cluster, resolver.ndots), (true, 5));
        let mut far = pod.clone();
        far.spec.as_mut().unwrap().dns_policy = Some("Default".to_owned());
        let resolver = Dns::of(&far, "cluster.local", host).resolver(&far);
        assert_eq!(
            (resolver.cluster, resolver.ndots, resolver.search),
            (false, 2, Some(vec!["house.test".to_owned()]))
        );

        let identity = PodIdentity {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            hostname: "front".to_owned(),
            addresses: vec!["10.42.0.7".parse().unwrap(), "fd42::7".parse().unwrap()],
        };
        let hosts = hosts(&pod, &identity);
        let ending = "10.42.0.7\tfront\nfd42::7\tfront\n\n# Entries added by HostAliases.\n192.0.2.5\ta.test\tb.test\n";
        assert!(hosts.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{hosts}");
        assert!(hosts.ends_with(ending), "{hosts}");
    }

    #[test]
    fn a_container_may_have_an_etc_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, stage) = (dir.path().join("etc"), dir.path().join("files"));
        let files = BTreeMap::from([("hosts", "ours".to_owned()), ("hostname", "web".to_owned())]);
        let etc = Etc { folder: folder.clone(), files };
        etc.write().unwrap();
        assert_eq!(fs::read_to_string(folder.join("hostname")).unwrap(), "web");
        let at = |host: &Path, guest: &str| Mount { host: host.to_owned(), guest: guest.to_owned(), read_only: false };
        let seen = |mounts: Vec<Mount>| {
            let mounts = mount(mounts, &etc, &stage).unwrap();
            mounts.into_iter().map(|mount| (mount.guest, mount.host)).collect::<Vec<_>>()
        };
        let place = || "/etc".to_owned();
        assert_eq!(seen(Vec::new()), [(place(), folder)]);
        let (volume, staged) = (dir.path().join("volume"), stage.join("0"));
        assert_eq!(seen(vec![at(&volume, "/etc")]), [(place(), volume.clone())]);
        assert_eq!(seen(vec![at(&volume, "/")]).len(), 1);
        assert_eq!(seen(vec![at(&volume, "/etc/app")]).len(), 2);
        fs::create_dir_all(&staged).unwrap();
        fs::write(staged.join("hosts"), "theirs").unwrap();
        assert_eq!(seen(vec![at(&staged, "/etc")]), [(place(), staged.clone())]);
        let read = |name: &str| fs::read_to_string(staged.join(name)).unwrap();
        assert_eq!((read("hosts").as_str(), read("hostname").as_str()), ("theirs", "web"));
    }
}
