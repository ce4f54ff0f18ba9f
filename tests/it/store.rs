//! The store as real processes: whatever happens to its members, what was acknowledged is there afterwards, and members at
//! the same index have the same state. And the ways out when members or files are lost.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Over, PATIENCE, eventually, run};

/// An address on loopback that stays free until a member takes it: below the ports that outgoing connections are given.
pub(crate) fn free_address() -> SocketAddr {
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    loop {
        // Tests that run at the same time are other processes, or meet in the counter.
        let turn = u64::from(std::process::id()) * 8 + TAKEN.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], 16_384 + (turn % 16_000) as u16));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Three members, each a process of its own (`kogia store member`).
pub(crate) struct Members {
    dir: TempDir,
    addresses: Vec<SocketAddr>,
    /// What each process is started with in front: the way into its network, if it has one of its own.
    inside: Vec<Vec<String>>,
    pub(crate) members: Vec<Arc<Member>>,
}

/// One process; requests are answered in whatever order answers come.
pub(crate) struct Member {
    process: Mutex<Child>,
    input: Mutex<ChildStdin>,
    open: Mutex<BTreeMap<u64, Sender<Value>>>,
    last: AtomicU64,
}

impl Member {
    pub(crate) fn start(mut command: Command, trace: &Path) -> Arc<Self> {
        let trace = fs::File::options().create(true).append(true).open(trace).unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(trace).env("RUST_LOG", "raft_store=debug");
        let mut process = command.spawn().unwrap();
        let input = process.stdin.take().unwrap().into();
        let output = process.stdout.take().unwrap();
        let member = Self { process: process.into(), input, open: Mutex::default(), last: AtomicU64::new(0) };
        let member = Arc::new(member);
        let heard = member.clone();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let told: Value = serde_json::from_str(&line).unwrap();
                let to = heard.open.lock().unwrap().remove(&told["id"].as_u64().unwrap());
                // Nobody may be waiting any more.
                let _ = to.map(|to| to.send(told));
            }
            // The process ended: so do all who wait.
            heard.open.lock().unwrap().clear();
        });
        member
    }

    /// The answer; `None` when the process ends first or says nothing within the patience of a client.
    pub(crate) fn ask(&self, mut what: Value) -> Option<Value> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        what["id"] = id.into();
        let (to, answer) = mpsc::channel();
        self.open.lock().unwrap().insert(id, to);
        writeln!(self.input.lock().unwrap(), "{what}").ok()?;
        if !self.runs() {
            return None;
        }
        answer.recv_timeout(PATIENCE / 4).ok()
    }

    /// Whether the write was acknowledged.
    pub(crate) fn put(&self, key: &str, value: &str) -> bool {
        self.ask(json!({"put": {"key": key, "value": value}})).is_some_and(|told| told["revision"].is_u64())
    }

    pub(crate) fn list(&self, prefix: &str) -> Option<BTreeMap<String, String>> {
        let told = self.ask(json!({"list": {"prefix": prefix}}))?;
        serde_json::from_value::<Vec<(String, String)>>(told["items"].clone()).ok().map(|all| all.into_iter().collect())
    }

    pub(crate) fn status(&self) -> Option<Value> {
        self.ask(json!({"status": {}})).map(|told| told["status"].clone())
    }

    fn runs(&self) -> bool {
        self.process.lock().unwrap().try_wait().unwrap().is_none()
    }

    fn leads(&self) -> bool {
        self.status().is_some_and(|status| status["leader"] == status["member"])
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.process.lock().unwrap().id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    pub(crate) fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

impl Members {
    /// Three members on loopback.
    pub(crate) fn start() -> Self {
        Self::at((0..3).map(|_| free_address()).collect(), vec![Vec::new(); 3])
    }

    fn at(addresses: Vec<SocketAddr>, inside: Vec<Vec<String>>) -> Self {
        let dir = tempfile::Builder::new().prefix("kogia-store-").tempdir().unwrap();
        let mut cluster = Self { dir, addresses, inside, members: Vec::new() };
        for number in 0..3 {
            cluster.members.push(cluster.spawn(number));
            // The first one makes the authority; the others find it.
            eventually("a member to answer", || {
                assert!(cluster.members[number].runs(), "member {} ended", number + 1);
                cluster.members[number].status()
            });
        }
        cluster.leader();
        cluster
    }

    pub(crate) fn spawn(&self, number: usize) -> Arc<Member> {
        let kogia = env!("CARGO_BIN_EXE_kogia").to_owned();
        let line: Vec<String> = self.inside[number].iter().cloned().chain([kogia]).collect();
        let mut command = Command::new(&line[0]);
        command.args(&line[1..]).arg("--data-dir").arg(self.data_dir(number)).args(["store", "member"]);
        command.arg("--id").arg((number + 1).to_string()).arg("--pki").arg(self.dir.path().join("pki"));
        for (number, address) in self.addresses.iter().enumerate() {
            command.arg("--member").arg(format!("{}={address}", number + 1));
        }
        Member::start(command, &self.trace(number))
    }

    pub(crate) fn data_dir(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("data-{number}"))
    }

    fn trace(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("trace-{number}"))
    }

    /// The member that leads, once one does.
    fn leader(&self) -> usize {
        eventually("a leader", || self.members.iter().position(|member| member.leads()))
    }

    /// Waits until all members have applied the same, and returns what each holds below a prefix: it must be the same.
    fn settled(&self, prefix: &str) -> BTreeMap<String, String> {
        eventually("members to apply the same", || {
            let all: Vec<_> = self.members.iter().filter_map(|member| member.status()).collect();
            let same = all.len() == 3 && all.iter().all(|status| status["applied"] == all[0]["applied"]);
            if same {
                let hashes: Vec<_> = all.iter().map(|status| &status["hash"]).collect();
                assert!(hashes.iter().all(|hash| *hash == hashes[0]), "states differ at the same index: {all:?}");
            }
            same.then_some(())
        });
        let held = [0, 1, 2].map(|number| eventually("a read", || self.members[number].list(prefix)));
        assert!(held[0] == held[1] && held[1] == held[2]);
        held.into_iter().next().unwrap()
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for (number, member) in self.members.iter().enumerate() {
            member.kill();
            if thread::panicking() {
                let trace = fs::read_to_string(self.trace(number)).unwrap_or_default();
                let from = trace.len().saturating_sub(4000);
                eprintln!("--- member {} ---\n{}", number + 1, String::from_utf8_lossy(&trace.as_bytes()[from..]));
            }
        }
    }
}

