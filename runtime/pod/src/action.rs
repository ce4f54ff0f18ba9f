//! The machine's two alphabets: what has happened, and what is to be done.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as k8s;

use crate::container::{Exit, ImageFault};
use crate::hook::Hook;
use crate::probe::ProbeKind;

/// What a pod's node gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seat {
    /// The node's addresses: `hostIPs`.
    pub host_addresses: Vec<IpAddr>,
}

/// What has happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// The pod was bound to this node, or the node came back and found it.
    PodAssigned,
    /// Address and volumes are there.
    PodSetUp {
        /// The pod's addresses.
        addresses: Vec<IpAddr>,
    },
    /// Address or volumes could not be had.
    SetUpFailed {
        /// Why, for the event.
        message: String,
    },
    /// The image is on the node and checked.
    ImageReady {
        /// Which container.
        container: String,
        /// What the status shows as `imageID`.
        image_id: String,
        /// How it came, unless it was there already.
        fetched: Option<Fetched>,
    },
    /// The image is not there.
    ImageFailed {
        /// Which container.
        container: String,
        /// Which kind of failure.
        fault: ImageFault,
        /// Why.
        message: String,
    },
    /// The container runs.
    ContainerStarted {
        /// Which container.
        container: String,
    },
    /// The container could not be made, and may be possible later (`CreateContainerConfigError`, …).
    StartFailed {
        /// Which container.
        container: String,
        /// The waiting reason.
        reason: &'static str,
        /// Why.
        message: String,
    },
    /// The container ended.
    ContainerExited {
        /// Which container.
        container: String,
        /// How.
        exit: Exit,
    },
    /// A probe was answered, or was not.
    ProbeAnswered {
        /// Which container.
        container: String,
        /// Which attempt of the container was asked.
        attempt: i32,
        /// Which probe.
        kind: ProbeKind,
        /// What went wrong, for the event.
        answer: Result<(), String>,
    },
    /// A lifecycle hook is over.
    HookEnded {
        /// Which container.
        container: String,
        /// Which attempt of the container it was.
        attempt: i32,
        /// Which hook.
        hook: Hook,
        /// What went wrong.
        answer: Result<(), String>,
    },
    /// The pod object changed: images may be new, and conditions of other writers.
    PodChanged(Arc<k8s::Pod>),
    /// The pod uses more of the node's disk than it may.
    Evicted {
        /// What, and how much it may, for status and event.
        message: String,
    },
    /// The pod is being deleted. A second request can only shorten the first.
    StopRequested {
        /// How long its containers may take.
        grace_seconds: i64,
    },
    /// Nothing but the clock.
    TimePassed,
}

/// An image that had to be fetched first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Milliseconds the transfer took.
    pub took_ms: u64,
    /// The same and the time it had to wait for others.
    pub waited_ms: u64,
    /// The component's size.
    pub bytes: u64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum PodAction {
    /// Get an address, materialise the volumes.
    SetUpPod,
    /// Make sure that the image is on the node.
    PullImage {
        /// For which container.
        container: String,
        /// Which image.
        image: String,
    },
    /// Start the container.
    StartContainer {
        /// Which.
        container: String,
        /// Equal to its `restartCount`.
        attempt: i32,
    },
    /// End the container, or its starting; give it this long. Asked again with 0 when the time is over.
    StopContainer {
        /// Which.
        container: String,
        /// Milliseconds.
        grace_ms: i64,
    },
    /// Ask the container.
    Probe {
        /// Which.
        container: String,
        /// Which attempt of it, to be given back.
        attempt: i32,
        /// What.
        kind: ProbeKind,
    },
    /// Do what the container wants done at this moment of its life.
    RunHook {
        /// Which.
        container: String,
        /// Which attempt of it, to be given back.
        attempt: i32,
        /// What.
        hook: Hook,
    },
    /// Write this status. Only the newest counts.
    UpdateStatus(Box<k8s::PodStatus>),
    /// Write an Event about the pod.
    Tell {
        /// `Normal` or `Warning`.
        severity: &'static str,
        /// The Event's reason.
        reason: &'static str,
        /// A sentence.
        message: String,
        /// The container it is about, for the Event's `fieldPath`.
        container: Option<String>,
    },
    /// Nothing runs any more: give the address back.
    TearDownPod,
    /// All is over and told: remove the pod's object and everything kept for it.
    Forget,
}
