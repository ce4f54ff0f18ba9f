//! How a container ended. A guest's failure is a state to report, never an error of ours.
//!
//! A trap is told the way a person looks for it: what the guest last said (a panic's message says more than the
//! instruction that ended it), then the guest's own frames with demangled names, without the machinery of its language.

use crate::limits;
use crate::memory::OomKilled;
use std::fmt::{self, Write as _};
use wasmtime::{FrameInfo, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// The end of a command, or of one request of an HTTP container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest ended by itself: 0 for success, 1 for a failed `run`, else the code it asked for.
    Code(i32),
    /// The guest grew beyond the memory limit of its container.
    OomKilled,
    /// The guest used up its budget of instructions; the number is the budget.
    OutOfFuel(u64),
    /// The guest trapped.
    Trap {
        /// What happened, one line.
        message: String,
        /// Where, innermost frame first, a line each; empty when nothing is known.
        backtrace: String,
    },
    /// We were asked to end it.
    Stopped,
    /// The container could not be started, with the reason as a sentence.
    Failed(String),
}

impl Exit {
    /// The exit code Kubernetes shows: 137 and 143 as for SIGKILL and SIGTERM, 134 as for an abort, 152 as for SIGXCPU
    /// (CPU time used up), 128 for a container that did not start (containerd's `StartError`).
    pub fn code(&self) -> i32 {
        match self {
            Exit::Code(code) => *code,
            Exit::OomKilled => 137,
            Exit::OutOfFuel(_) => 152,
            Exit::Trap { .. } => 134,
            Exit::Stopped => 143,
            Exit::Failed(_) => 128,
        }
    }

    /// Reads the error a call into the guest came back with; `said` is the end of the guest's stderr, `fuel` its budget.
    pub(crate) fn from_error(error: &wasmtime::Error, said: &str, fuel: Option<u64>) -> Exit {
        if let Some(exit) = error.downcast_ref::<I32Exit>() {
            return Exit::Code(exit.0);
        }
        if error.downcast_ref::<OomKilled>().is_some() {
            return Exit::OomKilled;
        }
        let cause = error.root_cause().to_string();
        let (trap, backtrace) = (error.downcast_ref::<Trap>(), error.downcast_ref::<WasmBacktrace>());
        if let (Some(Trap::OutOfFuel), Some(fuel)) = (trap, fuel) {
            return Exit::OutOfFuel(fuel);
        }
        if trap.is_none() && backtrace.is_none() {
            return Exit::Failed(cause);
        }
        // Aborting is how a panic ends; then the guest has said why.
        let said = if trap == Some(&Trap::UnreachableCodeReached) { panic_message(said) } else { None };
        let frames = backtrace.map(|backtrace| backtrace.frames().iter().map(Frame::of).collect()).unwrap_or_default();
        Exit::Trap { message: said.unwrap_or(cause), backtrace: render(frames) }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with code {code}"),
            Exit::OomKilled => f.write_str("grew beyond its memory limit"),
            Exit::OutOfFuel(fuel) => write!(f, "used up its budget of {fuel} instructions (kogia.dev/fuel)"),
            Exit::Trap { message, backtrace } if backtrace.is_empty() => f.write_str(message),
            Exit::Trap { message, backtrace } => write!(f, "{message}\n{backtrace}"),
            Exit::Stopped => f.write_str("stopped"),
            Exit::Failed(reason) => f.write_str(reason),
        }
    }
}

/// `panicked at src/main.rs:30:9: misbehaving as asked` of what Rust prints over two lines; the last line of what
/// other languages print. `None` when the guest said nothing.
fn panic_message(said: &str) -> Option<String> {
    let lines: Vec<_> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let panicked = lines.iter().rposition(|line| line.contains("panicked at "));
    match panicked {
        Some(at) => {
            let (_, place) = lines[at].split_once("panicked at ")?;
            let message = lines.get(at + 1).copied().unwrap_or_default();
            Some(format!("panicked at {place} {message}").trim_end().to_owned())
        }
        None => lines.last().map(|line| (*line).to_owned()),
    }
}

/// A function of the guest, by name where the component has names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    function: String,
    offset: Option<usize>,
}

impl Frame {
    fn of(frame: &FrameInfo) -> Frame {
        let function = match frame.func_name() {
            Some(name) => format!("{:#}", rustc_demangle::demangle(name)),
            None => format!("function {}", frame.func_index()),
        };
        Frame { function, offset: frame.module_offset() }
    }
}

/// A line per frame, repeated ones once. Of a Rust guest only what stands between the markers its standard library
/// puts around the program's own frames.
fn render(mut frames: Vec<Frame>) -> String {
    if let Some(end) = frames.iter().position(|frame| frame.function.contains("__rust_begin_short_backtrace")) {
        frames.truncate(end);
    }
    if let Some(begin) = frames.iter().rposition(|frame| frame.function.contains("__rust_end_short_backtrace")) {
        frames.drain(..=begin);
    }
    let mut text = String::new();
    for run in frames.chunk_by(|one, next| one.function == next.function) {
        if text.len() > limits::BACKTRACE_BYTES_MAX {
            text.push_str("\n  …");
            break;
        }
        let separator = if text.is_empty() { "" } else { "\n" };
        let _ = write!(text, "{separator}  at {}", run[0].function);
        if let Some(offset) = run[0].offset {
            let _ = write!(text, " (0x{offset:x})");
        }
        if run.len() > 1 {
            let _ = write!(text, ", {} times", run.len());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_in_its_own_words() {
        let rust = "\nthread 'main' (1) panicked at src/main.rs:30:9:\nmisbehaving as asked\nnote: run with `RUST_BACKTRACE=1`\n";
        assert_eq!(panic_message(rust).unwrap(), "panicked at src/main.rs:30:9: misbehaving as asked");
        assert_eq!(panic_message("starting\nAssertion failed: x > 0\n").unwrap(), "Assertion failed: x > 0");
        assert_eq!(panic_message("\n"), None);
    }

    #[test]
    fn a_backtrace_shows_the_guests_own_frames() {
        let frame = |function: &str| Frame { function: function.into(), offset: Some(0x10) };
        let frames = [
            "abort",
            "std::sys::backtrace::__rust_end_short_backtrace::<f>",
            "app::inner",
            "app::inner",
            "app::main",
            "std::sys::backtrace::__rust_begin_short_backtrace",
            "_start",
        ];
        let text = render(frames.iter().map(|name| frame(name)).collect());
        assert_eq!(text, "  at app::inner (0x10), 2 times\n  at app::main (0x10)");
        assert_eq!(render(Vec::new()), "");
    }
}
