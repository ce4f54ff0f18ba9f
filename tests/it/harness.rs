//! What the tests share: a cluster in a process of its own, guests built once, kubectl, and waiting for conditions.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long a condition may take to come true, on a slow machine in a debug build.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(25);

/// Waits until `look` gives something; `what` names it when it never does.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        thread::sleep(LOOK);
    }
}

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a program did.
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    line: String,
}

impl Ran {
    fn new(line: String, output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr), line }
    }

    /// The output of a program that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}{}", self.line, self.out, self.err);
        self.out
    }

    /// What a program that must have failed said on standard error.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(self.code.is_some_and(|code| code != 0), "{} succeeded:\n{}", self.line, self.out);
        self.err
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ran {
    let line = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{line}: {error}"));
    Ran::new(line, output)
}

/// Runs a command to its end with something on its standard input.
pub fn run_with_input(command: &mut Command, input: &str) -> Ran {
    let line = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
    // A program that refuses its input early closes it; what it says is what counts.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    Ran::new(line, child.wait_with_output().unwrap())
}

/// A cluster in a process of its own; it ends with the test.
pub struct Cluster {
    dir: TempDir,
    process: Option<Child>,
    /// What `up` is given beside free ports.
    flags: Vec<String>,
}

impl Cluster {
    /// Starts an empty one.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts an empty one with these flags.
    pub fn start_with(flags: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("kogia-it-").tempdir().unwrap();
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut cluster = Self { dir, process: None, flags };
        cluster.up();
        cluster
    }

    /// Starts the process, again after [`Cluster::kill`].
    pub fn up(&mut self) {
        let mut command =
            self.command(&["up", "--no-merge", "--api-port", "0", "--http-port", "0", "--https-port", "0"]);
        command.args(&self.flags);
        let log = fs::File::options().create(true).append(true).open(self.dir.path().join("output")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // Its own process group, as a terminal's job has: a signal for the test run is not one for the cluster.
        self.process = Some(command.spawn().unwrap());
        eventually("the cluster to be up", || {
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the cluster ended: {}", self.output());
            self.run_file()
        });
    }

    /// Ends the process as a power cut would.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn run_file(&self) -> Option<Value> {
        let running: Value = serde_json::from_slice(&fs::read(self.data_dir().join("run.json")).ok()?).ok()?;
        // A file left behind by a process that was killed names that one.
        (running["pid"] == self.process.as_ref()?.id()).then_some(running)
    }

    /// What the process printed.
    pub fn output(&self) -> String {
        fs::read_to_string(self.dir.path().join("output")).unwrap_or_default()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A folder that goes with the test.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The Ingress' address.
    pub fn http(&self) -> SocketAddr {
        let running = self.run_file().expect("it runs");
        running["http"].as_str().unwrap().parse().unwrap()
    }

    /// The Ingress' address for TLS.
    pub fn https(&self) -> SocketAddr {
        let running = self.run_file().expect("it runs");
        running["https"].as_str().unwrap().parse().unwrap()
    }

    /// `kogia` on this cluster.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kogia"));
        command.arg("--data-dir").arg(self.data_dir()).args(args);
        command.env_remove("KUBECONFIG").env("HOME", self.dir.path());
        command
    }

    /// `kogia` on this cluster, to its end.
    pub fn kogia(&self, args: &[&str]) -> Ran {
        run(&mut self.command(args))
    }

    /// Starts an example of the repository on this cluster and waits until it is ready.
    pub fn with(&self, example: &str) -> String {
        let mut command = self.command(&["up", "--with"]);
        command.arg(root().join("examples").join(example));
        // Guests are built once for all tests, and rustup is looked for where it is.
        command.env("CARGO_TARGET_DIR", guests()).env("HOME", std::env::var_os("HOME").unwrap_or_default());
        run(&mut command).ok()
    }

    /// An object as JSON; `None` when there is none.
    pub fn find(&self, kind: &str, name: &str) -> Option<Value> {
        let ran = self.kogia(&["get", kind, name, "-o", "json"]);
        (ran.code == Some(0)).then(|| serde_json::from_str(&ran.out).unwrap())
    }