/// Clients that write one key after the other, and what they were promised.
pub(crate) struct Ledger {
    pub(crate) members: Mutex<Vec<Arc<Member>>>,
    acknowledged: Mutex<BTreeMap<String, String>>,
    over: AtomicBool,
}

impl Ledger {
    /// Two writers at each member while `trouble` goes on; returns what was acknowledged.
    pub(crate) fn under_load(
        cluster: &mut Members,
        trouble: impl FnOnce(&mut Members, &Ledger),
    ) -> BTreeMap<String, String> {
        let members = cluster.members.clone().into();
        let ledger = Self { members, acknowledged: Mutex::default(), over: AtomicBool::new(false) };
        thread::scope(|scope| {
            for writer in 0..6 {
                let ledger = &ledger;
                scope.spawn(move || ledger.write(writer));
            }
            // Ends the writers even if the trouble panics, so that the panic is what the test shows.
            let _over = Over(&ledger.over);
            ledger.progress();
            trouble(cluster, &ledger);
            ledger.progress();
        });
        ledger.acknowledged.into_inner().unwrap()
    }

    fn write(&self, writer: usize) {
        let mut at = writer;
        for turn in 0.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let (key, value) = (format!("ledger/{writer}/{turn}"), format!("{writer}-{turn}"));
            let member = self.members.lock().unwrap()[at % 3].clone();
            if member.put(&key, &value) {
                self.acknowledged.lock().unwrap().insert(key, value);
            } else {
                // The fate of this one is unknown; on to another member, as a client does.
                at += 1;
            }
        }
    }

    /// Waits until a hundred more writes are acknowledged.
    pub(crate) fn progress(&self) {
        let count = || self.acknowledged.lock().unwrap().len();
        let before = count();
        eventually("writes to be acknowledged", || (count() >= before + 100).then_some(()));
    }
}

