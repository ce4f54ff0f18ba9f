//! `kogia status`: what runs, where it listens, and how its members and nodes are.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::client::{Client, Target, text};
use crate::running::{self, Running, State};

#[derive(clap::Args)]
pub struct Args {
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

pub async fn run(args: &Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let state = running::state(data_dir)?;
    let State::Running(running) = state else {
        let word = if matches!(state, State::Starting) { "starting" } else { "stopped" };
        if args.json {
            println!("{}", json!({"state": word, "dataDir": data_dir}));
        } else {
            println!("The cluster in {} is {word}.", data_dir.display());
        }
        return Ok(ExitCode::from(u8::from(word == "stopped")));
    };
    let client = Client::connect(&Target::default(), data_dir).await?;
    let report = report(&client, &running, data_dir).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(ExitCode::SUCCESS)
}

async fn report(client: &Client, running: &Running, data_dir: &Path) -> anyhow::Result<Value> {
    let version = client.get("/version").await?;
    let store = client.get("/kogia/status").await?;
    let nodes = client.get("/api/v1/nodes").await?;
    let nodes: Vec<Value> = nodes["items"].as_array().into_iter().flatten().map(node).collect();
    let pods = client.get("/api/v1/pods").await?;
    let phase = |wanted: &str| {
        pods["items"].as_array().into_iter().flatten().filter(|pod| pod["status"]["phase"] == wanted).count()
    };
    Ok(json!({
        "state": "running",
        "version": running.version,
        "kubernetesVersion": text(&version["gitVersion"]),
        "pid": running.pid,
        "dataDir": data_dir,
        "kubeconfig": data_dir.join("kubeconfig"),
        "api": format!("https://{}", running.api),
        "http": format!("http://{}", running.http),
        "https": format!("https://{}", running.https),
        "revision": store["revision"],
        "members": store["members"],
        "nodes": nodes,
        "pods": {"running": phase("Running"), "pending": phase("Pending"), "failed": phase("Failed")},
    }))
}

fn node(node: &Value) -> Value {
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    json!({
        "name": node["metadata"]["name"],
        "ready": ready,
        "version": node["status"]["nodeInfo"]["kubeletVersion"],
        "podCIDR": node["spec"]["podCIDR"],
    })
}

fn print(report: &Value) {
    println!("kogia {}, Kubernetes API {}", text(&report["version"]), text(&report["kubernetesVersion"]));
    for (title, field) in
        [("API", "api"), ("Ingress", "http"), ("", "https"), ("Kubeconfig", "kubeconfig"), ("Data", "dataDir")]
    {
        println!("{title:<12}{}", text(&report[field]));
    }
    for member in report["members"].as_array().into_iter().flatten() {
        println!("{:<12}{} ({})", "Member", member["id"], text(&member["role"]));
    }
    for node in report["nodes"].as_array().into_iter().flatten() {
        let ready = if node["ready"] == true { "Ready" } else { "NotReady" };
        println!("{:<12}{} ({ready}, {})", "Node", text(&node["name"]), text(&node["version"]));
    }
    let pods = &report["pods"];
    println!("{:<12}{} running, {} pending, {} failed", "Pods", pods["running"], pods["pending"], pods["failed"]);
}
