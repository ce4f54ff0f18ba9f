//! Every verb and flag family of kubectl, command by command: `suite.txt` says what is run and what must come of it.
//!
//! Each version of kubectl goes through the list in a namespace and a working folder of its own, all at once against
//! one cluster. What a client of some age cannot do is marked there with the reason, never left out silently.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Cluster, Kubectl, Ran, run, run_with_input};

/// How long a block marked `until` may take to fit.
const UNTIL: Duration = Duration::from_secs(60);
/// How often it is tried.
const AGAIN: Duration = Duration::from_millis(100);
/// What stands in for a person at `kubectl edit`.
const EDITOR: &str = "sed -i s/first/edited/";

/// One block: a command and what must come of it.
#[derive(Default)]
struct Step {
    line: String,
    exit: i32,
    out: Vec<String>,
    is: Option<String>,
    no: Vec<String>,
    err: Vec<String>,
    stdin: Option<String>,
    until: bool,
    only: Vec<String>,
    not: Vec<String>,
}

enum Block {
    File { name: String, text: String },
    Step(Step),
}

/// Reads the list; what is not in its grammar fails the test.
fn blocks(text: &str) -> Vec<Block> {
    let lines: Vec<&str> = text.lines().collect();
    let blocks = lines.split(|line| line.is_empty());
    let blocks = blocks.filter(|block| block.first().is_some_and(|line| !line.starts_with('#')));
    blocks.map(block).collect()
}

fn block(lines: &[&str]) -> Block {
    let (head, rest) = lines.split_first().expect("no block is empty");
    if let Some(name) = head.strip_prefix("file ") {
        return Block::File { name: name.to_owned(), text: rest.join("\n") + "\n" };
    }
    let line = head.strip_prefix("$ ").unwrap_or_else(|| panic!("no block begins like this: {head}"));
    let mut step = Step { line: line.to_owned(), ..Step::default() };
    for line in rest {
        let (word, text) = line.split_once(' ').unwrap_or((line, ""));
        // Versions with the reason behind a colon; there is always one.
        let versions = || {
            let (versions, why) = text.split_once(": ").unwrap_or_else(|| panic!("no reason is given: {line}"));
            assert!(!why.is_empty(), "{line}");
            versions.split(' ').map(str::to_owned).collect()
        };
        match word {
            "exit" => step.exit = text.parse().unwrap(),
            "out" => step.out.push(squeezed(text)),
            "is" => step.is = Some(squeezed(text)),
            "no" => step.no.push(squeezed(text)),
            "err" => step.err.push(squeezed(text)),
            "stdin" => step.stdin = Some(text.to_owned()),
            "until" => step.until = true,
            "only" => step.only = versions(),
            "not" => step.not = versions(),
            _ => panic!("no block has such a line: {line}"),
        }
    }
    Block::Step(step)
}

/// Any run of blanks as one blank: columns are as wide as their content.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A command line's words; what stands in single quotes is kept together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for character in line.chars() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            other => word.push(other),
        }
    }
    assert!(!quoted, "a quote does not end: {line}");
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

impl Step {
    fn is_for(&self, version: &str) -> bool {
        let has = |versions: &[String]| versions.iter().any(|other| other == version);
        (self.only.is_empty() || has(&self.only)) && !has(&self.not)
    }

    /// What does not fit; empty when all does.
    fn complaints(&self, ran: &Ran) -> Vec<String> {
        let (out, err) = (squeezed(&ran.out), squeezed(&ran.err));
        let mut all = Vec::new();
        if ran.code != Some(self.exit) {
            all.push(format!("exit code {:?} instead of {}", ran.code, self.exit));
        }
        all.extend(self.is.iter().filter(|text| **text != out).map(|text| format!("stdout is not {text:?}")));
        all.extend(self.out.iter().filter(|text| !out.contains(*text)).map(|text| format!("stdout lacks {text:?}")));
        all.extend(self.no.iter().filter(|text| out.contains(*text)).map(|text| format!("stdout has {text:?}")));
        all.extend(self.err.iter().filter(|text| !err.contains(*text)).map(|text| format!("stderr lacks {text:?}")));
        all
    }
}

/// One version of kubectl at work.
struct Worker<'a> {
    cluster: &'a Cluster,
    kubectl: &'a Kubectl,
    namespace: String,
    folder: PathBuf,
}

