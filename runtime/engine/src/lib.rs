//! The engine: WebAssembly components as the containers of a pod.
//!
//! [`Engine::load`] turns an image's file into [`Code`]: checked, compiled once and kept as machine code on disk.
//! [`Engine::run`] runs a command to its end; [`Engine::http`] makes an [`HttpContainer`] that answers each request
//! with a fresh instance and holds nothing in between. Both keep a container within its memory and CPU time, send what
//! it prints to its [`Output`] and give it the network of its pod, never the host's.
//!
//! Guests run on threads of their own and yield every millisecond, so that none of them delays another or the node.
//! A guest's failure is an [`Exit`], a state to report; [`CodeError`] and [`EngineError`] are ours.
//!
//! Refused here: host sockets, host environment, files outside the mounts, and anything a guest could make the host
//! hold without a bound (`limits`).
#![deny(unsafe_code)]

mod artefact;
mod call;
mod command;
mod compile;
mod component;
mod cpu;
mod exit;
mod guest;
mod http;
mod input;
mod inspect;
pub mod limits;
mod memory;
mod outgoing;
mod output;
mod parts;
mod pools;
mod priority;
mod proxy;
mod sockets;
mod threads;
mod ticker;
mod turns;
mod workers;

pub use artefact::{CodeSource, KeptCode};
pub use command::Running;
pub use compile::{COMPILE_COMMAND, compile_main};
pub use component::Code;
pub use exit::Exit;
pub use guest::{Accounts, Usage};
pub use http::HttpContainer;
pub use inspect::{CodeError, Kind};
pub use output::{Output, Stream};
pub use parts::{CodeCounts, EngineError};

use component::Codes;
use guest::Container;
use parts::Parts;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

/// How an [`Engine`] is made.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Where compiled code is kept: a directory of this process alone, created with mode 0700.
    pub cache_dir: PathBuf,
    /// Threads that run guests; 0 means one per CPU.
    pub threads: usize,
    /// Commands alive at once, at most [`limits::COMMANDS_MAX`].
    pub commands_max: u32,
    /// Requests being answered at once by all HTTP containers, at most [`limits::REQUEST_INSTANCES_MAX`].
    pub requests_max: u32,
    /// Bytes of memory all guests together may hold; who would exceed it is `OomKilled`. `None` leaves it to the
    /// containers' own limits.
    pub memory_max_bytes: Option<u64>,
    /// Whether components of WASI 0.3 are run: a young part of wasmtime, and of the standard.
    pub wasi_0_3: bool,
    /// The program that compiles in a process of its own: called as `PROGRAM compile-component WASM OUT SETTINGS`, it
    /// must end in [`compile_main`]. `None` compiles in this process.
    pub compiler: Option<PathBuf>,
    /// Who is asked for machine code before it is compiled here.
    pub source: Option<Arc<dyn CodeSource>>,
}

impl EngineConfig {
    /// The default engine with its cache in `cache_dir`.
    pub fn new(cache_dir: impl Into<PathBuf>) -> EngineConfig {
        EngineConfig {
            cache_dir: cache_dir.into(),
            threads: 0,
            commands_max: limits::COMMANDS_MAX,
            requests_max: limits::REQUEST_INSTANCES_MAX,
            memory_max_bytes: None,
            wasi_0_3: true,
            compiler: None,
            source: None,
        }
    }
}

/// A directory of the host inside a guest.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The directory on the host.
    pub host: PathBuf,
    /// Its path inside the guest.
    pub guest: String,
    /// Whether the guest may only read.
    pub read_only: bool,
}

/// What a container asks beyond Kubernetes' own fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Instructions (wasmtime's fuel) one run, or one request, may execute; needs code that was loaded metered.
    pub fuel: Option<u64>,
    /// Whether instances answer more than one request each. `None` is a fresh instance for every request.
    pub reuse: Option<Reuse>,
    /// Longest wait for the head of a response; `None` is [`limits::REQUEST_TIMEOUT`].
    pub request_timeout: Option<Duration>,
}

/// How far instances of an HTTP container are reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reuse {
    /// Requests one instance answers before it makes way for a fresh one.
    pub requests: u32,
    /// Instances that may wait for a next request, and for 0.3 that may exist at all.
    pub instances: u32,
    /// How long an instance waits for its next request.
    pub idle: Duration,
    /// Requests one instance answers at once. Only components of 0.3 can answer more than one.
    pub concurrency: u32,
}

impl Default for Reuse {
    fn default() -> Reuse {
        Reuse {
            requests: limits::REUSE_REQUESTS,
            instances: limits::REUSE_INSTANCES,
            idle: limits::REUSE_IDLE,
            concurrency: limits::REUSE_CONCURRENCY,
        }
    }
}

