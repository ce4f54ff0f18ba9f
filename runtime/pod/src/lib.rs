//! The life of one pod on its node, as a machine: inputs in, actions out, no clock, no task, no socket.
//!
//! [`Machine::step`] takes what happened and the time, and appends what is to be done. The driver performs the
//! actions without choosing and reports back with further inputs. After every step, call `step` with
//! [`Input::TimePassed`] no later than [`Machine::wake_at`].
//!
//! What Kubernetes' users see is followed to the word: phases, reasons, exit codes, conditions, back-off times and the
//! texts of events are those of the kubelet. Guests are told apart from it in one thing only: a component has no
//! signals, so stopping a container means letting its requests finish (`wasi:http`) or cancelling it (`wasi:cli`).
//!
//! # Layout
//! * [`Input`] and [`PodAction`]: the two alphabets.
//! * [`Machine`]: order of containers, stopping, deadlines.
//! * `charter`: what the machine takes from the object; nothing keeps the object itself.
//! * `container`: one container's states and restarts; `backoff`: how long it waits.
//! * `ephemeral`: containers that come while the pod runs.
//! * [`Hook`]: what is done after a start and before an end; `leaving`: the way to an end.
//! * [`probe`]: when a probe is due and what its answers mean.
//! * `status`: what all that looks like in `pod.status`.
#![forbid(unsafe_code)]

mod action;
mod backoff;
mod charter;
mod container;
mod ephemeral;
mod hook;
mod leaving;
pub mod limits;
mod machine;
pub mod probe;
mod status;

#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod simulation;

pub use action::{Fetched, Input, PodAction, Seat};
pub use container::{Exit, ImageFault, Role};
pub use ephemeral::as_container;
pub use hook::Hook;
pub use machine::Machine;
pub use probe::ProbeKind;
