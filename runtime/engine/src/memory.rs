//! Memory of a container: one account for all memories and tables of all its instances.
//!
//! A growth beyond the limit ends the instance with [`OomKilled`], as the kernel ends a process: Kubernetes users look
//! for that word. All containers of a node are part of one account, so that those without a limit of their own cannot
//! take the host down. What the *host* holds for a guest (pipes, headers, bodies) is bounded one by one in `limits`.

use crate::limits;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use wasmtime::ResourceLimiter;

/// The error that ends an instance which grew beyond its container's limit.
#[derive(Debug)]
pub(crate) struct OomKilled {
    wanted: u64,
    limit: u64,
    /// Alone, the instance would have fitted: what is full is full of others.
    crowded: bool,
}

/// Whether an instance ended for want of memory that others of its container, or of the node, hold. Where instances
/// answer requests that is too much at once, not a fault.
pub(crate) fn is_crowded(error: &wasmtime::Error) -> bool {
    error.downcast_ref::<OomKilled>().is_some_and(|killed| killed.crowded)
}

impl fmt::Display for OomKilled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of memory are more than the limit of {} bytes", self.wanted, self.limit)
    }
}

impl std::error::Error for OomKilled {}

/// What all instances of a container hold together, as a part of what all containers of the node hold.
#[derive(Debug)]
pub(crate) struct Account {
    limit: u64,
    used: AtomicU64,
    node: Option<Arc<Account>>,
}

impl Account {
    /// The account of all guests of a node.
    pub(crate) fn of_node(limit: Option<u64>) -> Arc<Account> {
        Arc::new(Account { limit: limit.unwrap_or(u64::MAX), used: AtomicU64::new(0), node: None })
    }

    /// The account of a container.
    pub(crate) fn new(limit: Option<u64>, node: &Arc<Account>) -> Arc<Account> {
        let limit = limit.unwrap_or(u64::MAX);
        Arc::new(Account { limit, used: AtomicU64::new(0), node: Some(node.clone()) })
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> Result<(), OomKilled> {
        let grown = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown) {
            Ok(_) => match self.node.as_ref().map_or(Ok(()), |node| node.take(bytes)) {
                Ok(()) => Ok(()),
                Err(full) => {
                    self.used.fetch_sub(bytes, Ordering::Relaxed);
                    Err(full)
                }
            },
            Err(used) => Err(OomKilled { wanted: used.saturating_add(bytes), limit: self.limit, crowded: false }),
        }
    }

    fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(node) = &self.node {
            node.give(bytes);
        }
    }
}

/// One instance's share of its container's account, given back when the instance goes.
#[derive(Debug)]
pub(crate) struct Ledger {
    account: Arc<Account>,
    held: u64,
    /// The last growth granted, taken back if the growth itself fails.
    last: u64,
}

impl Ledger {
    pub(crate) fn new(account: Arc<Account>) -> Ledger {
        Ledger { account, held: 0, last: 0 }
    }

    /// Grants a growth, refuses one beyond the guest's own declared maximum (it sees -1 and may go on), and ends the
    /// instance for one beyond the container's limit.
    fn grow(&mut self, current: usize, desired: usize, maximum: Option<usize>, unit: u64) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            self.last = 0;
            return Ok(false);
        }
        let bytes = (desired.saturating_sub(current) as u64).saturating_mul(unit);
        let crowded = self.held.saturating_add(bytes) <= self.account.limit;
        let taken = self.account.take(bytes);
        taken.map_err(|killed| wasmtime::Error::new(OomKilled { crowded, ..killed }))?;
        self.held += bytes;
        self.last = bytes;
        Ok(true)
    }

    fn take_back(&mut self) {
        let bytes = std::mem::take(&mut self.last);
        self.held -= bytes;
        self.account.give(bytes);
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.account.give(self.held);
    }
}

impl ResourceLimiter for Ledger {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(current, desired, maximum, 1)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let maximum = maximum.unwrap_or(usize::MAX).min(limits::TABLE_ELEMENTS_MAX);
        self.grow(current, desired, Some(maximum), limits::TABLE_ELEMENT_BYTES)
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn instances(&self) -> usize {
        limits::CORE_INSTANCES_PER_COMPONENT_MAX as usize
    }

    fn tables(&self) -> usize {
        limits::TABLES_PER_COMPONENT_MAX as usize
    }

    fn memories(&self) -> usize {
        limits::MEMORIES_PER_COMPONENT_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_share_the_limit_of_their_container() {
        let account = Account::new(Some(100), &Account::of_node(None));
        let mut first = Ledger::new(account.clone());
        let mut second = Ledger::new(account.clone());
        assert!(first.memory_growing(0, 60, None).unwrap());
        assert!(second.memory_growing(0, 40, None).unwrap());
        let error = second.memory_growing(40, 41, None).unwrap_err();
        assert!(error.downcast_ref::<OomKilled>().is_some() && is_crowded(&error));
        let error = second.memory_growing(40, 101, None).unwrap_err();
        assert!(!is_crowded(&error), "more than the limit even if it were alone");
        drop(first);
        assert!(second.memory_growing(40, 100, None).unwrap(), "what the first gave back is free again");
        drop(second);
        assert_eq!(account.used(), 0);
    }

    #[test]
    fn containers_without_a_limit_share_what_the_node_has() {
        let node = Account::of_node(Some(100));
        let (one, other) = (Account::new(None, &node), Account::new(Some(50), &node));
        let mut hungry = Ledger::new(one.clone());
        assert!(hungry.memory_growing(0, 80, None).unwrap());
        assert!(Ledger::new(other.clone()).memory_growing(0, 30, None).is_err());
        assert_eq!((one.used(), other.used(), node.used()), (80, 0, 80));
        drop(hungry);
        assert!(Ledger::new(other).memory_growing(0, 30, None).unwrap());
        assert_eq!(node.used(), 0);
    }

    #[test]
    fn a_guest_may_try_to_exceed_its_own_maximum() {
        let account = Account::new(Some(1000), &Account::of_node(None));
        let mut ledger = Ledger::new(account.clone());
        assert!(!ledger.memory_growing(10, 30, Some(20)).unwrap());
        assert_eq!(account.used(), 0);
    }

    #[test]
    fn a_growth_that_fails_is_not_charged() {
        let account = Account::new(None, &Account::of_node(None));
        let mut ledger = Ledger::new(account.clone());
        assert!(ledger.memory_growing(0, 50, None).unwrap());
        assert!(ledger.table_growing(0, 4, None).unwrap());
        assert_eq!(account.used(), 50 + 4 * limits::TABLE_ELEMENT_BYTES);
        ledger.table_grow_failed(wasmtime::Error::msg("no room")).unwrap();
        assert_eq!(account.used(), 50);
    }
}
