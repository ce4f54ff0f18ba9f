//! The task of one pod: performs what its machine asks for, and tells it what came of it.
//!
//! One owner, one closed set of inputs: the pod's object (from the watch), the outcomes of what was begun, and the
//! clock. Nothing here chooses; every choice is the machine's.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use image::Resolved;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as k8s;
use kube::api::{Api, DeleteParams, Preconditions};
use pod::{Exit, Fetched, Input, Machine, PodAction, Seat};
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::container::{self, Prepared, StartError};
use crate::events::Note;
use crate::ground::{self, Ground, output_folder, pod_folder};
use crate::limits::{POD_REST, POD_REST_MIN_MS, REQUEST_TIME_MAX, STORAGE_LOOK};
use crate::node::Agent;
use crate::output::ContainerOutput;
use crate::resident::Resident;
use crate::retry::{Retry, is_gone};
use crate::rooms::Rooms;
use crate::roster::Tenant;
use crate::{storage, volumes};

mod asking;
mod telling;

/// The pod's object as the watch has it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) pod: Arc<Resident>,
    /// It is gone from the API.
    pub(crate) removed: bool,
}

/// What came of something that was begun.
enum Outcome {
    Reported(Input),
    SetUp(Result<Ground, String>),
    /// Volumes show what their ConfigMaps and Secrets say now.
    Refreshed,
    /// How much of the disk the pod uses, if that is more than it may.
    Measured(Option<String>),
    ImageFound {
        container: String,
        image: Arc<Resolved>,
        fetched: Option<Fetched>,
    },
    Prepared {
        container: String,
        prepared: Result<Box<Prepared>, StartError>,
    },
    /// The status was written (or the pod is gone), or was not.
    Published {
        ok: bool,
        status: Value,
    },
    /// The pod's object was deleted (or is gone), or was not.
    Deleted {
        ok: bool,
    },
}

/// A container between its start and its end.
struct Live {
    stop: Option<oneshot::Sender<Duration>>,
    stopped: Option<oneshot::Receiver<Duration>>,
    kill: CancellationToken,
}

struct Driver {
    agent: Arc<Agent>,
    pod: Arc<Resident>,
    machine: Machine,
    outcomes: JoinSet<Outcome>,
    ground: Option<Ground>,
    address: Option<IpAddr>,
    images: HashMap<String, Arc<Resolved>>,
    live: HashMap<String, Live>,
    outputs: Arc<BTreeMap<String, Arc<ContainerOutput>>>,
    rooms: Rooms,
    /// What the API has, as far as we wrote it, as JSON: every pod keeps it and few ever need it again.
    published: Box<str>,
    /// What it should have.
    wanted: Option<Value>,
    /// Until when what is wanted may wait for what follows it.
    linger: Option<Instant>,
    publishing: bool,
    retry: Retry,
    /// When the object is put away, unless it changes before.
    rest_at: Option<Instant>,
    removed: bool,
    ending: Ending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Not,
    /// The machine has said so; the last status may still be on its way.
    Said,
    Deleting,
    Done,
}

/// Runs a pod until it is gone from node and API. Dropping the future ends its guests.
pub(crate) async fn run(agent: Arc<Agent>, mut known: watch::Receiver<Known>) {
    let pod = known.borrow_and_update().pod.clone();
    let mut driver = Driver::new(agent, pod);
    let first = known.borrow().clone();
    driver.see(&first);
    driver.step(Input::PodAssigned);
    loop {
        // Also before anything happens: a pod that was asked to go while the node was away has nothing to wait for.
        driver.publish();
        driver.finish();
        driver.rest();
        if driver.ending == Ending::Done {
            break;
        }
        let wake = driver.wake();
        tokio::select! {
            changed = known.changed() => {
                // Without a sender the agent itself is ending, and this future is about to be dropped.
                if changed.is_err() {
                    return;
                }
                let known = known.borrow_and_update().clone();
                driver.see(&known);
            }
            Some(outcome) = driver.outcomes.join_next() => match outcome {
                Ok(outcome) => driver.take(outcome),
                Err(error) => tracing::error!(%error, "a task of a pod failed"),
            },
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                driver.step(Input::TimePassed);
            }
        }
    }
    Box::pin(driver.clean_up()).await;
}

