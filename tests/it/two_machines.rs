//! Pods on two machines, each in a network of its own with a cable between them: every way by which one may call the
//! other, and what a cable that is slow, out of order or cut does to those who talk.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Over, eventually, fetch, guests, root, run, run_with_input};
use crate::machines::{Machine, is_ready, kogia};
use crate::store::Networks;

/// The Ingress of the first machine.
const INGRESS: &str = "10.99.0.1:8080";

/// Two nodes of a cluster; pods `sockets-NODE`, `web-NODE` and `relay-NODE` on each, behind Services of the same names.
struct Pair {
    nodes: [&'static str; 2],
    machines: Vec<Machine>,
    networks: Networks,
    _dir: TempDir,
}

/// The pods of one node and their Services.
fn pods(node: &str) -> String {
    let pod = |name: &str, image: &str, containers: &[(&str, &str)]| {
        let containers: Vec<String> = containers
            .iter()
            .map(|(name, args)| format!("{{name: {name}, image: '{image}:0.1.0', args: [{args}]}}"))
            .collect();
        // They stay on a node that is lost.
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}-{node}, labels: {{app: {name}-{node}, kind: {name}}}}}, \
             spec: {{nodeSelector: {{kubernetes.io/hostname: {node}}}, tolerations: [{{operator: Exists}}], \
             containers: [{}]}}}}\n---\n",
            containers.join(", ")
        )
    };
    let sockets: [(&str, &str); 4] = [
        ("tcp", "serve, tcp, '0.0.0.0:7000'"),
        ("tcp6", "serve, tcp, '[::]:7000'"),
        ("udp", "serve, udp, '0.0.0.0:7000'"),
        ("udp6", "serve, udp, '[::]:7000'"),
    ];
    let service = |name: &str, app: &str, rest: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{ipFamilyPolicy: PreferDualStack, \
             selector: {{app: {app}}}, {rest}}}}}\n---\n"
        )
    };
    let http = "ports: [{port: 80, targetPort: 8080}]";
    [
        pod("sockets", "sockets", &sockets),
        pod("web", "hello-http", &[("c", "")]),
        pod("relay", "relay", &[("c", "")]),
        service(
            &format!("sockets-{node}"),
            &format!("sockets-{node}"),
            "ports: [{name: t, port: 7, targetPort: 7000}, {name: u, port: 7, targetPort: 7000, protocol: UDP}]",
        ),
        service(
            &format!("sockets-{node}-pods"),
            &format!("sockets-{node}"),
            "clusterIP: None, ports: [{name: t, port: 7000}]",
        ),
        service(&format!("web-{node}"), &format!("web-{node}"), http),
        service(&format!("relay-{node}"), &format!("relay-{node}"), http),
        ingress(&format!("relay-{node}")),
    ]
    .concat()
}

fn ingress(name: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: {name}}}, spec: {{rules: [{{host: \
         {name}.localhost, http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: {name}, port: \
         {{number: 80}}}}}}}}]}}}}]}}}}\n---\n"
    )
}

impl Pair {
    /// A server and an agent. `None`, with the reason printed, where networks cannot be made.
    fn start(letter: char) -> Option<Self> {
        Some(Self::of(networks(letter)?, ["first", "second"], &[]))
    }

    /// Two agents of a server, which say that they are where nobody finds them, as behind a router that lets nobody in; and
    /// no packet of one reaches the other.
    fn start_hidden(letter: char) -> Option<Self> {
        let networks = networks(letter)?;
        if ![1, 2].iter().all(|number| networks.part(*number)) {
            eprintln!("this kernel's bridges do not part machines: this test shows nothing");
            return None;
        }
        Some(Self::of(networks, ["second", "third"], &["--advertise", "192.0.2.1"]))
    }

