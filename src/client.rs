//! The Kubernetes API as the built-in client commands see it: connect, discover, name a resource, send, print.
//!
//! It speaks to any Kubernetes cluster; nothing here knows that the other side is Kogia.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tokio::time::timeout;

use crate::limits;

/// Which cluster, and which namespace: the flags every client command has.
#[derive(clap::Args, Clone, Default)]
pub struct Target {
    /// Namespace; the context's own, or `default`, when not given
    #[arg(long, short, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Kubeconfig file; the one of the cluster in the data directory when not given
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl Target {
    /// The cluster of a data directory, whatever the environment says.
    pub fn of(data_dir: &Path) -> Self {
        Self { kubeconfig: Some(data_dir.join("kubeconfig")), ..Self::default() }
    }

    /// The same through one of its members.
    pub fn member(data_dir: &Path, context: &str) -> Self {
        Self { context: Some(context.to_owned()), ..Self::of(data_dir) }
    }
}

/// A resource as discovery describes it.
#[derive(Clone, Debug)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    singular: String,
    short_names: Vec<String>,
    pub namespaced: bool,
}

impl Resource {
    /// `deployment.apps`, `pod`: how kubectl begins a line about an object.
    pub fn shown(&self) -> String {
        let kind = self.kind.to_lowercase();
        if self.group.is_empty() { kind } else { format!("{kind}.{}", self.group) }
    }

    /// The collection's URL path; `namespace` is ignored for cluster-scoped resources.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let base = if self.group.is_empty() { "/api".into() } else { format!("/apis/{}", self.group) };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{base}/{}/namespaces/{namespace}/{}", self.version, self.plural),
            None => format!("{base}/{}/{}", self.version, self.plural),
        }
    }

    fn is_called(&self, name: &str) -> bool {
        let (name, group) = name.split_once('.').map_or((name, None), |(name, group)| (name, Some(group)));
        let plain = [&self.plural, &self.singular].into_iter().chain(&self.short_names).any(|own| own == name);
        plain && group.is_none_or(|group| group == self.group || group.strip_prefix("v1.") == Some(&self.group))
    }
}

/// A connection to a cluster.
#[derive(Clone)]
pub struct Client {
    inner: kube::Client,
    pub namespace: String,
}

impl Client {
    /// Connects as the flags say.
    pub async fn connect(target: &Target, data_dir: &Path) -> anyhow::Result<Self> {
        let options = KubeConfigOptions { context: target.context.clone(), ..KubeConfigOptions::default() };
        let own = data_dir.join("kubeconfig");
        let file = match &target.kubeconfig {
            Some(file) => file.clone(),
            None if target.context.is_none() && own.exists() => own,
            None if target.context.is_none() => {
                bail!("there is no cluster in {}; start one with `kogia up`", data_dir.display())
            }
            None => std::env::home_dir().unwrap_or_default().join(".kube").join("config"),
        };
        let kubeconfig = Kubeconfig::read_from(&file).with_context(|| format!("cannot use {}", file.display()))?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        let namespace = target.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Self { inner: kube::Client::try_from(config)?, namespace })
    }

    /// Sends a request and returns the answer's body as JSON.
    pub async fn send(&self, method: Method, path: &str, body: Option<(&str, Vec<u8>)>) -> anyhow::Result<Value> {
        let (_, value) = self.exchange(method, path, "application/json", body).await?;
        Ok(value)
    }

    /// GET as JSON.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, path, None).await
    }

    /// GET as JSON; `None` when the server says that there is no such object.
    pub async fn find(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.get(path).await {
            Ok(value) => Ok(Some(value)),
            Err(error) if refusal(&error).is_some_and(|status| status["reason"] == "NotFound") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a request and returns status code and body.
    pub async fn exchange(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> anyhow::Result<(u16, Value)> {
        let mut request = Request::builder().method(method).uri(path).header(ACCEPT, accept);
        if let Some((content_type, _)) = &body {
            request = request.header(CONTENT_TYPE, *content_type);
        }
        let request = request.body(body.map(|(_, bytes)| bytes).unwrap_or_default().into())?;
        let exchange = async {
            let response = self.inner.send(request).await.map_err(unreachable)?;
            let code = response.status().as_u16();
            let bytes = response.into_body().collect_bytes().await.map_err(unreachable)?;
            anyhow::Ok((code, bytes))
        };
        let (code, bytes) =
            timeout(limits::REQUEST_WAIT, exchange).await.context("the API did not answer in time")??;
        let value: Value = serde_json::from_slice(&bytes)
            .with_context(|| format!("answer {code} is not JSON: {}", String::from_utf8_lossy(&bytes)))?;
        if (200..300).contains(&code) { Ok((code, value)) } else { Err(Refused(value).into()) }
    }

    /// GET whose answer arrives bit by bit: a log, a watch.
    pub async fn stream(&self, path: &str, accept: &str) -> anyhow::Result<kube::client::Body> {
        let request = Request::builder().uri(path).header(ACCEPT, accept).body(Vec::new().into())?;
        let response = self.inner.send(request).await.map_err(unreachable)?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let bytes = response.into_body().collect_bytes().await.map_err(unreachable)?;
        Err(Refused(serde_json::from_slice(&bytes).unwrap_or(Value::Null)).into())
    }

    /// Everything the server serves, in discovery's order.
    pub async fn resources(&self) -> anyhow::Result<Vec<Resource>> {
        const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let mut resources = Vec::new();
        for path in ["/api", "/apis"] {
            let (_, list) = self.exchange(Method::GET, path, AGGREGATED, None).await?;
            for group in list["items"].as_array().into_iter().flatten() {
                let name = text(&group["metadata"]["name"]);
                for version in group["versions"].as_array().into_iter().flatten() {
                    let served = version["resources"].as_array().into_iter().flatten();
                    resources.extend(served.map(|resource| discovered(&name, &text(&version["version"]), resource)));
                }
            }
        }
        Ok(resources)
    }

    /// The resource people call `name`: plural, singular, short name, or with its group (`deployments.apps`).
    pub async fn resource(&self, name: &str) -> anyhow::Result<Resource> {
        let found = self.resources().await?.into_iter().find(|resource| resource.is_called(name));
        found.with_context(|| format!("the server doesn't have a resource type {name:?}"))
    }
}

/// A refusal in Kubernetes' own form, printed as kubectl prints it.
#[derive(Debug)]
pub struct Refused(pub Value);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let message = self.0["message"].as_str().unwrap_or("the server refused without saying why");
        match self.0["reason"].as_str().filter(|reason| !reason.is_empty() && *reason != "Invalid") {
            Some(reason) => write!(f, "from server ({reason}): {message}"),
            None => f.write_str(message),
        }
    }
}

