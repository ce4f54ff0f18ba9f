//! The heavy parts of an engine: wasmtime with its pools, the linkers, the guests' threads and their clock.

use crate::component::Kind;
use crate::guest::{self, Guest};
use crate::memory::Account;
use crate::threads::Threads;
use crate::ticker::Ticker;
use crate::{EngineConfig, limits};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Semaphore;
use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

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

/// Room for instances of one kind: commands give their memory back when they end, requests leave theirs warm.
pub(crate) struct Pool {
    pub(crate) wasm: wasmtime::Engine,
    pub(crate) linker: Linker<Guest>,
}

/// Shared by all code and containers of an engine.
pub(crate) struct Parts {
    commands: Pool,
    requests: Pool,
    ticker: Arc<Ticker>,
    pub(crate) threads: Threads,
    /// What all guests hold together.
    pub(crate) memory: Arc<Account>,
    pub(crate) compilations: Semaphore,
}

impl Parts {
    pub(crate) fn new(config: &EngineConfig) -> Result<Parts, EngineError> {
        let mut giving_back = code_config();
        // Also hands a fiber's stack back to the kernel: 32 KiB for each command that ever ran at once with others.
        giving_back.async_stack_zeroing(true);
        let commands = Pool::new(giving_back, pool_of_commands(config.commands_max))?;
        let requests = Pool::new(code_config(), pool_of_requests(config.requests_max))?;
        let ticker = Ticker::start([commands.wasm.clone(), requests.wasm.clone()])?;
        let threads = Threads::start(config.threads, ticker.clone())?;
        let memory = Account::of_node(config.memory_max_bytes);
        let compilations = Semaphore::new(limits::COMPILATIONS_MAX);
        Ok(Parts { commands, requests, ticker, threads, memory, compilations })
    }

    /// Where components of this kind run.
    pub(crate) fn pool(&self, kind: Kind) -> &Pool {
        match kind {
            Kind::Command => &self.commands,
            Kind::HttpProxy => &self.requests,
        }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.ticker.stop();
    }
}

/// What decides the machine code: the same here and in the compiler process.
pub(crate) fn code_config() -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.epoch_interruption(true);
    config.wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Enable);
    // Only the 0.3 interfaces need it; without it each instance is 6 KiB smaller and a young part of wasmtime is off.
    config.concurrency_support(false);
    config.wasm_component_model_async(false);
    config
}

impl Pool {
    fn new(mut config: Config, pool: PoolingAllocationConfig) -> Result<Pool, EngineError> {
        let refused = |error: wasmtime::Error| EngineError::Wasmtime(format!("{error:#}"));
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let wasm = match wasmtime::Engine::new(&config) {
            Ok(engine) => engine,
            Err(error) => {
                tracing::warn!(%error, "no room for a pool of instances; each will be allocated on its own");
                wasmtime::Engine::new(&code_config()).map_err(refused)?
            }
        };
        let linker = guest::linker(&wasm).map_err(refused)?;
        Ok(Pool { wasm, linker })
    }
}

/// A pool reserves address space only: memory is used by what runs.
fn pool_of_commands(instances: u32) -> PoolingAllocationConfig {
    let instances = instances.clamp(1, limits::COMMANDS_MAX);
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(instances)
        .total_stacks(instances)
        .total_memories(instances)
        .total_tables(instances.saturating_mul(3))
        .total_core_instances(instances.saturating_mul(4))
        .max_core_instances_per_component(limits::CORE_INSTANCES_PER_COMPONENT_MAX)
        .max_memories_per_component(limits::MEMORIES_PER_COMPONENT_MAX)
        .max_tables_per_component(limits::TABLES_PER_COMPONENT_MAX)
        .table_elements(limits::TABLE_ELEMENTS_MAX);
    pool
}

/// As for commands, and what the last instance of a component used stays warm for the next. That needs a kernel that
/// tells which pages were written (Linux 6.7): clearing the others would make them resident.
fn pool_of_requests(instances: u32) -> PoolingAllocationConfig {
    let mut pool = pool_of_commands(instances.min(limits::REQUEST_INSTANCES_MAX));
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Yes)
            .max_unused_warm_slots(limits::WARM_SLOTS_MAX)
            .linear_memory_keep_resident(limits::WARM_MEMORY_BYTES)
            .table_keep_resident(limits::WARM_TABLE_BYTES);
    }
    pool
}
