//! How a container ended. A guest's failure is a state to report, never an error of ours.

use crate::limits;
use crate::memory::OomKilled;
use std::fmt;
use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// The end of a command, or of one request of an HTTP container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest ended by itself: 0 for success, 1 for a failed `run`, else the code it asked for.
    Code(i32),
    /// The guest grew beyond the memory limit of its container.
    OomKilled,
    /// The guest trapped.
    Trap {
        /// What happened, one line.
        message: String,
        /// Where, innermost frame first, with demangled names where the component has them.
        backtrace: String,
    },
    /// We were asked to end it.
    Stopped,
    /// The container could not be started, with the reason as a sentence.
    Failed(String),
}

impl Exit {
    /// The exit code Kubernetes shows: 137 and 143 as for SIGKILL and SIGTERM, 134 as for an abort, 128 for a
    /// container that did not start (containerd's `StartError`).
    pub fn code(&self) -> i32 {
        match self {
            Exit::Code(code) => *code,
            Exit::OomKilled => 137,
            Exit::Trap { .. } => 134,
            Exit::Stopped => 143,
            Exit::Failed(_) => 128,
        }
    }

    /// Reads the error a call into the guest came back with.
    pub(crate) fn from_error(error: &wasmtime::Error) -> Exit {
        if let Some(exit) = error.downcast_ref::<I32Exit>() {
            return Exit::Code(exit.0);
        }
        if error.downcast_ref::<OomKilled>().is_some() {
            return Exit::OomKilled;
        }
        let message = error.root_cause().to_string();
        match (error.downcast_ref::<Trap>(), error.downcast_ref::<WasmBacktrace>()) {
            (None, None) => Exit::Failed(message),
            (_, backtrace) => Exit::Trap { message, backtrace: backtrace.map(render).unwrap_or_default() },
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with code {code}"),
            Exit::OomKilled => f.write_str("grew beyond its memory limit"),
            Exit::Trap { message, backtrace } if backtrace.is_empty() => f.write_str(message),
            Exit::Trap { message, backtrace } => write!(f, "{message}\n{backtrace}"),
            Exit::Stopped => f.write_str("stopped"),
            Exit::Failed(reason) => f.write_str(reason),
        }
    }
}

/// The frames alone: the first line is a heading and the last may be advice about our environment variables.
fn render(backtrace: &WasmBacktrace) -> String {
    let text = backtrace.to_string();
    let mut frames = text.lines().skip(1).filter(|line| !line.starts_with("note: ")).collect::<Vec<_>>().join("\n");
    if frames.len() > limits::BACKTRACE_BYTES_MAX {
        let mut end = limits::BACKTRACE_BYTES_MAX;
        while !frames.is_char_boundary(end) {
            end -= 1;
        }
        frames.truncate(end);
    }
    frames
}