impl<'a> Worker<'a> {
    fn new(cluster: &'a Cluster, kubectl: &'a Kubectl) -> Self {
        let namespace = format!("suite-{}", kubectl.version.replace('.', "-"));
        let folder = cluster.scratch().join(&namespace);
        fs::create_dir(&folder).unwrap();
        // `kubectl config` writes to it.
        fs::copy(cluster.data_dir().join("kubeconfig"), folder.join("kubeconfig")).unwrap();
        Self { cluster, kubectl, namespace, folder }
    }

    fn command(&self, line: &str) -> Command {
        let mut args = vec!["--namespace", &self.namespace];
        let words = words(line);
        args.extend(words.iter().map(String::as_str));
        let mut command = self.kubectl.command(self.cluster, &args);
        command.current_dir(&self.folder).env("KUBECONFIG", self.folder.join("kubeconfig")).env("HOME", &self.folder);
        command.env_remove("KUBE_EDITOR").env("EDITOR", EDITOR);
        // A folder on PATH with programs named kubectl-… would be plugins.
        command.env("PATH", "/usr/bin:/bin");
        command
    }

    fn attempt(&self, step: &Step) -> Ran {
        let mut command = self.command(&step.line);
        match &step.stdin {
            Some(file) => run_with_input(&mut command, &fs::read_to_string(self.folder.join(file)).unwrap()),
            None => run(&mut command),
        }
    }

    /// Runs a step, again and again when it says `until`; what did not fit.
    fn step(&self, step: &Step) -> Option<String> {
        let deadline = Instant::now() + UNTIL;
        loop {
            let ran = self.attempt(step);
            let complaints = step.complaints(&ran);
            if complaints.is_empty() {
                return None;
            }
            if !step.until || Instant::now() > deadline {
                let (version, line, complaints) = (&self.kubectl.version, &step.line, complaints.join("\n  "));
                return Some(format!("kubectl {version} {line}\n  {complaints}\n{}{}", ran.out, ran.err));
            }
            thread::sleep(AGAIN);
        }
    }

    /// Goes through the whole list: how many commands ran, and what did not fit.
    fn run(&self, text: &str) -> (usize, Vec<String>) {
        let (mut count, mut complaints) = (0, Vec::new());
        for block in blocks(&text.replace("{ns}", &self.namespace)) {
            match block {
                Block::File { name, text } => write(&self.folder.join(name), &text),
                Block::Step(step) if step.is_for(&self.kubectl.version) => {
                    count += 1;
                    complaints.extend(self.step(&step));
                }
                Block::Step(_) => {}
            }
        }
        (count, complaints)
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn every_kubectl_command_does_what_it_does_on_kubernetes() {
    let kubectls = Kubectl::all();
    if kubectls.is_empty() {
        return;
    }
    let cluster = Cluster::start();
    // Their images are what the list runs.
    cluster.with("hello-http");
    cluster.with("batch-job");
    let text = include_str!("suite.txt");
    let workers: Vec<Worker<'_>> = kubectls.iter().map(|kubectl| Worker::new(&cluster, kubectl)).collect();
    let done: Vec<(usize, Vec<String>)> = thread::scope(|scope| {
        let threads: Vec<_> = workers.iter().map(|worker| scope.spawn(|| worker.run(text))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (kubectl, (count, _)) in kubectls.iter().zip(&done) {
        assert!(*count >= 150, "kubectl {} ran {count} commands only", kubectl.version);
    }
    let complaints: Vec<String> = done.into_iter().flat_map(|(_, complaints)| complaints).collect();
    assert!(complaints.is_empty(), "{} commands do not fit:\n\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn the_list_is_read_as_it_is_meant() {
    let text = "# a comment\n\nfile a/b.yaml\nx: 1\n\n$ get 'a b' c\nexit 2\nout A   B\nnot 1.27: old\nuntil\n";
    let blocks = blocks(text);
    let [Block::File { name, text }, Block::Step(step)] = &blocks[..] else { panic!("two blocks") };
    assert_eq!((&**name, &**text), ("a/b.yaml", "x: 1\n"));
    assert_eq!((step.exit, &*step.out, step.until), (2, &["A B".to_owned()][..], true));
    assert!(step.is_for("1.30") && !step.is_for("1.27"));
    assert_eq!(words(&step.line), ["get", "a b", "c"]);
}
