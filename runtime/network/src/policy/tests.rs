//! Policies against the examples of the Kubernetes documentation, and against a second reading of the specification
//! that has no index.

use super::*;
use crate::random::Random;

fn labels(text: &str) -> Labels {
    text.split_whitespace().filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
}

fn select(text: &str) -> Selector {
    Selector(labels(text).into_iter().map(|(key, value)| Requirement::In(key, vec![value])).collect())
}

fn pod(namespace: &str, name: &str, text: &str, last: u8) -> PodFacts {
    PodFacts {
        namespace: namespace.into(),
        name: name.into(),
        labels: labels(text),
        addresses: vec![IpAddr::from([10, 42, 0, last]), IpAddr::from([0xfd42, 0, 0, 0, 0, 0, 0, last.into()])],
        ports: vec![("http".into(), Protocol::Tcp, 8080 + u16::from(last % 2)), ("dns".into(), Protocol::Udp, 53)],
    }
}

fn policy(name: &str, pods: &str) -> NetworkPolicy {
    NetworkPolicy { namespace: "shop".into(), name: name.into(), pods: select(pods), ..NetworkPolicy::default() }
}

fn tcp(first: u16, last: u16) -> Option<Vec<PolicyPort>> {
    Some(vec![PolicyPort { protocol: Protocol::Tcp, port: PortMatch::Range(first, last) }])
}

/// Three pods in `shop` (web, db, job) and one in `ops`, and their policies.
fn world(policies: &[NetworkPolicy]) -> Policies {
    let pods = [
        pod("shop", "web", "app=web", 2),
        pod("shop", "db", "app=db", 3),
        pod("shop", "job", "app=job", 4),
        pod("ops", "probe", "app=probe", 5),
    ];
    let namespaces = [("shop".to_owned(), labels("team=shop")), ("ops".to_owned(), labels("team=ops"))];
    Policies::build(policies, &pods, &namespaces.into())
}

fn end(text: &str) -> End<'_> {
    match (text, text.split_once('/')) {
        ("node", _) => End::Node,
        (_, Some((namespace, name))) => {
            let last = match name {
                "web" => 2,
                "db" => 3,
                "job" => 4,
                "probe" => 5,
                _ => 99,
            };
            End::Pod { namespace, name, address: IpAddr::from([10, 42, 0, last]) }
        }
        _ => End::Address(text.parse().unwrap()),
    }
}

fn said(policies: &Policies, source: &str, destination: &str, port: u16) -> String {
    let flow = Flow { source: end(source), destination: end(destination), port, protocol: Protocol::Tcp };
    decide(policies, &flow).to_string()
}

fn allowed(policies: &Policies, source: &str, destination: &str, port: u16) -> bool {
    said(policies, source, destination, port).starts_with("allowed")
}

#[test]
fn without_policies_everybody_reaches_everybody() {
    let table = world(&[]);
    assert!(table.is_empty());
    assert_eq!(
        said(&table, "shop/web", "ops/probe", 80),
        "allowed; egress: no policy selects the source; ingress: no policy selects the destination"
    );
}

#[test]
fn default_deny_says_which_policy() {
    let table = world(&[NetworkPolicy { ingress: Some(vec![]), ..policy("deny", "") }]);
    assert_eq!(
        said(&table, "shop/web", "shop/db", 80),
        "denied; egress: no policy selects the source; \
         ingress: policy shop/deny selects the destination and has no rule that allows it"
    );
    assert!(!allowed(&table, "10.42.0.2", "10.42.0.3", 80), "addresses of pods are pods");
    assert!(!allowed(&table, "1.1.1.1", "shop/db", 80));
    assert_eq!(said(&table, "shop/db", "shop/db", 80), "allowed", "a pod reaches itself");
    assert_eq!(said(&table, "node", "shop/db", 80), "allowed", "and its node reaches it");
    assert!(allowed(&table, "shop/web", "ops/probe", 80), "ingress is not egress");
    assert!(allowed(&table, "shop/web", "1.1.1.1", 80));
}

