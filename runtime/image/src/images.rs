//! The store itself: put, resolve, list. All calls block on files; ask from a thread that may.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::artifact::{self, Descriptor, INDEX, Index, Manifest};
use crate::error::ImageError;
use crate::incoming::Incoming;
use crate::layout::{self, Layout};
use crate::reference::Reference;
use crate::uses::{InUse, Use};
use crate::{limits, packed};

/// What every WebAssembly file begins with.
const WASM_MAGIC: [u8; 4] = *b"\0asm";

/// The images of one node. Cheap to clone; several processes may use one folder at once.
#[derive(Clone, Debug)]
pub struct Images {
    layout: Arc<Layout>,
    in_use: Arc<InUse>,
}

/// An image found, checked and ready to be compiled. It is in use until it is dropped, and stays on this node so long.
#[derive(Debug)]
pub struct Resolved {
    /// `sha256:…` of the component's bytes: what compiled code is kept under.
    pub digest: String,
    /// The component, in a file whose contents have that digest.
    pub path: PathBuf,
    /// Size of the component in bytes.
    pub size: u64,
    /// What a pod's status shows as `imageID`: the name with the digest of the manifest.
    pub id: String,
    /// The image's config document; `Null` for a bare file.
    pub config: Value,
    pub(crate) _held: Option<Use>,
}

impl Resolved {
    /// Whether another says the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let said = |one: &Self| (one.digest.clone(), one.path.clone(), one.size, one.id.clone());
        said(self) == said(other) && self.config == other.config
    }
}

/// One line of [`Images::list`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// `hello-http:0.1`, without the default registry.
    pub name: String,
    /// The same in full: `docker.io/library/hello-http:0.1`.
    pub reference: String,
    /// Digest of the manifest.
    pub digest: String,
    /// Size of the component in bytes; 0 when its manifest cannot be read.
    pub size: u64,
}

/// Where a name's meaning comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Built or pushed here: what is here is the truth.
    Put,
    /// Fetched: a registry or another node has the truth.
    Pulled,
}

impl Images {
    /// Opens the folder, making an empty image layout of it if there is none.
    ///
    /// # Errors
    /// [`ImageError::Io`] when the folder cannot be made or written.
    pub fn open(folder: &Path) -> Result<Self, ImageError> {
        Ok(Self { layout: Arc::new(Layout::create(folder)?), in_use: Arc::default() })
    }

    /// Puts a component under a name, replacing what the name meant before, and returns the manifest's digest.
    ///
    /// Equal bytes, name and annotations give an equal digest. When this returns, the image survives a power cut.
    ///
    /// # Errors
    /// A name that is none or is a `file:` URL, bytes that are not WebAssembly, a folder that cannot be written.
    pub fn put(
        &self,
        reference: &str,
        wasm: &[u8],
        annotations: &BTreeMap<String, String>,
    ) -> Result<String, ImageError> {
        let name = match Reference::parse(reference)? {
            named @ Reference::Named { tag: Some(_), digest: None, .. } => named.to_string(),
            _ => {
                let why = "an image is put under a name and a tag, as in hello:0.1";
                return Err(ImageError::InvalidName { reference: reference.to_owned(), why });
            }
        };
        if wasm.len() as u64 > limits::COMPONENT_BYTES_MAX {
            return Err(ImageError::unusable(reference, "it is larger than 512 MiB"));
        }
        let config = artifact::config(reference, &layout::digest_of(wasm), wasm)?;
        let layer = self.put_blob(artifact::LAYER, wasm)?;
        let config = self.put_blob(artifact::CONFIG, config.to_string().as_bytes())?;
        let manifest = Manifest::new(config, layer, annotations.clone());
        let manifest = serde_json::to_vec(&manifest).expect("a manifest is plain data");
        let entry = self.put_blob(artifact::MANIFEST, &manifest)?;
        let digest = entry.digest.clone();
        self.name(entry, &name, Origin::Put)?;
        Ok(digest)
    }

    /// Lets a name mean a manifest whose blobs are all here.
    pub(crate) fn name(&self, mut entry: Descriptor, name: &str, origin: Origin) -> Result<(), ImageError> {
        entry.annotations.insert(artifact::REF_NAME.to_owned(), name.to_owned());
        if origin == Origin::Pulled {
            entry.annotations.insert(artifact::PULLED.to_owned(), "true".to_owned());
        }
        let _lock = self.layout.lock()?;
        let mut index = self.layout.index()?;
        index.manifests.retain(|old| old.ref_name() != Some(name));
        index.manifests.push(entry);
        self.layout.write_index(&index)
    }

