//! What the driver has heard of nodes, and when, on its own clock: what a node writes into its Lease is another machine's
//! time and decides nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::View;

use crate::limits::{CONTACT_GRACE_MS, NODE_GRACE_MS};

/// Signs of life of nodes. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Since when the driver listens without a pause. Silence before that means nothing: the driver was not there, or
    /// the machine slept.
    pub since_ms: i64,
    /// When each node's Lease was last seen to change.
    pub renewed: HashMap<String, i64>,
    /// When the connection of each node ended that has none now.
    pub lost: Arc<BTreeMap<String, i64>>,
}

impl Heard {
    /// When a node is lost unless something is heard of it before.
    ///
    /// A connection that ended is news of a process or a machine that died, and believed quickly, unless more than half
    /// of the nodes went at the same time: then it is rather this member that is cut off, and silence decides.
    pub(crate) fn due(&self, view: &View, node: &str) -> i64 {
        let silent = self.renewed.get(node).copied().unwrap_or(0).max(self.since_ms) + NODE_GRACE_MS;
        let Some(lost_ms) = self.lost.get(node) else { return silent };
        let together = |(other, at_ms): &(&String, &i64)| {
            at_ms.abs_diff(*lost_ms) < NODE_GRACE_MS.unsigned_abs() && view.get("nodes", "", other).is_some()
        };
        if self.lost.iter().filter(together).count() * 2 > view.count("nodes") {
            return silent;
        }
        (lost_ms.max(&self.since_ms) + CONTACT_GRACE_MS).min(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::{ChangeKind, Key, Object};
    use serde_json::json;

    fn view(nodes: &[&str]) -> View {
        let mut view = View::default();
        for node in nodes {
            let object = Object::new(Key::new("nodes", "", *node), 1, json!({"metadata": {"name": node}}));
            view.apply(ChangeKind::Added, &Arc::new(object));
        }
        view
    }

    fn heard(since_ms: i64, renewed: &[(&str, i64)], lost: &[(&str, i64)]) -> Heard {
        Heard {
            since_ms,
            renewed: renewed.iter().map(|(node, at)| ((*node).to_owned(), *at)).collect(),
            lost: Arc::new(lost.iter().map(|(node, at)| ((*node).to_owned(), *at)).collect()),
        }
    }

    #[test]
    fn when_a_node_is_lost() {
        let three = view(&["a", "b", "c"]);
        for (what, heard, due) in [
            ("it renews", heard(0, &[("a", 100_000)], &[]), 100_000 + NODE_GRACE_MS),
            ("nothing was ever heard of it", heard(500, &[], &[]), 500 + NODE_GRACE_MS),
            ("the driver slept since", heard(900_000, &[("a", 100_000)], &[]), 900_000 + NODE_GRACE_MS),
            ("its process died", heard(0, &[("a", 100_000)], &[("a", 101_000)]), 101_000 + CONTACT_GRACE_MS),
            ("it was lost before the driver listened", heard(5_000, &[], &[("a", 1_000)]), 5_000 + CONTACT_GRACE_MS),
            ("another one died", heard(0, &[("a", 100_000)], &[("b", 101_000)]), 100_000 + NODE_GRACE_MS),
            (
                "most went at once",
                heard(0, &[("a", 100_000)], &[("a", 101_000), ("b", 101_100)]),
                100_000 + NODE_GRACE_MS,
            ),
            (
                "one after the other",
                heard(0, &[("a", 100_000)], &[("a", 101_000), ("b", 1_000)]),
                101_000 + CONTACT_GRACE_MS,
            ),
            (
                "those that are no nodes any more do not count",
                heard(0, &[("a", 100_000)], &[("a", 101_000), ("x", 101_100)]),
                101_000 + CONTACT_GRACE_MS,
            ),
        ] {
            assert_eq!(heard.due(&three, "a"), due, "{what}");
        }
        let alone = heard(0, &[("a", 100_000)], &[("a", 101_000)]);
        assert_eq!(alone.due(&view(&["a"]), "a"), 100_000 + NODE_GRACE_MS, "the only node has nowhere to be replaced");
    }
}