#[test]
fn policies_add_up_and_ports_and_namespaces_count() {
    let from = |namespaces: Option<&str>, pods: &str| {
        Some(vec![Peer::Pods { namespaces: namespaces.map(select), pods: select(pods) }])
    };
    let table = world(&[
        NetworkPolicy { ingress: Some(vec![]), ..policy("deny", "") },
        NetworkPolicy {
            ingress: Some(vec![Rule { peers: from(None, "app=web"), ports: tcp(5432, 5440) }]),
            ..policy("db", "app=db")
        },
        NetworkPolicy {
            ingress: Some(vec![Rule { peers: from(Some("team=ops"), ""), ports: None }]),
            ..policy("ops", "app=db")
        },
    ]);
    assert_eq!(
        said(&table, "shop/web", "shop/db", 5440),
        "allowed; egress: no policy selects the source; ingress: rule 1 of policy shop/db allows it"
    );
    assert!(!allowed(&table, "shop/web", "shop/db", 5441));
    assert!(!allowed(&table, "shop/job", "shop/db", 5432), "another app");
    assert!(allowed(&table, "ops/probe", "shop/db", 1));
    assert!(!allowed(&table, "ops/probe", "shop/web", 1));
}

#[test]
fn egress_to_a_block_except_a_hole() {
    let block = Peer::Block { block: "0.0.0.0/0".parse().unwrap(), except: vec!["1.2.3.0/24".parse().unwrap()] };
    let table = world(&[NetworkPolicy {
        egress: Some(vec![Rule { peers: Some(vec![block]), ports: tcp(443, 443) }]),
        ..policy("out", "app=job")
    }]);
    assert!(allowed(&table, "shop/job", "1.2.4.1", 443));
    assert!(allowed(&table, "shop/job", "::ffff:1.2.4.1", 443));
    assert!(!allowed(&table, "shop/job", "1.2.3.4", 443));
    assert!(!allowed(&table, "shop/job", "::ffff:1.2.3.4", 443));
    assert!(!allowed(&table, "shop/job", "1.2.4.1", 80));
    assert!(!allowed(&table, "shop/job", "2600::1", 443));
    assert!(allowed(&table, "shop/web", "1.2.3.4", 443));
    assert!(!table.may_ask_names("shop", "job"), "port 53 is not 443");
    assert!(table.may_ask_names("shop", "web"));
}

#[test]
fn a_pod_whose_labels_are_unseen_is_closed_where_policies_are() {
    let table = world(&[NetworkPolicy { egress: Some(vec![]), ..policy("deny", "app=web") }]);
    assert!(!allowed(&table, "shop/new", "1.1.1.1", 80));
    assert!(!table.may_ask_names("shop", "new"));
    assert!(allowed(&table, "ops/new", "1.1.1.1", 80));
    assert!(!allowed(&Policies::unread(), "ops/new", "1.1.1.1", 80));
    assert!(allowed(&Policies::unread(), "node", "shop/web", 80));
    assert!(!Policies::unread().may_ask_names("ops", "probe"));
}

#[test]
fn a_peer_or_port_that_cannot_be_read_allows_nothing() {
    let unread =
        |peers, ports| world(&[NetworkPolicy { ingress: Some(vec![Rule { peers, ports }]), ..policy("p", "") }]);
    assert!(!allowed(&unread(Some(vec![]), None), "shop/web", "shop/db", 80));
    assert!(!allowed(&unread(None, Some(vec![])), "shop/web", "shop/db", 80));
    assert!(allowed(&unread(None, None), "shop/web", "shop/db", 80));
}

/// The specification read a second time: no index, no identities.
mod naive {
    use super::*;

    pub(super) struct World {
        pub(super) policies: Vec<NetworkPolicy>,
        pub(super) pods: Vec<PodFacts>,
        pub(super) namespaces: HashMap<String, Labels>,
    }

