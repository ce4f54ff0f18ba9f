//! Commands inside running containers: `kubectl exec`, exec probes and hooks, and `kubectl attach`.
//!
//! A container has no file system with programs in it. What a command means is decided by its first word: the
//! container's own component, run once more with these arguments; or the toolbox (`ls`, `cat`, `tar` …). Either runs in
//! the pod's network, with the container's volumes and environment, and on its accounts: what it uses counts against the
//! container's limits. It ends with the container, and with its client.

mod command;
mod session;

use std::sync::Arc;
use std::time::Duration;

use engine::{Code, ContainerSpec, Exit, Output, Stream};
use network::pipe::Reader;
use tokio_util::sync::CancellationToken;

pub(crate) use command::programs;
use command::{Meaning, meaning};
pub(crate) use session::{Wanted, attach, exec};

use crate::limits::EXEC_WORDS_BYTES_MAX;
use crate::node::Agent;
use crate::rooms::Room;

/// Exit code of a command that nobody knows, as shells have it.
const NOT_FOUND: i32 = 127;
/// Exit code of a command that is known and cannot be run.
const NOT_RUNNABLE: i32 = 126;
/// Exit code of a command that Ctrl-C ended: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// What is to be run.
struct Program {
    code: Arc<Code>,
    spec: ContainerSpec,
}

/// Finds what a command means in a container.
///
/// # Errors
/// The exit code and the sentence for stderr.
async fn program(agent: &Agent, room: &Room, command: &[String]) -> Result<Program, (i32, String)> {
    let first = command.first().map(String::as_str).unwrap_or_default();
    let answers_http = room.code.kind() == engine::Kind::HttpProxy;
    let (code, mounts) = match meaning(first, &room.programs, answers_http) {
        Meaning::Own => (room.code.clone(), room.spec.mounts.clone()),
        Meaning::Toolbox => {
            let code = agent.toolbox.code(&agent.config.engine).await.map_err(|why| (NOT_RUNNABLE, why))?;
            let failed = |why: String| (NOT_RUNNABLE, format!("exec: {first:?}: {why}"));
            room.sight.show(agent).await.map_err(failed)?;
            let room = room.clone();
            let mounts = tokio::task::spawn_blocking(move || room.toolbox_mounts()).await;
            let mounts = mounts.map_err(std::io::Error::other).flatten();
            (code, mounts.map_err(|error| failed(format!("its folders cannot be made: {error}")))?)
        }
        Meaning::AnswersHttp => {
            return Err((NOT_RUNNABLE, format!("exec: {first:?}: the image answers HTTP requests; it is no command")));
        }
        Meaning::Unknown => {
            let own = room.programs.first().map(String::as_str).unwrap_or_default();
            let tools: Vec<&str> = toolbox::commands().collect();
            let what = format!("exec: {first:?}: executable file not found; a component has no other programs than");
            let own = if answers_http { String::new() } else { format!(" itself ({own}) and") };
            return Err((NOT_FOUND, format!("{what}{own} the toolbox ({})", tools.join(" "))));
        }
    };
    let spec = ContainerSpec { args: command.to_vec(), mounts, ..room.spec.clone() };
    Ok(Program { code, spec })
}

impl Program {
    /// Runs it with these streams, until the container ends or `stop`.
    fn run(
        self,
        agent: &Agent,
        room: &Room,
        input: Option<Arc<Reader>>,
        output: Arc<dyn Output>,
        terminal: bool,
        stop: CancellationToken,
    ) -> engine::Running {
        let spec = ContainerSpec { input, output, terminal, ..self.spec };
        agent.config.engine.run_in(&room.accounts, &self.code, spec, stop)
    }
}

/// Runs a command without a client, for a probe or a hook.
///
/// # Errors
/// What it said, or why it could not be run, when it did not exit with 0 in time.
pub(crate) async fn run(agent: &Agent, room: &Room, command: &[String], limit: Option<Duration>) -> Result<(), String> {
    let program = program(agent, room, command).await.map_err(|(_, why)| why)?;
    let words = Arc::new(Words::default());
    let running = program.run(agent, room, None, words.clone(), false, room.over.child_token());
    let exit = match limit {
        Some(limit) => tokio::time::timeout(limit, running).await.ok(),
        None => Some(running.await),
    };
    let Some(exit) = exit else {
        let limit = limit.unwrap_or_default();
        return Err(format!("command timed out: {:?} timed out after {limit:?}", command.join(" ")));
    };
    match exit {
        Exit::Code(0) => Ok(()),
        Exit::Code(_) => Err(words.text()),
        other => Err(format!("{}{other}", words.text())),
    }
}

/// The first bytes a command prints on either stream.
#[derive(Default)]
struct Words(std::sync::Mutex<Vec<u8>>);

impl Words {
    fn text(&self) -> String {
        let words = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        String::from_utf8_lossy(&words).into_owned()
    }
}

impl Output for Words {
    fn write(&self, _stream: Stream, bytes: &[u8]) {
        let mut words = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let room = EXEC_WORDS_BYTES_MAX.saturating_sub(words.len()).min(bytes.len());
        words.extend_from_slice(&bytes[..room]);
    }
}
