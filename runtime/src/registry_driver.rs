//! The registry's listener: plain HTTP for tools on this machine.
//!
//! Docker, oras and their kin speak plain HTTP with loopback without being told to. The listener must therefore be on
//! loopback; the registry itself refuses whoever names another host.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use image::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits::{REGISTRY_ACCEPT_PAUSE, REGISTRY_CONNECTIONS_MAX, REGISTRY_HEAD_TIMEOUT};

/// Serves until `stop`; transfers in flight are cut off then, and their tools try again.
pub async fn run(listener: TcpListener, registry: Registry, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(REGISTRY_CONNECTIONS_MAX));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the registry cannot accept a connection");
                tokio::time::sleep(REGISTRY_ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Beyond the bound a connection is closed at once: tools wait and come again.
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let (registry, stop) = (registry.clone(), stop.clone());
        tasks.spawn(async move {
            let _place = place;
            tokio::select! {
                () = stop.cancelled() => {}
                () = serve(stream, registry) => {}
            }
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn serve(stream: TcpStream, registry: Registry) {
    // Small answers must not wait for Nagle; a socket that refuses the option still works.
    let _ = stream.set_nodelay(true);
    let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let registry = registry.clone();
        async move { Ok::<_, Infallible>(registry.answer(request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(REGISTRY_HEAD_TIMEOUT);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!(%error, "a connection to the registry ended early");
    }
}
