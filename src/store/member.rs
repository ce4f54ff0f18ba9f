//! `kogia store member`: one bare member of the store in a process of its own, for benches and tests.
//!
//! It obeys its standard input, one JSON object per line, and answers on standard output in whatever order answers come:
//!
//! ```text
//! {"id":1,"put":{"key":"a","value":"1"}}  →  {"id":1,"revision":1}
//! {"id":2,"list":{"prefix":"a"}}          →  {"id":2,"items":[["a","1"]]}
//! {"id":3,"status":{}}                    →  {"id":3,"status":{"member":1,"leader":1,…}}
//! ```
//!
//! The end of its input ends it in order. It listens to nobody but its peers, and refuses those without a certificate
//! of their common authority.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use control::pki::Authority;
use control::store::{self, Config, Range, Store, Txn, put};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::task::JoinSet;

use super::load::{self, Load, Measured};
use crate::limits::{MEMBER_ASKS_MAX, MEMBER_LINE_BYTES_MAX};

#[derive(clap::Args)]
pub struct Args {
    /// This member's number
    #[arg(long, default_value_t = 1)]
    id: u64,
    /// Each founding member, this one included, and where it listens; none for a member that is alone
    #[arg(long = "member", value_name = "NUMBER=ADDRESS", value_parser = founder)]
    members: Vec<(u64, SocketAddr)>,
    /// The folder of the authority that signs for members; made if it is empty
    #[arg(long, value_name = "FOLDER")]
    pki: Option<PathBuf>,
    /// A heartbeat's interval; an election begins after ten of them
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..=10_000))]
    heartbeat_ms: u64,
}

fn founder(text: &str) -> Result<(u64, SocketAddr), String> {
    let parsed = text.split_once('=').and_then(|(number, at)| Some((number.parse().ok()?, at.parse().ok()?)));
    parsed.ok_or_else(|| "expected NUMBER=ADDRESS:PORT".to_owned())
}

/// One line in.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ask {
    pub id: u64,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Put { key: String, value: String },
    List { prefix: String },
    Status {},
    Load(Load),
    FanOut { watchers: usize, writes: usize, value_bytes: usize },
}

/// One line out.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    pub id: u64,
    #[serde(flatten)]
    pub answer: Answer,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Revision(u64),
    Items(Vec<(String, String)>),
    Status(Status),
    Measured(Measured),
    PerSecond(f64),
    Error(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub member: u64,
    pub leader: Option<u64>,
    pub term: u64,
    pub applied: u64,
    pub revision: u64,
    pub hash: String,
    pub voters: usize,
    /// What is damaged, while the member is not whole again.
    pub healing: Option<String>,
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let store = Store::open(config(args, data_dir)?).await?;
    let mut input = BufReader::new(tokio::io::stdin());
    let mut open = JoinSet::new();
    loop {
        let mut line = String::new();
        let mut bounded = (&mut input).take(MEMBER_LINE_BYTES_MAX);
        tokio::select! {
            read = bounded.read_line(&mut line) => if read? == 0 { break },
            ended = store.wait_for(|_| false) => { ended?; }
        }
        while open.len() >= MEMBER_ASKS_MAX {
            open.join_next().await;
        }
        while open.try_join_next().is_some() {}
        match serde_json::from_str(&line) {
            Ok(ask) => drop(open.spawn(answer(store.clone(), ask))),
            Err(error) => tell(&Told { id: 0, answer: Answer::Error(error.to_string()) }),
        }
    }
    open.shutdown().await;
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

fn config(args: Args, data_dir: &Path) -> anyhow::Result<Config> {
    let tick = Duration::from_millis(args.heartbeat_ms) / 10;
    let alone = Config { tick, ..Config::single(store::directory(data_dir)) };
    if args.members.is_empty() {
        return Ok(Config { member_id: args.id, members: vec![(args.id, String::new())], ..alone });
    }
    let own = args.members.iter().find(|(member, _)| *member == args.id).context("--id is not among --member")?.1;
    let listener = TcpListener::bind(own).with_context(|| format!("cannot listen on {own}"))?;
    let pki = args.pki.context("members that are not alone need --pki")?;
    let transport = store::transport(&Authority::open(&pki)?, listener)?;
    let members = args.members.into_iter().map(|(member, address)| (member, address.to_string())).collect();
    Ok(Config { member_id: args.id, members, transport: Some(transport), ..alone })
}

async fn answer(store: Store, ask: Ask) {
    let answer = carry_out(&store, ask.what).await.unwrap_or_else(|error| Answer::Error(error.to_string()));
    tell(&Told { id: ask.id, answer });
}

async fn carry_out(store: &Store, what: What) -> anyhow::Result<Answer> {
    Ok(match what {
        What::Put { key, value } => {
            let done = store.txn(Txn { compares: Vec::new(), then: vec![put(key, value)] }).await?;
            Answer::Revision(done.revision)
        }
        What::List { prefix } => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let found = store.range(Range::prefix(prefix)).await?.items;
            Answer::Items(found.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect())
        }
        What::Status {} => {
            let seen = store.status();
            Answer::Status(Status {
                member: seen.member_id,
                leader: seen.leader,
                term: seen.term,
                applied: seen.applied,
                revision: seen.revision,
                hash: format!("{:016x}", seen.hash),
                voters: seen.members.iter().filter(|member| member.voter).count(),
                healing: seen.healing,
            })
        }
        What::Load(load) => Answer::Measured(load::run(store, load).await?),
        What::FanOut { watchers, writes, value_bytes } => {
            Answer::PerSecond(load::fan_out(store, watchers, writes, value_bytes).await?)
        }
    })
}

/// One whole line at a time. Nobody reads it when the parent is gone; then the end of the input follows.
fn tell(told: &Told) {
    use std::io::Write as _;
    let line = serde_json::to_string(told).unwrap_or_default();
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
