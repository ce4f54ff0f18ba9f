//! The table of Services, kept up with what changes: a cluster with ten thousand of them gets a pod's new endpoint as quickly
//! as one with ten.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::FutureExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use network::services::{Here, ServiceName};
use network::{Fabric, ServiceTable};

use super::objects;

/// What has changed since the last table.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Anything: a list was read, or the node is seen from elsewhere.
    pub(super) all: bool,
    pub(super) services: BTreeSet<ServiceName>,
    /// Namespace and name of EndpointSlices.
    pub(super) slices: BTreeSet<(String, String)>,
}

impl Touched {
    pub(super) fn is_any(&self) -> bool {
        self.all || !self.services.is_empty() || !self.slices.is_empty()
    }

    /// Whether Services themselves may have changed, not only what stands behind them.
    pub(super) fn is_services(&self) -> bool {
        self.all || !self.services.is_empty()
    }
}

/// Where an object is found.
pub(super) fn place<K: ResourceExt>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Services and what stands behind them, as the API has them.
pub(super) struct Backends {
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    /// The Service of each slice that has one.
    service_of: BTreeMap<(String, String), ServiceName>,
    /// The names of each Service's slices.
    slices_of: BTreeMap<ServiceName, BTreeSet<String>>,
}

impl Backends {
    pub(super) fn new(services: Store<Service>, slices: Store<EndpointSlice>) -> Self {
        Self { services, slices, service_of: BTreeMap::new(), slices_of: BTreeMap::new() }
    }

    /// Whether the Services have been listed once; the end of the list touches all.
    pub(super) fn is_read(&self) -> bool {
        self.services.wait_until_ready().now_or_never().is_some_and(|read| read.is_ok())
    }

    pub(super) fn services(&self) -> &Store<Service> {
        &self.services
    }

    /// Has the fabric know what was touched.
    pub(super) fn install(&mut self, fabric: &Fabric, here: Here<'_>, touched: &Touched) {
        if touched.all {
            return fabric.set_services(self.whole(here));
        }
        let mut concerned = touched.services.clone();
        for slice in &touched.slices {
            let found = self.slices.get(&ObjectRef::new(&slice.1).within(&slice.0));
            concerned.extend(self.place(slice, found.as_deref()).into_iter().flatten());
        }
        let now = |name: &ServiceName| {
            let service = self.services.get(&ObjectRef::new(&name.1).within(&name.0))?;
            let slices = self.slices_of.get(name).into_iter().flatten();
            let slices = slices.filter_map(|slice| self.slices.get(&ObjectRef::new(slice).within(&name.0)));
            let slices = slices.filter_map(|slice| objects::slice(&slice)).filter(|slice| slice.service == name.1);
            Some((objects::service(&service), slices.collect()))
        };
        let changes = concerned.into_iter().map(|name| (name.clone(), now(&name))).collect();
        fabric.update_services(here, changes);
    }

    fn whole(&mut self, here: Here<'_>) -> ServiceTable {
        (self.service_of, self.slices_of) = Default::default();
        let all = self.slices.state();
        for slice in &all {
            self.place(&place(&**slice), Some(slice));
        }
        let slices: Vec<_> = all.iter().filter_map(|slice| objects::slice(slice)).collect();
        let services = self.services.state().iter().map(|service| objects::service(service)).collect();
        ServiceTable::of_node(here, services, &slices)
    }

    /// Notes whose a slice is now, and says whom that concerns: its Service, and the one it was of.
    fn place(&mut self, slice: &(String, String), now: Option<&EndpointSlice>) -> [Option<ServiceName>; 2] {
        let before = self.service_of.remove(slice);
        if let Some(slices) = before.as_ref().and_then(|name| self.slices_of.get_mut(name)) {
            slices.remove(&slice.1);
            if slices.is_empty() {
                before.as_ref().map(|name| self.slices_of.remove(name));
            }
        }
        let now = now.and_then(objects::service_of).map(|service| (slice.0.clone(), service.to_owned()));
        if let Some(name) = &now {
            self.service_of.insert(slice.clone(), name.clone());
            self.slices_of.entry(name.clone()).or_default().insert(slice.1.clone());
        }
        [before, now]
    }
}
