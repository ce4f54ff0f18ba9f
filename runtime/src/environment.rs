//! A container's arguments and environment, from its specification, its pod, and the ConfigMaps and Secrets it names.
//!
//! Pure: [`references`] says what must be fetched, [`environment`] does the rest. Messages are the kubelet's.

pub(crate) mod links;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1 as k8s;
use network::services::Service;

use crate::limits::VOLUMES_REFRESH;

/// The ConfigMap that holds the authority of the API's certificate, in every namespace.
const AUTHORITY: &str = "kube-root-ca.crt";

/// The ConfigMaps, Secrets and claims a pod names, as far as they exist, and its tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) config_maps: BTreeMap<String, k8s::ConfigMap>,
    pub(crate) secrets: BTreeMap<String, k8s::Secret>,
    /// Each claim's volume, once it has one.
    pub(crate) claims: BTreeMap<String, Option<k8s::PersistentVolume>>,
    pub(crate) tokens: BTreeMap<Token, String>,
}

/// A token that speaks for a pod's service account, as a projected volume asks for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Token {
    pub(crate) account: String,
    /// Name and uid of the pod: the token ends with it.
    pub(crate) pod: (String, String),
    /// Who is to accept it; `None` is the API server.
    pub(crate) audience: Option<String>,
    pub(crate) seconds: i64,
}

/// What is to be fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct References {
    pub(crate) config_maps: BTreeSet<String>,
    pub(crate) secrets: BTreeSet<String>,
    pub(crate) claims: BTreeSet<String>,
    pub(crate) tokens: BTreeSet<Token>,
}

impl References {
    /// After which time it is worth a look what has become of it; `None` for what stays while the pod runs: what a claim
    /// shows is its pods' own doing, and the cluster's authority is one for its whole life.
    pub(crate) fn look_again(&self) -> Option<Duration> {
        let changes = self.config_maps.iter().any(|name| name != AUTHORITY) || !self.secrets.is_empty();
        // A token is replaced when four fifths of its time are over, as by the kubelet.
        let soonest = self.tokens.iter().map(|token| u64::try_from(token.seconds).unwrap_or(0) * 4 / 5).min();
        let tokens = soonest.map(|seconds| Duration::from_secs(seconds).max(VOLUMES_REFRESH));
        if changes { Some(VOLUMES_REFRESH) } else { tokens }
    }
}

/// What the pod's place is like: values a specification alone does not have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) pod_addresses: Vec<String>,
    pub(crate) host_addresses: Vec<String>,
    /// The node's CPUs in thousandths: what a container without a limit may see.
    pub(crate) cpu_millis: i64,
    pub(crate) memory_bytes: i64,
}

/// The names a container's environment refers to.
pub(crate) fn references(container: &k8s::Container) -> References {
    let mut found = References::default();
    for source in container.env_from.iter().flatten() {
        found.config_maps.extend(source.config_map_ref.iter().map(|reference| reference.name.clone()));
        found.secrets.extend(source.secret_ref.iter().map(|reference| reference.name.clone()));
    }
    for value in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        found.config_maps.extend(value.config_map_key_ref.iter().map(|key| key.name.clone()));
        found.secrets.extend(value.secret_key_ref.iter().map(|key| key.name.clone()));
    }
    found
}

/// The environment, in order; later definitions of a name replace earlier ones. `linked` are the Services the pod is told
/// of, beside the API.
///
/// # Errors
/// The sentence for `CreateContainerConfigError`: what is missing, by name.
pub(crate) fn environment(
    pod: &k8s::Pod,
    container: &k8s::Container,
    settings: &Settings,
    place: &Place,
    linked: &[&Service],
) -> Result<Vec<(String, String)>, String> {
    let mut variables = Variables::default();
    variables.set("HOSTNAME".to_owned(), host_name(pod).to_owned());
    for service in linked.iter().copied().chain([&links::api()]) {
        links::variables(service).into_iter().for_each(|(name, value)| variables.set(name, value));
    }
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        for (name, value) in all_of(source, settings)? {
            variables.set(format!("{prefix}{name}"), value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (_, Some(from)) => match value_from(from, pod, container, settings, place)? {
                Some(value) => value,
                None => continue,
            },
            (text, None) => variables.expand(text.as_deref().unwrap_or_default()),
        };
        variables.set(variable.name.clone(), value);
    }
    Ok(variables.in_order)
}

