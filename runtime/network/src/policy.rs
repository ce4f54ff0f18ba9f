//! NetworkPolicy (`networking.k8s.io/v1`): whether a flow is allowed, and which policy says so. Pure.
//!
//! [`Policies::build`] turns policies, pods and namespaces into an index; [`decide`] answers for one flow. Pods with the
//! same namespace and labels are one *identity*: selectors are asked once per identity when the index is built, so that a
//! decision only looks up whether an identity is in a set.
//!
//! As in Kubernetes: policies add up, the first rule that fits allows; a pod that no policy selects for a direction is
//! open in it; both ends must allow; a pod always reaches itself, and the node always reaches its pods. A peer or port
//! that could not be read is nobody's: such a rule fits less, never more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use crate::cidr::Cidr;
use crate::services::Protocol;

/// Labels of a pod or a namespace.
pub type Labels = BTreeMap<String, String>;

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The label is there with one of these values.
    In(String, Vec<String>),
    /// The label is absent or has another value.
    NotIn(String, Vec<String>),
    /// The label is there.
    Exists(String),
    /// The label is absent.
    DoesNotExist(String),
}

/// A `metav1.LabelSelector`: all requirements together; without any, everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(pub Vec<Requirement>);

impl Selector {
    /// Whether labels fit.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::DoesNotExist(key) => !labels.contains_key(key),
        })
    }
}

/// Whom a rule is about.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Pods of the policy's own namespace, or of the namespaces selected.
    Pods {
        /// `namespaceSelector`.
        namespaces: Option<Selector>,
        /// `podSelector`; everything when absent.
        pods: Selector,
    },
    /// `ipBlock`.
    Block {
        /// `cidr`.
        block: Cidr,
        /// `except`.
        except: Vec<Cidr>,
    },
}

/// Which port numbers an entry of `ports` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortMatch {
    /// All of the protocol.
    Any,
    /// From `port` to `endPort`, both included.
    Range(u16, u16),
    /// The port that the destination pod calls so.
    Name(String),
}

/// An entry of `ports`.
#[derive(Clone, Debug)]
pub struct PolicyPort {
    /// TCP when absent.
    pub protocol: Protocol,
    /// Which numbers.
    pub port: PortMatch,
}

/// One rule of `ingress` or `egress`.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// `from` or `to`; `None`, which is an absent or empty list, is everybody.
    pub peers: Option<Vec<Peer>>,
    /// `ports`; `None`, which is an absent or empty list, is every port.
    pub ports: Option<Vec<PolicyPort>>,
}

