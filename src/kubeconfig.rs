//! How clients reach the cluster: `DIR/kubeconfig`, and the context `kogia` in the user's own kubeconfig.
//!
//! Merging follows what k3d and minikube do: the user's other clusters, users and contexts stay as they are, the
//! current context becomes ours.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use control::private;
use serde_norway::{Mapping, Value};

use crate::limits;

/// What our cluster, user and context are called.
pub const NAME: &str = "kogia";

/// The three lists of a kubeconfig and the key that each entry's content stands under.
const LISTS: [(&str, &str); 3] = [("clusters", "cluster"), ("users", "user"), ("contexts", "context")];

/// The kubeconfig of a cluster whose members' APIs listen at `apis`: a context for each, `kogia` for the first and
/// `kogia-2` and so on for the others, since kubectl knows one server per cluster.
pub fn render(apis: &[SocketAddr], authority: &str, certificate: &str, key: &str) -> String {
    let base64 = |text: &str| STANDARD.encode(text);
    let names = || apis.iter().enumerate().map(|(at, api)| (name(at), api));
    let cluster = |(name, api): (String, &SocketAddr)| {
        let authority = base64(authority);
        format!("- name: {name}\n  cluster:\n    server: https://{api}\n    certificate-authority-data: {authority}\n")
    };
    let context = |(name, _): (String, &SocketAddr)| {
        format!("- name: {name}\n  context:\n    cluster: {name}\n    user: {NAME}\n    namespace: default\n")
    };
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {NAME}\nclusters:\n{}users:\n- name: {NAME}\n  user:\n    \
         client-certificate-data: {}\n    client-key-data: {}\ncontexts:\n{}",
        names().map(cluster).collect::<String>(),
        base64(certificate),
        base64(key),
        names().map(context).collect::<String>(),
    )
}

/// What the cluster and context of a member are called.
pub fn name(at: usize) -> String {
    if at == 0 { NAME.to_owned() } else { format!("{NAME}-{}", at + 1) }
}

/// The same kubeconfig for members at these addresses.
pub fn with_members(ours: &str, apis: &[SocketAddr]) -> anyhow::Result<String> {
    let ours: Value = serde_norway::from_str(ours)?;
    let decode = |value: &Value| -> anyhow::Result<String> {
        let text = value.as_str().context("our own kubeconfig is incomplete")?;
        Ok(String::from_utf8(STANDARD.decode(text)?)?)
    };
    let user = &ours["users"][0]["user"];
    let authority = decode(&ours["clusters"][0]["cluster"]["certificate-authority-data"])?;
    Ok(render(apis, &authority, &decode(&user["client-certificate-data"])?, &decode(&user["client-key-data"])?))
}

/// Merges our kubeconfig into the user's; returns the file that was changed.
pub fn merge_into_users(ours: &str) -> anyhow::Result<PathBuf> {
    let path = users_file()?;
    change(&path, |theirs| merge(theirs, &serde_norway::from_str(ours)?))?;
    Ok(path)
}

/// Takes our entries out of the user's kubeconfig, if they are still the ones of this cluster.
pub fn remove_from_users(ours: &str) -> anyhow::Result<()> {
    let path = users_file()?;
    if !path.exists() {
        return Ok(());
    }
    change(&path, |theirs| remove(theirs, &serde_norway::from_str(ours)?))
}

/// The first file of `KUBECONFIG`, or `~/.kube/config`: where kubectl would write.
fn users_file() -> anyhow::Result<PathBuf> {
    let listed = std::env::var_os("KUBECONFIG").and_then(|list| std::env::split_paths(&list).next());
    let listed = listed.filter(|path| !path.as_os_str().is_empty());
    let home = || std::env::home_dir().map(|home| home.join(".kube").join("config"));
    listed.or_else(home).context("there is no home directory; say --no-merge")
}