#[track_caller]
pub(crate) fn nothing_lost(cluster: &Members, acknowledged: &BTreeMap<String, String>) {
    let there = cluster.settled("ledger/");
    let lost: Vec<_> = acknowledged.iter().filter(|(key, value)| there.get(*key) != Some(value)).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged writes are lost: {lost:?}", lost.len(), acknowledged.len());
}

#[test]
fn nothing_acknowledged_is_lost_when_leaders_are_killed() {
    let mut cluster = Members::start();
    let acknowledged = Ledger::under_load(&mut cluster, |cluster, ledger| {
        for _ in 0..3 {
            let leader = cluster.leader();
            // The majority goes on without it, and it comes back under load.
            cluster.members[leader].kill();
            ledger.progress();
            cluster.members[leader] = cluster.spawn(leader);
            ledger.members.lock().unwrap().clone_from(&cluster.members);
        }
    });
    nothing_lost(&cluster, &acknowledged);
    // All at once, as when the power goes.
    for number in 0..3 {
        cluster.members[number].kill();
    }
    for number in 0..3 {
        cluster.members[number] = cluster.spawn(number);
    }
    nothing_lost(&cluster, &acknowledged);
}

#[test]
fn a_leader_that_stood_still_comes_back_as_a_follower() {
    let mut cluster = Members::start();
    let acknowledged = Ledger::under_load(&mut cluster, |cluster, ledger| {
        for _ in 0..2 {
            let paused = cluster.leader();
            let term = cluster.members[paused].status().unwrap()["term"].as_u64();
            cluster.members[paused].signal(Signal::STOP);
            let next = (paused + 1) % 3;
            eventually("a new leader", || {
                let status = cluster.members[next].status()?;
                (status["term"].as_u64() > term && status["leader"].is_u64()).then_some(())
            });
            ledger.progress();
            cluster.members[paused].signal(Signal::CONT);
            eventually("the old leader to hear of it", || {
                (cluster.members[paused].status()?["term"].as_u64() > term).then_some(())
            });
        }
    });
    nothing_lost(&cluster, &acknowledged);
}

/// Networks of their own and a bridge between them (`ip netns`); gone with the test.
#[cfg(target_os = "linux")]
pub struct Networks {
    name: String,
    machines: usize,
}

#[cfg(target_os = "linux")]
impl Networks {
    /// Three of them. `None` where this machine does not let us make networks. The letter tells tests of one process apart.
    pub fn new(letter: char) -> Option<Self> {
        Self::of(letter, 3)
    }

    /// As many as wanted, in the same way.
    pub fn of(letter: char, machines: usize) -> Option<Self> {
        let networks = Self { name: format!("kg{letter}{}", std::process::id()), machines };
        let name = &networks.name;
        let ip =
            |line: String| Command::new("ip").args(line.split_whitespace()).output().is_ok_and(|o| o.status.success());
        // The bridge has a network of its own too, so that this machine's own is left alone.
        let hub = format!("netns add {name}hub");
        let mut all = ip(hub) && ip(format!("-n {name}hub link add hub up type bridge"));
        for number in 1..=machines {
            all = all
                && ip(format!("netns add {name}m{number}"))
                && ip(format!("-n {name}hub link add p{number} type veth peer name eth0 netns {name}m{number}"))
                && ip(format!("-n {name}hub link set p{number} master hub up"))
                && ip(format!("-n {name}m{number} addr add 10.99.0.{number}/24 dev eth0"))
                && ip(format!("-n {name}m{number} link set eth0 up"))
                && ip(format!("-n {name}m{number} link set lo up"));
        }
        all.then_some(networks)
    }

    /// The way into the network of a machine.
    pub fn inside(&self, number: usize) -> Vec<String> {
        let name = format!("{}m{}", self.name, number + 1);
        ["ip", "netns", "exec"].into_iter().map(str::to_owned).chain([name]).collect()
    }