    impl World {
        fn direction(
            &self,
            own: &PodFacts,
            other: &Other<'_>,
            target: Option<&PodFacts>,
            asked: (u16, Protocol, bool),
        ) -> bool {
            let (port, protocol, egress) = asked;
            let mut isolated = false;
            for policy in &self.policies {
                let rules = if egress { &policy.egress } else { &policy.ingress };
                let Some(rules) = rules else { continue };
                if policy.namespace != own.namespace || !policy.pods.matches(&own.labels) {
                    continue;
                }
                isolated = true;
                for rule in rules {
                    let peer_fits = rule
                        .peers
                        .as_ref()
                        .is_none_or(|peers| peers.iter().any(|peer| self.is_peer(policy, peer, other)));
                    let port_fits = rule
                        .ports
                        .as_ref()
                        .is_none_or(|ports| ports.iter().any(|entry| is_port(entry, port, protocol, target)));
                    if peer_fits && port_fits {
                        return true;
                    }
                }
            }
            !isolated
        }

        fn is_peer(&self, policy: &NetworkPolicy, peer: &Peer, other: &Other<'_>) -> bool {
            match (peer, other.pod) {
                (Peer::Block { block, except }, _) => {
                    block.contains(other.ip) && except.iter().all(|hole| !hole.contains(other.ip))
                }
                (Peer::Pods { .. }, None) => false,
                (Peer::Pods { namespaces: None, pods }, Some(pod)) => {
                    pod.namespace == policy.namespace && pods.matches(&pod.labels)
                }
                (Peer::Pods { namespaces: Some(selector), pods }, Some(pod)) => {
                    selector.matches(&self.namespaces[&pod.namespace]) && pods.matches(&pod.labels)
                }
            }
        }

        pub(super) fn allows(&self, source: &Other<'_>, target: &Other<'_>, port: u16, protocol: Protocol) -> bool {
            if source.ip == target.ip {
                return true;
            }
            let out = source.pod.is_none_or(|pod| self.direction(pod, target, target.pod, (port, protocol, true)));
            let into = target.pod.is_none_or(|pod| self.direction(pod, source, target.pod, (port, protocol, false)));
            out && into
        }
    }

    pub(super) struct Other<'a> {
        pub(super) ip: IpAddr,
        pub(super) pod: Option<&'a PodFacts>,
    }

    fn is_port(entry: &PolicyPort, port: u16, protocol: Protocol, target: Option<&PodFacts>) -> bool {
        if entry.protocol != protocol {
            return false;
        }
        match &entry.port {
            PortMatch::Any => true,
            PortMatch::Range(first, last) => *first <= port && port <= *last,
            PortMatch::Name(name) => target.is_some_and(|pod| pod.ports.contains(&(name.clone(), protocol, port))),
        }
    }
}

fn some_selector(random: &mut Random) -> Selector {
    let key = ["app", "tier"][random.below(2)].to_owned();
    let values = vec![["a", "b", "c"][random.below(3)].to_owned(), ["a", "d"][random.below(2)].to_owned()];
    Selector(match random.below(6) {
        0 => vec![],
        1 => vec![Requirement::NotIn(key, values)],
        2 => vec![Requirement::Exists(key)],
        3 => vec![Requirement::DoesNotExist(key)],
        _ => vec![Requirement::In(key, values)],
    })
}

fn some_peer(random: &mut Random) -> Peer {
    const V4: [&str; 5] = ["0.0.0.0/0", "10.42.0.0/16", "10.42.0.0/29", "1.1.0.0/16", "1.1.1.1/32"];
    const V6: [&str; 5] = ["::/0", "fd42::/64", "fd42::/125", "2600:1::/32", "2600:1::1/128"];
    let blocks = [V4, V6][random.below(2)];
    match random.below(3) {
        0 => {
            let except = (0..random.below(3)).map(|_| blocks[1 + random.below(4)].parse().unwrap()).collect();
            Peer::Block { block: blocks[random.below(5)].parse().unwrap(), except }
        }
        1 => Peer::Pods { namespaces: None, pods: some_selector(random) },
        _ => Peer::Pods { namespaces: Some(some_selector(random)), pods: some_selector(random) },
    }
}

