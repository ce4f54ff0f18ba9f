//! A command: one instance of a component, run to its end.

use crate::component::Pre;
use crate::exit::Exit;
use crate::guest::{Container, Guest, Usage};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wasmtime_wasi::p2::bindings::CommandPre;

/// A command that runs on the guests' threads. Await it for its [`Exit`]; dropping it ends it at its next yield.
#[must_use = "dropping it ends the command"]
pub struct Running {
    task: JoinHandle<Exit>,
    container: Arc<Container>,
}

impl Running {
    pub(crate) fn start(container: Arc<Container>, stop: CancellationToken) -> Running {
        let shared = container.clone();
        let task = container.code.parts().spawn(async move {
            let Pre::Command(pre) = shared.code.pre() else {
                return Exit::Failed("the component answers HTTP requests; it is not a command".into());
            };
            let guest = shared.meter.run(&shared.code.parts().ticker, execute(pre, &shared));
            tokio::select! {
                biased;
                () = stop.cancelled() => Exit::Stopped,
                exit = guest => exit,
            }
        });
        Running { task, container }
    }

    /// What it has used so far.
    pub fn usage(&self) -> Usage {
        self.container.usage()
    }

    /// Reads the usage while somebody else waits for the end.
    pub fn usage_reader(&self) -> impl Fn() -> Usage + Send + Sync + 'static {
        let container = self.container.clone();
        move || container.usage()
    }
}

impl Future for Running {
    type Output = Exit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Exit> {
        Pin::new(&mut self.task).poll(cx).map(|ended| match ended {
            Ok(exit) => exit,
            Err(error) if error.is_cancelled() => Exit::Stopped,
            Err(error) => Exit::Failed(format!("the engine failed: {error}")),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn execute(pre: &CommandPre<Guest>, container: &Container) -> Exit {
    let mut store = match container.store() {
        Ok(store) => store,
        Err(error) => return Exit::Failed(format!("{error:#}")),
    };
    let run = async {
        let command = pre.instantiate_async(&mut store).await?;
        command.wasi_cli_run().call_run(&mut store).await
    };
    match run.await {
        Ok(Ok(())) => Exit::Code(0),
        Ok(Err(())) => Exit::Code(1),
        Err(error) => store.data().exit(&error),
    }
}
