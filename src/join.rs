//! Joining a cluster from this machine: as a member of the control plane, or as a node alone.
//!
//! Nothing secret is said before the server has shown the authority that the token names. What comes of joining is kept
//! in the data directory, so the token is needed once.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use control::member::{Record, request_to_join};
use control::pki::{self, Identity};
use control::private;
use control::trust::{JoinToken, joining_tls};
use http::Request;
use runtime::members::Servers;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::limits;

/// Where to join, and with what.
#[derive(clap::Args, Clone)]
#[group(skip)]
pub struct Args {
    /// The API of any member of the cluster to join
    #[arg(long, value_name = "HOST:PORT")]
    pub join: Option<String>,
    /// A token of that cluster (`kogia token create`)
    #[arg(long, env = "KOGIA_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<JoinToken>,
}

impl Args {
    /// Both, or a sentence about what is missing.
    pub fn both(&self) -> anyhow::Result<(&str, &JoinToken)> {
        let join = self.join.as_deref().context("--join HOST:PORT says which cluster")?;
        let token = self.token.as_ref().context("--token says that this machine may join (`kogia token create`)")?;
        Ok((join, token))
    }
}

/// Makes this data directory a member's, unless it is one already.
pub async fn as_member(data_dir: &Path, args: &Args, name: &str, peer: SocketAddr) -> anyhow::Result<Record> {
    let mut record = match Record::load(data_dir).context("member.json cannot be read")? {
        Some(record) if record.number != 0 => return Ok(record),
        Some(record) if record.name == name => record,
        _ => Record::new(name)?,
    };
    let (join, token) = args.both()?;
    record.peer = peer.to_string();
    // First, so that asking again after a crash is known as the same asking.
    record.save(data_dir).context("member.json cannot be written")?;
    let ask = request_to_join(&record);
    let request =
        || Request::post("/kogia/join").header("content-type", "application/json").body(ask.to_string().into());
    let (answer, _) = ask_to_join(join, token, request).await?;
    let file = |name: &str| answer["files"][name].as_str().map(str::to_owned);
    pki::import(&data_dir.join("pki"), file)?;
    record.number = answer["number"].as_u64().context("the server gave this member no number")?;
    record.save(data_dir).context("member.json cannot be written")?;
    Ok(record)
}

/// What a node that is no member knows of its cluster; `DIR/node.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Membership {
    pub name: String,
    /// When its certificate was given, in milliseconds since 1970.
    pub issued_ms: i64,
}

/// What a node that is no member holds.
pub struct Credentials {
    pub membership: Membership,
    pub identity: Identity,
    pub authority_pem: String,
    /// Where members are, as far as is known.
    pub servers: Vec<String>,
}

/// The file that keeps where members are.
pub fn servers_file(data_dir: &Path) -> PathBuf {
    data_dir.join("servers.json")
}

/// The certificate of this data directory's node; asks for one if there is none, or if it is over.
pub async fn as_node(data_dir: &Path, args: &Args, name: &str) -> anyhow::Result<Credentials> {
    let folder = data_dir.join("pki");
    let known: Option<Membership> =
        std::fs::read(data_dir.join("node.json")).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(membership) = known.filter(|known| is_valid(known, now_ms())) {
        let read = |file: &str| {
            let path = folder.join(file);
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let identity = Identity { certificate_pem: read("node.crt")?, key_pem: read("node.key")? };
        let servers = std::fs::read(servers_file(data_dir)).context("cannot read servers.json")?;
        let authority_pem = read("ca.crt")?;
        return Ok(Credentials { membership, identity, authority_pem, servers: serde_json::from_slice(&servers)? });
    }
    let (join, token) = args.both()?;
    let version = || Request::get("/version").body(Vec::new());
    let (_, authority_pem) = ask_to_join(join, token, version).await?;
    let servers = vec![join.to_owned()];
    let (tls, _) = joining_tls(token)?;
    let client = Servers::new(servers.clone(), &tls, Some(&token.bearer()))?.client();
    let identity = request_certificate(&client, name).await?;
    private::create_folder(&folder)?;
    private::write(&folder.join("ca.crt"), &authority_pem)?;
    private::write(&servers_file(data_dir), &json!(servers).to_string())?;
    let membership = keep_certificate(data_dir, name, &identity)?;
    Ok(Credentials { membership, identity, authority_pem, servers })
}

/// Keeps a new certificate of the node.
pub fn keep_certificate(data_dir: &Path, name: &str, identity: &Identity) -> anyhow::Result<Membership> {
    let folder = data_dir.join("pki");
    private::write(&folder.join("node.key"), &identity.key_pem)?;
    private::write(&folder.join("node.crt"), &identity.certificate_pem)?;
    let membership = Membership { name: name.to_owned(), issued_ms: now_ms() };
    private::write(&data_dir.join("node.json"), &serde_json::to_string(&membership)?)?;
    Ok(membership)
}

/// Asks the cluster for a certificate for a node (certificates.k8s.io) and waits until it is signed.
pub async fn request_certificate(client: &kube::Client, name: &str) -> anyhow::Result<Identity> {
    const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let (key_pem, request) = pki::node_request(name)?;
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": format!("node-csr-{name}-")},
        "spec": {
            "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "request": STANDARD.encode(request), "usages": ["digital signature", "client auth"],
        },
    });
    let create = Request::post(REQUESTS).header("content-type", "application/json").body(object.to_string().into())?;
    let mut made: Value = client.request(create).await.map_err(explain)?;
    let path = format!("{REQUESTS}/{}", made["metadata"]["name"].as_str().unwrap_or_default());
    let deadline = Instant::now() + limits::JOIN_WAIT;
    loop {
        if let Some(certificate) = made["status"]["certificate"].as_str() {
            let certificate_pem = String::from_utf8(STANDARD.decode(certificate)?)?;
            return Ok(Identity { certificate_pem, key_pem });
        }
        for condition in made["status"]["conditions"].as_array().into_iter().flatten() {
            if matches!(condition["type"].as_str(), Some("Denied" | "Failed")) {
                bail!(
                    "the cluster gives this node no certificate: {}",
                    condition["message"].as_str().unwrap_or_default()
                );
            }
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "nobody has approved the node's certificate request (kubectl certificate approve)"
        );
        sleep(limits::POLL).await;
        made = client.request(Request::get(&path).body(Vec::new())?).await.map_err(explain)?;
    }
}