/// A NetworkPolicy.
#[derive(Clone, Debug, Default)]
pub struct NetworkPolicy {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.podSelector`.
    pub pods: Selector,
    /// The rules for what comes in, when `policyTypes` has `Ingress`.
    pub ingress: Option<Vec<Rule>>,
    /// The rules for what goes out, when `policyTypes` has `Egress`.
    pub egress: Option<Vec<Rule>>,
}

/// A pod as policies see it.
#[derive(Clone, Debug, Default)]
pub struct PodFacts {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// Named ports of its containers.
    pub ports: Vec<(String, Protocol, u16)>,
}

/// One end of a flow.
#[derive(Clone, Copy, Debug)]
pub enum End<'a> {
    /// The node itself: probes, port-forward, Ingress and NodePorts.
    Node,
    /// A pod that is known by name.
    Pod {
        /// Its namespace.
        namespace: &'a str,
        /// Its name.
        name: &'a str,
        /// The address it uses in this flow.
        address: IpAddr,
    },
    /// Whoever has this address.
    Address(IpAddr),
}

impl End<'_> {
    fn address(&self) -> Option<IpAddr> {
        match self {
            End::Node => None,
            End::Pod { address, .. } | End::Address(address) => Some(address.to_canonical()),
        }
    }
}

/// A connection or datagram about to be made; a Service has already become one of its endpoints.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    /// Who begins.
    pub source: End<'a>,
    /// Who is called.
    pub destination: End<'a>,
    /// The port called.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// What one end's policies say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side<'a> {
    /// No policy has a say: not a pod, the node, or a pod calling itself.
    Exempt,
    /// The pod is selected by no policy for this direction.
    Open,
    /// A rule of this policy fits, counted from 1.
    Allowed {
        /// `namespace/name` of the policy.
        policy: &'a str,
        /// Which rule.
        rule: usize,
    },
    /// The pod is selected by these policies, and no rule of theirs fits.
    Denied {
        /// `namespace/name` of each.
        policies: Vec<&'a str>,
    },
    /// The pod's labels have not been seen, and its namespace has policies: they may select it.
    Unknown,
}

impl Side<'_> {
    fn allows(&self) -> bool {
        !matches!(self, Side::Denied { .. } | Side::Unknown)
    }
}

/// The decision about one flow; its text is the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// What the source's policies say.
    pub egress: Side<'a>,
    /// What the destination's policies say.
    pub ingress: Side<'a>,
}

impl Verdict<'_> {
    /// Whether the flow may be made.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.egress.allows() && self.ingress.allows()
    }
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allowed() { "allowed" } else { "denied" })?;
        for (what, end, side) in [("egress", "source", &self.egress), ("ingress", "destination", &self.ingress)] {
            match side {
                Side::Exempt => Ok(()),
                Side::Open => write!(f, "; {what}: no policy selects the {end}"),
                Side::Allowed { policy, rule } => write!(f, "; {what}: rule {rule} of policy {policy} allows it"),
                Side::Denied { policies } => {
                    let names = policies.join(", ");
                    if policies.len() == 1 {
                        write!(f, "; {what}: policy {names} selects the {end} and has no rule that allows it")
                    } else {
                        write!(f, "; {what}: policies {names} select the {end} and have no rule that allows it")
                    }
                }
                Side::Unknown => write!(f, "; {what}: the labels of the {end} have not been seen yet"),
            }?;
        }
        Ok(())
    }
}

/// A rule with its selectors already asked.
#[derive(Debug)]
struct CompiledRule {
    peers: Option<CompiledPeers>,
    ports: Option<Vec<PolicyPort>>,
}

#[derive(Debug, Default)]
struct CompiledPeers {
    identities: HashSet<usize>,
    blocks: Vec<(Cidr, Vec<Cidr>)>,
}

#[derive(Debug)]
struct CompiledPolicy {
    /// `namespace/name`.
    name: String,
    ingress: Vec<CompiledRule>,
    egress: Vec<CompiledRule>,
}

/// Everything that pods with one namespace and one set of labels have in common.
#[derive(Debug)]
struct Identity {
    namespace: String,
    labels: Labels,
    /// Indices of the policies that select it.
    ingress: Vec<usize>,
    egress: Vec<usize>,
}

#[derive(Debug)]
struct Known {
    identity: usize,
    ports: Vec<(String, Protocol, u16)>,
    /// Unique per pod: two pods may share an identity and are still two.
    number: usize,
}

/// The cluster's NetworkPolicies as a flow looks them up.
#[derive(Debug, Default)]
pub struct Policies {
    policies: Vec<CompiledPolicy>,
    identities: Vec<Identity>,
    known: Vec<Known>,
    by_name: HashMap<String, HashMap<String, usize>>,
    by_address: HashMap<IpAddr, usize>,
    /// Namespaces with policies.
    guarded: HashSet<String>,
    /// Nothing has been read yet.
    unread: bool,
}

/// An end as the index knows it.
enum Party<'a> {
    Node,
    Outside,
    Pod(&'a Known),
    Unseen,
}

impl Policies {
    /// What is in force before the cluster's policies have been read: every flow of a pod is denied but those with the
    /// node, so that no pod is open for the first moments of a node's life.
    #[must_use]
    pub fn unread() -> Self {
        Self { unread: true, ..Self::default() }
    }

    /// Builds the index. `namespaces` maps names to labels; a namespace that is missing there has no labels.
    #[must_use]
    pub fn build(policies: &[NetworkPolicy], pods: &[PodFacts], namespaces: &HashMap<String, Labels>) -> Self {
        let mut table = Self::default();
        if policies.is_empty() {
            // Nobody asks the index then, and pods change often.
            return table;
        }
        table.take_pods(pods);
        let nothing = Labels::new();
        for (number, policy) in policies.iter().enumerate() {
            table.guarded.insert(policy.namespace.clone());
            for identity in &mut table.identities {
                if identity.namespace == policy.namespace && policy.pods.matches(&identity.labels) {
                    identity.ingress.extend(policy.ingress.is_some().then_some(number));
                    identity.egress.extend(policy.egress.is_some().then_some(number));
                }
            }
            let labels_of = |namespace: &str| namespaces.get(namespace).unwrap_or(&nothing);
            let compile = |rules: &Option<Vec<Rule>>| -> Vec<CompiledRule> {
                let rules = rules.iter().flatten();
                rules.map(|rule| compile(rule, &policy.namespace, &table.identities, labels_of)).collect()
            };
            let compiled = CompiledPolicy {
                name: format!("{}/{}", policy.namespace, policy.name),
                ingress: compile(&policy.ingress),
                egress: compile(&policy.egress),
            };
            table.policies.push(compiled);
        }
        table
    }

    fn take_pods(&mut self, pods: &[PodFacts]) {
        let mut numbers: HashMap<(&str, &Labels), usize> = HashMap::new();
        for (number, pod) in pods.iter().enumerate() {
            let next = self.identities.len();
            let identity = *numbers.entry((&pod.namespace, &pod.labels)).or_insert(next);
            if identity == next {
                let (namespace, labels) = (pod.namespace.clone(), pod.labels.clone());
                self.identities.push(Identity { namespace, labels, ingress: Vec::new(), egress: Vec::new() });
            }
            self.known.push(Known { identity, ports: pod.ports.clone(), number });
            self.by_name.entry(pod.namespace.clone()).or_default().insert(pod.name.clone(), number);
            self.by_address.extend(pod.addresses.iter().map(|address| (*address, number)));
        }
    }

    /// Whether there is nothing to ask: the cluster has no policy.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty() && !self.unread
    }

    /// Whether a pod may ask for names outside the cluster: it may when some rule would let it reach any resolver, which
    /// listens on port 53. A pod that may reach nothing must not tell its secrets to a name server either.
    #[must_use]
    pub fn may_ask_names(&self, namespace: &str, name: &str) -> bool {
        if self.is_empty() {
            return true;
        }
        let Party::Pod(pod) = self.named(namespace, name) else {
            return !self.unread && !self.guarded.contains(namespace);
        };
        let selecting = &self.identities[pod.identity].egress;
        let mut rules = selecting.iter().flat_map(|policy| &self.policies[*policy].egress);
        selecting.is_empty() || rules.any(|rule| [Protocol::Udp, Protocol::Tcp].iter().any(|p| rule.has(53, *p, None)))
    }

    fn named(&self, namespace: &str, name: &str) -> Party<'_> {
        let number = self.by_name.get(namespace).and_then(|pods| pods.get(name));
        number.map_or(Party::Unseen, |number| Party::Pod(&self.known[*number]))
    }

    fn party(&self, end: &End<'_>) -> Party<'_> {
        match end {
            End::Node => Party::Node,
            End::Pod { namespace, name, .. } => self.named(namespace, name),
            End::Address(ip) => match self.by_address.get(&ip.to_canonical()) {
                Some(number) => Party::Pod(&self.known[*number]),
                None => Party::Outside,
            },
        }
    }

    /// What the policies of `own` say about a flow with `other`.
    fn side(&self, own: (&End<'_>, &Party<'_>), other: (&End<'_>, &Party<'_>), asked: &Asked<'_>) -> Side<'_> {
        let pod = match own.1 {
            Party::Node | Party::Outside => return Side::Exempt,
            Party::Unseen => {
                let guarded = matches!(own.0, End::Pod { namespace, .. } if self.guarded.contains(*namespace));
                return if guarded { Side::Unknown } else { Side::Open };
            }
            Party::Pod(pod) => pod,
        };
        let identity = &self.identities[pod.identity];
        let selecting = if asked.egress { &identity.egress } else { &identity.ingress };
        if selecting.is_empty() {
            return Side::Open;
        }
        let identity = if let Party::Pod(other) = other.1 { Some(other.identity) } else { None };
        for policy in selecting.iter().map(|number| &self.policies[*number]) {
            let rules = if asked.egress { &policy.egress } else { &policy.ingress };
            let fits = |rule: &CompiledRule| {
                rule.has(asked.port, asked.protocol, asked.names) && rule.concerns(identity, other.0.address())
            };
            if let Some(index) = rules.iter().position(fits) {
                return Side::Allowed { policy: &policy.name, rule: index + 1 };
            }
        }
        Side::Denied { policies: selecting.iter().map(|number| self.policies[*number].name.as_str()).collect() }
    }
}

/// What is asked of a rule besides the peer.
struct Asked<'a> {
    egress: bool,
    port: u16,
    protocol: Protocol,
    /// The destination's named ports.
    names: Option<&'a [(String, Protocol, u16)]>,
}

impl CompiledRule {
    fn has(&self, port: u16, protocol: Protocol, names: Option<&[(String, Protocol, u16)]>) -> bool {
        let Some(ports) = &self.ports else { return true };
        ports.iter().filter(|entry| entry.protocol == protocol).any(|entry| match &entry.port {
            PortMatch::Any => true,
            PortMatch::Range(first, last) => (*first..=*last).contains(&port),
            PortMatch::Name(name) => {
                let called = |named: &(String, Protocol, u16)| (&named.0, named.1, named.2) == (name, protocol, port);
                names.is_some_and(|names| names.iter().any(called))
            }
        })
    }

    fn concerns(&self, identity: Option<usize>, address: Option<IpAddr>) -> bool {
        let Some(peers) = &self.peers else { return true };
        let inside = |ip| {
            let mut blocks = peers.blocks.iter();
            blocks.any(|(block, except)| block.contains(ip) && !except.iter().any(|hole| hole.contains(ip)))
        };
        identity.is_some_and(|identity| peers.identities.contains(&identity)) || address.is_some_and(inside)
    }
}

fn compile<'a>(
    rule: &Rule,
    own: &str,
    identities: &[Identity],
    labels_of: impl Fn(&str) -> &'a Labels,
) -> CompiledRule {
    let peers = rule.peers.as_ref().map(|peers| {
        let mut compiled = CompiledPeers::default();
        for peer in peers {
            match peer {
                Peer::Block { block, except } => compiled.blocks.push((*block, except.clone())),
                Peer::Pods { namespaces, pods } => {
                    let fits = |identity: &Identity| {
                        let here = match namespaces {
                            None => identity.namespace == own,
                            Some(selector) => selector.matches(labels_of(&identity.namespace)),
                        };
                        here && pods.matches(&identity.labels)
                    };
                    let numbered = identities.iter().enumerate();
                    let fitting = numbered.filter(|(_, identity)| fits(identity)).map(|(number, _)| number);
                    compiled.identities.extend(fitting);
                }
            }
        }
        compiled
    });
    CompiledRule { peers, ports: rule.ports.clone() }
}

/// Decides about one flow.
///
/// For example, with a policy that selects everything in `shop` for ingress and has no rules, a flow from `shop/a` to
/// `shop/b` is denied; the verdict names the policy, and `a` still reaches itself.
#[must_use]
pub fn decide<'a>(policies: &'a Policies, flow: &Flow<'_>) -> Verdict<'a> {
    let exempt = Verdict { egress: Side::Exempt, ingress: Side::Exempt };
    let (source, destination) = (policies.party(&flow.source), policies.party(&flow.destination));
    match (&source, &destination) {
        (Party::Node, _) => return exempt,
        (Party::Pod(one), Party::Pod(other)) if one.number == other.number => return exempt,
        _ if policies.unread => return Verdict { egress: Side::Unknown, ingress: Side::Unknown },
        _ => {}
    }
    let names = if let Party::Pod(pod) = &destination { Some(pod.ports.as_slice()) } else { None };
    let asked = |egress| Asked { egress, port: flow.port, protocol: flow.protocol, names };
    let (from, to) = ((&flow.source, &source), (&flow.destination, &destination));
    Verdict { egress: policies.side(from, to, &asked(true)), ingress: policies.side(to, from, &asked(false)) }
}

#[cfg(test)]
mod tests;