/// What a container is made of, beside its code.
#[derive(Clone)]
pub struct ContainerSpec {
    /// The container's name in its pod, for what we say about it.
    pub name: String,
    /// Arguments, the program's name first.
    pub args: Vec<String>,
    /// Environment, in order; nothing is inherited from the host.
    pub env: Vec<(String, String)>,
    /// Bytes of all memories and tables of all its instances together.
    pub memory_limit_bytes: Option<u64>,
    /// Thousandths of a CPU: its weight when containers want more than there is.
    pub cpu_request_millis: Option<u64>,
    /// Thousandths of a CPU it may use.
    pub cpu_limit_millis: Option<u64>,
    /// The only files it sees.
    pub mounts: Vec<Mount>,
    /// What it reads from stdin, if anything. One instance reads it: an HTTP component has none.
    pub input: Option<Arc<network::pipe::Reader>>,
    /// What is asked beyond Kubernetes' own fields.
    pub terms: Terms,
    /// Where its output goes.
    pub output: Arc<dyn Output>,
    /// Whether a person sits at the other end of all three: what `isatty` says.
    pub terminal: bool,
    /// The network of its pod.
    pub network: network::PodNet,
}

/// Runs components. Cheap to clone; the last clone to go, together with all code and containers, ends its threads.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    config: EngineConfig,
    parts: OnceCell<Arc<Parts>>,
    codes: Codes,
}

impl Engine {
    /// Makes an engine. Threads, address space and the linker come with the first component.
    ///
    /// # Errors
    /// When the cache directory cannot be made private to this user.
    pub fn new(config: EngineConfig) -> Result<Engine, EngineError> {
        compile::private_dir(&config.cache_dir)?;
        Ok(Engine { inner: Arc::new(Inner { config, parts: OnceCell::new(), codes: Codes::default() }) })
    }

    /// Checks and compiles the component in `path`, or finds it compiled. `digest` is its identity for the caller:
    /// loads of the same digest share one compilation and one result. `metered` code counts its instructions, for
    /// containers with a budget of them.
    ///
    /// # Errors
    /// [`CodeError`] is a sentence for the person who deployed it.
    pub async fn load(&self, digest: &str, path: &Path, metered: bool) -> Result<Arc<Code>, CodeError> {
        let cell = self.inner.codes.cell(digest, metered);
        let load = async {
            let parts = self.parts().await.map_err(|error| CodeError::Io(std::io::Error::other(error)))?;
            Code::load(parts, &self.inner.config, digest, path, metered).await.map(Arc::new)
        };
        cell.get_or_try_init(|| load).await.cloned()
    }

    /// Machine code that was compiled here or fetched, by the name a [`CodeSource`] is asked for; `None` when it is not here.
    /// Blocks.
    ///
    /// # Errors
    /// When the cache directory cannot be read.
    pub fn kept_code(&self, name: &str) -> std::io::Result<Option<KeptCode>> {
        artefact::kept(&self.inner.config.cache_dir, name)
    }

    /// How components came to their machine code since the engine began.
    pub fn code_counts(&self) -> CodeCounts {
        self.inner.parts.get().map(|parts| parts.counts.read()).unwrap_or_default()
    }

    /// Deletes the compiled code of components that are not kept, named by the 64 hexadecimal digits of their SHA-256. What
    /// runs goes on. Returns how many bytes that were. Blocks.
    ///
    /// # Errors
    /// When the cache directory cannot be read, or a file in it cannot be removed.
    pub fn remove_code(&self, is_kept: impl Fn(&str) -> bool) -> std::io::Result<u64> {
        artefact::remove_others(&self.inner.config.cache_dir, is_kept)
    }

    /// Runs a command to its end or until `stop`. Dropping the returned future ends it too.
    pub fn run(&self, code: &Arc<Code>, spec: ContainerSpec, stop: CancellationToken) -> Running {
        Running::start(Container::new(code, spec), stop)
    }

    /// Runs a command as a part of another container: what it uses is that container's, and so are the limits. Those of
    /// `spec` are not looked at.
    pub fn run_in(
        &self,
        accounts: &Accounts,
        code: &Arc<Code>,
        spec: ContainerSpec,
        stop: CancellationToken,
    ) -> Running {
        Running::start(Container::within(accounts, code, spec), stop)
    }

    /// An HTTP component at rest: it uses nothing but its entry here until a request comes.
    ///
    /// # Errors
    /// When `code` is a command.
    pub fn http(&self, code: &Arc<Code>, spec: ContainerSpec) -> Result<Arc<HttpContainer>, CodeError> {
        HttpContainer::new(Container::new(code, spec))
    }

    async fn parts(&self) -> Result<Arc<Parts>, EngineError> {
        let config = self.inner.config.clone();
        let build = || async {
            let built = tokio::task::spawn_blocking(move || Parts::new(&config)).await;
            built.map_err(|error| EngineError::Wasmtime(error.to_string()))?.map(Arc::new)
        };
        self.inner.parts.get_or_try_init(build).await.cloned()
    }
}
