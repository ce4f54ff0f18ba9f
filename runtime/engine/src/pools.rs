//! Room for instances: one wasmtime engine with its pool and linkers for every way code can be compiled and used.
//!
//! Commands give their memory back when they end, requests leave theirs warm. Code of WASI 0.3 and code whose
//! instructions are counted is compiled otherwise and has pools of its own, made with the first that needs one.

use crate::guest::{self, Guest};
use crate::inspect::Kind;
use crate::parts::EngineError;
use crate::ticker::Ticker;
use crate::{EngineConfig, limits};
use std::sync::Arc;
use tokio::sync::OnceCell;
use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

/// How a component is compiled, beside what its bytes say. Part of what machine code is kept under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Settings {
    /// With the concurrency of WASI 0.3. Without it each instance is 6 KiB smaller and a young part of wasmtime is off.
    pub(crate) concurrent: bool,
    /// With its instructions counted, for a budget. Costs a fifth to a half beside epochs, so only who asks pays.
    pub(crate) metered: bool,
}

impl Settings {
    const ALL: [Settings; 4] = [
        Settings { concurrent: false, metered: false },
        Settings { concurrent: true, metered: false },
        Settings { concurrent: false, metered: true },
        Settings { concurrent: true, metered: true },
    ];

    /// How the compiler process is told.
    pub(crate) fn word(self) -> &'static str {
        match (self.concurrent, self.metered) {
            (false, false) => "plain",
            (true, false) => "concurrent",
            (false, true) => "metered",
            (true, true) => "concurrent-metered",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Settings> {
        Settings::ALL.into_iter().find(|settings| settings.word() == word)
    }

    fn place(self) -> usize {
        usize::from(self.concurrent) + 2 * usize::from(self.metered)
    }
}

/// Room for instances of one kind.
pub(crate) struct Pool {
    pub(crate) wasm: wasmtime::Engine,
    pub(crate) linker: Linker<Guest>,
    /// Whether its code counts its instructions.
    pub(crate) metered: bool,
}

/// All pools of an engine, each made when it is first needed.
pub(crate) struct Pools {
    commands: [OnceCell<Arc<Pool>>; 4],
    requests: [OnceCell<Arc<Pool>>; 4],
    commands_max: u32,
    requests_max: u32,
}

impl Pools {
    pub(crate) fn new(config: &EngineConfig) -> Pools {
        Pools {
            commands: Default::default(),
            requests: Default::default(),
            commands_max: config.commands_max,
            requests_max: config.requests_max,
        }
    }

    /// Where code of this kind and these settings runs.
    pub(crate) async fn of(
        &self,
        kind: Kind,
        settings: Settings,
        ticker: &Arc<Ticker>,
    ) -> Result<Arc<Pool>, EngineError> {
        let cells = match kind {
            Kind::Command => &self.commands,
            Kind::HttpProxy => &self.requests,
        };
        let (commands, requests) = match settings {
            Settings { concurrent: false, metered: false } => (self.commands_max, self.requests_max),
            _ => (
                self.commands_max.min(limits::SPECIAL_COMMANDS_MAX),
                self.requests_max.min(limits::SPECIAL_REQUESTS_MAX),
            ),
        };
        let make = || async {
            let made = tokio::task::spawn_blocking(move || match kind {
                Kind::Command => Pool::of_commands(settings, commands),
                Kind::HttpProxy => Pool::new(settings, code_config(settings), pool_of_requests(requests)),
            });
            let pool = made.await.map_err(|error| EngineError::Wasmtime(error.to_string()))??;
            ticker.tell(pool.wasm.clone());
            Ok(Arc::new(pool))
        };
        cells[settings.place()].get_or_try_init(make).await.cloned()
    }
}

/// What decides the machine code: the same here and in the compiler process.
pub(crate) fn code_config(settings: Settings) -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.epoch_interruption(true);
    config.wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Enable);
    config.concurrency_support(settings.concurrent);
    config.wasm_component_model_async(settings.concurrent);
    config.consume_fuel(settings.metered);
    config
}

impl Pool {
    fn of_commands(settings: Settings, instances: u32) -> Result<Pool, EngineError> {
        let mut giving_back = code_config(settings);
        // Also hands a fiber's stack back to the kernel: 32 KiB for each command that ever ran at once with others.
        giving_back.async_stack_zeroing(true);
        Pool::new(settings, giving_back, pool_of_commands(instances))
    }

    fn new(settings: Settings, mut config: Config, pool: PoolingAllocationConfig) -> Result<Pool, EngineError> {
        let refused = |error: wasmtime::Error| EngineError::Wasmtime(format!("{error:#}"));
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let wasm = match wasmtime::Engine::new(&config) {
            Ok(engine) => engine,
            Err(error) => {
                tracing::warn!(%error, "no room for a pool of instances; each will be allocated on its own");
                wasmtime::Engine::new(&code_config(settings)).map_err(refused)?
            }
        };
        let linker = guest::linker(&wasm, settings.concurrent).map_err(refused)?;
        Ok(Pool { wasm, linker, metered: settings.metered })
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{DefaultHasher, Hash, Hasher};

    #[test]
    fn settings_are_told_in_a_word() {
        for settings in Settings::ALL {
            assert_eq!(Settings::parse(settings.word()), Some(settings));
            assert_eq!(Settings::ALL[settings.place()], settings);
        }
        assert_eq!(Settings::parse("fast"), None);
    }

    #[tokio::test]
    async fn the_compiler_process_makes_what_this_process_runs_and_nothing_else() {
        let config = EngineConfig { commands_max: 4, requests_max: 4, ..EngineConfig::new("unused") };
        let (pools, ticker) = (Pools::new(&config), Ticker::start().unwrap());
        let hash = |engine: &wasmtime::Engine| {
            let mut hasher = DefaultHasher::new();
            engine.precompile_compatibility_hash().hash(&mut hasher);
            hasher.finish()
        };
        let mut seen = Vec::new();
        for settings in Settings::ALL {
            let alone = hash(&wasmtime::Engine::new(&code_config(settings)).unwrap());
            assert!(!seen.contains(&alone), "code of other settings would be taken for it");
            seen.push(alone);
            for kind in [Kind::Command, Kind::HttpProxy] {
                assert_eq!(hash(&pools.of(kind, settings, &ticker).await.unwrap().wasm), alone);
            }
        }
        ticker.stop();
    }
}
