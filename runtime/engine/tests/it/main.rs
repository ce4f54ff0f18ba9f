//! The engine with real components: what a pod's driver sees of commands and HTTP containers.

mod commands;
mod guests;
mod modules;
mod reuse;
mod service;
mod web;

use engine::{Code, CodeError, ContainerSpec, Engine, EngineConfig, Output, Stream};
use network::{Fabric, PodIdentity};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// Longest a test waits for anything: generous, for machines that do other things too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who calls where it does not matter.
const CALLER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 42, 0, 2));

/// Bytes of output a test keeps; the rest is only counted.
const KEPT_BYTES: usize = 64 << 10;

/// What a container wrote.
#[derive(Default)]
struct Collected {
    stdout: Mutex<Vec<u8>>,
    stderr: Mutex<Vec<u8>>,
    largest: Mutex<usize>,
    total: Mutex<usize>,
}

impl Collected {
    fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.lock().unwrap()).into_owned()
    }

    fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap()).into_owned()
    }

    fn total(&self) -> usize {
        *self.total.lock().unwrap()
    }
}

impl Output for Collected {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut largest = self.largest.lock().unwrap();
        *largest = (*largest).max(bytes.len());
        *self.total.lock().unwrap() += bytes.len();
        let kept = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        let mut kept = kept.lock().unwrap();
        let room = KEPT_BYTES.saturating_sub(kept.len()).min(bytes.len());
        kept.extend_from_slice(&bytes[..room]);
    }
}

/// An engine with a cache of its own.
struct House {
    engine: Engine,
    dir: TempDir,
}

impl House {
    fn new() -> House {
        House::with_instances(64)
    }

    fn with_instances(instances: u32) -> House {
        let dir = tempfile::tempdir().unwrap();
        let config = EngineConfig {
            threads: 2,
            commands_max: instances,
            requests_max: instances,
            ..EngineConfig::new(dir.path().join("cache"))
        };
        House { engine: Engine::new(config).unwrap(), dir }
    }

    async fn load(&self, text: &str) -> Result<Arc<Code>, CodeError> {
        self.load_as(text, false).await
    }

    /// Loads code that counts its instructions if it is `metered`.
    async fn load_as(&self, text: &str, metered: bool) -> Result<Arc<Code>, CodeError> {
        let path = self.dir.path().join("guest.wasm");
        std::fs::write(&path, wat::parse_str(text).unwrap()).unwrap();
        self.engine.load(&format!("test:{}", text.len()), &path, metered).await
    }
}

/// A container without limits, and what it will write.
fn spec() -> (ContainerSpec, Arc<Collected>) {
    let output = Arc::new(Collected::default());
    let network = Fabric::new(network::Config::default()).attach(PodIdentity {
        namespace: "default".into(),
        name: "test".into(),
        hostname: "test".into(),
        addresses: vec!["10.42.0.2".parse().unwrap()],
    });
    let spec = ContainerSpec {
        name: "main".into(),
        args: vec!["main".into()],
        env: Vec::new(),
        memory_limit_bytes: None,
        cpu_request_millis: None,
        cpu_limit_millis: None,
        mounts: Vec::new(),
        input: None,
        terms: engine::Terms::default(),
        output: output.clone(),
        terminal: false,
        network,
    };
    (spec, output)
}

/// Waits until `condition` holds.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let mut look = tokio::time::interval(Duration::from_millis(2));
    let wait = async {
        while !condition() {
            look.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}