impl Driver {
    fn new(agent: Arc<Agent>, pod: Arc<Resident>) -> Self {
        let seat = Seat { host_addresses: agent.config.addresses.clone() };
        let object = pod.pod();
        let machine = Machine::new(&object, seat, now_ms());
        let published = telling::shown(&object);
        let mut driver = Self {
            agent,
            pod,
            machine,
            outcomes: JoinSet::new(),
            ground: None,
            address: None,
            images: HashMap::new(),
            live: HashMap::new(),
            outputs: Arc::default(),
            rooms: Rooms::default(),
            published,
            wanted: None,
            linger: None,
            publishing: false,
            retry: Retry::default(),
            rest_at: None,
            removed: false,
            ending: Ending::Not,
        };
        driver.open_outputs();
        // What ended before the node was restarted; whatever starts again takes it back.
        driver.finish_outputs(object.status.as_ref());
        driver
    }

    /// The object changed. A deletion is heard first, so that nothing is started for it.
    fn see(&mut self, known: &Known) {
        self.pod = known.pod.clone();
        self.removed |= known.removed;
        self.open_outputs();
        let (pod, outputs, rooms) = (self.pod.clone(), self.outputs.clone(), self.rooms.clone());
        self.agent.roster.put(Tenant { pod, outputs, rooms });
        self.rest_at = Some(Instant::now() + POD_REST);
        self.object_to_overruling();
        if let Some(grace_seconds) = self.grace_seconds() {
            self.step(Input::StopRequested { grace_seconds });
        }
        self.step(Input::PodChanged(self.pod.pod()));
    }

    /// Every container has a place for its output; ephemeral ones may come at any time.
    fn open_outputs(&mut self) {
        let pod = self.pod.pod();
        let Some(spec) = &pod.spec else { return };
        let guests = spec.ephemeral_containers.iter().flatten().map(|guest| &guest.name);
        let others = spec.init_containers.iter().flatten().chain(&spec.containers).map(|container| &container.name);
        let new: Vec<&String> = others.chain(guests).filter(|name| !self.outputs.contains_key(*name)).collect();
        if new.is_empty() {
            return;
        }
        let folder = output_folder(&self.agent, &self.pod.uid);
        let opened = new.into_iter().map(|name| (name.clone(), ContainerOutput::new(folder.join(name))));
        let known = self.outputs.iter().map(|(name, output)| (name.clone(), output.clone()));
        self.outputs = Arc::new(known.chain(opened).collect());
    }

