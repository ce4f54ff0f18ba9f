//! For callers of which zone an endpoint is meant: its own (`trafficDistribution: PreferClose`, KEP-4444), or whichever has
//! too few for its processors (`service.kubernetes.io/topology-mode: Auto`, KEP-2433). Whether the hints are followed is
//! for the caller to see.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use api::{Object, View, meta};
use serde_json::{Value, json};

/// The label of a node that says in which zone it is.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Annotations of a Service that ask for shares by processors: the name of today, and of 1.26 and before.
const MODES: [&str; 2] = ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];
/// How many endpoints less than its share a zone may have before nobody is told to keep to their own, in percent (the
/// overload that KEP-2433 allows).
const OVERLOAD_PERCENT: u128 = 20;

/// Where a node is, if it says.
pub(crate) fn of(node: &Object) -> Option<&str> {
    node.value["metadata"]["labels"][ZONE].as_str().filter(|zone| !zone.is_empty())
}

/// Whether a Service's endpoints are shared out by the processors of the zones.
pub(crate) fn is_auto(service: &Object) -> bool {
    let annotations = &service.value["metadata"]["annotations"];
    MODES.iter().any(|name| matches!(annotations[*name].as_str(), Some("Auto" | "auto")))
}

/// What of a node the shares depend on: whether it is ready, and its processors in thousandths.
pub(crate) fn weight(node: &Object) -> Option<i64> {
    let cpu = node.field("status.allocatable.cpu");
    let cpu = cpu.as_str().and_then(Quantity::parse).map(|cpu| cpu.millis());
    cpu.filter(|_| meta::is_true(&node.value, "Ready"))
}

/// Writes the hints of all endpoints that a Service has in one family of addresses.
pub(crate) fn hint<'a>(view: &View, service: &Object, endpoints: impl Iterator<Item = &'a mut Value>) {
    let mut ready: Vec<&mut Value> = endpoints.filter(|one| one["conditions"]["ready"] == true).collect();
    let zones = if is_auto(service) {
        ready.sort_unstable_by(|one, other| one["addresses"][0].as_str().cmp(&other["addresses"][0].as_str()));
        let homes: Option<Vec<&str>> = ready.iter().map(|endpoint| endpoint["zone"].as_str()).collect();
        homes.and_then(|homes| shares(&processors(view)?, &homes)).unwrap_or_default()
    } else if service.field("spec.trafficDistribution") == "PreferClose" {
        ready.iter().map(|endpoint| endpoint["zone"].as_str().unwrap_or_default().to_owned()).collect()
    } else {
        return;
    };
    for (endpoint, zone) in ready.into_iter().zip(zones).filter(|(_, zone)| !zone.is_empty()) {
        endpoint["hints"] = json!({"forZones": [{ "name": zone }]});
    }
}

/// The processors of each zone; `None` where a ready node says neither where it is nor what it has.
fn processors(view: &View) -> Option<BTreeMap<String, u128>> {
    let mut zones = BTreeMap::new();
    for node in view.list("nodes").filter(|node| meta::is_true(&node.value, "Ready")) {
        let cpu = u128::try_from(weight(node)?).ok().filter(|cpu| *cpu > 0)?;
        *zones.entry(of(node)?.to_owned()).or_default() += cpu;
    }
    Some(zones)
}

/// The zone each endpoint is meant for, given the zones they are in; `None` where there are too few to give every zone about
/// its share, or only one zone.
fn shares(zones: &BTreeMap<String, u128>, homes: &[&str]) -> Option<Vec<String>> {
    let (total, count) = (zones.values().sum::<u128>(), homes.len() as u128);
    if zones.len() < 2 {
        return None;
    }
    // Whole shares first; what is left goes to whom it misses most.
    let whole = |cpu: u128| count * cpu / total;
    let mut by_rest: Vec<(&String, u128)> = zones.iter().map(|(name, cpu)| (name, count * cpu % total)).collect();
    by_rest.sort_by(|(_, one), (_, other)| other.cmp(one));
    let left = count - zones.values().map(|cpu| whole(*cpu)).sum::<u128>();
    let favoured = by_rest.iter().take(usize::try_from(left).ok()?).map(|(name, _)| *name);
    let mut wanted: BTreeMap<&str, u128> = zones.iter().map(|(name, cpu)| (name.as_str(), whole(*cpu))).collect();
    favoured.for_each(|name| *wanted.entry(name).or_default() += 1);
    let overloaded =
        |(name, cpu): (&String, &u128)| wanted[name.as_str()] * total * (100 + OVERLOAD_PERCENT) < count * cpu * 100;
    if zones.iter().any(overloaded) {
        return None;
    }
    let mut take = |zone: &str| {
        let room = wanted.get_mut(zone).filter(|room| **room > 0)?;
        *room -= 1;
        Some(zone.to_owned())
    };
    let stay: Vec<Option<String>> = homes.iter().map(|home| take(home)).collect();
    let mut others = wanted.into_iter().flat_map(|(zone, room)| (0..room).map(move |_| zone.to_owned()));
    Some(stay.into_iter().filter_map(|zone| zone.or_else(|| others.next())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_shared_out_by_processors() {
        let zones = |list: &[(&str, u128)]| list.iter().map(|(name, cpu)| ((*name).to_owned(), *cpu)).collect();
        let even = zones(&[("a", 2000), ("b", 2000)]);
        let uneven = zones(&[("a", 6000), ("b", 3000)]);
        let table = [
            // Everybody has enough of their own.
            (&even, &["a", "b"][..], Some("a b")),
            (&even, &["a", "a", "b", "b"], Some("a a b b")),
            // One zone gives to the other.
            (&even, &["a", "a", "a", "b"], Some("a a b b")),
            (&even, &["a", "a"], Some("a b")),
            (&uneven, &["b", "b", "b"], Some("b a a")),
            // An endpoint in a zone without nodes that are ready.
            (&even, &["c", "b"], Some("a b")),
            // Too few, or too uneven: a third too little for one of them.
            (&even, &["a"], None),
            (&even, &["a", "a", "b"], None),
            (&uneven, &["a", "b"], None),
            (&even, &[], Some("")),
            (&zones(&[("a", 2000)]), &["a", "a"], None),
            (&zones(&[]), &["a"], None),
        ];
        for (zones, homes, expected) in table {
            let found = shares(zones, homes).map(|zones| zones.join(" "));
            assert_eq!(found.as_deref(), expected, "{zones:?} {homes:?}");
        }
    }
}
