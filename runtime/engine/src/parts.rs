//! The heavy parts of an engine: wasmtime with its pool, the linker, the guests' threads and their clock.

use crate::guest::{self, Guest};
use crate::ticker::Ticker;
use crate::{EngineConfig, limits};
use std::future::Future;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use wasmtime::component::Linker;
use wasmtime::{Config, InstanceAllocationStrategy, PoolingAllocationConfig};

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

/// Shared by all code and containers of an engine.
pub(crate) struct Parts {
    pub(crate) wasm: wasmtime::Engine,
    pub(crate) linker: Linker<Guest>,
    pub(crate) ticker: Arc<Ticker>,
    pub(crate) compilations: Semaphore,
    /// Only `None` while being dropped.
    runtime: Option<Runtime>,
}

impl Parts {
    pub(crate) fn new(config: &EngineConfig) -> Result<Parts, EngineError> {
        let refused = |error: wasmtime::Error| EngineError::Wasmtime(format!("{error:#}"));
        let wasm = match wasmtime::Engine::new(&pooled(config.instances_max)) {
            Ok(engine) => engine,
            Err(error) => {
                tracing::warn!(%error, "no room for a pool of instances; each will be allocated on its own");
                wasmtime::Engine::new(&code_config()).map_err(refused)?
            }
        };
        let linker = guest::linker(&wasm).map_err(refused)?;
        let ticker = Ticker::start(wasm.clone())?;
        let runtime = guest_runtime(config.threads)?;
        let compilations = Semaphore::new(limits::COMPILATIONS_MAX);
        Ok(Parts { wasm, linker, ticker, compilations, runtime: Some(runtime) })
    }

    /// Spawns onto the guests' threads.
    pub(crate) fn spawn<F>(&self, guest: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.runtime.as_ref().expect("the runtime is taken only by drop").spawn(guest)
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        self.ticker.stop();
        if let Some(runtime) = self.runtime.take() {
            // The last owner may be a task of this very runtime or of another: neither may block.
            runtime.shutdown_background();
        }
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

/// The pool reserves address space only: memory is used by what runs, plus what stays warm.
fn pooled(instances_max: u32) -> Config {
    let instances = instances_max.clamp(1, limits::INSTANCES_MAX);
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(instances)
        .total_stacks(instances)
        .total_memories(instances)
        .total_tables(instances.saturating_mul(3))
        .total_core_instances(instances.saturating_mul(4))
        .max_core_instances_per_component(limits::CORE_INSTANCES_PER_COMPONENT_MAX)
        .max_memories_per_component(limits::MEMORIES_PER_COMPONENT_MAX)
        .max_tables_per_component(limits::TABLES_PER_COMPONENT_MAX)
        .table_elements(limits::TABLE_ELEMENTS_MAX)
        .max_unused_warm_slots(limits::WARM_SLOTS_MAX)
        .linear_memory_keep_resident(limits::WARM_MEMORY_BYTES)
        .table_keep_resident(limits::WARM_TABLE_BYTES);
    let mut config = code_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// Threads for guests only. Guests yield but are seldom idle, so a worker looks at timers and at its neighbours' work
/// after every poll; tokio's default of 61 polls would be 61 ms.
fn guest_runtime(threads: usize) -> std::io::Result<Runtime> {
    let cpus = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Builder::new_multi_thread()
        .worker_threads(if threads == 0 { cpus } else { threads })
        .max_blocking_threads(limits::BLOCKING_THREADS_MAX)
        .thread_keep_alive(Duration::from_secs(5))
        .thread_name("guest")
        .event_interval(1)
        .global_queue_interval(1)
        .enable_all()
        .build()
}
