//! Fetching the ConfigMaps and Secrets a pod names.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use kube::api::Api;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use crate::environment::{References, Settings};
use crate::limits::REQUEST_TIME_MAX;

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
    Ok(settings)
}

async fn get<K>(client: &Client, namespace: &str, name: &str) -> Result<Option<K>, String>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let kind = K::kind(&()).to_lowercase();
    match tokio::time::timeout(REQUEST_TIME_MAX, api.get_opt(name)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(format!("{kind} \"{name}\" could not be read: {error}")),
        Err(_) => Err(format!("{kind} \"{name}\" could not be read in time")),
    }
}
