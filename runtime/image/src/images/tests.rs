//! The store as its users see it: spellings, moved names, tampering, other tools' layouts, many writers.

use super::*;

const EMPTY_COMPONENT: &str = "(component)";

pub(crate) fn component(marker: &str) -> Vec<u8> {
    wat::parse_str(format!("(component (core module (func (export {marker:?}))))")).unwrap()
}

pub(crate) fn store() -> (tempfile::TempDir, Images) {
    let folder = tempfile::tempdir().unwrap();
    let images = Images::open(folder.path()).unwrap();
    (folder, images)
}

fn put(images: &Images, name: &str, wasm: &[u8]) -> String {
    images.put(name, wasm, &BTreeMap::new()).unwrap()
}

#[test]
fn what_is_put_is_found_under_every_spelling() {
    let (folder, images) = store();
    let wasm = component("a");
    let digest = put(&images, "hello:0.1", &wasm);
    let spellings = ["hello:0.1", "docker.io/library/hello:0.1", &format!("hello@{digest}"), &format!("x:9@{digest}")];
    for spelling in spellings {
        let resolved = images.resolve(spelling).unwrap();
        assert_eq!(fs::read(&resolved.path).unwrap(), wasm, "{spelling}");
        assert_eq!(resolved.digest, layout::digest_of(&wasm));
        assert_eq!(resolved.config["os"], "wasip2");
    }
    assert_eq!(images.resolve("hello:0.1").unwrap().id, format!("docker.io/library/hello@{digest}"));
    let reopened = Images::open(folder.path()).unwrap();
    assert_eq!(
        reopened.list().unwrap(),
        [Listed {
            name: "hello:0.1".into(),
            reference: "docker.io/library/hello:0.1".into(),
            digest,
            size: wasm.len() as u64
        }]
    );
}

#[test]
fn a_name_moves_and_a_digest_stays() {
    let (_folder, images) = store();
    let first = put(&images, "hello", &component("first"));
    let second = put(&images, "hello", &component("second"));
    assert_ne!(first, second);
    assert_eq!(images.resolve("hello:latest").unwrap().digest, layout::digest_of(&component("second")));
    let pinned = images.resolve(&format!("hello@{first}")).unwrap();
    assert_eq!(pinned.digest, layout::digest_of(&component("first")));
    assert_eq!(put(&images, "hello", &component("first")), first, "equal bytes give an equal image");
}

#[test]
fn a_changed_blob_is_refused_and_putting_it_again_heals_it() {
    let (_folder, images) = store();
    let wasm = component("a");
    let manifest = put(&images, "hello:1", &wasm);
    let resolved = images.resolve("hello:1").unwrap();
    for digest in [resolved.digest.clone(), manifest] {
        let path = images.layout.blob_path(&digest);
        let mut bytes = fs::read(&path).unwrap();
        bytes.push(b' ');
        fs::write(&path, bytes).unwrap();
        let error = images.resolve("hello:1").unwrap_err();
        assert!(matches!(error, ImageError::Damaged { .. }), "{error}");
        put(&images, "hello:1", &wasm);
        images.resolve("hello:1").unwrap();
    }
}

#[test]
fn what_cannot_be_used_is_told_in_a_sentence() {
    let (folder, images) = store();
    let text = folder.path().join("note.wasm");
    fs::write(&text, "no wasm").unwrap();
    let table = [
        (images.resolve("ghost:1").unwrap_err(), "image ghost:1 is not in this node's image store"),
        (images.resolve("file:///no/such.wasm").unwrap_err(), "there is no file /no/such.wasm on this node"),
        (images.resolve(&format!("file://{}", text.display())).unwrap_err(), "its file is not WebAssembly"),
        (images.resolve("Bad Name").unwrap_err(), "is not an image name"),
        (images.put("x:1", b"no wasm", &BTreeMap::new()).unwrap_err(), "its file is not WebAssembly"),
        (images.put("file:///x", b"", &BTreeMap::new()).unwrap_err(), "under a name and a tag"),
    ];
    for (error, expected) in table {
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn files_and_folders_are_images_too() {
    let (_folder, images) = store();
    let other = tempfile::tempdir().unwrap();
    let file = other.path().join("app.wasm");
    let wasm = wat::parse_str(EMPTY_COMPONENT).unwrap();
    fs::write(&file, &wasm).unwrap();
    let resolved = images.resolve(&format!("file://{}", file.display())).unwrap();
    fs::write(&file, "changed after it was resolved").unwrap();
    assert_eq!(fs::read(&resolved.path).unwrap(), wasm);

    let layout = other.path().join("layout");
    let theirs = Images::open(&layout).unwrap();
    let one = put(&theirs, "a:1", &component("a"));
    let url = format!("file://{}", layout.display());
    assert_eq!(images.resolve(&url).unwrap().digest, layout::digest_of(&component("a")));
    put(&theirs, "b:1", &component("b"));
    assert!(images.resolve(&url).unwrap_err().to_string().contains("several images"));
    assert_eq!(images.resolve(&format!("{url}@{one}")).unwrap().digest, layout::digest_of(&component("a")));
}

#[test]
fn an_image_of_many_platforms_gives_its_wasm_one() {
    let (_folder, images) = store();
    let put_json = |media_type: &str, value: &Value| images.put_blob(media_type, value.to_string().as_bytes()).unwrap();
    let wasm = images.put_blob(artifact::LAYER, &component("a")).unwrap();
    let native = images.put_blob("application/vnd.oci.image.layer.v1.tar+gzip", b"tar").unwrap();
    let config = put_json(artifact::CONFIG, &serde_json::json!({}));
    let manifest = |layer: Descriptor, platform: &str| {
        let manifest = Manifest::new(config.clone(), layer, BTreeMap::new());
        let mut entry = put_json(artifact::MANIFEST, &serde_json::to_value(manifest).unwrap());
        entry.other.insert("platform".into(), serde_json::json!({"architecture": platform, "os": "any"}));
        entry
    };
    let entries = vec![manifest(native, "amd64"), manifest(wasm, "wasm")];
    let index = Index { manifests: entries.clone(), ..Index::default() };
    let index = put_json(INDEX, &serde_json::to_value(index).unwrap());
    let found = images.resolve(&format!("x@{}", index.digest)).unwrap();
    assert_eq!(found.digest, layout::digest_of(&component("a")));
    let error = images.resolve(&format!("x@{}", entries[0].digest)).unwrap_err();
    assert!(error.to_string().contains("holds no WebAssembly component"), "{error}");
}

#[test]
fn many_writers_lose_nothing() {
    let (folder, images) = store();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            // Each thread opens the folder itself, as another process would.
            let images = Images::open(folder.path()).unwrap();
            scope.spawn(move || {
                for n in 0..5 {
                    put(&images, &format!("app-{writer}:{n}"), &component("shared"));
                    put(&images, "app:contended", &component(&format!("{writer}-{n}")));
                }
            });
        }
    });
    assert_eq!(images.list().unwrap().len(), 8 * 5 + 1);
    images.resolve("app:contended").unwrap();
}