    fn of(networks: Networks, nodes: [&'static str; 2], hidden: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("kogia-two-").tempdir().unwrap();
        let folder = dir.path().join("first");
        for example in ["sockets", "hello-http", "relay"] {
            build(&folder, example);
        }
        let server = ["server", "--name", "first", "--bind", "10.99.0.1"];
        let first = Machine::start_inside(&folder, &server, networks.inside(0));
        let token = first.kogia(&["token", "create"]).ok().trim().to_owned();
        let agents = nodes.into_iter().filter(|node| *node != "first").zip(1..).map(|(node, number)| {
            let bind = format!("10.99.0.{}", number + 1);
            let agent = ["agent", "--name", node, "--bind", &bind, "--join", "10.99.0.1:6443", "--token", &token];
            Machine::start_inside(&dir.path().join(node), &[&agent[..], hidden].concat(), networks.inside(number))
        });
        let machines = std::iter::once(first).chain(agents).collect();
        let pair = Self { nodes, machines, networks, _dir: dir };
        for node in nodes {
            eventually("the nodes to be ready", || pair.is_ready(node).filter(|ready| *ready));
        }
        pair.apply(&nodes.map(pods).concat());
        for node in nodes {
            for pod in ["sockets", "web", "relay"].map(|kind| format!("{kind}-{node}")) {
                eventually("the pods to be ready", || (pair.pod(&pod)["status"]["phase"] == "Running").then_some(()));
            }
        }
        pair
    }

    fn first(&self) -> &Machine {
        &self.machines[0]
    }

    fn is_ready(&self, node: &str) -> Option<bool> {
        is_ready(self.first(), node)
    }

    fn apply(&self, manifest: &str) {
        run_with_input(&mut self.first().command(&["apply", "-f", "-"]), manifest).ok();
    }

    fn get(&self, kind: &str, name: &str) -> Value {
        serde_json::from_str(&self.first().kogia(&["get", kind, name, "-o", "json"]).ok()).unwrap()
    }

    fn pod(&self, name: &str) -> Value {
        self.get("pod", name)
    }

    /// Starts a program of `sockets` on a node.
    fn start_pod(&self, name: &str, node: &str, args: &[&str]) -> String {
        let args: Vec<String> = args.iter().map(|arg| format!("'{arg}'")).collect();
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, nodeSelector: \
             {{kubernetes.io/hostname: {node}}}, tolerations: [{{operator: Exists}}], containers: [{{name: c, image: \
             'sockets:0.1.0', args: [{}]}}]}}}}\n---\n",
            args.join(", ")
        )
    }

    /// What a program said that ended well, or badly.
    fn ended(&self, pod: &str, phase: &str) -> String {
        let found = eventually(&format!("{pod} to end"), || {
            let pod = self.pod(pod);
            pod["status"]["phase"].as_str().filter(|phase| ["Succeeded", "Failed"].contains(phase)).map(str::to_owned)
        });
        let said = eventually("its output", || {
            let ran = self.first().kogia(&["logs", pod]);
            (ran.code == Some(0)).then_some(ran.out)
        });
        assert_eq!(found, phase, "{pod}: {said}");
        said
    }

    /// The answer of a relay, asked through the first machine's Ingress.
    fn relayed(&self, node: &str, url: &str) -> Option<(u16, String)> {
        let host = format!("relay-{node}.localhost");
        self.ask(&host, &format!("/?url={url}"))
    }

    fn ask(&self, host: &str, path: &str) -> Option<(u16, String)> {
        let ingress: SocketAddr = INGRESS.parse().unwrap();
        self.networks.enter(0, || fetch(ingress, host, path))
    }

    /// Every way in which a pod of one node may call a pod of the other, all at once.
    fn all_ways(&self, round: &str) {
        let (mut manifest, mut expected) = (String::new(), Vec::new());
        let [one, other] = self.nodes;
        for (caller, called) in [(one, other), (other, one)] {
            let pod = self.pod(&format!("sockets-{called}"));
            let ips: Vec<&str> = pod["status"]["podIPs"].as_array().unwrap().iter().map(ip).collect();
            let service = self.get("service", &format!("sockets-{called}"));
            let service_v6 = service["spec"]["clusterIPs"][1].as_str().unwrap();
            let (v4, v6) = (format!("{}:7000", ips[0]), format!("[{}]:7000", ips[1]));
            for (way, target, own) in [
                ("address", v4.clone(), Some(&v4)),
                ("address-6", v6.clone(), Some(&v6)),
                ("service", format!("sockets-{called}:7"), Some(&v4)),
                ("service-6", format!("[{service_v6}]:7"), Some(&v6)),
                ("headless", format!("sockets-{called}-pods:7000"), None),
                ("long", format!("sockets-{called}.default.svc.cluster.local:7"), Some(&v4)),
            ] {
                for transport in ["tcp", "udp"] {
                    let name = format!("{round}-{transport}-{way}-{caller}");
                    manifest += &self.start_pod(&name, caller, &["call", transport, &target, &name]);
                    // A datagram's answer names what the server is bound to.
                    let own = own.filter(|_| transport == "tcp").map_or(String::new(), String::to_string);
                    expected.push((name, own));
                }
            }
        }
        self.apply(&manifest);
        for (name, own) in expected {
            let said = self.ended(&name, "Succeeded");
            assert!(said.starts_with(&own) && said.contains(&format!(" heard {name} from ")), "{name}: {said}");
        }
        for (caller, called) in [(one, other), (other, one)] {
            let pod = self.pod(&format!("web-{called}"));
            let ips: Vec<&str> = pod["status"]["podIPs"].as_array().unwrap().iter().map(ip).collect();
            for host in [
                format!("web-{called}"),
                format!("web-{called}.default.svc.cluster.local"),
                format!("{}:8080", ips[0]),
                format!("[{}]:8080", ips[1]),
            ] {
                let said = eventually(&format!("{caller} to fetch from {host}"), || {
                    self.relayed(caller, &format!("http://{host}/")).filter(|(status, _)| *status == 200)
                });
                assert_eq!(said.1, "hello, world\n", "{host}");
            }
        }
    }

    /// Waits until a talk has got somewhere.
    fn talks(&self, pod: &str, line: u32) {
        eventually(&format!("{pod} to have said line {line}"), || {
            let ran = self.first().kogia(&["logs", pod]);
            ran.out.contains(&format!("{line} answered\n")).then_some(())
        });
    }

    fn ready_endpoints(&self, service: &str) -> usize {
        let label = format!("kubernetes.io/service-name={service}");
        let slices = self.first().kogia(&["get", "endpointslices", "-l", &label, "-o", "json"]).ok();
        let slices: Value = serde_json::from_str(&slices).unwrap();
        let endpoints = slices["items"].as_array().unwrap().iter().flat_map(|slice| slice["endpoints"].as_array());
        endpoints.flatten().filter(|endpoint| endpoint["conditions"]["ready"] == true).count()
    }
}

