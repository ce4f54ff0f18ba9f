//! One client's conversation with a program: frames of the request's body in, frames of the answer's body out.

use std::sync::Arc;
use std::task::{Context, Poll};

use api::channels::{self, Decoder, Frame};
use bytes::Bytes;
use engine::{Exit, Output, Stream};
use futures::StreamExt;
use http_body_util::BodyExt;
use network::Body;
use network::pipe::{Writer, pipe};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{INTERRUPTED, program};
use crate::console::channel;
use crate::limits::STDIN_BYTES_MAX;
use crate::node::Agent;
use crate::outlet::Outlet;
use crate::rooms::Room;
use crate::terminal::{Terminal, shown};

/// What a client asks for: the query of `pods/exec` and `pods/attach`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) command: Vec<String>,
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
}

impl Wanted {
    /// Reads the query; names that mean nothing here are passed over.
    pub(crate) fn parse(query: &str) -> Self {
        let mut wanted = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let flag = matches!(&*value, "" | "true" | "1");
            match &*name {
                "command" => wanted.command.push(value.into_owned()),
                "stdin" => wanted.stdin = flag,
                "stdout" => wanted.stdout = flag,
                "stderr" => wanted.stderr = flag,
                "tty" => wanted.tty = flag,
                _ => {}
            }
        }
        wanted
    }
}

/// Runs a command; the answer's body ends with how it ended. Letting go of the body ends the command.
pub(crate) async fn exec(agent: Arc<Agent>, room: Room, wanted: Wanted, from_client: Body) -> Body {
    let outlet = Outlet::default();
    let program = match program(&agent, &room, &wanted.command).await {
        Ok(program) => program,
        Err((code, why)) => {
            let stream = if wanted.stderr && !wanted.tty { channels::STDERR } else { channels::STDOUT };
            let line = format!("{why}\n");
            outlet.send(stream, &if wanted.tty { shown(line.as_bytes()) } else { line.into_bytes() });
            outlet.send(channels::STATUS, outcome(&Exit::Code(code)).to_string().as_bytes());
            let body = outlet.body(());
            outlet.end();
            return body;
        }
    };
    let interrupt = CancellationToken::new();
    let (writer, reader) = pipe(STDIN_BYTES_MAX);
    let Wanted { stdin, stdout, stderr, tty, .. } = wanted;
    let input = stdin.then(|| Arc::new(reader));
    let screen = Arc::new(Screen { outlet: outlet.clone(), stdout, stderr, terminal: tty });
    let running = program.run(&agent, &room, input, screen, tty, room.over.child_token());
    let typing = Typing {
        program: Arc::new(writer),
        terminal: tty.then(Terminal::default),
        outlet: outlet.clone(),
        interrupt: interrupt.clone(),
        ends: true,
    };
    let session = AbortOnDropHandle::new(tokio::spawn({
        let outlet = outlet.clone();
        async move {
            let listening = AbortOnDropHandle::new(tokio::spawn(typing.listen(from_client)));
            let exit = tokio::select! {
                exit = running => exit,
                () = interrupt.cancelled() => Exit::Code(INTERRUPTED),
            };
            drop(listening);
            if let Exit::Trap { .. } | Exit::Failed(_) = &exit {
                let line = format!("{exit}\n");
                let (channel, line) = match tty {
                    true => (channels::STDOUT, shown(line.as_bytes())),
                    false => (channels::STDERR, line.into_bytes()),
                };
                outlet.send(channel, &line);
            }
            outlet.send(channels::STATUS, outcome(&exit).to_string().as_bytes());
            outlet.end();
        }
    }));
    outlet.body(session)
}