/// `argv`: the command, then the arguments. Where the component itself is the command it is called `program`, or like its
/// container.
pub(crate) fn arguments(
    container: &k8s::Container,
    program: Option<&str>,
    environment: &[(String, String)],
) -> Vec<String> {
    let variables = Variables::from(environment);
    let command = container.command.clone().filter(|command| !command.is_empty());
    let command = command.unwrap_or_else(|| vec![program.unwrap_or(&container.name).to_owned()]);
    command.iter().chain(container.args.iter().flatten()).map(|word| variables.expand(word)).collect()
}

/// Replaces `$(NAME)` by the environment's values (`subPathExpr`).
pub(crate) fn expand(text: &str, environment: &[(String, String)]) -> String {
    Variables::from(environment).expand(text)
}

/// What the pod calls itself: `spec.hostname`, or its name.
pub(crate) fn host_name(pod: &k8s::Pod) -> &str {
    let own = pod.spec.as_ref().and_then(|spec| spec.hostname.as_deref());
    own.or(pod.metadata.name.as_deref()).unwrap_or_default()
}

#[derive(Default)]
struct Variables {
    in_order: Vec<(String, String)>,
    /// Where in it each name is.
    places: HashMap<String, usize>,
}

impl From<&[(String, String)]> for Variables {
    fn from(environment: &[(String, String)]) -> Self {
        let mut variables = Self::default();
        environment.iter().for_each(|(name, value)| variables.set(name.clone(), value.clone()));
        variables
    }
}

impl Variables {
    fn set(&mut self, name: String, value: String) {
        match self.places.get(&name) {
            Some(at) => self.in_order[*at].1 = value,
            None => {
                self.places.insert(name.clone(), self.in_order.len());
                self.in_order.push((name, value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.places.get(name).map(|at| &*self.in_order[*at].1)
    }

    /// Replaces `$(NAME)`; a name nobody defined stays as it is, and `$$` is one `$` that begins nothing.
    fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
                match self.get(name) {
                    Some(value) => out.push_str(value),
                    None => out.extend(["$(", name, ")"]),
                }
                rest = after;
            } else {
                out.push('$');
            }
        }
        out.push_str(rest);
        out
    }
}

fn all_of(source: &k8s::EnvFromSource, settings: &Settings) -> Result<Vec<(String, String)>, String> {
    let mut all = Vec::new();
    if let Some(reference) = &source.config_map_ref {
        match settings.config_maps.get(&reference.name) {
            Some(map) => all.extend(map.data.clone().into_iter().flatten()),
            None if reference.optional == Some(true) => {}
            None => return Err(format!("configmap \"{}\" not found", reference.name)),
        }
    }
    if let Some(reference) = &source.secret_ref {
        match settings.secrets.get(&reference.name) {
            Some(secret) => {
                let data = secret.data.iter().flatten();
                all.extend(data.map(|(name, value)| (name.clone(), String::from_utf8_lossy(&value.0).into_owned())));
            }
            None if reference.optional == Some(true) => {}
            None => return Err(format!("secret \"{}\" not found", reference.name)),
        }
    }
    Ok(all)
}

fn value_from(
    from: &k8s::EnvVarSource,
    pod: &k8s::Pod,
    container: &k8s::Container,
    settings: &Settings,
    place: &Place,
) -> Result<Option<String>, String> {
    if let Some(field) = &from.field_ref {
        return field_value(pod, place, &field.field_path).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return resource_value(pod, container, place, resource).map(Some);
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(key) = &from.config_map_key_ref {
        let Some(map) = settings.config_maps.get(&key.name) else {
            return absent(key.optional, || format!("configmap \"{}\" not found", key.name));
        };
        let value = map.data.as_ref().and_then(|data| data.get(&key.key)).cloned();
        let missing = || format!("couldn't find key {} in ConfigMap {namespace}/{}", key.key, key.name);
        return value.map_or_else(|| absent(key.optional, missing), |value| Ok(Some(value)));
    }
    if let Some(key) = &from.secret_key_ref {
        let Some(secret) = settings.secrets.get(&key.name) else {
            return absent(key.optional, || format!("secret \"{}\" not found", key.name));
        };
        let value = secret.data.as_ref().and_then(|data| data.get(&key.key));
        let missing = || format!("couldn't find key {} in Secret {namespace}/{}", key.key, key.name);
        return value.map_or_else(
            || absent(key.optional, missing),
            |value| Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
        );
    }
    Ok(Some(String::new()))
}

fn absent(optional: Option<bool>, message: impl FnOnce() -> String) -> Result<Option<String>, String> {
    if optional == Some(true) { Ok(None) } else { Err(message()) }
}

/// A downward API field (`fieldRef`).
pub(crate) fn field_value(pod: &k8s::Pod, place: &Place, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |text: Option<&String>| text.cloned().unwrap_or_default();
    let first = |all: &[String]| all.first().cloned().unwrap_or_default();
    Ok(match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.hostIP" => first(&place.host_addresses),
        "status.hostIPs" => place.host_addresses.join(","),
        "status.podIP" => first(&place.pod_addresses),
        "status.podIPs" => place.pod_addresses.join(","),
        _ => {
            let entry = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
            let (map, key) = match (entry("metadata.labels['"), entry("metadata.annotations['")) {
                (Some(key), _) => (&meta.labels, key),
                (_, Some(key)) => (&meta.annotations, key),
                _ => return Err(format!("unsupported fieldPath: {path}")),
            };
            map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
        }
    })
}

/// `name="value"` per line, as downward API volumes have labels and annotations.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(name, value)| format!("{name}={value:?}")).collect();
    lines.join("\n")
}

