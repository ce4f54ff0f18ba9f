//! What stands behind an instance: its view of the host, and the container it belongs to.
//!
//! Every interface is linked one by one. wasmtime's own `wasi:sockets` would open host sockets and is never linked;
//! `sockets` puts the pod's network in its place.

use crate::component::{Code, Pre};
use crate::cpu::Meter;
use crate::exit::Exit;
use crate::input::Source;
use crate::memory::{Account, Ledger};
use crate::outgoing::Outgoing;
use crate::output::{LastWords, Pipe, Stream};
use crate::{ContainerSpec, limits, sockets};
use std::sync::Arc;
use tokio::sync::Semaphore;
use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::cli::{WasiCli, WasiCliView};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::bindings::{cli, clocks, filesystem, random};
use wasmtime_wasi::p3;
use wasmtime_wasi::random::WasiRandom;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttp, WasiHttpCtx, WasiHttpCtxView, WasiHttpView};
use wasmtime_wasi_io::bindings::wasi::io;

/// What a container has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since it was made, in nanoseconds.
    pub cpu_nanos: u64,
    /// Bytes of memory its instances hold now.
    pub memory_bytes: u64,
}

/// What a container may use and has used. Clones are the same accounts.
#[derive(Clone)]
pub struct Accounts {
    meter: Arc<Meter>,
    memory: Arc<Account>,
    outgoing: Arc<Semaphore>,
}

impl Accounts {
    /// What everything that runs on these accounts has used together.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage { cpu_nanos: self.meter.used_nanos(), memory_bytes: self.memory.used() }
    }
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

/// A container: the accounts and settings all its instances share.
pub(crate) struct Container {
    pub(crate) code: Arc<Code>,
    pub(crate) spec: ContainerSpec,
    pub(crate) meter: Arc<Meter>,
    memory: Arc<Account>,
    outgoing: Arc<Semaphore>,
}

impl Container {
    pub(crate) fn new(code: &Arc<Code>, spec: ContainerSpec) -> Arc<Container> {
        let accounts = Accounts {
            meter: Meter::new(spec.cpu_request_millis, spec.cpu_limit_millis),
            memory: Account::new(spec.memory_limit_bytes, &code.parts().memory),
            outgoing: Arc::new(Semaphore::new(limits::OUTGOING_MAX)),
        };
        Container::within(&accounts, code, spec)
    }

    /// A container on the accounts of another one.
    pub(crate) fn within(accounts: &Accounts, code: &Arc<Code>, spec: ContainerSpec) -> Arc<Container> {
        let Accounts { meter, memory, outgoing } = accounts.clone();
        Arc::new(Container { code: code.clone(), spec, meter, memory, outgoing })
    }

    pub(crate) fn accounts(&self) -> Accounts {
        Accounts { meter: self.meter.clone(), memory: self.memory.clone(), outgoing: self.outgoing.clone() }
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage { cpu_nanos: self.meter.used_nanos(), memory_bytes: self.memory.used() }
    }

    /// Says something about the guest where its user looks for it.
    pub(crate) fn note(&self, text: &str) {
        for piece in text.as_bytes().chunks(limits::CHUNK_BYTES_MAX) {
            self.spec.output.write(Stream::Stderr, piece);
        }
    }

    /// A store for one new instance.
    pub(crate) fn store(&self) -> wasmtime::Result<Store<Guest>> {
        let said = LastWords::default();
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits::HOST_RESOURCES_MAX);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(limits::HEADER_BYTES_MAX);
        let mut builder = self.wasi(&said)?;
        let (wasi, preview_1) = match self.code.pre() {
            Pre::Module(_) => {
                let mut preview_1 = builder.build_p1();
                preview_1.ctx().table.set_max_capacity(limits::HOST_RESOURCES_MAX);
                (WasiCtx::default(), Some(Box::new(preview_1)))
            }
            _ => (builder.build(), None),
        };
        let guest = Guest {
            table,
            wasi,
            preview_1,
            said,
            http,
            outgoing: Outgoing::new(self.spec.network.clone(), self.outgoing.clone()),
            sockets: sockets::State::new(self.spec.network.clone(), self.meter.clone()),
            fuel: self.spec.terms.fuel,
            memory: Ledger::new(self.memory.clone()),
        };
        let mut store = Store::new(&self.code.pool().wasm, guest);
        // What is run inside a container beside its own code counts no instructions.
        if let Some(fuel) = self.spec.terms.fuel.filter(|_| self.code.pool().metered) {
            store.set_fuel(fuel)?;
        }
        store.limiter(|guest| &mut guest.memory);
        store.set_max_component_handles(limits::HANDLES_MAX);
        store.set_hostcall_fuel(limits::HOSTCALL_BYTES_MAX);
        store.epoch_deadline_async_yield_and_update(limits::SLICE_TICKS);
        store.set_epoch_deadline(limits::SLICE_TICKS);
        Ok(store)
    }

    fn wasi(&self, said: &LastWords) -> wasmtime::Result<WasiCtxBuilder> {
        let mut wasi = WasiCtx::builder();
        wasi.args(&self.spec.args).envs(&self.spec.env).max_random_size(limits::RANDOM_BYTES_MAX);
        let terminal = self.spec.terminal;
        if let Some(input) = &self.spec.input {
            wasi.stdin(Source::new(input.clone(), terminal));
        }
        let stdout = Pipe::stdout(self.spec.output.clone(), self.meter.clone(), terminal);
        wasi.stderr(stdout.clone().with_words(said.clone()));
        wasi.stdout(stdout);
        for mount in self.spec.mounts.iter().filter(|_| self.code.sees_files()) {
            let permissions = if mount.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
            wasi.preopened_dir(&mount.host, &mount.guest, permissions).map_err(|error| {
                wasmtime::Error::msg(format!(
                    "{} cannot be mounted at {}: {error:#}",
                    mount.host.display(),
                    mount.guest
                ))
            })?;
        }
        Ok(wasi)
    }
}