fn ip(entry: &Value) -> &str {
    entry["ip"].as_str().unwrap()
}

/// `None`, with the reason printed, where networks cannot be made.
fn networks(letter: char) -> Option<Networks> {
    let networks = Networks::new(letter);
    if networks.is_none() {
        eprintln!("network namespaces cannot be made here (root and iproute2 are needed): this test shows nothing");
    }
    networks
}

/// Builds an example, outside of any network of the test: the first build of all may have to fetch crates.
pub fn build(folder: &Path, example: &str) {
    let mut command = kogia(folder, &["build"]);
    run(command.arg(root().join("examples").join(example)).env("CARGO_TARGET_DIR", guests())).ok();
}

#[test]
fn pods_of_two_machines_talk_whatever_the_path_does_to_packets() {
    let Some(pair) = Pair::start('p') else { return };
    pair.all_ways("clear");
    // Packets that are late, overtake each other or are lost, in both directions.
    let storms: Vec<bool> = (0..2).map(|machine| pair.networks.storm(machine)).collect();
    if storms != [true, true] {
        eprintln!("this kernel has no queues (htb) or no rules (nft) for packets: the rest of this test shows nothing");
        return;
    }
    let talks = pair.start_pod("over", "first", &["talk", "sockets-second:7", "30"])
        + &pair.start_pod("back", "second", &["talk", "sockets-first:7", "30"]);
    pair.apply(&talks);
    pair.all_ways("storm");
    for pod in ["over", "back"] {
        assert!(pair.ended(pod, "Succeeded").contains("30 answered"));
    }
    (0..2).for_each(|machine| pair.networks.calm(machine));
    pair.all_ways("after");
}