/// A downward API amount (`resourceFieldRef`): rounded up to whole divisors. What has no limit sees the node's amount.
pub(crate) fn resource_value(
    pod: &k8s::Pod,
    container: &k8s::Container,
    place: &Place,
    wanted: &k8s::ResourceFieldSelector,
) -> Result<String, String> {
    let named = |name: &String| pod.spec.iter().flat_map(|spec| &spec.containers).find(|other| other.name == *name);
    let container = wanted.container_name.as_ref().and_then(named).unwrap_or(container);
    let unknown = || format!("unsupported container resource: {}", wanted.resource);
    let (kind, resource) = wanted.resource.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.as_ref();
    let limit = resources.and_then(|all| all.limits.as_ref()?.get(resource));
    let amount = match kind {
        "limits" => limit,
        "requests" => resources.and_then(|all| all.requests.as_ref()?.get(resource)).or(limit),
        _ => return Err(unknown()),
    };
    let amount = amount.and_then(|amount| Quantity::parse(&amount.0));
    let divisor = wanted.divisor.as_ref().and_then(|divisor| Quantity::parse(&divisor.0)).filter(|d| !d.is_zero());
    let (amount, divisor) = match resource {
        "cpu" => {
            let node = if kind == "limits" { place.cpu_millis } else { 0 };
            (amount.map_or(node, |cpu| cpu.millis()), divisor.map_or(1000, |divisor| divisor.millis()))
        }
        "memory" => {
            let node = if kind == "limits" { place.memory_bytes } else { 0 };
            (amount.map_or(node, |memory| memory.bytes()), divisor.map_or(1, |divisor| divisor.bytes()))
        }
        _ => (amount.map_or(0, |other| other.bytes()), divisor.map_or(1, |divisor| divisor.bytes())),
    };
    let divisor = divisor.max(1);
    Ok((amount / divisor + i64::from(amount % divisor > 0)).to_string())
}

#[cfg(test)]
mod tests;
