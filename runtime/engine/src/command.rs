//! A command: one instance of a component, run to its end.

use crate::component::Pre;
use crate::exit::Exit;
use crate::guest::{Accounts, Container, Guest, Usage};
use crate::threads::Spawned;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use wasmtime::Store;
use wasmtime::component::{Accessor, InstancePre};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p3;

/// A command that runs on the guests' threads. Await it for its [`Exit`]; dropping it ends it at its next yield.
#[must_use = "dropping it ends the command"]
pub struct Running {
    task: Spawned<Exit>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    container: Arc<Container>,
}

impl Running {
    pub(crate) fn start(container: Arc<Container>, stop: CancellationToken) -> Running {
        let shared = container.clone();
        let stopped = Box::pin(stop.clone().cancelled_owned());
        let task = container.code.parts().threads.spawn(&container.meter, None, async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => Exit::Stopped,
                exit = run(&shared) => exit,
            }
        });
        Running { task, stop: stopped, container }
    }

    /// What it has used so far.
    pub fn usage(&self) -> Usage {
        self.container.usage()
    }

    /// The accounts it runs on.
    pub fn accounts(&self) -> Accounts {
        self.container.accounts()
    }
}

impl Future for Running {
    type Output = Exit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Exit> {
        if let Poll::Ready(exit) = Pin::new(&mut self.task).poll(cx) {
            let stopped = self.task.is_cancelled();
            let lost = || if stopped { Exit::Stopped } else { Exit::Failed("the engine failed".into()) };
            return Poll::Ready(exit.unwrap_or_else(lost));
        }
        // A guest in debt of CPU time is not polled and would learn of it late.
        if !self.task.is_cancelled() && self.stop.as_mut().poll(cx).is_ready() {
            self.task.cancel();
        }
        Poll::Pending
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.cancel();
    }
}

async fn run(container: &Container) -> Exit {
    match container.code.pre() {
        Pre::Command(pre) => execute(pre, container).await,
        Pre::AsyncCommand(pre) => execute_async(pre, container).await,
        Pre::Module(pre) => execute_module(pre, container).await,
        Pre::Proxy(_) | Pre::Service(_) => {
            Exit::Failed("the component answers HTTP requests; it is not a command".into())
        }
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
    ended(run.await, &store)
}

/// `wasi:cli/run` of 0.3: an async function, called on the instance's own event loop.
async fn execute_async(pre: &InstancePre<Guest>, container: &Container) -> Exit {
    let mut store = match container.store() {
        Ok(store) => store,
        Err(error) => return Exit::Failed(format!("{error:#}")),
    };
    let run = async {
        let instance = pre.instantiate_async(&mut store).await?;
        let command = p3::bindings::Command::new(&mut store, &instance)?;
        store.run_concurrent(async |store: &Accessor<Guest>| command.wasi_cli_run().call_run(store).await).await?
    };
    ended(run.await, &store)
}

/// A core module of WASI's first preview: `_start` is called once. Most languages end with `proc_exit`, which is an error that
/// carries the code.
async fn execute_module(pre: &wasmtime::InstancePre<Guest>, container: &Container) -> Exit {
    let mut store = match container.store() {
        Ok(store) => store,
        Err(error) => return Exit::Failed(format!("{error:#}")),
    };
    let run = async {
        let instance = pre.instantiate_async(&mut store).await?;
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
        start.call_async(&mut store, ()).await
    };
    ended(run.await.map(Ok), &store)
}

fn ended(ran: wasmtime::Result<Result<(), ()>>, store: &Store<Guest>) -> Exit {
    match ran {
        Ok(Ok(())) => Exit::Code(0),
        Ok(Err(())) => Exit::Code(1),
        Err(error) => store.data().exit(&error),
    }
}
