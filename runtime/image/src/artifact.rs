//! The documents of an image layout, and which of its layers is the component.
//!
//! Written: the CNCF Wasm artifact (TAG Runtime, "Wasm OCI Artifact Layout"). Read: that, and any image with exactly
//! one layer whose media type says Wasm, which covers what wasmCloud and Spin push.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::ImageError;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.wasm.config.v0+json";
pub(crate) const LAYER: &str = "application/wasm";
/// The annotation of `index.json` entries that carries an image's name.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The annotation of `index.json` entries that were fetched, not put.
pub(crate) const PULLED: &str = "dev.kogia.image.pulled";

/// What other tools call a layer that is one component.
const OTHER_LAYERS: [&str; 3] = [
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];

/// A pointer to a blob.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
    /// What other tools wrote beside it (platform, artifactType …), kept as it is.
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: String, size: u64) -> Self {
        Self { media_type: media_type.to_owned(), digest, size, annotations: BTreeMap::new(), other: Map::new() }
    }

    pub(crate) fn ref_name(&self) -> Option<&str> {
        self.annotations.get(REF_NAME).map(String::as_str)
    }

    fn is_for_wasm(&self) -> bool {
        self.other.get("platform").is_some_and(|platform| {
            platform["architecture"] == "wasm" || platform["architecture"] == "wasm32" || platform["os"] == "wasi"
        })
    }
}

/// An image index: `index.json`, or a blob that lists one manifest per platform.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

impl Default for Index {
    fn default() -> Self {
        Self { schema_version: 2, manifests: Vec::new(), other: Map::from_iter([("mediaType".into(), json!(INDEX))]) }
    }
}

impl Index {
    /// The one manifest of a multi-platform image that is for Wasm.
    pub(crate) fn for_wasm(&self) -> Option<&Descriptor> {
        match &self.manifests[..] {
            [only] => Some(only),
            several => several.iter().find(|entry| entry.is_for_wasm()),
        }
    }
}

/// An image manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// The manifest of a Wasm artifact.
    pub(crate) fn new(config: Descriptor, layer: Descriptor, annotations: BTreeMap<String, String>) -> Self {
        Self { schema_version: 2, media_type: MANIFEST.to_owned(), config, layers: vec![layer], annotations }
    }

    /// The layer that is the component.
    pub(crate) fn component(&self, reference: &str) -> Result<&Descriptor, ImageError> {
        let is_wasm = |layer: &&Descriptor| layer.media_type == LAYER || OTHER_LAYERS.contains(&&*layer.media_type);
        let mut found = self.layers.iter().filter(is_wasm);
        match (found.next(), found.next()) {
            (Some(layer), None) => Ok(layer),
            (Some(_), Some(_)) => Err(ImageError::unusable(reference, "it holds more than one WebAssembly component")),
            (None, _) => {
                let types: Vec<&str> = self.layers.iter().map(|layer| &*layer.media_type).collect();
                let why = format!("it holds no WebAssembly component, only {}", types.join(", "));
                Err(ImageError::unusable(reference, why))
            }
        }
    }
}

/// The config document for a component or core module.
///
/// `created` is the epoch, so that equal bytes always give an equal image.
pub(crate) fn config(reference: &str, layer_digest: &str, wasm: &[u8]) -> Result<Value, ImageError> {
    let invalid = |e: wasmparser::BinaryReaderError| {
        ImageError::unusable(reference, format!("its file is not WebAssembly ({})", e.message()))
    };
    let (mut imports, mut exports, mut depth, mut component) = (Vec::new(), Vec::new(), 0_u32, false);
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        use wasmparser::Payload;
        match payload.map_err(invalid)? {
            Payload::Version { encoding, .. } => {
                component |= depth == 0 && encoding == wasmparser::Encoding::Component;
                depth += 1;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import.map_err(invalid)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export.map_err(invalid)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    let mut config = json!({
        "created": "1970-01-01T00:00:00Z", "architecture": "wasm", "os": if component { "wasip2" } else { "wasip1" },
        "layerDigests": [layer_digest],
    });
    if component {
        config["component"] = json!({ "imports": imports, "exports": exports });
    }
    Ok(config)
}
