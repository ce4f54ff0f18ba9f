//! The custom kinds that a node reads, as its client names them.

use std::borrow::Cow;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

macro_rules! kinds {
    ($($name:ident $group:literal $version:literal $plural:literal;)*) => {$(
        #[derive(Clone, Debug, Default, Deserialize, Serialize)]
        pub(super) struct $name {
            #[serde(default)]
            pub(super) metadata: ObjectMeta,
            #[serde(default)]
            pub(super) spec: Value,
            #[serde(default)]
            pub(super) status: Value,
        }

        impl Resource for $name {
            type DynamicType = ();
            type Scope = NamespaceResourceScope;

            fn kind(_: &()) -> Cow<'_, str> {
                stringify!($name).into()
            }

            fn group(_: &()) -> Cow<'_, str> {
                $group.into()
            }

            fn version(_: &()) -> Cow<'_, str> {
                $version.into()
            }

            fn plural(_: &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    )*};
}

kinds! {
    Challenge "acme.cert-manager.io" "v1" "challenges";
    Gateway "gateway.networking.k8s.io" "v1" "gateways";
    HTTPRoute "gateway.networking.k8s.io" "v1" "httproutes";
    ReferenceGrant "gateway.networking.k8s.io" "v1beta1" "referencegrants";
}