/// The host's side of one instance.
pub(crate) struct Guest {
    // Fields go in this order: resources before the accounts they are charged to.
    table: ResourceTable,
    wasi: WasiCtx,
    /// A core module's view of the host, in place of the other.
    preview_1: Option<Box<WasiP1Ctx>>,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    sockets: sockets::State,
    said: LastWords,
    /// Its budget, for what is said about it.
    fuel: Option<u64>,
    memory: Ledger,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: &mut self.table, ctx: &mut self.http }
    }
}

impl Guest {
    /// How it ended, from the error a call into it came back with.
    pub(crate) fn exit(&self, error: &wasmtime::Error) -> Exit {
        Exit::from_error(error, &self.said.text(), self.fuel)
    }

    /// A new request begins: what was said before explains nothing any more.
    pub(crate) fn forget_words(&mut self) {
        self.said.clear();
    }

    /// A component asks for none; whoever asks finds an empty world.
    fn preview_1(&mut self) -> &mut WasiP1Ctx {
        self.preview_1.get_or_insert_with(|| Box::new(WasiCtx::builder().build_p1()))
    }

    fn sockets(&mut self) -> sockets::View<'_> {
        sockets::View { state: &mut self.sockets, table: &mut self.table }
    }
}

struct HasTable;

impl HasData for HasTable {
    type Data<'a> = &'a mut ResourceTable;
}

/// Everything a core module may import: the files, streams, clocks and random numbers of WASI's first preview, which knows no
/// network.
pub(crate) fn module_linker(engine: &Engine) -> wasmtime::Result<wasmtime::Linker<Guest>> {
    let mut linker = wasmtime::Linker::new(engine);
    p1::add_to_linker_async(&mut linker, Guest::preview_1)?;
    Ok(linker)
}

/// Everything a component may import: what `inspect::OFFERED` names, and `OFFERED_0_3` if it is of WASI 0.3.
pub(crate) fn linker(engine: &Engine, concurrent: bool) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    link_0_2(&mut linker)?;
    if concurrent {
        link_0_3(&mut linker)?;
    }
    Ok(linker)
}

fn link_0_3(l: &mut Linker<Guest>) -> wasmtime::Result<()> {
    p3::cli::add_to_linker(l)?;
    p3::clocks::add_to_linker(l)?;
    p3::filesystem::add_to_linker(l)?;
    p3::random::add_to_linker(l)?;
    wasmtime_wasi_http::p3::add_to_linker(l)
}

fn link_0_2(l: &mut Linker<Guest>) -> wasmtime::Result<()> {
    io::error::add_to_linker::<Guest, HasTable>(l, |guest| &mut guest.table)?;
    io::poll::add_to_linker::<Guest, HasTable>(l, |guest| &mut guest.table)?;
    io::streams::add_to_linker::<Guest, HasTable>(l, |guest| &mut guest.table)?;
    clocks::wall_clock::add_to_linker::<Guest, WasiClocks>(l, Guest::clocks)?;
    clocks::monotonic_clock::add_to_linker::<Guest, WasiClocks>(l, Guest::clocks)?;
    random::random::add_to_linker::<Guest, WasiRandom>(l, |guest| guest.wasi.random())?;
    random::insecure::add_to_linker::<Guest, WasiRandom>(l, |guest| guest.wasi.random())?;
    random::insecure_seed::add_to_linker::<Guest, WasiRandom>(l, |guest| guest.wasi.random())?;
    cli::environment::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::exit::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::stdin::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::stdout::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::stderr::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_input::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_output::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_stdin::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_stdout::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    cli::terminal_stderr::add_to_linker::<Guest, WasiCli>(l, Guest::cli)?;
    filesystem::preopens::add_to_linker::<Guest, WasiFilesystem>(l, Guest::filesystem)?;
    filesystem::types::add_to_linker::<Guest, WasiFilesystem>(l, Guest::filesystem)?;
    sockets::add_to_linker(l, Guest::sockets)?;
    let options = wasmtime_wasi_http::p2::bindings::LinkOptions::default();
    wasmtime_wasi_http::p2::bindings::http::outgoing_handler::add_to_linker::<_, WasiHttp>(l, Guest::http)?;
    wasmtime_wasi_http::p2::bindings::http::types::add_to_linker::<_, WasiHttp>(l, &(&options).into(), Guest::http)
}