/// Asks a server that is trusted by the token alone; the answer, and the authority it showed, PEM. Waits for a server
/// that does not answer yet.
async fn ask_to_join(
    join: &str,
    token: &JoinToken,
    request: impl Fn() -> Result<Request<Vec<u8>>, http::Error>,
) -> anyhow::Result<(Value, String)> {
    let deadline = Instant::now() + limits::JOIN_WAIT;
    loop {
        let (tls, found) = joining_tls(token)?;
        let client = Servers::new(vec![join.to_owned()], &tls, Some(&token.bearer()))?.client();
        let refusal = match timeout(limits::REQUEST_WAIT, client.request::<Value>(request()?)).await {
            Ok(Ok(answer)) => {
                let der = found.get().context("the server showed no authority")?;
                return Ok((answer, pki::certificate_pem(der)));
            }
            Ok(Err(kube::Error::Api(status))) if !matches!(status.code, 503 | 504) => {
                bail!(explain(kube::Error::Api(status)))
            }
            Ok(Err(error)) if is_distrust(&error) => {
                bail!("{join} is not a server of the cluster that the token is for; nothing was said to it")
            }
            Ok(Err(error)) => explain(error),
            Err(_) => anyhow::anyhow!("it does not answer"),
        };
        if Instant::now() >= deadline {
            return Err(refusal.context(format!("cannot join at {join}")));
        }
        sleep(limits::POLL).await;
    }
}

/// Whether the server's certificate was not the one that was expected.
fn is_distrust(error: &kube::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if error.to_string().contains("invalid peer certificate") {
            return true;
        }
        source = error.source();
    }
    false
}

fn explain(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if status.code == 401 => {
            anyhow::anyhow!("the token is unknown or over; `kogia token create` makes a new one")
        }
        kube::Error::Api(status) if status.code == 403 => {
            anyhow::anyhow!(
                "the token does not allow this ({}); `kogia token create --member` allows more",
                status.message
            )
        }
        kube::Error::Api(status) => anyhow::anyhow!(status.message.clone()),
        error => error.into(),
    }
}

/// Whether a node's certificate is of use for a while.
fn is_valid(membership: &Membership, now_ms: i64) -> bool {
    now_ms < membership.issued_ms + pki::NODE_DAYS * 24 * 3_600_000
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// The address under which others reach this machine: the one it listens on; if that is all of them, the one from which
/// it reaches the server it joins, or the world.
pub fn advertised(bind: IpAddr, given: Option<IpAddr>, join: Option<&str>) -> IpAddr {
    if let Some(address) = given {
        return address;
    }
    if !bind.is_unspecified() {
        return bind;
    }
    // Nothing is sent: a datagram socket only looks up the route. The second address is one for documentation (RFC 5737).
    let source = |to: &str| -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((bind, 0))?;
        socket.connect(to)?;
        Ok(socket.local_addr()?.ip())
    };
    let found = join.and_then(|join| source(join).ok()).or_else(|| source("192.0.2.1:9").ok());
    found.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_reached_where_it_listens() {
        let any: IpAddr = "0.0.0.0".parse().unwrap();
        let own: IpAddr = "127.0.0.2".parse().unwrap();
        assert_eq!(advertised(own, None, None), own);
        assert_eq!(advertised(any, Some(own), None), own);
        assert_eq!(advertised(any, None, Some("127.0.0.1:1")).to_string(), "127.0.0.1");
    }

    #[test]
    fn a_certificate_is_of_use_for_a_week() {
        let membership = Membership { name: "n".into(), issued_ms: 0 };
        assert!(is_valid(&membership, 6 * 24 * 3_600_000) && !is_valid(&membership, 8 * 24 * 3_600_000));
    }
}
