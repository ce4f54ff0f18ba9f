//! The registry as a tool meets it, without sockets; and two of them, one pulling from the other.

use std::collections::BTreeMap;

use http::Request;
use http_body_util::Full;

use super::*;
use crate::layout::digest_of;

const WASM: &[u8] = b"\0asm\x0d\0\x01\0";

struct Room {
    registry: Registry,
    images: Images,
    _folder: tempfile::TempDir,
}

fn room() -> Room {
    let folder = tempfile::tempdir().unwrap();
    let images = Images::open(folder.path()).unwrap();
    Room { registry: Registry::new(images.clone()), images, _folder: folder }
}

async fn ask(registry: &Registry, method: Method, path: &str, body: &[u8]) -> (StatusCode, HeaderMap, Vec<u8>) {
    let request = Request::builder().method(method).uri(path).header(HOST, "localhost:5000");
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
    let (head, body) = registry.answer(request).await.into_parts();
    (head.status, head.headers, body.collect().await.unwrap().to_bytes().to_vec())
}

async fn push(registry: &Registry, blob: &[u8]) -> String {
    let digest = digest_of(blob);
    let (status, headers, _) = ask(registry, Method::POST, "/v2/web/blobs/uploads/", b"").await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let place = headers["location"].to_str().unwrap().to_owned();
    let (first, rest) = blob.split_at(blob.len() / 2);
    let (status, headers, _) = ask(registry, Method::PATCH, &place, first).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(headers["range"], format!("0-{}", first.len().saturating_sub(1)));
    let end = format!("{place}?digest={}", digest.replace(':', "%3A"));
    let (status, headers, _) = ask(registry, Method::PUT, &end, rest).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(headers[DIGEST], digest);
    digest
}

fn manifest(config: &str, layer: &str, size: usize) -> Vec<u8> {
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/wasm", "digest": layer, "size": size}],
    });
    manifest.to_string().into_bytes()
}

#[tokio::test]
async fn what_is_pushed_is_what_a_pod_names() {
    let room = room();
    let (config, layer) = (push(&room.registry, b"{}").await, push(&room.registry, WASM).await);
    let manifest = manifest(&config, &layer, WASM.len());
    let (status, headers, _) = ask(&room.registry, Method::PUT, "/v2/web/manifests/1", &manifest).await;
    assert_eq!(status, StatusCode::CREATED);
    let digest = headers[DIGEST].to_str().unwrap().to_owned();

    let resolved = room.images.resolve("localhost:5000/web:1").unwrap();
    assert_eq!((resolved.digest.as_str(), resolved.size), (layer.as_str(), WASM.len() as u64));
    assert!(room.images.is_put("localhost:5000/web:1").unwrap());

    for path in ["/v2/web/manifests/1".to_owned(), format!("/v2/web/manifests/{digest}")] {
        let (status, headers, body) = ask(&room.registry, Method::GET, &path, b"").await;
        assert_eq!((status, body.as_slice()), (StatusCode::OK, manifest.as_slice()), "{path}");
        assert_eq!(headers["content-type"], "application/vnd.oci.image.manifest.v1+json");
        let (status, headers, body) = ask(&room.registry, Method::HEAD, &path, b"").await;
        assert_eq!((status, body.len()), (StatusCode::OK, 0));
        assert_eq!(headers["content-length"], manifest.len().to_string());
    }
    let (_, _, blob) = ask(&room.registry, Method::GET, &format!("/v2/web/blobs/{layer}"), b"").await;
    assert_eq!(blob, WASM);
    let (_, _, tags) = ask(&room.registry, Method::GET, "/v2/web/tags/list", b"").await;
    assert_eq!(String::from_utf8(tags).unwrap(), r#"{"name":"web","tags":["1"]}"#);

    let mounted = format!("/v2/other/blobs/uploads/?mount={layer}&from=web");
    assert_eq!(ask(&room.registry, Method::POST, &mounted, b"").await.0, StatusCode::CREATED);
    assert_eq!(ask(&room.registry, Method::DELETE, "/v2/web/manifests/1", b"").await.0, StatusCode::ACCEPTED);
    assert!(matches!(room.images.resolve("localhost:5000/web:1"), Err(ImageError::NotFound(_))));
}

#[tokio::test]
async fn what_was_built_here_can_be_pulled() {
    let room = room();
    let digest = room.images.put("hello:0.1", WASM, &BTreeMap::new()).unwrap();
    let (status, headers, _) = ask(&room.registry, Method::HEAD, "/v2/hello/manifests/0.1", b"").await;
    assert_eq!((status, headers[DIGEST].to_str().unwrap()), (StatusCode::OK, digest.as_str()));
    let (_, _, all) = ask(&room.registry, Method::GET, "/v2/_catalog?n=5", b"").await;
    assert_eq!(String::from_utf8(all).unwrap(), r#"{"repositories":["hello"]}"#);
    let path = "/v2/docker.io/library/hello/manifests/0.1";
    assert_eq!(room.registry.answer_node(&Method::GET, path).await.status(), StatusCode::OK);
    assert_eq!(room.registry.answer_node(&Method::PUT, path).await.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn bad_input_is_refused_by_name() {
    let room = room();
    let unknown = digest_of(b"nowhere");
    let blob = push(&room.registry, WASM).await;
    let table: [(Method, String, Vec<u8>, StatusCode, &str); 9] = [
        (Method::GET, "/v2/web/manifests/1".into(), vec![], StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
        (Method::GET, format!("/v2/web/blobs/{unknown}"), vec![], StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
        (Method::GET, "/v2/web/tags/list".into(), vec![], StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
        (Method::GET, "/v2/WEB/manifests/1".into(), vec![], StatusCode::NOT_FOUND, "NAME_INVALID"),
        (Method::PATCH, "/v2/web/blobs/uploads/none".into(), vec![], StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
        (Method::PUT, "/v2/web/manifests/1".into(), b"{".to_vec(), StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
        (Method::PUT, "/v2/web/manifests/1".into(), b"{}".to_vec(), StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
        (
            Method::PUT,
            "/v2/web/manifests/1".into(),
            manifest(&blob, &unknown, 1),
            StatusCode::NOT_FOUND,
            "MANIFEST_BLOB_UNKNOWN",
        ),
        (
            Method::POST,
            format!("/v2/web/blobs/uploads/?digest={unknown}"),
            WASM.to_vec(),
            StatusCode::BAD_REQUEST,
            "DIGEST_INVALID",
        ),
    ];
    for (method, path, body, status, code) in table {
        let (found, _, answer) = ask(&room.registry, method.clone(), &path, &body).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!((found, answer["errors"][0]["code"].as_str()), (status, Some(code)), "{method} {path}: {answer}");
    }
    let request = Request::builder().uri("/v2/").header(HOST, "evil.example:5000");
    let answer = room.registry.answer(request.body(Full::new(Bytes::new())).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN, "a foreign name that leads here gets nothing");
}
