//! Images built like container images: the component is a file in a packed layer, and the config's entry point names it.
//!
//! This is what `docker buildx build --platform=wasi/wasm` makes of a scratch image. The file is unpacked into the layout
//! once and then has a digest like every component.
//!
//! Refuses: anything but that one file. Nothing else is unpacked, links are not followed, and what comes out is bounded.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde_json::Value;

use crate::artifact::{Descriptor, Manifest};
use crate::error::ImageError;
use crate::layout::Layout;
use crate::limits;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const WASM_MAGIC: [u8; 4] = *b"\0asm";

/// Whether this is a container image for Wasm rather than an artifact: its layers are file trees, and its config says
/// that they are for Wasm or names a program that is.
pub(crate) fn is_packed(manifest: &Manifest, config: &Value) -> bool {
    let says = |field: &str| config[field].as_str().unwrap_or_default();
    let for_wasm = says("architecture").starts_with("wasm")
        || says("os").starts_with("wasi")
        || entry_point(config).is_some_and(|entry| entry.extension().is_some_and(|end| end == "wasm"));
    for_wasm && !manifest.layers.is_empty() && manifest.layers.iter().all(is_tree)
}

fn is_tree(layer: &Descriptor) -> bool {
    matches!(
        layer.media_type.as_str(),
        "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
    )
}

/// Finds the component in the layers that lie in `layers`, puts it into `home`, and returns digest and size.
pub(crate) fn unpack(
    layers: &Layout,
    home: &Layout,
    reference: &str,
    manifest: &Manifest,
    config: &Value,
) -> Result<(String, u64), ImageError> {
    if manifest.layers.len() > limits::LAYERS_MAX {
        return Err(ImageError::unusable(reference, format!("it has more than {} layers", limits::LAYERS_MAX)));
    }
    let entry = entry_point(config);
    let mut left = limits::UNPACKED_BYTES_MAX;
    // A later layer covers an earlier one.
    for layer in manifest.layers.iter().rev() {
        let path = layers.check_blob(&layer.digest)?;
        let found = search(&path, entry.as_deref(), &mut left).map_err(|error| {
            ImageError::unusable(reference, format!("its layer {} cannot be unpacked ({error})", layer.digest))
        })?;
        if let Some(component) = found {
            let size = component.len() as u64;
            return Ok((home.put_blob(&component)?, size));
        }
    }
    let what = entry.map_or_else(|| "no .wasm file".to_owned(), |entry| format!("no file {}", entry.display()));
    Err(ImageError::unusable(reference, format!("its layers hold {what} that is WebAssembly")))
}

/// The program that the config names, as a path without a leading slash.
fn entry_point(config: &Value) -> Option<PathBuf> {
    let config = &config["config"];
    let program = [&config["Entrypoint"][0], &config["Cmd"][0]].into_iter().find_map(Value::as_str)?;
    Some(plain(Path::new(program)))
}

/// A path as layers have it: no root, no `.`; `..` stays and so matches nothing.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir)).collect()
}

fn search(layer: &Path, entry: Option<&Path>, left: &mut u64) -> io::Result<Option<Vec<u8>>> {
    let mut magic = [0; GZIP_MAGIC.len()];
    let zipped = File::open(layer)?.read_exact(&mut magic).is_ok() && magic == GZIP_MAGIC;
    let file = io::BufReader::new(File::open(layer)?);
    let plain: Box<dyn Read> = if zipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut bounded = Bounded { inner: plain, left };
    let mut archive = tar::Archive::new(&mut bounded);
    for file in archive.entries()? {
        let mut file = file?;
        if !file.header().entry_type().is_file() || !is_wanted(&file.path()?, entry) {
            continue;
        }
        let mut component = Vec::new();
        (&mut file).take(limits::COMPONENT_BYTES_MAX + 1).read_to_end(&mut component)?;
        if component.len() as u64 > limits::COMPONENT_BYTES_MAX {
            return Err(io::Error::other("the component is larger than 512 MiB"));
        }
        if component.starts_with(&WASM_MAGIC) {
            return Ok(Some(component));
        }
    }
    Ok(None)
}

fn is_wanted(path: &Path, entry: Option<&Path>) -> bool {
    match entry {
        Some(entry) => plain(path) == entry,
        None => path.extension().is_some_and(|end| end == "wasm"),
    }
}

/// A reader that fails once more has come out than may.
struct Bounded<'a> {
    inner: Box<dyn Read>,
    left: &'a mut u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        *self.left = self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other("it unpacks to too much"))?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::io::Write;

    fn layer(files: &[(&str, &[u8])], zip: bool) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        if !zip {
            return bytes;
        }
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_entry_point_names_the_component() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path()).unwrap();
        let (old, new) = (b"\0asm old".as_slice(), b"\0asm new".as_slice());
        let lower = layer(&[("app.wasm", old), ("etc/motd", b"hello")], true);
        let upper = layer(&[("./app.wasm", new), ("other.wasm", old)], false);
        let layers: Vec<Descriptor> = [lower, upper]
            .iter()
            .map(|bytes| {
                let digest = layout.put_blob(bytes).unwrap();
                Descriptor::new("application/vnd.oci.image.layer.v1.tar+gzip", digest, bytes.len() as u64)
            })
            .collect();
        let config = Descriptor::new("application/vnd.oci.image.config.v1+json", String::new(), 0);
        let mut manifest = Manifest::new(config, layers[0].clone(), std::collections::BTreeMap::new());
        manifest.layers = layers;
        assert!(is_packed(&manifest, &json!({"os": "wasi", "architecture": "wasm"})));
        assert!(is_packed(&manifest, &json!({"config": {"Entrypoint": ["/app.wasm"]}})));
        assert!(!is_packed(&manifest, &json!({"os": "linux", "architecture": "amd64"})), "a native image");
        let find = |config: Value| unpack(&layout, &layout, "app", &manifest, &config);
        let contents = |digest: &str| std::fs::read(layout.blob_path(digest)).unwrap();
        let (digest, size) = find(json!({"config": {"Entrypoint": ["/app.wasm"]}})).unwrap();
        assert_eq!((contents(&digest).as_slice(), size), (new, 8), "the upper layer covers the lower");
        let (digest, _) = find(json!({"config": {"Cmd": ["app.wasm", "--flag"]}})).unwrap();
        assert_eq!(contents(&digest), new);
        assert!(find(json!({})).is_ok(), "without an entry point any .wasm file will do");
        for absent in ["/etc/motd", "/../app.wasm", "/nothing"] {
            let error = find(json!({"config": {"Entrypoint": [absent]}})).unwrap_err().to_string();
            assert!(error.contains("WebAssembly"), "{error}");
        }
    }
}
