//! Holding who calls a sleeping Service until its pods are there.
//!
//! A call that finds no endpoint is kept here: its head only, for a body is not read before somebody answers. Too many
//! at once, or too long, and the caller is told what it would have been told without sleepers: refused.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep_until};

use crate::conn::Conn;
use crate::fabric::{DialError, Fabric, NetError};
use crate::http::HttpTarget;
use crate::limits::{HELD_MAX, HELD_RETRY, HELD_TIMEOUT};
use crate::services::{PortRef, Protocol, ServiceTable};
use crate::sleepers::{DeploymentName, Door, Visit};

/// What those who wait and those who wake know of each other.
#[derive(Debug)]
pub(crate) struct Waking {
    wanted: Mutex<BTreeSet<DeploymentName>>,
    rung: Notify,
    /// Endpoints, or who listens, may have changed.
    changed: Notify,
    held: Arc<Semaphore>,
}

impl Default for Waking {
    fn default() -> Self {
        Self {
            wanted: Mutex::default(),
            rung: Notify::new(),
            changed: Notify::new(),
            held: Arc::new(Semaphore::new(HELD_MAX)),
        }
    }
}

impl Waking {
    /// Whoever is held looks again.
    pub(crate) fn note_change(&self) {
        self.changed.notify_waiters();
    }

    fn ring(&self, door: &Door) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.extend(door.deployments().iter().cloned());
        drop(wanted);
        self.rung.notify_one();
    }
}

impl Fabric {
    /// The Services in force, once a table has been installed.
    pub async fn services_read(&self) -> Arc<ServiceTable> {
        loop {
            let mut changed = std::pin::pin!(self.waking().changed.notified());
            changed.as_mut().enable();
            let services = self.services();
            if services.is_read {
                return services;
            }
            changed.await;
        }
    }

    /// Waits until somebody calls Deployments that have no endpoint, and names them. Asking again forgets them.
    pub async fn wanted(&self) -> BTreeSet<DeploymentName> {
        loop {
            let rung = self.waking().rung.notified();
            let wanted = std::mem::take(&mut *self.waking().wanted.lock().unwrap_or_else(PoisonError::into_inner));
            if !wanted.is_empty() {
                return wanted;
            }
            rung.await;
        }
    }

    /// As [`Fabric::dial_service`]; where the Service's pods sleep, once they are awake. The visit is to be kept for as
    /// long as the Service is being used.
    ///
    /// # Errors
    /// [`DialError`], as a sentence that names the Service.
    pub async fn reach_service(
        &self,
        namespace: &str,
        service: &str,
        port: &PortRef,
        client: IpAddr,
    ) -> (Result<HttpTarget, DialError>, Option<Visit>) {
        let dial = || self.dial_service(namespace, service, port, client);
        let first = dial().await;
        let Some(door) = self.door(namespace, service) else { return (first, None) };
        let found = match first {
            Err(nobody @ DialError::NoReadyEndpoint(_)) => {
                let again = || async {
                    match dial().await {
                        Err(DialError::NoReadyEndpoint(_)) => None,
                        found => Some(found),
                    }
                };
                self.hold(&door, again).await.unwrap_or(Err(nobody))
            }
            found => found,
        };
        (found, Some(door.visit()))
    }

    /// Connects to a Service through a port of every node; where its pods sleep, once they are awake. `None` when
    /// nobody accepts.
    pub async fn reach_node_port(&self, port: u16, client: IpAddr) -> Option<Conn> {
        let dial = || async move {
            let balancer = self.services().node_port(port, Protocol::Tcp)?.balancer.clone();
            self.connect_balanced(&balancer, client).await.ok()
        };
        let door = {
            let services = self.services();
            let (namespace, service) = services.node_port(port, Protocol::Tcp)?.service.split_once('/')?;
            self.door(namespace, service)
        };
        let Some(door) = door else { return dial().await };
        let mut conn = match dial().await {
            Some(conn) => conn,
            None => self.hold(&door, dial).await?,
        };
        conn.keep(Some(door.visit()));
        Some(conn)
    }

    fn door(&self, namespace: &str, service: &str) -> Option<Arc<Door>> {
        self.sleepers().named(namespace, service).cloned()
    }

    pub(crate) fn door_at(&self, ip: IpAddr) -> Option<Arc<Door>> {
        self.sleepers().at(ip).cloned()
    }

    /// Dials again and again until it succeeds, and lets those behind the door be woken. `None` when the bounds on
    /// waiting are reached.
    pub(crate) async fn hold<T, F>(&self, door: &Door, dial: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Option<T>>,
    {
        let _place = door.held().try_acquire_owned().ok()?;
        let _node = self.waking().held.clone().try_acquire_owned().ok()?;
        // Who waits is a visitor: those who are being woken must not be sent to sleep again meanwhile.
        let _visit = door.visit();
        let deadline = Instant::now() + HELD_TIMEOUT;
        loop {
            let mut changed = std::pin::pin!(self.waking().changed.notified());
            changed.as_mut().enable();
            if let Some(dialled) = dial().await {
                return Some(dialled);
            }
            let now = Instant::now();
            if now >= deadline {
                return None;
            }
            self.waking().ring(door);
            tokio::select! {
                () = changed => {}
                () = sleep_until(deadline.min(now + HELD_RETRY)) => {}
            }
        }
    }
}

/// Dials; where nobody is there because the pods of a Service sleep, once they are awake.
pub(crate) async fn awake<T, F>(
    fabric: &Fabric,
    destination: SocketAddr,
    dial: impl Fn() -> F,
) -> (Result<T, NetError>, Option<Visit>)
where
    F: Future<Output = Result<T, NetError>>,
{
    let first = dial().await;
    let Some(door) = fabric.door_at(destination.ip()) else { return (first, None) };
    let found = match first {
        Err(NetError::ConnectionRefused) => {
            let again = || async {
                match dial().await {
                    Err(NetError::ConnectionRefused) => None,
                    found => Some(found),
                }
            };
            fabric.hold(&door, again).await.unwrap_or(Err(NetError::ConnectionRefused))
        }
        found => found,
    };
    (found, Some(door.visit()))
}
