//! Who sleeps: Deployments that go to zero replicas when nobody calls their Services, and are woken by the next call.
//!
//! [`SleeperTable::build`] is pure: it says which Service stands for which sleeping Deployments. A connection or request
//! to such a Service is counted while it lasts ([`Visit`]), so that whoever reports traffic knows who is idle; one that
//! finds no endpoint is held by [`crate::waking`] and the Deployments are named to whoever can start them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use crate::limits::HELD_PER_SERVICE_MAX;

/// A Deployment that may sleep, reduced to what is read of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sleeper {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// Labels of its pods: `spec.template.metadata.labels`.
    pub labels: BTreeMap<String, String>,
}

/// A Service, reduced likewise.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.clusterIPs`.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.selector`; without one a Service stands for nobody.
    pub selector: BTreeMap<String, String>,
}

/// Namespace and name of a Deployment.
pub type DeploymentName = (String, String);

/// A Service whose pods may be asleep.
#[derive(Debug)]
pub struct Door {
    deployments: Vec<DeploymentName>,
    traffic: Arc<Traffic>,
}

/// What is known of a Service's callers; it outlives the table.
#[derive(Debug)]
struct Traffic {
    open: AtomicUsize,
    seen: AtomicU64,
    held: Arc<Semaphore>,
}

impl Default for Traffic {
    fn default() -> Self {
        let held = Arc::new(Semaphore::new(HELD_PER_SERVICE_MAX));
        Self { open: AtomicUsize::new(0), seen: AtomicU64::new(0), held }
    }
}

/// A connection or request to a Service, from its start to its end.
#[derive(Debug)]
pub struct Visit(Arc<Traffic>);

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.seen.fetch_add(1, Ordering::Relaxed);
    }
}

impl Door {
    /// Counts a visit.
    #[must_use]
    pub fn visit(&self) -> Visit {
        self.traffic.open.fetch_add(1, Ordering::Relaxed);
        self.traffic.seen.fetch_add(1, Ordering::Relaxed);
        Visit(self.traffic.clone())
    }

    /// The Deployments behind it.
    #[must_use]
    pub fn deployments(&self) -> &[DeploymentName] {
        &self.deployments
    }

    pub(crate) fn held(&self) -> Arc<Semaphore> {
        self.traffic.held.clone()
    }

    /// Visits under way, and a number that grows with every visit.
    fn busy(&self) -> (usize, u64) {
        (self.traffic.open.load(Ordering::Relaxed), self.traffic.seen.load(Ordering::Relaxed))
    }
}

/// All Services that stand for Deployments which may sleep.
#[derive(Debug, Default)]
pub struct SleeperTable {
    by_name: HashMap<String, HashMap<String, Arc<Door>>>,
    by_address: HashMap<IpAddr, Arc<Door>>,
}

impl SleeperTable {
    /// Joins Services with the Deployments their selectors fit. Who is visiting is taken over from `old`.
    #[must_use]
    pub fn build(services: &[Caller], sleepers: &[Sleeper], old: &Self) -> Self {
        let mut table = Self::default();
        // By one label each, so that ten thousand of both are not compared with each other.
        let mut by_label: HashMap<(&str, &str, &str), Vec<&Sleeper>> = HashMap::new();
        for sleeper in sleepers {
            for (key, value) in &sleeper.labels {
                by_label.entry((&sleeper.namespace, key, value)).or_default().push(sleeper);
            }
        }
        for service in services {
            let Some((key, value)) = service.selector.first_key_value() else { continue };
            let candidates = by_label.get(&(service.namespace.as_str(), key.as_str(), value.as_str()));
            let fits = |sleeper: &&&Sleeper| {
                service.selector.iter().all(|(key, value)| sleeper.labels.get(key) == Some(value))
            };
            let named = |sleeper: &&Sleeper| (sleeper.namespace.clone(), sleeper.name.clone());
            let deployments: Vec<_> = candidates.into_iter().flatten().filter(fits).map(named).collect();
            if deployments.is_empty() {
                continue;
            }
            let known = old.named(&service.namespace, &service.name);
            let traffic = known.map_or_else(Arc::default, |door| door.traffic.clone());
            let door = Arc::new(Door { deployments, traffic });
            table.by_address.extend(service.cluster_ips.iter().map(|ip| (*ip, door.clone())));
            table.by_name.entry(service.namespace.clone()).or_default().insert(service.name.clone(), door);
        }
        table
    }