    /// Runs something inside the network of a machine.
    pub fn enter<T: Send>(&self, number: usize, what: impl FnOnce() -> T + Send) -> T {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        let file = fs::File::open(format!("/run/netns/{}m{}", self.name, number + 1)).unwrap();
        let inside = move || {
            // A network belongs to a thread; this one ends with what it is for.
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).unwrap();
            what()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    /// Has one packet in four of what a machine sends overtaken by others, behind a slow queue, and one in fifty of what
    /// it is sent lost. `false` where this machine's kernel cannot do that.
    pub fn storm(&self, number: usize) -> bool {
        let machine = format!("{}m{}", self.name, number + 1);
        let done = |program: &str, words: &str| {
            let words = words.split_whitespace();
            Command::new("ip")
                .args(["netns", "exec", &machine, program])
                .args(words)
                .output()
                .is_ok_and(|o| o.status.success())
        };
        done("tc", "qdisc replace dev eth0 root handle 1: htb default 1")
            && done("tc", "class add dev eth0 parent 1: classid 1:1 htb rate 1gbit")
            && done("tc", "class add dev eth0 parent 1: classid 1:2 htb rate 1mbit")
            && done("nft", "add table inet storm")
            && done("nft", "add chain inet storm out { type filter hook postrouting priority 0 ; }")
            // The priority names the queue (tc-htb(8)).
            && done("nft", "add rule inet storm out oifname eth0 numgen random mod 4 0 meta priority set 1:2")
            && done("nft", "add chain inet storm in { type filter hook prerouting priority 0 ; }")
            && done("nft", "add rule inet storm in iifname eth0 numgen random mod 50 0 drop")
    }

    /// Ends a storm.
    pub fn calm(&self, number: usize) {
        let machine = format!("{}m{}", self.name, number + 1);
        run(Command::new("tc").args(["-n", &machine, "qdisc", "del", "dev", "eth0", "root"])).ok();
        run(Command::new("ip").args(["netns", "exec", &machine, "nft", "delete", "table", "inet", "storm"])).ok();
    }

    /// Lets a machine and others that were parted so no longer reach each other. `false` where this kernel cannot do that.
    pub fn part(&self, number: usize) -> bool {
        let line = format!("-n {}hub link set p{} type bridge_slave isolated on", self.name, number + 1);
        Command::new("ip").args(line.split_whitespace()).output().is_ok_and(|o| o.status.success())
    }

    /// Cuts a member's cable, or mends it.
    pub fn set(&self, number: usize, state: &str) {
        let hub = format!("{}hub", self.name);
        run(Command::new("ip").args(["-n", &hub, "link", "set", &format!("p{}", number + 1), state])).ok();
    }
}

#[cfg(target_os = "linux")]
impl Drop for Networks {
    fn drop(&mut self) {
        let machines = (1..=self.machines).map(|number| format!("m{number}"));
        for part in machines.chain(["hub".to_owned()]) {
            let _ = Command::new("ip").args(["netns", "del", &format!("{}{part}", self.name)]).output();
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_acknowledged_is_lost_when_leaders_are_cut_off() {
    let Some(networks) = Networks::new('s') else {
        eprintln!("network namespaces cannot be made here (root and iproute2 are needed): this test shows nothing");
        return;
    };
    let inside = (0..3).map(|number| networks.inside(number));
    let addresses = (1..=3).map(|number| format!("10.99.0.{number}:7000").parse().unwrap()).collect();
    let mut cluster = Members::at(addresses, inside.collect());
    let acknowledged = Ledger::under_load(&mut cluster, |cluster, ledger| {
        for _ in 0..2 {
            let alone = cluster.leader();
            networks.set(alone, "down");
            let next = (alone + 1) % 3;
            eventually("the others to elect", || {
                let leader = cluster.members[next].status()?["leader"].as_u64()?;
                (leader != alone as u64 + 1).then_some(())
            });
            ledger.progress();
            eventually("the one cut off to know that it does not lead", || {
                (!cluster.members[alone].leads()).then_some(())
            });
            networks.set(alone, "up");
            eventually("the one cut off to follow", || cluster.members[alone].status()?["leader"].as_u64());
        }
    });
    nothing_lost(&cluster, &acknowledged);
}

#[test]
fn strangers_are_refused_and_do_no_harm() {
    let cluster = Members::start();
    let victim = cluster.leader();
    let before = cluster.members[victim].status().unwrap();
    let refused = |what: &str| {
        let trace = fs::read_to_string(cluster.trace(victim)).unwrap();
        trace.lines().filter(|line| line.contains("connection was closed") && line.contains(what)).count()
    };

    // Bytes that are no TLS, and a client that is gone before it said anything.
    for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0; 4096], &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3], b""] {
        let mut stream = TcpStream::connect(cluster.addresses[victim]).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(garbage).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // A reset is as good an end as any; a hello of TLS would begin with 0x16.
        let _ = stream.read_to_end(&mut answer);
        assert_ne!(answer.first(), Some(&0x16), "{garbage:?} was spoken to");
    }
    eventually("garbage to be refused", || (refused("") >= 3).then_some(()));

