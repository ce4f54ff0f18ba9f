//! How one pod looks up names, where it wants another way than the usual one: `hostAliases`, `dnsPolicy`, `dnsConfig`.

use std::net::IpAddr;

/// What `ndots` the kubelet writes with `dnsPolicy: ClusterFirst`: names with fewer dots are searched for first.
const NDOTS: usize = 5;

/// A pod's own way of looking up names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// Lines of its hosts file: a name and one of its addresses. They are looked at first.
    pub aliases: Vec<(String, IpAddr)>,
    /// Whether it asks the cluster for names at all.
    pub cluster: bool,
    /// The domains in which short names are looked up; `None` is the namespace's own, `svc`, and the cluster's.
    pub search: Option<Vec<String>>,
    /// Names with at least so many dots are first looked up as they are.
    pub ndots: usize,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { aliases: Vec::new(), cluster: true, search: None, ndots: NDOTS }
    }
}

impl Resolver {
    /// The addresses that the hosts file has for a name, which is in small letters and ends in no dot.
    pub(crate) fn alias(&self, name: &str) -> impl Iterator<Item = IpAddr> {
        self.aliases.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, address)| *address)
    }
}
