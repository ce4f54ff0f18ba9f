//! A whole API server over an empty state: for trying clients against the API without scheduler, controllers or nodes.
//!
//! `cargo run -p kogia-http --example api_server -- DIR` listens on a free port of 127.0.0.1, writes `DIR/kubeconfig`
//! and runs until it is interrupted.

#[path = "../tests/it/tls.rs"]
mod tls;

use std::error::Error;
use std::path::PathBuf;

use http_api::{Config, serve, service};
use objects::{Objects, User, WriteOptions};
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_env_filter("info").with_writer(std::io::stderr).init();
    let dir = PathBuf::from(std::env::args().nth(1).ok_or("usage: api_server DIR")?);
    let store = raft_store::Store::open(raft_store::Config::single(dir.join("data"))).await?;
    let objects = Objects::open(store.clone()).await?;
    let catalog = objects.catalog();
    let namespaces = catalog.by_name("namespaces").ok_or("no namespaces")?;
    for name in ["default", "kube-system", "kube-node-lease"] {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let who = User::system("system:bootstrap");
        // They may be there from an earlier run.
        let _ = objects.create(&who, namespaces, "", body, &WriteOptions::manager("bootstrap")).await;
    }
    let authority = tls::Authority::new()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let server = format!("https://{}", listener.local_addr()?);
    let kubeconfig = dir.join("kubeconfig");
    // JSON is YAML.
    std::fs::write(&kubeconfig, authority.kubeconfig(&server, "admin", "system:masters")?.to_string())?;
    println!("{}", kubeconfig.display());
    let stop = CancellationToken::new();
    let ending = stop.clone();
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        ending.cancel();
    });
    serve(listener, authority.server()?, service(objects, Config::default()), stop).await;
    store.close().await;
    Ok(())
}