    /// Forgets a name; its blobs stay. `false` when there was no such name.
    pub(crate) fn forget(&self, name: &Reference) -> Result<bool, ImageError> {
        let _lock = self.layout.lock()?;
        let mut index = self.layout.index()?;
        let before = index.manifests.len();
        index.manifests.retain(|entry| !means(entry, name));
        let found = index.manifests.len() != before;
        if found {
            self.layout.write_index(&index)?;
        }
        Ok(found)
    }

    /// Whether the name means something that was put here, not fetched: then there is no registry to ask about it.
    ///
    /// # Errors
    /// A name that is none, an index that cannot be read.
    pub fn is_put(&self, reference: &str) -> Result<bool, ImageError> {
        let parsed = Reference::parse(reference)?;
        if matches!(parsed, Reference::File { .. }) {
            return Ok(true);
        }
        let index = self.layout.index()?;
        Ok(find_named(&index, &parsed).is_some_and(|entry| !entry.annotations.contains_key(artifact::PULLED)))
    }

    /// The manifest or index that a name or digest means, and its bytes.
    pub(crate) fn document(&self, named: &Reference) -> Result<(Descriptor, Vec<u8>), ImageError> {
        let digest = match named {
            Reference::Named { digest, .. } => digest.as_ref(),
            Reference::File { .. } => None,
        };
        let mut entry = self.find(named, digest)?;
        let path = self.layout.check_blob(&entry.digest)?;
        let bytes = layout::read_bounded(&path, limits::DOCUMENT_BYTES_MAX)?;
        let said: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if let Some(media_type) = said["mediaType"].as_str() {
            media_type.clone_into(&mut entry.media_type);
        }
        Ok((entry, bytes))
    }

    /// The names in the index that belong to one repository or, without one, all of them.
    pub(crate) fn names(&self) -> Result<Vec<Reference>, ImageError> {
        let index = self.layout.index()?;
        Ok(index.manifests.iter().filter_map(|entry| Reference::parse(entry.ref_name()?).ok()).collect())
    }

    /// Where they are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.layout.root()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// A new blob of at most that size.
    pub(crate) fn incoming(&self, bytes_max: u64) -> Result<Incoming, ImageError> {
        Incoming::new(self.layout.blob_folder(), bytes_max)
    }

    /// Finds an image and checks every digest on the way to its component.
    ///
    /// A `file:` image is copied into the store, so that what was hashed is what will run. Who has one of several equal
    /// answers has the same one.
    ///
    /// # Errors
    /// See [`ImageError`]: [`ImageError::NotFound`] may heal when the image is put, the others need a person.
    pub fn resolve(&self, reference: &str) -> Result<Arc<Resolved>, ImageError> {
        let parsed = Reference::parse(reference)?;
        let found = match &parsed {
            Reference::File { path, digest } => self.resolve_file(reference, path, digest.as_deref()),
            Reference::Named { name, digest, .. } => {
                self.resolve_entry(&self.layout, reference, name, &self.find(&parsed, digest.as_ref())?)
            }
        };
        self.in_use.share(&self.layout, found?)
    }