fn some_rules(random: &mut Random) -> Option<Vec<Rule>> {
    let some_port = |random: &mut Random| PolicyPort {
        protocol: [Protocol::Tcp, Protocol::Tcp, Protocol::Udp][random.below(3)],
        port: match random.below(6) {
            0 => PortMatch::Any,
            1 => PortMatch::Range(8000, 8080),
            2 => PortMatch::Range(8081, 65_535),
            3 => PortMatch::Range(53, 53),
            4 => PortMatch::Name("dns".into()),
            _ => PortMatch::Name("http".into()),
        },
    };
    let some_rule = |random: &mut Random| Rule {
        peers: (random.below(4) > 0).then(|| (0..=random.below(2)).map(|_| some_peer(random)).collect()),
        ports: (random.below(2) > 0).then(|| (0..=random.below(2)).map(|_| some_port(random)).collect()),
    };
    (random.below(3) > 0).then(|| (0..random.below(3)).map(|_| some_rule(random)).collect())
}

fn some_world(random: &mut Random) -> naive::World {
    let value = |random: &mut Random| ["a", "b", "c", "d"][random.below(4)];
    let some_labels = |random: &mut Random| {
        let mut found = labels(&format!("app={} tier={}", value(random), value(random)));
        if random.below(3) == 0 {
            found.remove("tier");
        }
        found
    };
    let names = ["one", "two", "three"];
    let namespaces = names.map(|name| (name.to_owned(), some_labels(random))).into();
    let pods = (2..14).map(|last| PodFacts {
        labels: some_labels(random),
        ..pod(names[random.below(3)], &format!("p{last}"), "", last)
    });
    let pods = pods.collect();
    let policies = (0..random.below(7)).map(|number| NetworkPolicy {
        namespace: names[random.below(3)].into(),
        name: format!("n{number}"),
        pods: some_selector(random),
        ingress: some_rules(random),
        egress: some_rules(random),
    });
    naive::World { policies: policies.collect(), pods, namespaces }
}

#[test]
fn the_index_says_what_the_specification_says() {
    const OUTSIDE: [&str; 6] = ["1.1.1.1", "1.1.2.2", "10.42.0.77", "2600:1::1", "2600:1::2", "fd42::77"];
    let (mut yes, mut no) = (0, 0);
    for seed in 1..=150 {
        let world = some_world(&mut Random(seed));
        let table = Policies::build(&world.policies, &world.pods, &world.namespaces);
        let known = world.pods.iter().flat_map(|pod| pod.addresses.iter().map(move |ip| (*ip, Some(pod))));
        let outside = OUTSIDE.iter().map(|ip| (ip.parse().unwrap(), None));
        let ends: Vec<naive::Other<'_>> = known.chain(outside).map(|(ip, pod)| naive::Other { ip, pod }).collect();
        for source in &ends {
            for target in ends.iter().filter(|target| target.ip.is_ipv4() == source.ip.is_ipv4()) {
                let asked = [(8080, Protocol::Tcp), (8081, Protocol::Tcp), (7999, Protocol::Tcp), (53, Protocol::Udp)];
                for (port, protocol) in asked {
                    let flow =
                        Flow { source: End::Address(source.ip), destination: End::Address(target.ip), port, protocol };
                    let verdict = decide(&table, &flow);
                    let expected = world.allows(source, target, port, protocol);
                    assert_eq!(verdict.allowed(), expected, "seed {seed}: {flow:?}: {verdict}");
                    *if expected { &mut yes } else { &mut no } += 1;
                }
            }
        }
    }
    assert!(yes > 10_000 && no > 10_000, "{yes} allowed, {no} denied: the worlds say too little");
}
