//! The registry inside the cluster: the OCI distribution API 1.1 over a node's images, so that stock tools (`oras`,
//! `docker`, `skopeo`, `wkg`) push to and pull from it.
//!
//! What is pushed to `localhost:5000/web:1` is the image that pods name `localhost:5000/web:1`, at once and without a
//! pull. What was built on the cluster under a plain name can be pulled by that name as well.
//!
//! Refuses: callers who do not name this machine (a web page that resolves its own name to loopback gets nothing),
//! manifests whose blobs are not here, and uploads beyond the bounds in `limits`. There is no login: the caller of
//! [`Registry::answer`] must see to it that only this machine, or only reading requests, come here.
//!
//! # Layout
//! * `route`: the URL grammar. `uploads`: what has begun and not ended. `write`: pushing. Here: reading, and errors.

mod route;
mod uploads;
mod write;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use futures::TryStreamExt;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use self::route::Route;
use self::uploads::Uploads;
use crate::error::ImageError;
use crate::images::Images;
use crate::limits;
use crate::reference::Reference;

/// Why a body ended early.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// What is answered.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The body of a request, whichever server it comes through.
pub trait RequestBody: http_body::Body<Data = Bytes, Error: std::fmt::Display> + Send + Unpin {}

impl<B: http_body::Body<Data = Bytes, Error: std::fmt::Display> + Send + Unpin> RequestBody for B {}

const OCTETS: &str = "application/octet-stream";
const DIGEST: &str = "docker-content-digest";

/// The registry. Clones share everything.
#[derive(Clone, Debug)]
pub struct Registry {
    images: Images,
    uploads: Uploads,
}