/// Reads, changes and writes a kubeconfig, whole or not at all, under the lock file that kubectl itself uses.
fn change(path: &Path, edit: impl FnOnce(&mut Value) -> anyhow::Result<()>) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let lock = path.with_file_name(format!("{}.lock", path.file_name().unwrap_or_default().to_string_lossy()));
    let _lock = Lock::take(lock)?;
    let before = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let mut value: Value =
        serde_norway::from_str(&before).with_context(|| format!("{} is not a kubeconfig", path.display()))?;
    edit(&mut value)?;
    let after = serde_norway::to_string(&value)?;
    if after != before {
        private::write(path, &after).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

struct Lock(PathBuf);

impl Lock {
    fn take(path: PathBuf) -> anyhow::Result<Self> {
        let deadline = Instant::now() + limits::REQUEST_WAIT;
        loop {
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(_) => return Ok(Self(path)),
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("cannot create {}", path.display()));
                }
                Err(_) => {}
            }
            let wait = format!("{} has been held for {:?}", path.display(), limits::REQUEST_WAIT);
            anyhow::ensure!(Instant::now() < deadline, "{wait}; if nobody uses it, delete it");
            std::thread::sleep(limits::POLL);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn merge(theirs: &mut Value, ours: &Value) -> anyhow::Result<()> {
    if theirs.is_null() {
        *theirs = Value::Mapping(Mapping::new());
        theirs["apiVersion"] = "v1".into();
        theirs["kind"] = "Config".into();
    }
    for (list, content) in LISTS {
        for ours in entries(ours, list) {
            let name = ours["name"].as_str().context("our own kubeconfig is incomplete")?;
            match entry_mut(theirs, list, name) {
                // Other settings a person made on our entry (a default namespace, say) stay.
                Some(entry) => {
                    for (key, value) in ours[content].as_mapping().into_iter().flatten() {
                        if !(content == "context" && key == "namespace" && !entry[content]["namespace"].is_null()) {
                            entry[content][key] = value.clone();
                        }
                    }
                }
                None => match &mut theirs[list] {
                    Value::Sequence(entries) => entries.push(ours.clone()),
                    slot => *slot = Value::Sequence(vec![ours.clone()]),
                },
            }
        }
    }
    theirs["current-context"] = NAME.into();
    Ok(())
}

fn remove(theirs: &mut Value, ours: &Value) -> anyhow::Result<()> {
    let cluster = |config: &Value| {
        entries(config, "clusters").find(|entry| entry["name"] == NAME).map(|entry| entry["cluster"].clone())
    };
    if cluster(theirs) != cluster(ours) {
        return Ok(());
    }
    for (list, _) in LISTS {
        if let Value::Sequence(kept) = &mut theirs[list] {
            kept.retain(|entry| entries(ours, list).all(|ours| ours["name"] != entry["name"]));
        }
    }
    if entries(ours, "contexts").any(|context| context["name"] == theirs["current-context"]) {
        theirs["current-context"] = "".into();
    }
    Ok(())
}

fn entries<'a>(config: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    config.get(list).and_then(Value::as_sequence).into_iter().flatten()
}

fn entry_mut<'a>(config: &'a mut Value, list: &str, name: &str) -> Option<&'a mut Value> {
    config.get_mut(list)?.as_sequence_mut()?.iter_mut().find(|entry| entry["name"] == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(port: u16) -> Value {
        let text = render(&[SocketAddr::from(([127, 0, 0, 1], port))], "authority", "certificate", "key");
        serde_norway::from_str(&text).unwrap()
    }

    #[test]
    fn a_kubeconfig_that_is_not_there_becomes_ours() {
        let mut theirs = Value::Null;
        merge(&mut theirs, &ours(6443)).unwrap();
        assert_eq!(theirs["current-context"], "kogia");
        assert_eq!(theirs["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
    }

    #[test]
    fn other_entries_stay_and_ours_are_brought_up_to_date() {
        let mut theirs: Value = serde_norway::from_str(
            "{clusters: [{name: work, cluster: {server: 'https://w'}}], users: [], contexts: null, extra: 1}",
        )
        .unwrap();
        merge(&mut theirs, &ours(1)).unwrap();
        theirs["contexts"][0]["context"]["namespace"] = "mine".into();
        merge(&mut theirs, &ours(2)).unwrap();
        assert_eq!(theirs["clusters"].as_sequence().unwrap().len(), 2);
        assert_eq!(theirs["clusters"][1]["cluster"]["server"], "https://127.0.0.1:2");
        assert_eq!(theirs["contexts"][0]["context"]["namespace"], "mine");
        assert_eq!(theirs["extra"], 1);
    }

    #[test]
    fn removal_spares_another_clusters_context() {
        let mut theirs = Value::Null;
        merge(&mut theirs, &ours(1)).unwrap();
        remove(&mut theirs, &ours(2)).unwrap();
        assert_eq!(theirs["clusters"].as_sequence().unwrap().len(), 1);
        remove(&mut theirs, &ours(1)).unwrap();
        assert_eq!(theirs["clusters"].as_sequence().unwrap().len(), 0);
    }

    #[test]
    fn every_member_has_a_context_and_all_go_together() {
        let apis = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let text = render(&apis[..1], "authority", "certificate", "key");
        let text = with_members(&text, &apis).unwrap();
        let ours: Value = serde_norway::from_str(&text).unwrap();
        let mut theirs: Value =
            serde_norway::from_str("{contexts: [{name: work, context: {}}], current-context: kogia-3}").unwrap();
        merge(&mut theirs, &ours).unwrap();
        merge(&mut theirs, &ours).unwrap();
        let names: Vec<&str> = entries(&theirs, "contexts").map(|entry| entry["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["work", "kogia", "kogia-2", "kogia-3"]);
        assert_eq!(entries(&theirs, "users").count(), 1);
        assert_eq!(theirs["clusters"][2]["cluster"]["server"], "https://127.0.0.1:3");
        remove(&mut theirs, &ours).unwrap();
        assert_eq!(entries(&theirs, "contexts").count(), 1);
        assert_eq!(theirs["current-context"], "");
    }
}
