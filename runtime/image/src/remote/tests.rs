//! Pulling from real sockets: registries that ask who we are, answer nonsense, or are not there.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Mutex;

use http::{Request, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::registry::{Body, Registry};

const WASM: &[u8] = b"\0asm\x0d\0\x01\0";

/// What stands in front of a registry.
#[derive(Clone, Copy, PartialEq)]
enum Guard {
    Open,
    /// `Basic`: anna, secret.
    Password,
    /// `Bearer`: a token, to be had for the password.
    Token,
    /// Every manifest is something else than was asked for.
    Liar,
}

struct Served {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
    _images: tempfile::TempDir,
}

/// A registry with `web:1` in it.
async fn serve(guard: Guard) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let images = Images::open(folder.path()).unwrap();
    images.put("web:1", WASM, &BTreeMap::new()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (registry, place, log) = (Registry::new(images), address.clone(), asked.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (registry, place, log) = (registry.clone(), place.clone(), log.clone());
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let (registry, place, log) = (registry.clone(), place.clone(), log.clone());
                async move {
                    log.lock().unwrap().push(format!("{} {}", request.method(), request.uri().path()));
                    let answer = match refused(guard, &place, &request) {
                        Some(answer) => answer,
                        None => registry.answer(request).await,
                    };
                    Ok::<_, Infallible>(answer)
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Served { address, asked, _images: folder }
}

fn refused(guard: Guard, place: &str, request: &Request<hyper::body::Incoming>) -> Option<Response<Body>> {
    let answer = |status: u16, header: &str, body: String| {
        let response = Response::builder().status(status).header("www-authenticate", header);
        Some(response.body(crate::registry::full(body)).unwrap())
    };
    let shown = request.headers().get("authorization").map_or("", |value| value.to_str().unwrap());
    let password = "Basic YW5uYTpzZWNyZXQ=";
    match (guard, request.uri().path()) {
        (Guard::Password, _) if shown != password => answer(401, "Basic realm=\"here\"", String::new()),
        (Guard::Token, "/token") if shown != password => answer(403, "", String::new()),
        (Guard::Token, "/token") => answer(200, "", json!({"token": "t0ken"}).to_string()),
        (Guard::Token, _) if shown != "Bearer t0ken" => {
            let realm = format!("Bearer realm=\"http://{place}/token\",service=\"here\"");
            answer(401, &realm, json!({"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}).to_string())
        }
        (Guard::Liar, path) if path.contains("/manifests/") => answer(200, "", "{}".to_owned()),
        _ => None,
    }
}

fn anna(registry: &str) -> Keyring {
    let mut keys = Keyring::default();
    let entry = json!({"auths": {registry: {"username": "anna", "password": "secret"}}});
    keys.add_config_json(entry.to_string().as_bytes()).unwrap();
    keys
}

fn home() -> (tempfile::TempDir, Images) {
    let folder = tempfile::tempdir().unwrap();
    let images = Images::open(folder.path()).unwrap();
    (folder, images)
}

#[tokio::test]
async fn who_we_are_is_said_when_it_is_asked_and_not_before() {
    let remote = Remote::new(Vec::new()).unwrap();
    for guard in [Guard::Open, Guard::Password, Guard::Token] {
        let (served, (_folder, images)) = (serve(guard).await, home());
        let image = format!("{}/web:1", served.address);
        let stranger = remote.pull(&images, &image, &Keyring::default()).await;
        assert_eq!(stranger.is_ok(), guard == Guard::Open, "{stranger:?}");
        let (_folder, images) = home();
        let pulled = remote.pull(&images, &image, &anna(&served.address)).await.unwrap();
        assert!(pulled.bytes > 0);
        assert_eq!(images.resolve(&image).unwrap().size, WASM.len() as u64);
        assert!(!images.is_put(&image).unwrap());
        // All blobs are here, so only the manifest is asked for again.
        served.asked.lock().unwrap().clear();
        remote.pull(&images, &image, &anna(&served.address)).await.unwrap();
        let asked = served.asked.lock().unwrap().clone();
        assert!(!asked.iter().any(|line| line.contains("/blobs/")), "{asked:?}");
    }
    let (served, (_folder, images)) = (serve(Guard::Token).await, home());
    let refusal = remote.pull(&images, &format!("{}/web:1", served.address), &Keyring::default()).await.unwrap_err();
    assert!(refusal.to_string().contains("who are you?"), "{refusal}");
}

#[tokio::test]
async fn what_a_registry_cannot_give_is_said_plainly() {
    let remote = Remote::new(Vec::new()).unwrap();
    let (_folder, images) = home();
    let open = serve(Guard::Open).await;
    let pull = async |image: String| remote.pull(&images, &image, &Keyring::default()).await.unwrap_err();
    let missing = pull(format!("{}/web:2", open.address)).await;
    assert!(matches!(missing, ImageError::NotFound(_)), "{missing}");
    assert!(missing.to_string().contains("has no image"), "{missing}");
    let liar = serve(Guard::Liar).await;
    let wrong = pull(format!("{}/web@sha256:{}", liar.address, "ab".repeat(32))).await;
    assert!(wrong.to_string().contains("something else"), "{wrong}");
    let nobody = pull("localhost:1/web:1".to_owned()).await;
    assert!(nobody.to_string().contains("localhost:1: ") && nobody.to_string().contains("refused"), "{nobody}");
    let file = pull("file:///a.wasm".to_owned()).await;
    assert!(file.to_string().contains("has no registry"), "{file}");
}

#[tokio::test]
async fn a_push_brings_what_is_missing() {
    let remote = Remote::new(Vec::new()).unwrap();
    let (served, (_folder, images)) = (serve(Guard::Password).await, home());
    images.put("mine:1", b"\0asm\x0d\0\x01\0\0\x02\x01a", &BTreeMap::new()).unwrap();
    let to = format!("{}/mine:1", served.address);
    let keys = anna(&served.address);
    assert!(remote.push(&images, "mine:1", &to, &Keyring::default()).await.is_err());
    let digest = remote.push(&images, "mine:1", &to, &keys).await.unwrap();
    let (_folder, elsewhere) = home();
    assert_eq!(remote.pull(&elsewhere, &to, &keys).await.unwrap().digest, digest);
    // What is there already is not sent again.
    served.asked.lock().unwrap().clear();
    remote.push(&images, "mine:1", &to, &keys).await.unwrap();
    let asked = served.asked.lock().unwrap().clone();
    assert!(!asked.iter().any(|line| line.starts_with("POST")), "{asked:?}");
    let absent = remote.push(&images, "absent:1", &to, &keys).await.unwrap_err();
    assert!(matches!(absent, ImageError::NotFound(_)), "{absent}");
}