/// A request that cannot be answered, in the API's own form: status, code and sentence.
#[derive(Debug)]
struct Refusal(StatusCode, &'static str, String);

impl Registry {
    /// A registry of these images.
    #[must_use]
    pub fn new(images: Images) -> Self {
        Self { images, uploads: Uploads::default() }
    }

    /// Answers a request of somebody on this machine; never fails.
    pub async fn answer<B: RequestBody>(&self, request: http::Request<B>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let answer = match authority(&head) {
            Some(host) if names_this_machine(&host) => self.dispatch(&head, &host, body).await,
            _ => Err(Refusal(StatusCode::FORBIDDEN, "DENIED", "this registry serves its own machine only".to_owned())),
        };
        finished(answer, &head.method)
    }

    /// Answers a reading request for images under their full names, whoever sends it: `/v2/ghcr.io/me/web/manifests/1`.
    ///
    /// This is how nodes of one cluster hand images to each other; who may ask was decided before.
    pub async fn answer_node(&self, method: &Method, path: &str) -> Response<Body> {
        let answer = match (method, Route::parse(path)) {
            (&Method::GET | &Method::HEAD, Some(Route::Manifest { repository, reference })) => {
                self.manifest(vec![format!("{repository}{}", joined(&reference))]).await
            }
            (&Method::GET | &Method::HEAD, Some(Route::Blob { digest })) => self.blob(&digest).await,
            _ => Err(Refusal::unsupported()),
        };
        finished(answer, method)
    }

    async fn dispatch<B: RequestBody>(&self, head: &Parts, host: &str, body: B) -> Result<Response<Body>, Refusal> {
        let query = head.uri.query().unwrap_or_default();
        let route = Route::parse(head.uri.path()).ok_or_else(|| {
            let message = format!("{} is not a path of the distribution API", head.uri.path());
            Refusal(StatusCode::NOT_FOUND, "NAME_INVALID", message)
        })?;
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        match (&head.method, route) {
            (_, Route::Root) if reads => json_answer(&json!({})),
            (_, Route::Catalog) if reads => self.catalog(host, query).await,
            (_, Route::Tags { repository }) if reads => self.tags(host, &repository, query).await,
            (_, Route::Manifest { repository, reference }) if reads => {
                // What was built here has a plain name.
                let tail = joined(&reference);
                self.manifest(vec![format!("{host}/{repository}{tail}"), format!("{repository}{tail}")]).await
            }
            (_, Route::Blob { digest }) if reads => self.blob(&digest).await,
            (&Method::PUT, Route::Manifest { repository, reference }) => {
                self.put_manifest(&head.headers, host, &repository, &reference, body).await
            }
            (&Method::DELETE, Route::Manifest { repository, reference }) => {
                self.delete_manifest(host, &repository, &reference).await
            }
            (&Method::POST, Route::Uploads { repository }) => self.begin_upload(&repository, query, body).await,
            (&Method::PATCH, Route::Upload { repository, id }) => {
                self.append(&head.headers, &repository, &id, body).await
            }
            (&Method::PUT, Route::Upload { repository, id }) => self.finish_upload(&repository, &id, query, body).await,
            (&Method::GET, Route::Upload { repository, id }) => self.upload_status(&repository, &id),
            (&Method::DELETE, Route::Upload { id, .. }) => match self.uploads.end(&id) {
                true => Ok(empty(StatusCode::NO_CONTENT)),
                false => Err(Refusal::no_upload()),
            },
            _ => Err(Refusal::unsupported()),
        }
    }

    async fn manifest(&self, names: Vec<String>) -> Result<Response<Body>, Refusal> {
        let images = self.images.clone();
        let found = blocking(move || {
            let mut last = None;
            for name in names {
                match Reference::parse(&name).and_then(|named| images.document(&named)) {
                    Ok(found) => return Ok(found),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.unwrap_or_else(|| ImageError::NotFound("there is no such image".to_owned())))
        });
        let (entry, bytes) = found.await.map_err(|refusal| refusal.about("MANIFEST_UNKNOWN"))?;
        let mut response = Response::new(full(bytes));
        let headers = response.headers_mut();
        insert(headers, CONTENT_TYPE.as_str(), &entry.media_type);
        insert(headers, DIGEST, &entry.digest);
        Ok(response)
    }

    async fn blob(&self, digest: &str) -> Result<Response<Body>, Refusal> {
        let (images, wanted) = (self.images.clone(), digest.to_owned());
        let path = blocking(move || images.layout().check_blob(&wanted)).await;
        let path = path.map_err(|refusal| refusal.about("BLOB_UNKNOWN"))?;
        let file = tokio::fs::File::open(&path).await.map_err(|error| Refusal::broken(&error))?;
        let size = file.metadata().await.map_err(|error| Refusal::broken(&error))?.len();
        let frames = ReaderStream::new(file).map_ok(Frame::data).map_err(BoxError::from);
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(OCTETS));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
        insert(headers, DIGEST, digest);
        Ok(response)
    }

    async fn catalog(&self, host: &str, query: &str) -> Result<Response<Body>, Refusal> {
        let mut names: Vec<String> = self.known(host).await?.into_iter().map(|(repository, _)| repository).collect();
        names.sort();
        names.dedup();
        json_answer(&json!({ "repositories": page(names, query) }))
    }

    async fn tags(&self, host: &str, repository: &str, query: &str) -> Result<Response<Body>, Refusal> {
        let known = self.known(host).await?.into_iter();
        let mut tags: Vec<String> = known.filter(|(name, _)| name == repository).map(|(_, tag)| tag).collect();
        if tags.is_empty() {
            let message = format!("there is no repository {repository}");
            return Err(Refusal(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message));
        }
        tags.sort();
        tags.dedup();
        json_answer(&json!({ "name": repository, "tags": page(tags, query) }))
    }

    /// Repository and tag of every image, named as this registry names it.
    async fn known(&self, host: &str) -> Result<Vec<(String, String)>, Refusal> {
        let images = self.images.clone();
        let names = blocking(move || images.names()).await?;
        let ours = format!("{host}/");
        let known = names.into_iter().filter_map(|reference| match reference {
            Reference::Named { name, tag: Some(tag), .. } => {
                let name =
                    name.strip_prefix(&ours).or_else(|| name.strip_prefix("docker.io/library/")).map(str::to_owned);
                Some((name?, tag))
            }
            _ => None,
        });
        Ok(known.collect())
    }
}

impl Refusal {
    fn unsupported() -> Self {
        Self(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this registry does not offer that".to_owned())
    }

    fn no_upload() -> Self {
        Self(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "there is no such upload, or it is being written".to_owned())
    }

    fn broken(error: &dyn std::fmt::Display) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", error.to_string())
    }

    /// What is not there, and what is asked for in a shape it cannot have, is unknown under that code.
    fn about(self, code: &'static str) -> Self {
        match self.0 {
            StatusCode::NOT_FOUND => Self(self.0, code, self.2),
            _ => self,
        }
    }
}

impl From<ImageError> for Refusal {
    fn from(error: ImageError) -> Self {
        let missing = matches!(&error, ImageError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound);
        let (status, code) = match &error {
            ImageError::NotFound(_) => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            ImageError::InvalidName { .. } => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
            ImageError::Damaged { .. } => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            ImageError::Unusable { .. } => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
            _ if missing => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            ImageError::Io { .. } | ImageError::Registry { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        };
        Self(status, code, error.to_string())
    }
}

/// Runs what blocks on files in a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| Refusal::broken(&error))?;
    Ok(done?)
}

/// A tag or a digest as it stands behind a name.
fn joined(reference: &str) -> String {
    format!("{}{reference}", if reference.contains(':') { '@' } else { ':' })
}

fn authority(head: &Parts) -> Option<String> {
    let named = head.headers.get(HOST).and_then(|value| value.to_str().ok());
    named.or_else(|| head.uri.authority().map(http::uri::Authority::as_str)).map(str::to_ascii_lowercase)
}

fn names_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

/// The part of a sorted list that `?n=` and `?last=` ask for.
fn page(all: Vec<String>, query: &str) -> Vec<String> {
    let value = |wanted: &str| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned()).next()
    };
    let count = value("n").and_then(|n| n.parse().ok()).unwrap_or(limits::PAGE_MAX).min(limits::PAGE_MAX);
    let last = value("last").unwrap_or_default();
    all.into_iter().filter(|name| *name > last).take(count).collect()
}

fn finished(answer: Result<Response<Body>, Refusal>, method: &Method) -> Response<Body> {
    let mut response = answer.unwrap_or_else(|Refusal(status, code, message)| {
        let errors = json!({ "errors": [{ "code": code, "message": message, "detail": null }] });
        let mut response = json_answer(&errors).unwrap_or_else(|_| empty(status));
        *response.status_mut() = status;
        response
    });
    response.headers_mut().insert("docker-distribution-api-version", HeaderValue::from_static("registry/2.0"));
    if method == Method::HEAD {
        let size = http_body::Body::size_hint(response.body()).exact();
        if let Some(size) = size.filter(|_| !response.headers().contains_key(CONTENT_LENGTH)) {
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
        }
        *response.body_mut() = full(Bytes::new());
    }
    response
}

fn json_answer(value: &Value) -> Result<Response<Body>, Refusal> {
    let mut response = Response::new(full(value.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = status;
    response
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|impossible| match impossible {}).boxed_unsync()
}

/// Sets a header to a value that comes from documents of others; one that cannot be a header is left out.
fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}
