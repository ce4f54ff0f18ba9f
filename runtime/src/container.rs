//! One container: from its image to running code, and to its end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::quantity::Quantity;
use engine::{Accounts, Code, CodeError, ContainerSpec, HttpContainer, Kind, Output, Running, Stream};
use image::Resolved;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as k8s;
use network::{HttpBinding, HttpService, ServiceTable};
use pod::Exit;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::console::Console;
use crate::environment::{self, arguments, links};
use crate::ground::{Ground, Sight};
use crate::limits::{EXECS_MAX, SERVICES_WAIT};
use crate::node::Agent;
use crate::output::ContainerOutput;
use crate::rooms::{self, Room};
use crate::terms::terms;
use crate::{etc, exec, settings, toolbox, volumes};

/// The port of an HTTP component whose container declares none.
const HTTP_PORT_DEFAULT: u16 = 8080;

/// Why a container cannot be started now: its waiting reason and a sentence.
#[derive(Debug)]
pub(crate) struct StartError {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl StartError {
    fn config(message: String) -> Self {
        Self { reason: "CreateContainerConfigError", message }
    }

    fn run(message: String) -> Self {
        Self { reason: "RunContainerError", message }
    }
}

impl From<CodeError> for StartError {
    fn from(error: CodeError) -> Self {
        let message = error.to_string();
        match error {
            CodeError::Io(_) => Self::run(message),
            _ => Self { reason: "CreateContainerError", message },
        }
    }
}

/// Everything a container needs, at hand.
pub(crate) struct Prepared {
    code: Arc<Code>,
    spec: ContainerSpec,
    ports: Vec<u16>,
    console: Arc<Console>,
    programs: Vec<String>,
    root: PathBuf,
    sight: Arc<Sight>,
}

/// Gathers what a container needs: settings, environment, mounts, output, compiled code.
pub(crate) async fn prepare(
    agent: &Agent,
    pod: &k8s::Pod,
    container: &k8s::Container,
    ground: &Ground,
    image: &Resolved,
    output: &Arc<ContainerOutput>,
    attempt: u32,
) -> Result<Prepared, StartError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let names = environment::references(container);
    let settings = settings::fetch(&agent.config.client, namespace, names).await.map_err(StartError::config)?;
    let place = agent.place(ground.network.addresses());
    let env = {
        let services = known_services(agent, pod).await.map_err(StartError::config)?;
        let linked = services.as_ref().map_or_else(Vec::new, |services| links::linked(services, namespace));
        environment::environment(pod, container, &settings, &place, &linked).map_err(StartError::config)?
    };
    let stage = ground.folder.join("files").join(&container.name);
    let terms = pod.metadata.annotations.as_ref().map(terms).transpose().map_err(StartError::config)?;
    let terms = terms.unwrap_or_default();
    let code = agent.config.engine.load(&image.digest, &image.path, terms.fuel.is_some()).await?;
    let root = ground.folder.join("roots").join(&container.name);
    let is_toolbox = container.image.as_deref().is_some_and(toolbox::is_meant);
    if is_toolbox || code.sees_files() {
        ground.sight.show(agent).await.map_err(StartError::config)?;
    }
    // The file system may be slow; a guest's thread or the API must not wait for it.
    let (wanted, variables, volumes) = (container.clone(), env.clone(), ground.volumes.clone());
    let (sight, folders) = (ground.sight.clone(), root.clone());
    let mounts = tokio::task::spawn_blocking(move || {
        let mounts = volumes::mounts(&wanted, &variables, &volumes, &stage)?;
        let mounts = etc::mount(mounts, &sight.etc, &stage);
        let mounts = mounts.map_err(|error| format!("its /etc cannot be mounted: {error}"))?;
        if !is_toolbox {
            return Ok(mounts);
        }
        let made = rooms::make_root(&folders, &mounts);
        made.map_err(|error| format!("the folder for its root cannot be made: {error}"))?;
        Ok(rooms::with_root(mounts, &folders))
    })
    .await;
    let mounts = mounts.map_err(|error| StartError::run(error.to_string()))?.map_err(StartError::config)?;
    let files = output.begin(attempt).map_err(|error| StartError::run(format!("no file for its output: {error}")))?;
    let flag = |flag: Option<bool>| flag == Some(true);
    let terminal = flag(container.tty);
    let (stdin, once) = (flag(container.stdin), flag(container.stdin_once));
    let (console, input) = Console::new(Arc::new(files), stdin, once, terminal);
    let spec = ContainerSpec {
        name: container.name.clone(),
        args: arguments(container, is_toolbox.then_some("toolbox"), &env),
        env,
        memory_limit_bytes: limit(container, "memory").map(|memory| memory.bytes()).and_then(|n| u64::try_from(n).ok()),
        cpu_request_millis: request(container, "cpu").map(|cpu| cpu.millis()).and_then(|n| u64::try_from(n).ok()),
        cpu_limit_millis: limit(container, "cpu").map(|cpu| cpu.millis()).and_then(|n| u64::try_from(n).ok()),
        mounts,
        terms,
        input,
        output: console.clone(),
        terminal,
        network: ground.network.clone(),
    };
    let (ports, programs, sight) = (ports(container), exec::programs(container), ground.sight.clone());
    Ok(Prepared { code, spec, ports, console, programs, root, sight })
}

