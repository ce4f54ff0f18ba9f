//! The object of a pod on this node: decoded while the pod has something to do, text when it has not.
//!
//! A decoded pod is ten times its text, and most of a thousand pods do nothing for hours.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1 as k8s;

/// One version of a pod's object.
#[derive(Debug)]
pub(crate) struct Resident {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) uid: Box<str>,
    form: Mutex<Form>,
}

#[derive(Debug)]
enum Form {
    Decoded(Arc<k8s::Pod>),
    AtRest(Box<[u8]>),
}

impl Resident {
    pub(crate) fn new(pod: k8s::Pod) -> Arc<Self> {
        let text = |field: &Option<String>| field.as_deref().unwrap_or_default().into();
        let meta = &pod.metadata;
        let (namespace, name, uid) = (text(&meta.namespace), text(&meta.name), text(&meta.uid));
        Arc::new(Self { namespace, name, uid, form: Mutex::new(Form::Decoded(Arc::new(pod))) })
    }

    /// The object. At rest it is decoded for each who asks: who needs it often asks once.
    pub(crate) fn pod(&self) -> Arc<k8s::Pod> {
        match &*self.form() {
            Form::Decoded(pod) => pod.clone(),
            // It was encoded here.
            Form::AtRest(text) => serde_json::from_slice(text).unwrap_or_default(),
        }
    }

    /// Keeps no more than the text.
    pub(crate) fn rest(&self) {
        let mut form = self.form();
        if let Form::Decoded(pod) = &*form
            && let Ok(text) = serde_json::to_vec(pod)
        {
            *form = Form::AtRest(text.into());
        }
    }

    fn form(&self) -> MutexGuard<'_, Form> {
        self.form.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_at_rest_is_the_pod_it_was() {
        let pod = json!({
            "metadata": {"namespace": "shop", "name": "web", "uid": "u1", "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {"containers": [{"name": "web", "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 3}}],
                "volumes": [{"name": "data", "emptyDir": {"sizeLimit": "1Mi"}}]},
            "status": {"phase": "Running", "startTime": "2026-01-02T03:04:06Z"}});
        let pod: k8s::Pod = serde_json::from_value(pod).unwrap();
        let resident = Resident::new(pod.clone());
        assert!(Arc::ptr_eq(&resident.pod(), &resident.pod()));
        resident.rest();
        assert!(matches!(&*resident.form(), Form::AtRest(_)));
        assert_eq!(*resident.pod(), pod);
        assert_eq!((&*resident.namespace, &*resident.name, &*resident.uid), ("shop", "web", "u1"));
    }
}
