//! The store when its files are damaged or its disk is full, as real processes: members heal, and say what they cannot do.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{eventually, run};
use crate::store::{Ledger, Member, Members, nothing_lost};

/// The one file of a stopped member whose name begins so.
fn file(data_dir: &Path, prefix: &str) -> PathBuf {
    let all = fs::read_dir(data_dir.join("store")).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    all.into_iter().find(named).unwrap()
}

/// What befalls a file.
type Damage = fn(&Path);

/// Changes one bit of the first frame after a log's header.
fn flip(log: &Path) {
    let mut bytes = fs::read(log).unwrap();
    bytes[4096 + 40] ^= 1;
    fs::write(log, bytes).unwrap();
}

#[test]
fn a_damaged_member_heals_from_its_peers_under_load() {
    let mut cluster = Members::start();
    let cut = |path: &Path| fs::File::options().write(true).open(path).unwrap().set_len(5000).unwrap();
    let damages: [(&str, Damage); 3] =
        [("log-", flip), ("checkpoint", cut), ("log-", |path| fs::remove_file(path).unwrap())];
    let acknowledged = Ledger::under_load(&mut cluster, |cluster, ledger| {
        for (victim, (prefix, damage)) in damages.into_iter().enumerate() {
            cluster.members[victim].kill();
            damage(&file(&cluster.data_dir(victim), prefix));
            cluster.members[victim] = cluster.spawn(victim);
            ledger.members.lock().unwrap().clone_from(&cluster.members);
            eventually("the damaged member to be a voter again", || {
                let status = cluster.members[victim].status()?;
                (status["healing"].is_null() && status["voters"] == 3).then_some(())
            });
            let number = cluster.members[victim].status().unwrap()["member"].as_u64().unwrap();
            assert!(number > 1000 && number % 1000 == victim as u64 + 1, "it bears a new number: {number}");
            ledger.progress();
        }
    });
    nothing_lost(&cluster, &acknowledged);
    // A member that healed is opened again like any other.
    cluster.members[0].kill();
    cluster.members[0] = cluster.spawn(0);
    nothing_lost(&cluster, &acknowledged);
}

#[test]
fn a_damaged_member_without_peers_says_what_is_lost_and_goes_on_from_what_is_whole() {
    let dir = tempfile::Builder::new().prefix("kogia-store-").tempdir().unwrap();
    let kogia = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kogia"));
        command.arg("--data-dir").arg(dir.path()).arg("store").args(args);
        command
    };
    let mut process = kogia(&["member"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = process.stdin.take().unwrap();
    let mut answers = BufReader::new(process.stdout.take().unwrap()).lines();
    for id in 1..=10 {
        writeln!(input, "{}", json!({"id": id, "put": {"key": format!("k{id}"), "value": "v"}})).unwrap();
        answers.next().unwrap().unwrap();
    }
    drop(input);
    assert!(process.wait().unwrap().success());

    flip(&file(dir.path(), "log-"));
    let refused = run(&mut kogia(&["member"])).fails();
    for told in ["was durable and no longer reads", "whole up to revision 10", "force-new-cluster", "saved snapshot"] {
        assert!(refused.contains(told), "{told} is missing in: {refused}");
    }
    assert!(run(&mut kogia(&["force-new-cluster", "--yes"])).ok().contains("10 keys at revision 10"));
    let alone = Member::start(kogia(&["member"]), &dir.path().join("trace"));
    assert!(alone.put("k11", "v"));
    assert_eq!(alone.list("k").unwrap().len(), 11);
    alone.kill();
}

/// A small file system of its own (`tmpfs`); gone with the test.
#[cfg(target_os = "linux")]
pub struct SmallDisk(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    /// `None` where this machine does not let us mount one.
    pub fn new(megabytes: u64) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("kogia-store-").tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(dir))
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_refuses_writes_answers_reads_and_needs_no_restart() {
    let Some(disk) = SmallDisk::new(160) else {
        eprintln!("a file system cannot be mounted here (root is needed): this test shows nothing");
        return;
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_kogia"));
    command.arg("--data-dir").arg(disk.0.path()).args(["store", "member"]);
    let trace = tempfile::NamedTempFile::new().unwrap();
    let alone = Member::start(command, trace.path());
    assert!(alone.put("before", "v"));
    let ballast = disk.0.path().join("ballast");
    fs::write(&ballast, vec![1; 100 << 20]).unwrap();
    eventually("a write to be refused", || {
        let told = alone.ask(json!({"put": {"key": "meanwhile", "value": "v"}}))?;
        told["error"].as_str().filter(|error| error.contains("disk of the store is full")).map(|_| ())
    });
    assert_eq!(alone.list("before").unwrap()["before"], "v");
    fs::remove_file(ballast).unwrap();
    eventually("a write to be accepted again", || alone.put("after", "v").then_some(()));
    assert_eq!(alone.list("").unwrap()["after"], "v");
    alone.kill();
}