/// Connects to the container's own streams; the answer's body ends with the container.
///
/// # Errors
/// A sentence when it cannot be attached to.
pub(crate) fn attach(room: &Room, wanted: &Wanted, from_client: Body) -> Result<Body, String> {
    let outlet = Outlet::default();
    let console = room.console.clone();
    console.attach(&outlet, wanted.stdout, wanted.stderr && !wanted.tty)?;
    let input = console.input().filter(|_| wanted.stdin);
    let (over, interrupt) = (room.over.clone(), CancellationToken::new());
    let session = AbortOnDropHandle::new(tokio::spawn({
        let outlet = outlet.clone();
        async move {
            let listening = input.map(|program| {
                let typing = Typing {
                    program,
                    terminal: console.terminal.then(Terminal::default),
                    outlet: outlet.clone(),
                    interrupt: interrupt.clone(),
                    ends: console.once,
                };
                AbortOnDropHandle::new(tokio::spawn(typing.listen(from_client)))
            });
            tokio::select! {
                () = over.cancelled() => {}
                // A container is not ended by those who watch it; their conversation is.
                () = interrupt.cancelled() => {}
            }
            drop(listening);
            outlet.send(channels::STATUS, outcome(&Exit::Code(0)).to_string().as_bytes());
            outlet.end();
        }
    }));
    Ok(outlet.body(session))
}

/// What a command prints, on its way to its client.
struct Screen {
    outlet: Outlet,
    stdout: bool,
    stderr: bool,
    terminal: bool,
}

impl Output for Screen {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        let channel = channel(stream, self.terminal);
        if if channel == channels::STDERR { self.stderr } else { self.stdout } {
            match self.terminal {
                true => self.outlet.send(channel, &shown(bytes)),
                false => self.outlet.send(channel, bytes),
            }
        }
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.outlet.poll_room(cx)
    }
}

/// What a client sends, on its way to a program.
struct Typing {
    program: Arc<Writer>,
    terminal: Option<Terminal>,
    /// Where the keys are echoed.
    outlet: Outlet,
    interrupt: CancellationToken,
    /// Whether the program's input is over with the client's.
    ends: bool,
}

impl Drop for Typing {
    fn drop(&mut self) {
        if self.ends {
            self.program.shutdown();
        }
    }
}

impl Typing {
    /// Passes on what comes until the client has said its last.
    async fn listen(mut self, from_client: Body) {
        let mut pieces = from_client.into_data_stream();
        let mut decoder = Decoder::default();
        while let Some(Ok(piece)) = pieces.next().await {
            decoder.push(&piece);
            loop {
                match decoder.frame() {
                    Ok(Some(frame)) => {
                        if self.take(frame).await.is_none() {
                            return;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return tracing::debug!(%error, "a client of a container broke off"),
                }
            }
        }
    }

    /// `None` when no more is to be taken.
    async fn take(&mut self, frame: Frame) -> Option<()> {
        match frame.channel {
            channels::STDIN => {
                let Some(terminal) = &mut self.terminal else { return self.pass(frame.bytes).await };
                let typed = terminal.take(&frame.bytes);
                self.outlet.send(channels::STDOUT, &typed.echo);
                if typed.interrupted {
                    self.interrupt.cancel();
                }
                self.pass(typed.input.into()).await?;
                // As on any terminal this is the program's own end of input, whoever else may come later.
                self.ends |= typed.ended;
                (!typed.ended).then_some(())
            }
            channels::CLOSE if frame.bytes.first() == Some(&channels::STDIN) => None,
            // A component cannot be told how large the terminal is.
            _ => Some(()),
        }
    }

    /// Waits until the program has taken it; one that does not read holds up its own client alone.
    async fn pass(&self, mut bytes: Bytes) -> Option<()> {
        while !bytes.is_empty() {
            if self.program.write(&mut bytes).ok()? == 0 {
                self.program.ready().await;
            }
        }
        Some(())
    }
}

/// How a command ended, in the words of `v4.channel.k8s.io`.
fn outcome(exit: &Exit) -> Value {
    match exit.code() {
        0 => json!({"metadata": {}, "status": "Success"}),
        code => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_kubectl_exec() {
        let wanted = Wanted::parse("command=ls&command=-l&container=web&stdin=true&stdout=true&tty=false");
        let expected =
            Wanted { command: vec!["ls".to_owned(), "-l".to_owned()], stdin: true, stdout: true, ..Wanted::default() };
        assert_eq!(wanted, expected);
    }

    #[test]
    fn outcomes_as_clients_read_them() {
        assert_eq!(outcome(&Exit::Code(0))["status"], "Success");
        let failed = outcome(&Exit::OomKilled);
        assert_eq!(
            (&failed["reason"], &failed["details"]["causes"][0]["message"]),
            (&json!("NonZeroExitCode"), &json!("137"))
        );
    }
}
