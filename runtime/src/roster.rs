//! Which pods are on the node now: for those who ask about them from outside.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1 as k8s;

use crate::output::ContainerOutput;
use crate::resident::Resident;
use crate::rooms::Rooms;

/// One pod, as last seen in the API.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) pod: Arc<Resident>,
    /// By container.
    pub(crate) outputs: Arc<BTreeMap<String, Arc<ContainerOutput>>>,
    /// Its running containers.
    pub(crate) rooms: Rooms,
}

/// All pods of the node, by namespace and name. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster(Arc<Mutex<BTreeMap<(String, String), Tenant>>>);

impl Roster {
    pub(crate) fn put(&self, tenant: Tenant) {
        let key = key(&tenant.pod);
        self.lock().insert(key, tenant);
    }

    /// Removes the pod unless a namesake has taken its place.
    pub(crate) fn remove(&self, pod: &Resident) {
        let mut tenants = self.lock();
        if tenants.get(&key(pod)).is_some_and(|tenant| tenant.pod.uid == pod.uid) {
            tenants.remove(&key(pod));
        }
    }

    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Tenant> {
        self.lock().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    pub(crate) fn pods(&self) -> Vec<Arc<k8s::Pod>> {
        self.lock().values().map(|tenant| tenant.pod.pod()).collect()
    }

    /// Every pod with its running containers.
    pub(crate) fn tenants(&self) -> Vec<Tenant> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Tenant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(pod: &Resident) -> (String, String) {
    (pod.namespace.to_string(), pod.name.to_string())
}
