//! The heavy parts of an engine: the pools of instances, the guests' threads and their clock.

use crate::inspect::Kind;
use crate::memory::Account;
use crate::pools::{Pool, Pools, Settings};
use crate::threads::Threads;
use crate::ticker::Ticker;
use crate::{EngineConfig, limits};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;

/// Why there is no engine. All of them are the node's trouble, not the guest's.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The cache directory cannot be used.
    #[error("the code cache {} cannot be used: {error}", path.display())]
    Cache {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Threads cannot be started.
    #[error("guest threads cannot be started: {0}")]
    Threads(#[from] std::io::Error),
    /// wasmtime refused its configuration or this machine.
    #[error("the WebAssembly engine cannot start: {0}")]
    Wasmtime(String),
}

/// How many components were compiled, and how many came as machine code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodeCounts {
    /// Compiled here, or tried to be.
    pub compiled: u64,
    /// Had from a [`CodeSource`](crate::CodeSource).
    pub fetched: u64,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) compiled: AtomicU64,
    pub(crate) fetched: AtomicU64,
}

impl Counts {
    pub(crate) fn read(&self) -> CodeCounts {
        CodeCounts { compiled: self.compiled.load(Ordering::Relaxed), fetched: self.fetched.load(Ordering::Relaxed) }
    }
}

/// Shared by all code and containers of an engine.
pub(crate) struct Parts {
    pools: Pools,
    ticker: Arc<Ticker>,
    pub(crate) threads: Threads,
    /// What all guests hold together.
    pub(crate) memory: Arc<Account>,
    pub(crate) compilations: Semaphore,
    pub(crate) counts: Counts,
    /// Instances that wait for their next request, on the whole node.
    pub(crate) resting: Arc<Semaphore>,
}

impl Parts {
    pub(crate) fn new(config: &EngineConfig) -> Result<Parts, EngineError> {
        let ticker = Ticker::start()?;
        let threads = Threads::start(config.threads, ticker.clone())?;
        Ok(Parts {
            pools: Pools::new(config),
            ticker,
            threads,
            memory: Account::of_node(config.memory_max_bytes),
            counts: Counts::default(),
            compilations: Semaphore::new(limits::COMPILATIONS_MAX),
            resting: Arc::new(Semaphore::new(limits::RESTING_INSTANCES_MAX)),
        })
    }

    /// Where code of this kind and these settings runs.
    pub(crate) async fn pool(&self, kind: Kind, settings: Settings) -> Result<Arc<Pool>, EngineError> {
        self.pools.of(kind, settings, &self.ticker).await
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.ticker.stop();
    }
}
