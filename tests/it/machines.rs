//! Machines of their own: a process with a data directory, inside a network of its own where the test makes one.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{Ran, eventually, run};

/// A process of its own with a data directory of its own.
pub struct Machine {
    pub folder: PathBuf,
    process: Option<Child>,
    /// The way into its network, if it has one of its own.
    inside: Vec<String>,
}

impl Machine {
    /// Starts a process on this machine and waits until it runs.
    pub fn start(folder: &Path, arguments: &[&str]) -> Self {
        Self::start_inside(folder, arguments, Vec::new())
    }

    /// The same inside a network.
    pub fn start_inside(folder: &Path, arguments: &[&str], inside: Vec<String>) -> Self {
        let mut machine = Self { folder: folder.to_owned(), process: None, inside };
        machine.again(arguments);
        machine
    }

    /// Starts a process on the same directory.
    pub fn again(&mut self, arguments: &[&str]) {
        let output =
            std::fs::File::options().create(true).append(true).open(self.folder.with_extension("out")).unwrap();
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .env("RUST_LOG", "warn,runtime=info,http_api=info");
        let child = command.spawn().unwrap();
        let pid = child.id();
        self.process = Some(child);
        eventually("the process to say that it runs", || {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "{arguments:?} ended: {}", self.output());
            // The way into a network ends as the program itself.
            (self.running()?["pid"] == pid).then_some(())
        });
    }

    /// `kogia` on this machine.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let plain = kogia(&self.folder, arguments);
        let Some((program, rest)) = self.inside.split_first() else { return plain };
        let mut command = Command::new(program);
        command.args(rest).arg(plain.get_program()).args(plain.get_args());
        command.env_remove("KUBECONFIG").env_remove("KOGIA_TOKEN");
        command
    }

    /// Ends the process as a power cut would.
    pub fn kill(&mut self) {
        self.end();
        self.bury();
    }

    /// The same for whoever shares the machine with others; [`Machine::bury`] is to follow.
    pub fn end(&self) {
        kill_process(Pid::from_child(self.process.as_ref().unwrap()), Signal::KILL).unwrap();
    }

    /// Takes note of a process that was ended.
    pub fn bury(&mut self) {
        self.process.take().unwrap().wait().unwrap();
    }

    /// The members as this one has them.
    pub fn members(&self) -> Option<Vec<Value>> {
        let ran = self.kogia(&["members", "list", "--json"]);
        (ran.code == Some(0)).then(|| serde_json::from_str(&ran.out).unwrap())
    }

    /// What the process says of itself.
    pub fn running(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.folder.join("run.json")).ok()?).ok()
    }

    /// What the process printed.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.folder.with_extension("out")).unwrap_or_default()
    }

    /// `kogia` on this machine, to its end.
    pub fn kogia(&self, arguments: &[&str]) -> Ran {
        run(&mut self.command(arguments))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.folder.display(), self.output());
        }
    }
}

/// `kogia` on a data directory.
pub fn kogia(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kogia"));
    command.arg("--data-dir").arg(folder).args(arguments).env_remove("KUBECONFIG").env_remove("KOGIA_TOKEN");
    command
}

/// Whether a node is ready, as a machine's member has it.
pub fn is_ready(first: &Machine, node: &str) -> Option<bool> {
    let ran = first.kogia(&["get", "node", node, "-o", "json"]);
    let node: Value = (ran.code == Some(0)).then(|| serde_json::from_str(&ran.out).unwrap())?;
    node["status"]["conditions"].is_array().then(|| says_ready(&node))
}

/// Whether a node or a pod says that it is ready.
pub fn says_ready(object: &Value) -> bool {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
