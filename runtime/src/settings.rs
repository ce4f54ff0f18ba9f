//! Fetching the ConfigMaps, Secrets and claims a pod names, and its tokens.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, ServiceAccount};
use kube::api::{Api, PostParams};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use crate::environment::{References, Settings, Token};
use crate::limits::REQUEST_TIME_MAX;
use crate::volumes::claims;

/// Fetches what exists of them, as it is now.
///
/// # Errors
/// A sentence when the API does not answer; what does not exist is simply not in the result.
pub(crate) async fn fetch(client: &Client, namespace: &str, names: References) -> Result<Settings, String> {
    let mut settings = Settings::default();
    for name in names.config_maps {
        if let Some(map) = get(client, namespace, &name).await? {
            settings.config_maps.insert(name, map);
        }
    }
    for name in names.secrets {
        if let Some(secret) = get(client, namespace, &name).await? {
            settings.secrets.insert(name, secret);
        }
    }
    for name in names.claims {
        if let Some(claim) = get::<PersistentVolumeClaim>(client, namespace, &name).await? {
            let volume = match claims::volume_name(&claim) {
                Some(volume) => in_time(&Api::<PersistentVolume>::all(client.clone()), volume).await?,
                None => None,
            };
            settings.claims.insert(name, volume);
        }
    }
    for wanted in names.tokens {
        let token = token(client, namespace, &wanted).await?;
        settings.tokens.insert(wanted, token);
    }
    Ok(settings)
}

/// Asks for a token that is bound to the pod (KEP-1205).
async fn token(client: &Client, namespace: &str, wanted: &Token) -> Result<String, String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let (name, uid) = wanted.pod.clone();
    let pod = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(name),
        uid: Some(uid),
    };
    let spec = TokenRequestSpec {
        audiences: wanted.audience.iter().cloned().collect(),
        bound_object_ref: Some(pod),
        expiration_seconds: Some(wanted.seconds),
    };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let parameters = PostParams::default();
    let asked = accounts.create_token_request(&wanted.account, &parameters, &request);
    let failed = |why: String| format!("failed to fetch token: {why}");
    match tokio::time::timeout(REQUEST_TIME_MAX, asked).await {
        Ok(Ok(answer)) => answer.status.map(|status| status.token).ok_or_else(|| failed("there is none".to_owned())),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("not in time".to_owned())),
    }
}

async fn get<K>(client: &Client, namespace: &str, name: &str) -> Result<Option<K>, String>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    in_time(&Api::namespaced(client.clone(), namespace), name).await
}

async fn in_time<K>(api: &Api<K>, name: &str) -> Result<Option<K>, String>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let kind = K::kind(&()).to_lowercase();
    match tokio::time::timeout(REQUEST_TIME_MAX, api.get_opt(name)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(format!("{kind} \"{name}\" could not be read: {error}")),
        Err(_) => Err(format!("{kind} \"{name}\" could not be read in time")),
    }
}