    /// How long a pod that is being deleted may still take.
    fn grace_seconds(&self) -> Option<i64> {
        if self.removed {
            return Some(0);
        }
        let pod = self.pod.pod();
        let at = pod.metadata.deletion_timestamp.as_ref()?;
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0).max(0);
        // After a restart of the node some of it has passed already.
        Some((at.0.as_second() - Timestamp::now().as_second()).clamp(0, grace))
    }

    /// When there is something to do though nothing happens.
    fn wake(&self) -> Option<Instant> {
        let machine = self.machine.wake_at().map(|at| u64::try_from(at - now_ms()).unwrap_or(0));
        let machine = machine.map(|millis| Instant::now() + Duration::from_millis(millis));
        machine.into_iter().chain(self.linger).chain(self.rest_at).min()
    }

    /// Puts the object away when it has not changed for a while, unless it is needed all the time: for a probe, or to
    /// measure what the pod keeps.
    fn rest(&mut self) {
        if self.rest_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.rest_at = None;
        let wakes = self.machine.wake_at().is_some_and(|at| at - now_ms() < POD_REST_MIN_MS);
        if !wakes && !storage::is_limited(&self.pod.pod()) {
            self.pod.rest();
        }
    }

    fn step(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.machine.step(now_ms(), input, &mut actions);
        for action in actions {
            self.perform(action);
        }
    }

    fn take(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Reported(input) => {
                if let Input::ContainerExited { container, .. } = &input {
                    self.live.remove(container);
                    self.rooms.close(container);
                }
                self.step(input);
            }
            // The pod ended meanwhile and its address is given back.
            Outcome::SetUp(Ok(_)) if self.address.is_none() => {}
            Outcome::SetUp(Ok(ground)) => {
                let addresses = ground.network.addresses().to_vec();
                self.ground = Some(ground);
                self.refresh_volumes();
                self.measure_storage();
                self.step(Input::PodSetUp { addresses });
            }
            Outcome::Refreshed => self.refresh_volumes(),
            Outcome::Measured(Some(message)) => self.step(Input::Evicted { message }),
            Outcome::Measured(None) => self.measure_storage(),
            Outcome::SetUp(Err(message)) => self.step(Input::SetUpFailed { message }),
            Outcome::ImageFound { container, image, fetched } => {
                let image_id = image.id.clone();
                self.images.insert(container.clone(), image);
                self.step(Input::ImageReady { container, image_id, fetched });
            }
            Outcome::Prepared { container, prepared } => self.start(container, prepared),
            Outcome::Published { ok, status } => {
                self.publishing = false;
                if ok {
                    self.retry.reset();
                    self.published = status.to_string().into();
                } else {
                    self.wanted.get_or_insert(status);
                }
            }
            Outcome::Deleted { ok } => self.ending = if ok { Ending::Done } else { Ending::Said },
        }
    }

    fn perform(&mut self, action: PodAction) {
        match action {
            PodAction::SetUpPod => self.set_up(),
            PodAction::PullImage { container, .. } => self.find_image(container),
            PodAction::StartContainer { container, attempt } => self.prepare(container, attempt),
            PodAction::StopContainer { container, grace_ms } => {
                let Some(live) = self.live.get_mut(&container) else { return };
                if let Some(stop) = live.stop.take() {
                    // The container may have ended in this very moment; then its end is on its way to us.
                    let _ = stop.send(Duration::from_millis(u64::try_from(grace_ms).unwrap_or(0)));
                }
                if grace_ms <= 0 {
                    live.kill.cancel();
                }
            }
            PodAction::Probe { container, attempt, kind } => self.probe(container, attempt, kind),
            PodAction::RunHook { container, attempt, hook } => self.run_hook(container, attempt, hook),
            PodAction::UpdateStatus(status) => self.want(&status),
            PodAction::Tell { severity, reason, message, container } => {
                self.agent.events.tell(self.note(severity, reason, message, container));
            }
            PodAction::TearDownPod => self.tear_down(),
            PodAction::Forget => self.ending = Ending::Said,
        }
    }

    /// Gets an address and materialises the volumes.
    fn set_up(&mut self) {
        let known = self.pod.pod().status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse().ok());
        self.address = self.address.or_else(|| self.agent.take_address(known));
        let Some(address) = self.address else {
            let message = "no address is free in the node's pod CIDR".to_owned();
            self.outcomes.spawn(async { Outcome::SetUp(Err(message)) });
            return;
        };
        let (agent, pod) = (self.agent.clone(), self.pod.clone());
        self.outcomes.spawn(async move { Outcome::SetUp(ground::set_up(&agent, &pod, address).await) });
    }

    /// Looks after a while what the volumes' ConfigMaps and Secrets have become; where there are none, never.
    fn refresh_volumes(&mut self) {
        let looked_at = volumes::references(&self.pod.pod(), |_| true);
        let (Some(ground), Some(wait)) = (&self.ground, looked_at.look_again()) else { return };
        let (addresses, sight) = (ground.network.addresses().to_vec(), ground.sight.clone());
        let (agent, pod) = (self.agent.clone(), self.pod.clone());
        self.outcomes.spawn(async move {
            tokio::time::sleep(wait).await;
            let wanted = |volume: &k8s::Volume| sight.is_shown() || !volumes::is_account(volume);
            // Boxed: it waits in every pod, and most have nothing to fill.
            if let Err(error) = Box::pin(ground::fill_volumes(&agent, &pod.pod(), &addresses, wanted)).await {
                tracing::debug!(error, "volumes of a pod stay as they are");
            }
            Outcome::Refreshed
        });
    }

    /// Looks after a while how much of the disk the pod uses; where it has no limit, never.
    fn measure_storage(&mut self) {
        let pod = self.pod.pod();
        let (Some(ground), true) = (&self.ground, storage::is_limited(&pod)) else { return };
        let own = volumes::of(&pod).filter(|volume| volume.empty_dir.is_some()).map(|volume| &volume.name);
        let folder = |name: &String| Some((name.clone(), ground.volumes.get(name)?.folder.clone()));
        let outputs = output_folder(&self.agent, &self.pod.uid);
        let places = storage::Places {
            volumes: own.filter_map(folder).collect(),
            outputs: self.outputs.keys().map(|name| (name.clone(), outputs.join(name))).collect(),
        };
        let pod = self.pod.clone();
        self.outcomes.spawn(async move {
            tokio::time::sleep(STORAGE_LOOK).await;
            let looked = tokio::task::spawn_blocking(move || storage::excess(&pod.pod(), &storage::measure(&places)));
            Outcome::Measured(looked.await.unwrap_or_default())
        });
    }

    fn tear_down(&mut self) {
        if let Some(ground) = self.ground.take() {
            ground.network.detach();
        }
        if let Some(address) = self.address.take() {
            self.agent.give_back(address);
        }
    }

    fn find_image(&mut self, container: String) {
        let Some(spec) = self.container(&container) else { return };
        let (agent, pod) = (self.agent.clone(), self.pod.pod());
        let message = format!("Pulling image \"{}\"", spec.image.as_deref().unwrap_or_default());
        let pulling = self.note("Normal", "Pulling", message, Some(container.clone()));
        self.outcomes.spawn(async move {
            match agent.pulls.find(&agent, &pod, &spec, pulling).await {
                Ok((image, fetched)) => Outcome::ImageFound { container, image, fetched },
                Err((fault, message)) => Outcome::Reported(Input::ImageFailed { container, fault, message }),
            }
        });
    }

    fn prepare(&mut self, container: String, attempt: i32) {
        let (stop, stopped) = oneshot::channel();
        let live = Live { stop: Some(stop), stopped: Some(stopped), kill: CancellationToken::new() };
        self.live.insert(container.clone(), live);
        let spec = self.container(&container);
        let image = self.images.get(&container).cloned();
        let output = self.outputs.get(&container).cloned();
        let (Some(spec), Some(ground), Some(image), Some(output)) = (spec, self.ground.clone(), image, output) else {
            // The machine starts a container only after its pod was set up and its image found.
            tracing::error!(container, "a container was to be started too early");
            return;
        };
        let (agent, pod) = (self.agent.clone(), self.pod.pod());
        let attempt = u32::try_from(attempt).unwrap_or(0);
        self.outcomes.spawn(async move {
            let prepared = container::prepare(&agent, &pod, &spec, &ground, &image, &output, attempt).await;
            Outcome::Prepared { container, prepared: prepared.map(Box::new) }
        });
    }

    fn start(&mut self, container: String, prepared: Result<Box<Prepared>, StartError>) {
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(StartError { reason, message }) => {
                self.live.remove(&container);
                return self.step(Input::StartFailed { container, reason, message });
            }
        };
        let Some((live, stopped)) = self.live.get_mut(&container).and_then(|live| {
            let stopped = live.stopped.take()?;
            Some((live, stopped))
        }) else {
            return;
        };
        let (kill, asked_to_stop) = (live.kill.clone(), live.stop.is_none());
        let started = if asked_to_stop { Err(Exit::Stopped) } else { prepared.start(&self.agent) };
        match started {
            Err(exit) => {
                self.live.remove(&container);
                self.step(Input::ContainerExited { container, exit });
            }
            Ok((started, room)) => {
                self.rooms.open(&container, room);
                let events = self.agent.events.clone();
                let note = self.note("Warning", "RequestFailed", String::new(), Some(container.clone()));
                let name = container.clone();
                let fault = move |exit: engine::Exit| {
                    let message = format!("A request to container {name} failed: {exit}");
                    events.tell(Note { message, ..note.clone() });
                };
                let ended = name_end(container.clone(), started.ended(stopped, kill, fault));
                self.outcomes.spawn(ended);
                self.step(Input::ContainerStarted { container });
            }
        }
    }

    /// Removes the pod's object once its last status is written.
    fn finish(&mut self) {
        if self.ending != Ending::Said || self.publishing || (self.wanted.is_some() && !self.removed) {
            return;
        }
        if self.removed {
            self.ending = Ending::Done;
            return;
        }
        self.ending = Ending::Deleting;
        let (pods, name, uid) = self.api();
        let wait = self.retry.wait();
        self.outcomes.spawn(async move {
            tokio::time::sleep(wait).await;
            let precondition = Preconditions { uid: Some(uid), resource_version: None };
            let parameters = DeleteParams::default().grace_period(0).preconditions(precondition);
            let deleted = tokio::time::timeout(REQUEST_TIME_MAX, pods.delete(&name, &parameters)).await;
            let ok = deleted.is_ok_and(|deleted| deleted.as_ref().map_or_else(is_gone, |_| true));
            Outcome::Deleted { ok }
        });
    }

    async fn clean_up(mut self) {
        self.outcomes.shutdown().await;
        self.outputs.values().for_each(|output| output.finish());
        self.agent.roster.remove(&self.pod);
        let folders = [pod_folder(&self.agent, &self.pod.uid), output_folder(&self.agent, &self.pod.uid)];
        let removed = tokio::task::spawn_blocking(move || folders.map(std::fs::remove_dir_all));
        for error in removed.await.into_iter().flatten().filter_map(Result::err) {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(%error, "files of a pod are left behind");
            }
        }
    }

    fn container(&self, name: &str) -> Option<k8s::Container> {
        let pod = self.pod.pod();
        let spec = pod.spec.as_ref()?;
        let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
        let mut guests = spec.ephemeral_containers.iter().flatten();
        let guest = || guests.find(|guest| guest.name == name).map(|guest| pod::as_container(guest, spec));
        all.find(|container| container.name == name).cloned().or_else(guest)
    }

    fn api(&self) -> (Api<k8s::Pod>, String, String) {
        let pods = Api::namespaced(self.agent.config.client.clone(), &self.pod.namespace);
        (pods, self.pod.name.to_string(), self.pod.uid.to_string())
    }

    fn note(&self, severity: &'static str, reason: &'static str, message: String, container: Option<String>) -> Note {
        let [namespace, name, uid] = [&self.pod.namespace, &self.pod.name, &self.pod.uid].map(ToString::to_string);
        let list = container.as_deref().map(|name| list_of(&self.pod.pod(), name));
        let field_path = list.zip(container).map(|(list, container)| format!("spec.{list}{{{container}}}"));
        Note { namespace, name, uid, field_path, severity, reason, message }
    }
}

impl Drop for Driver {
    /// Also when the node stops, or the task failed: others may have the address, and nobody reaches the pod any more.
    fn drop(&mut self) {
        self.rooms.close_all();
        self.tear_down();
    }
}

/// The list in a pod's specification that a container stands in.
fn list_of(pod: &k8s::Pod, name: &str) -> &'static str {
    let Some(spec) = &pod.spec else { return "containers" };
    if spec.init_containers.iter().flatten().any(|container| container.name == name) {
        "initContainers"
    } else if spec.ephemeral_containers.iter().flatten().any(|guest| guest.name == name) {
        "ephemeralContainers"
    } else {
        "containers"
    }
}

/// Waits for a container's end; should the waiting itself fail, that is an end too.
fn name_end(container: String, ended: impl Future<Output = Exit> + Send) -> impl Future<Output = Outcome> + Send {
    AssertUnwindSafe(ended).catch_unwind().map(|ended| {
        let exit = ended.unwrap_or_else(|_| Exit::NotStarted("the node failed to run it".to_owned()));
        Outcome::Reported(Input::ContainerExited { container, exit })
    })
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}
