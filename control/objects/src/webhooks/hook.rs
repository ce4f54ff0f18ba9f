//! A webhook as its configuration describes it, read once per version of the configuration.

use std::sync::Arc;
use std::time::Duration;

use api::cel::Program;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::Place;

/// The webhooks of one configuration. See [`super`].
#[derive(Deserialize)]
#[serde(try_from = "Value")]
pub(super) struct Hooks(pub(super) Vec<Arc<Hook>>);

/// One webhook.
pub(super) struct Hook {
    /// Which one it is, among all of the cluster: configuration, version of it, and place in it.
    pub(super) id: String,
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) roots_pem: Vec<u8>,
    pub(super) timeout: Duration,
    /// `admission.k8s.io/v1`, or `…/v1beta1` for those that know no other.
    pub(super) review: &'static str,
    pub(super) rules: Vec<Value>,
    pub(super) namespaces: Value,
    pub(super) objects: Value,
    /// By name.
    pub(super) conditions: Vec<(String, Program)>,
    /// `failurePolicy: Fail`: what cannot be asked refuses.
    pub(super) fails: bool,
    /// `matchPolicy: Exact`.
    pub(super) exact: bool,
    /// Whether a dry run would leave traces.
    pub(super) has_effects: bool,
    /// `reinvocationPolicy: IfNeeded`.
    pub(super) again: bool,
}

/// Fails where validation would have refused the configuration.
impl TryFrom<Value> for Hooks {
    type Error = String;

    fn try_from(object: Value) -> Result<Self, String> {
        let metadata = &object["metadata"];
        let text = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        let id = format!("{}/{}/{}", text("name"), text("uid"), metadata["generation"]);
        let list = object["webhooks"].as_array().into_iter().flatten().enumerate();
        let hooks = list.map(|(index, hook)| read(hook, format!("{id}/{index}")).map(Arc::new));
        Ok(Self(hooks.collect::<Result<_, _>>()?))
    }
}

fn read(hook: &Value, id: String) -> Result<Hook, String> {
    let text = |of: &Value, field: &str| of[field].as_str().unwrap_or_default().to_owned();
    let list = |field: &str| hook[field].as_array().cloned().unwrap_or_default();
    let client = &hook["clientConfig"];
    let place = match client["url"].as_str() {
        Some(url) => Place::Url(url.to_owned()),
        None => Place::Service {
            namespace: text(&client["service"], "namespace"),
            name: text(&client["service"], "name"),
            port: client["service"]["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
            path: format!("/{}", text(&client["service"], "path").trim_start_matches('/')),
        },
    };
    let condition = |one: &Value| Ok((text(one, "name"), Program::parse(text(one, "expression").trim())?));
    let versions = list("admissionReviewVersions");
    let roots_pem = STANDARD.decode(text(client, "caBundle")).map_err(|error| error.to_string())?;
    Ok(Hook {
        id,
        name: text(hook, "name"),
        place,
        roots_pem,
        timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30)),
        review: match versions.iter().find_map(Value::as_str) {
            Some("v1beta1") => "admission.k8s.io/v1beta1",
            _ => "admission.k8s.io/v1",
        },
        rules: list("rules"),
        namespaces: hook["namespaceSelector"].clone(),
        objects: hook["objectSelector"].clone(),
        conditions: list("matchConditions").iter().map(condition).collect::<Result<_, String>>()?,
        fails: hook["failurePolicy"] != "Ignore",
        exact: hook["matchPolicy"] == "Exact",
        has_effects: !matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
        again: hook["reinvocationPolicy"] == "IfNeeded",
    })
}