    /// Every named image, sorted by name.
    ///
    /// # Errors
    /// An index that cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, ImageError> {
        let index = self.layout.index()?;
        let mut listed: Vec<Listed> = index.manifests.iter().filter_map(|entry| self.listed(entry)).collect();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    fn listed(&self, entry: &Descriptor) -> Option<Listed> {
        let name = entry.ref_name()?;
        let size = self.layout.document(entry).and_then(|m: Manifest| m.component(name).map(|layer| layer.size));
        let reference = name.to_owned();
        let name = Reference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.familiar());
        Some(Listed { name, reference, digest: entry.digest.clone(), size: size.unwrap_or(0) })
    }

    pub(crate) fn put_blob(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, ImageError> {
        let digest = self.layout.put_blob(bytes)?;
        Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
    }

    /// The index entry of a name. A digest says it all, even if the tag beside it has moved on since.
    fn find(&self, named: &Reference, digest: Option<&String>) -> Result<Descriptor, ImageError> {
        let found = match digest {
            Some(digest) if self.layout.has_blob(digest) => {
                Some(Descriptor::new(artifact::MANIFEST, digest.clone(), 0))
            }
            Some(_) => None,
            None => find_named(&self.layout.index()?, named).cloned(),
        };
        found.ok_or_else(|| not_found(named))
    }

    fn resolve_file(&self, reference: &str, path: &Path, digest: Option<&str>) -> Result<Resolved, ImageError> {
        let Ok(metadata) = fs::metadata(path) else {
            return Err(ImageError::NotFound(format!("there is no file {} on this node", path.display())));
        };
        if metadata.is_dir() {
            return self.resolve_folder(reference, path, digest);
        }
        // Only WebAssembly is copied: a pod must not make the node read or keep whatever file it names.
        if !metadata.is_file() || !is_wasm(path)? {
            return Err(ImageError::unusable(reference, "its file is not WebAssembly"));
        }
        let bytes = layout::read_bounded(path, limits::COMPONENT_BYTES_MAX)?;
        let found = self.layout.put_blob(&bytes)?;
        if let Some(expected) = digest.filter(|expected| **expected != found) {
            return Err(ImageError::Damaged { path: path.to_owned(), expected: expected.to_owned(), found });
        }
        let id = format!("file://{}@{found}", path.display());
        let path = self.layout.blob_path(&found);
        Ok(Resolved { digest: found, path, size: bytes.len() as u64, id, config: Value::Null, _held: None })
    }

    /// An image in somebody else's layout folder: the only one there, or the one with that digest.
    fn resolve_folder(&self, reference: &str, path: &Path, digest: Option<&str>) -> Result<Resolved, ImageError> {
        let layout = Layout::at(path);
        let index = layout.index()?;
        let mut fitting = index.manifests.iter().filter(|entry| digest.is_none_or(|digest| entry.digest == digest));
        let Some(entry) = fitting.next() else {
            return Err(ImageError::NotFound(format!("the image layout {} holds no such image", path.display())));
        };
        if fitting.next().is_some_and(|other| other.digest != entry.digest) {
            let why = "its folder holds several images; name one by its digest, as in file:///folder@sha256:…";
            return Err(ImageError::unusable(reference, why));
        }
        self.resolve_entry(&layout, reference, &format!("file://{}", path.display()), entry)
    }

    fn resolve_entry(
        &self,
        layout: &Layout,
        reference: &str,
        name: &str,
        entry: &Descriptor,
    ) -> Result<Resolved, ImageError> {
        let id = format!("{name}@{}", entry.digest);
        let mut document: Value = layout.document(entry)?;
        if document["mediaType"] == INDEX || document["manifests"].is_array() {
            let index: Index = decode(reference, document)?;
            let why = "it is built for other platforms only";
            let entry = index.for_wasm().ok_or_else(|| ImageError::unusable(reference, why))?;
            document = layout.document(entry)?;
        }
        let manifest: Manifest = decode(reference, document)?;
        // A config that is missing or odd is no reason not to run; one that is damaged is.
        let config = match layout.document(&manifest.config) {
            Err(damaged @ ImageError::Damaged { .. }) => return Err(damaged),
            other => other.unwrap_or(Value::Null),
        };
        if packed::is_packed(&manifest, &config) {
            let (digest, size) = packed::unpack(layout, &self.layout, reference, &manifest, &config)?;
            return Ok(Resolved { path: self.layout.check_blob(&digest)?, digest, size, id, config, _held: None });
        }
        let layer = manifest.component(reference)?;
        let path = layout.check_blob(&layer.digest)?;
        Ok(Resolved { digest: layer.digest.clone(), path, size: layer.size, id, config, _held: None })
    }
}

fn is_wasm(path: &Path) -> Result<bool, ImageError> {
    let mut magic = [0; WASM_MAGIC.len()];
    match fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| magic == WASM_MAGIC).map_err(ImageError::io("read", path)),
    }
}

pub(crate) fn decode<T: serde::de::DeserializeOwned>(reference: &str, document: Value) -> Result<T, ImageError> {
    serde_json::from_value(document)
        .map_err(|e| ImageError::unusable(reference, format!("its manifest cannot be read ({e})")))
}

/// Names in an index may have been written by other tools in any spelling, or as a bare tag.
fn find_named<'a>(index: &'a Index, wanted: &Reference) -> Option<&'a Descriptor> {
    index.manifests.iter().rev().find(|entry| means(entry, wanted))
}

fn means(entry: &Descriptor, wanted: &Reference) -> bool {
    entry.ref_name().and_then(|name| Reference::parse(name).ok()).is_some_and(|named| named == *wanted)
}

fn not_found(reference: &Reference) -> ImageError {
    let name = reference.familiar();
    ImageError::NotFound(format!("image {name} is not in this node's image store; `kogia build` puts it there"))
}

#[cfg(test)]
pub(crate) mod tests;