/// The Services a pod wants to be told of, if it wants that (its default): as they are now, once they have been read.
async fn known_services(agent: &Agent, pod: &k8s::Pod) -> Result<Option<Arc<ServiceTable>>, String> {
    if pod.spec.as_ref().and_then(|spec| spec.enable_service_links) != Some(true) {
        return Ok(None);
    }
    let read = tokio::time::timeout(SERVICES_WAIT, agent.config.fabric.services_read()).await;
    // The kubelet's sentence.
    let unread = |_| "services have not yet been read at least once, cannot construct envvars".to_owned();
    read.map(Some).map_err(unread)
}

fn limit(container: &k8s::Container, name: &str) -> Option<Quantity> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    Quantity::parse(&limits.get(name)?.0).filter(|limit| !limit.is_zero())
}

fn request(container: &k8s::Container, name: &str) -> Option<Quantity> {
    let requests = container.resources.as_ref()?.requests.as_ref()?;
    Quantity::parse(&requests.get(name)?.0)
}

/// The TCP ports a container declares, or the usual one.
fn ports(container: &k8s::Container) -> Vec<u16> {
    let tcp = |port: &&k8s::ContainerPort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    let declared = container.ports.iter().flatten().filter(tcp);
    let mut ports: Vec<u16> = declared.filter_map(|port| u16::try_from(port.container_port).ok()).collect();
    ports.sort_unstable();
    ports.dedup();
    if ports.is_empty() { vec![HTTP_PORT_DEFAULT] } else { ports }
}

/// A container that runs.
pub(crate) enum Started {
    Command(Running, CancellationToken, Arc<dyn Output>),
    Http(Arc<HttpContainer>, Vec<HttpBinding>),
}

impl Prepared {
    /// Starts it: a command runs from now on, an HTTP component answers on its ports.
    ///
    /// # Errors
    /// How it ended, if it ended at once.
    pub(crate) fn start(self, agent: &Agent) -> Result<(Started, Room), Exit> {
        let Self { code, spec, ports, console, programs, root, sight } = self;
        let network = spec.network.clone();
        let inside = ContainerSpec { input: None, ..spec.clone() };
        let room = |accounts: Accounts| Room {
            code: code.clone(),
            programs,
            spec: inside,
            accounts,
            started: Timestamp::now(),
            console,
            root,
            sight,
            seats: Arc::new(Semaphore::new(EXECS_MAX)),
            over: CancellationToken::new(),
        };
        if code.kind() == Kind::Command {
            let (stop, output) = (CancellationToken::new(), spec.output.clone());
            let running = agent.config.engine.run(&code, spec, stop.clone());
            let room = room(running.accounts());
            return Ok((Started::Command(running, stop, output), room));
        }
        let http = agent.config.engine.http(&code, spec).map_err(|error| Exit::NotStarted(error.to_string()))?;
        let bind = |port| {
            let service: Arc<dyn HttpService> = http.clone();
            network.serve_http(port, service).map_err(|error| Exit::NotStarted(format!("port {port}: {error}")))
        };
        let bindings = ports.into_iter().map(bind).collect::<Result<_, _>>()?;
        let room = room(http.accounts());
        Ok((Started::Http(http, bindings), room))
    }
}

impl Started {
    /// Waits for its end. `stop` brings the grace period; `kill` ends it whatever it is doing. `fault` hears of
    /// requests that killed their instance.
    pub(crate) async fn ended(
        self,
        mut stop: oneshot::Receiver<Duration>,
        kill: CancellationToken,
        fault: impl Fn(engine::Exit),
    ) -> Exit {
        match self {
            Self::Command(mut running, cancel, output) => {
                let exit = tokio::select! {
                    exit = &mut running => exit,
                    // A component has no signals to handle, so there is nothing to wait for.
                    _ = stop => cancelled(running, &cancel).await,
                    () = kill.cancelled() => cancelled(running, &cancel).await,
                };
                if let engine::Exit::Trap { .. } = &exit {
                    // Where a person looks for it: at the end of what the guest said.
                    output.write(Stream::Stderr, format!("{exit}\n").as_bytes());
                }
                translate(exit)
            }
            Self::Http(http, bindings) => {
                let grace = loop {
                    tokio::select! {
                        grace = &mut stop => break grace.unwrap_or_default(),
                        () = kill.cancelled() => break Duration::ZERO,
                        exit = http.fault() => fault(exit),
                    }
                };
                // Whoever has found it before its ports were freed is answered.
                let served = async {
                    futures::future::join_all(bindings.into_iter().map(HttpBinding::close)).await;
                    http.drained().await;
                };
                let drained = tokio::select! {
                    biased;
                    () = served => true,
                    () = kill.cancelled() => false,
                    () = tokio::time::sleep(grace) => false,
                };
                http.stop();
                if drained { Exit::Code(0) } else { Exit::Stopped }
            }
        }
    }
}

async fn cancelled(running: Running, cancel: &CancellationToken) -> engine::Exit {
    cancel.cancel();
    running.await
}

fn translate(exit: engine::Exit) -> Exit {
    match exit {
        engine::Exit::Code(code) => Exit::Code(code),
        engine::Exit::OomKilled => Exit::OomKilled,
        exhausted @ engine::Exit::OutOfFuel(_) => Exit::OutOfFuel(exhausted.to_string()),
        engine::Exit::Stopped => Exit::Stopped,
        engine::Exit::Failed(message) => Exit::NotStarted(message),
        trap @ engine::Exit::Trap { .. } => Exit::Trap(trap.to_string()),
    }
}