    /// The door of a Service by name; `None` when nobody behind it sleeps.
    #[must_use]
    pub fn named(&self, namespace: &str, name: &str) -> Option<&Arc<Door>> {
        self.by_name.get(namespace)?.get(name)
    }

    /// The door of a Service by cluster IP.
    #[must_use]
    pub fn at(&self, ip: IpAddr) -> Option<&Arc<Door>> {
        if self.by_address.is_empty() { None } else { self.by_address.get(&ip.to_canonical()) }
    }

    /// The Deployments that were called since the last time this was asked with the same `marks`, or are being called.
    pub fn called(&self, marks: &mut Marks) -> BTreeSet<DeploymentName> {
        let mut called = BTreeSet::new();
        let mut seen = HashMap::with_capacity(marks.0.len());
        for (namespace, doors) in &self.by_name {
            for (name, door) in doors {
                let (open, visits) = door.busy();
                let service = (namespace.clone(), name.clone());
                if open > 0 || visits != marks.0.get(&service).copied().unwrap_or(0) {
                    called.extend(door.deployments.iter().cloned());
                }
                seen.insert(service, visits);
            }
        }
        marks.0 = seen;
        called
    }

    /// Whether nobody may sleep at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

/// What [`SleeperTable::called`] had seen of each Service.
#[derive(Debug, Default)]
pub struct Marks(HashMap<(String, String), u64>);

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pair = |word: &str| word.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        text.split(' ').filter_map(pair).collect()
    }

    fn service(name: &str, selector: &str) -> Caller {
        let cluster_ips = vec![IpAddr::from([10, 43, 0, name.len() as u8])];
        Caller { namespace: "default".into(), name: name.into(), cluster_ips, selector: labels(selector) }
    }

    fn sleeper(name: &str, text: &str) -> Sleeper {
        Sleeper { namespace: "default".into(), name: name.into(), labels: labels(text) }
    }

    #[test]
    fn a_service_stands_for_those_whose_pods_it_selects() {
        let services = [service("web", "app=web"), service("blue", "app=web color=blue"), service("none", "")];
        let elsewhere = Sleeper { namespace: "other".into(), ..sleeper("far", "app=web") };
        let sleepers = [sleeper("a", "app=web color=blue"), sleeper("b", "app=web"), elsewhere];
        let table = SleeperTable::build(&services, &sleepers, &SleeperTable::default());
        let behind = |name: &str| -> Vec<String> {
            let door = table.named("default", name);
            door.iter().flat_map(|door| door.deployments()).map(|(_, name)| name.clone()).collect()
        };
        assert_eq!(behind("web"), ["a", "b"]);
        assert_eq!(behind("blue"), ["a"]);
        assert_eq!(behind("none"), [""; 0]);
        assert!(table.at("::ffff:10.43.0.3".parse().unwrap()).is_some());
        assert!(table.at("10.43.0.9".parse().unwrap()).is_none());
    }

    #[test]
    fn callers_are_counted_across_tables() {
        let (services, sleepers) = ([service("web", "app=web")], [sleeper("a", "app=web")]);
        let mut table = SleeperTable::build(&services, &sleepers, &SleeperTable::default());
        let mut marks = Marks::default();
        assert!(table.called(&mut marks).is_empty());
        let visit = table.named("default", "web").unwrap().visit();
        for _ in 0..2 {
            table = SleeperTable::build(&services, &sleepers, &table);
            assert_eq!(table.called(&mut marks).len(), 1, "the visit goes on");
        }
        drop(visit);
        assert_eq!(table.called(&mut marks).len(), 1, "it ended since");
        assert!(table.called(&mut marks).is_empty());
    }
}