impl std::error::Error for Refused {}

/// The server's `Status`, when that is what the error is.
pub fn refusal(error: &anyhow::Error) -> Option<&Value> {
    error.downcast_ref::<Refused>().map(|refused| &refused.0)
}

fn unreachable(error: kube::Error) -> anyhow::Error {
    anyhow::Error::new(error).context("cannot reach the cluster; does it run? (`kogia status`)")
}

fn discovered(group: &str, version: &str, resource: &Value) -> Resource {
    let names = resource["shortNames"].as_array().into_iter().flatten();
    Resource {
        group: group.into(),
        version: version.into(),
        kind: text(&resource["responseKind"]["kind"]),
        plural: text(&resource["resource"]),
        singular: text(&resource["singularResource"]),
        short_names: names.map(text).collect(),
        namespaced: resource["scope"] == "Namespaced",
    }
}

/// A JSON string's content; empty for anything else.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Splits `deployment/web` or `deployment web …` into a type and names.
pub fn named(words: &[String]) -> anyhow::Result<(String, Vec<String>)> {
    let Some(first) = words.first() else { bail!("you must name a resource, such as `pods` or `pod/web`") };
    let Some((kind, _)) = first.split_once('/') else { return Ok((first.clone(), words[1..].to_vec())) };
    let mut names = Vec::new();
    for word in words {
        match word.split_once('/') {
            Some((other, name)) if other == kind => names.push(name.to_owned()),
            _ => bail!("all names must be of one type here: {first}, {word}"),
        }
    }
    Ok((kind.to_owned(), names))
}

/// Percent-encodes what stands in a query's value.
pub fn encode(value: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    value.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_answer_to_the_names_people_use() {
        let deployment = Resource {
            group: "apps".into(),
            version: "v1".into(),
            kind: "Deployment".into(),
            plural: "deployments".into(),
            singular: "deployment".into(),
            short_names: vec!["deploy".into()],
            namespaced: true,
        };
        for name in ["deploy", "deployment", "deployments", "deployments.apps", "deployments.v1.apps"] {
            assert!(deployment.is_called(name), "{name}");
        }
        assert!(!deployment.is_called("deployments.extensions"));
        assert_eq!(deployment.path(Some("a")), "/apis/apps/v1/namespaces/a/deployments");
        assert_eq!(deployment.path(None), "/apis/apps/v1/deployments");
    }

    #[test]
    fn names_come_in_two_forms() {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(named(&words(&["pod", "a", "b"])).unwrap(), ("pod".into(), words(&["a", "b"])));
        assert_eq!(named(&words(&["pod/a", "pod/b"])).unwrap(), ("pod".into(), words(&["a", "b"])));
        assert!(named(&words(&["pod/a", "svc/b"])).is_err());
        assert_eq!(encode("app in (a)"), "app%20in%20%28a%29");
    }
}
