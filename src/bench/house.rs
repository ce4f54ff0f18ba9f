//! A cluster with a data directory of its own, for benches that put something on it; both go together.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::server::{self, Server};
use crate::build::{self, Built};
use crate::client::{Client, Target};
use crate::running::Running;

/// The cluster, and where it keeps everything.
pub struct House {
    /// Gone before the directory is.
    server: Option<Server>,
    data_dir: PathBuf,
    pub running: Running,
}

impl House {
    /// Starts one. Its API answers when this returns.
    pub async fn start() -> anyhow::Result<House> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let data_dir = std::env::temp_dir().join(format!("kogia-bench-house-{}-{number}", std::process::id()));
        let (server, running) = Server::start(&data_dir).await?;
        Ok(House { server: Some(server), data_dir, running })
    }

    /// The administrator's client.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(&Target::default(), &self.data_dir).await
    }

    /// Puts a component into the cluster's image store and returns the reference pinned to its digest.
    pub fn store(&self, built: &Built) -> anyhow::Result<String> {
        Ok(build::store(built, &self.data_dir)?.pinned)
    }

    /// Resident memory of the whole process.
    pub fn rss_mib(&self) -> Option<f64> {
        server::rss_mib(self.running.pid)
    }
}

impl Drop for House {
    fn drop(&mut self) {
        drop(self.server.take());
        let _ = std::fs::remove_dir_all(&self.data_dir);
    }
}