    /// An object as JSON.
    #[track_caller]
    pub fn get(&self, kind: &str, name: &str) -> Value {
        self.find(kind, name).unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    /// Applies a manifest with the built-in client.
    pub fn apply(&self, manifest: &str) -> Ran {
        run_with_input(&mut self.command(&["apply", "-f", "-"]), manifest)
    }

    /// GETs from the Ingress: status and body.
    pub fn fetch(&self, host: &str, path: &str) -> Option<(u16, String)> {
        fetch(self.http(), host, path)
    }

    /// Waits until the Ingress answers a host with 200 and returns the body.
    pub fn fetch_ok(&self, host: &str, path: &str) -> String {
        eventually(&format!("{host}{path} to answer"), || {
            self.fetch(host, path).filter(|(status, _)| *status == 200).map(|(_, body)| body)
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
        // One that a test started with --detach does not outlive a test that fails.
        let _ = self.command(&["down"]).output();
        if thread::panicking() {
            eprintln!("--- output of the cluster ---\n{}", self.output());
        }
    }
}

/// One HTTP GET; `None` when the connection fails.
pub fn fetch(address: SocketAddr, host: &str, path: &str) -> Option<(u16, String)> {
    ask(address, &format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n"))
}

/// One HTTP POST; `None` when the connection fails.
pub fn post(address: SocketAddr, host: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let length = body.len();
    ask(address, &format!("POST {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}"))
}

fn ask(address: SocketAddr, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// Where the examples are built: one folder for all tests, beside the test binary.
pub fn guests() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests")
}

/// One kubectl on this machine.
pub struct Kubectl {
    pub version: String,
    path: PathBuf,
}

impl Kubectl {
    /// The kubectl on PATH and, beside the file it really is, the versions 1.27 and 1.30. None: the test passes with a
    /// notice, or fails in CI.
    pub fn all() -> Vec<Self> {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let newest = std::env::split_paths(&paths).map(|folder| folder.join("kubectl")).find(|path| path.is_file());
        let Some(newest) = newest else {
            assert!(std::env::var_os("CI").is_none(), "CI needs kubectl on PATH");
            eprintln!("there is no kubectl on PATH: this test shows nothing here");
            return Vec::new();
        };
        let beside = newest.canonicalize().unwrap_or_else(|_| newest.clone());
        let older =
            ["1.27", "1.30"].map(|version| (version.to_owned(), beside.with_file_name(format!("kubectl.{version}"))));
        let older = older.into_iter().filter(|(_, path)| path.is_file());
        let all = [("newest".to_owned(), newest)].into_iter().chain(older);
        all.map(|(version, path)| Self { version, path }).collect()
    }

    /// The newest one only.
    pub fn newest() -> Option<Self> {
        Self::all().into_iter().next()
    }

    /// A command on a cluster; its caches stay in the test's own folder.
    pub fn command(&self, cluster: &Cluster, args: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.env("KUBECONFIG", cluster.data_dir().join("kubeconfig")).env("HOME", cluster.scratch());
        command.arg("--context").arg("kogia").args(args);
        command
    }

    /// Runs a command on a cluster to its end.
    pub fn run(&self, cluster: &Cluster, args: &[&str]) -> Ran {
        run(&mut self.command(cluster, args))
    }

    /// Runs a command with a manifest on its standard input.
    pub fn run_with(&self, cluster: &Cluster, args: &[&str], manifest: &str) -> Ran {
        run_with_input(&mut self.command(cluster, args), manifest)
    }
}

/// A process whose output is read while it runs; it ends with the test.
pub struct Following {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Following {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let out = std::io::BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        thread::spawn(move || {
            use std::io::BufRead;
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits for a line that fits and returns it.
    #[track_caller]
    pub fn line(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if fits(&line) {
                return line;
            }
            seen.push(line);
        }
        panic!("waited in vain for {what}; saw {seen:#?}")
    }
}

impl Following {
    /// Whether a line that fits has come by now; what does not fit is forgotten.
    pub fn has_heard(&self, fits: impl Fn(&str) -> bool) -> bool {
        self.lines.try_iter().any(|line| fits(&line))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Says that it is over when it goes: however a test ends, the threads that work until then end with it.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