    // A member of another authority: neither side trusts the other.
    let pki = cluster.dir.path().join("other-pki");
    let stranger = |number: u64| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kogia"));
        command.arg("--data-dir").arg(cluster.dir.path().join(format!("stranger-{number}")));
        command.args(["store", "member", "--id", &number.to_string()]).arg("--pki").arg(&pki);
        command.arg("--member").arg(format!("{number}={}", free_address()));
        command.arg("--member").arg(format!("{}={}", victim + 1, cluster.addresses[victim]));
        Member::start(command, &cluster.dir.path().join("stranger-trace"))
    };
    let first = stranger(8);
    eventually("the stranger to turn away", || (refused("received fatal alert") >= 1).then_some(()));
    assert_eq!(first.status().unwrap()["leader"], Value::Null);
    first.kill();
    // One that trusts the cluster, but whose own certificate another key signed.
    fs::copy(cluster.dir.path().join("pki/ca.crt"), pki.join("ca.crt")).unwrap();
    let second = stranger(9);
    eventually("the stranger's certificate to be refused", || (refused("invalid peer certificate") >= 1).then_some(()));
    assert_eq!(second.status().unwrap()["leader"], Value::Null);
    second.kill();

    let after = cluster.members[victim].status().unwrap();
    assert_eq!((&before["term"], &before["leader"]), (&after["term"], &after["leader"]));
    assert!(cluster.members[victim].put("still", "writable"));
    assert_eq!(cluster.settled("still")["still"], "writable");
}

#[test]
fn what_is_lost_can_be_restored() {
    let cluster = Members::start();
    for turn in 0..50 {
        assert!(cluster.members[turn % 3].put(&format!("kept/{turn:02}"), "value"));
    }
    let kogia = |number: usize, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kogia"));
        run(command.arg("--data-dir").arg(cluster.data_dir(number)).arg("store").args(args))
    };
    let file = cluster.dir.path().join("snapshot");
    let file = file.to_str().unwrap();
    let running = kogia(0, &["snapshot", "save", file]).fails();
    assert!(running.contains("kogia down"), "{running}");
    cluster.settled("kept/");
    for member in &cluster.members {
        member.kill();
    }

    assert!(kogia(0, &["snapshot", "save", file]).ok().contains("50 keys at revision 50"));
    let status: Value = serde_json::from_str(&kogia(0, &["snapshot", "status", "--json", file]).ok()).unwrap();
    assert_eq!((&status["keys"], &status["revision"]), (&50.into(), &50.into()));
    let full = kogia(0, &["snapshot", "restore", file]).fails();
    assert!(full.contains("holds a store already"), "{full}");
    let empty = cluster.dir.path().join("data-7");
    fs::create_dir(&empty).unwrap();
    assert!(kogia(7, &["snapshot", "restore", file]).ok().contains("50 keys"));
    let mut damaged = fs::read(file).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(cluster.dir.path().join("damaged"), damaged).unwrap();
    let refused = kogia(7, &["snapshot", "status", cluster.dir.path().join("damaged").to_str().unwrap()]).fails();
    assert!(refused.contains("no complete snapshot"), "{refused}");

    // One survivor of three makes itself the cluster, and says first what that may cost.
    assert!(kogia(1, &["force-new-cluster"]).fails().contains("--yes"));
    let forced = kogia(1, &["force-new-cluster", "--yes"]).ok();
    assert!(forced.contains("is lost") && forced.contains("50 keys"), "{forced}");
    for (number, id) in [(7, "1"), (1, "2")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kogia"));
        command.arg("--data-dir").arg(cluster.data_dir(number)).args(["store", "member", "--id", id]);
        let alone = Member::start(command, &cluster.trace(number));
        assert!(alone.put("kept/new", "value"));
        assert_eq!(alone.list("kept/").unwrap().len(), 51);
        alone.kill();
    }
}