/// A cut that is shorter than ten seconds is survived; Services and names are where somebody answers meanwhile.
#[test]
fn a_cable_is_cut_for_a_moment() {
    let Some(pair) = Pair::start('q') else { return };
    let both = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {kind: web}, ports: [{port: 80, \
                targetPort: 8080}]}}\n---\n";
    let talks = pair.start_pod("over", "first", &["talk", "sockets-second:7", "60"])
        + &pair.start_pod("back", "second", &["talk", "sockets-first:7", "60"]);
    pair.apply(&format!("{both}{}{talks}", ingress("web")));
    eventually("both endpoints", || (pair.ready_endpoints("web") == 2).then_some(()));
    eventually("an answer", || pair.ask("web.localhost", "/").filter(|(status, _)| *status == 200));
    pair.talks("over", 3);
    pair.talks("back", 3);

    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let bad = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut bad = Vec::new();
            while !over.load(Ordering::Relaxed) {
                match pair.ask("web.localhost", "/") {
                    Some((200, _)) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                    other => bad.push(other),
                }
            }
            bad
        });
        let _last = Over(&over);
        // Beside those that ask all the time and may be caught by the cut in the middle of an answer.
        let answers = |what: &str| {
            for _ in 0..20 {
                assert_eq!(pair.ask("web.localhost", "/").map(|(status, _)| status), Some(200), "{what}");
            }
        };
        answers("before");
        pair.networks.set(1, "down");
        eventually("the node that is cut off to be lost", || pair.is_ready("second").filter(|ready| !ready));
        eventually("its endpoint to leave", || (pair.ready_endpoints("web") == 1).then_some(()));
        answers("while it is cut off");
        pair.networks.set(1, "up");
        eventually("the node to be back", || pair.is_ready("second").filter(|ready| *ready));
        eventually("its endpoint to be back", || (pair.ready_endpoints("web") == 2).then_some(()));
        answers("afterwards");
        over.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    });
    assert!(bad.is_empty(), "{} answers, and {bad:?}", answered.into_inner());
    for pod in ["over", "back"] {
        assert!(pair.ended(pod, "Succeeded").contains("60 answered"), "one connection from the first line to the last");
    }
    pair.all_ways("after");
}

/// A cut that lasts ends connections as timed out, on both sides; afterwards all is as it was.
#[test]
fn a_cable_is_cut_for_long() {
    let Some(pair) = Pair::start('r') else { return };
    let talks = pair.start_pod("over", "first", &["talk", "sockets-second:7", "10000"])
        + &pair.start_pod("back", "second", &["talk", "sockets-first:7", "10000"]);
    pair.apply(&talks);
    pair.talks("over", 3);
    pair.talks("back", 3);
    pair.networks.set(1, "down");
    // Of why a stream ended WASI's libc tells a program nothing but that it failed.
    let said = pair.ended("over", "Failed");
    assert!(said.contains("I/O error"), "{said}");
    pair.networks.set(1, "up");
    eventually("the node to be back", || pair.is_ready("second").filter(|ready| *ready));
    let said = pair.ended("back", "Failed");
    assert!(said.contains("I/O error"), "{said}");
    eventually("its endpoints to be back", || (pair.ready_endpoints("sockets-second") >= 1).then_some(()));
    pair.all_ways("after");
}

/// Where neither of two machines can be dialled, a third that both reach passes on what they say.
#[test]
fn machines_that_nobody_can_dial_talk_over_a_third() {
    let Some(pair) = Pair::start_hidden('u') else { return };
    pair.all_ways("hidden");
    // The Ingress of the server reaches them too, though it cannot dial them.
    for node in pair.nodes {
        let said = pair.ask(&format!("relay-{node}.localhost"), "/?url=http://web-third/").unwrap();
        assert_eq!((said.0, said.1.as_str()), (200, "hello, world\n"), "{node}");
    }
}
