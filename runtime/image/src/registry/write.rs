//! Pushing: blobs in pieces or at once, then the manifest that names them.

use std::time::Instant;

use http::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;

use super::{Body, DIGEST, Refusal, Registry, RequestBody, blocking, empty, insert, joined};
use crate::artifact::{self, Descriptor};
use crate::images::{Images, Origin};
use crate::incoming::{Feed, Incoming};
use crate::layout::{check_shape, digest_of};
use crate::limits;
use crate::reference::Reference;

impl Registry {
    /// `POST …/blobs/uploads/`: begins an upload, brings a whole blob (`?digest=`), or finds that the blob is here
    /// (`?mount=`): all repositories share their blobs.
    pub(super) async fn begin_upload<B: RequestBody>(
        &self,
        repository: &str,
        query: &str,
        body: B,
    ) -> Result<Response<Body>, Refusal> {
        if let Some(digest) = parameter(query, "mount") {
            let (images, wanted) = (self.images.clone(), digest.clone());
            if blocking(move || Ok(images.layout().check_blob(&wanted).is_ok())).await? {
                return Ok(created(repository, "blobs", &digest));
            }
        }
        let images = self.images.clone();
        let incoming = blocking(move || images.incoming(limits::COMPONENT_BYTES_MAX)).await?;
        if let Some(digest) = parameter(query, "digest") {
            let incoming = receive(incoming, body).await?;
            return settle(incoming, repository, digest).await;
        }
        let Some(id) = self.uploads.begin(incoming, Instant::now()) else {
            let message = format!("{} uploads are open; end one, or wait", limits::UPLOADS_MAX);
            return Err(Refusal(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message));
        };
        Ok(going_on(StatusCode::ACCEPTED, repository, &id, 0))
    }

    /// `PATCH`: the next piece. A `Content-Range` that does not go on where the last piece ended is refused.
    pub(super) async fn append<B: RequestBody>(
        &self,
        headers: &HeaderMap,
        repository: &str,
        id: &str,
        body: B,
    ) -> Result<Response<Body>, Refusal> {
        let incoming = self.uploads.take(id, Instant::now()).ok_or_else(Refusal::no_upload)?;
        let from =
            headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok()?.split('-').next()?.trim().parse().ok());
        if from.is_some_and(|from: u64| from != incoming.size()) {
            let size = incoming.size();
            self.uploads.put_back(id, incoming, Instant::now());
            return Ok(going_on(StatusCode::RANGE_NOT_SATISFIABLE, repository, id, size));
        }
        // A piece that breaks off in the middle cannot be told from a whole one: the upload has to begin anew.
        let incoming = receive(incoming, body).await.inspect_err(|_| {
            self.uploads.end(id);
        })?;
        let size = incoming.size();
        self.uploads.put_back(id, incoming, Instant::now());
        Ok(going_on(StatusCode::ACCEPTED, repository, id, size))
    }

    /// `PUT …?digest=`: the last piece, possibly empty, and what all of them must be.
    pub(super) async fn finish_upload<B: RequestBody>(
        &self,
        repository: &str,
        id: &str,
        query: &str,
        body: B,
    ) -> Result<Response<Body>, Refusal> {
        let Some(digest) = parameter(query, "digest") else {
            let message = "an upload ends with ?digest=sha256:…".to_owned();
            return Err(Refusal(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message));
        };
        let incoming = self.uploads.take(id, Instant::now()).ok_or_else(Refusal::no_upload)?;
        self.uploads.end(id);
        let incoming = receive(incoming, body).await?;
        settle(incoming, repository, digest).await
    }

    /// `GET` of an upload: how far it has come.
    pub(super) fn upload_status(&self, repository: &str, id: &str) -> Result<Response<Body>, Refusal> {
        let now = Instant::now();
        let incoming = self.uploads.take(id, now).ok_or_else(Refusal::no_upload)?;
        let size = incoming.size();
        self.uploads.put_back(id, incoming, now);
        Ok(going_on(StatusCode::NO_CONTENT, repository, id, size))
    }

    /// `PUT …/manifests/…`: names what was pushed. Every blob it speaks of must be here.
    pub(super) async fn put_manifest<B: RequestBody>(
        &self,
        headers: &HeaderMap,
        host: &str,
        repository: &str,
        reference: &str,
        body: B,
    ) -> Result<Response<Body>, Refusal> {
        let named = Reference::parse(&format!("{host}/{repository}{}", joined(reference)))?;
        let bytes = whole(body, limits::DOCUMENT_BYTES_MAX).await?;
        let digest = digest_of(&bytes);
        let invalid = |message: String| Refusal(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message);
        if reference.contains(':') && reference != digest {
            let message = format!("the manifest is {digest}, not {reference}");
            return Err(Refusal(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message));
        }
        let document: Value = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
        let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = document["mediaType"].as_str().or(media_type).unwrap_or(artifact::MANIFEST).to_owned();
        let spoken_of = blobs_of(&document);
        if spoken_of.is_empty() {
            return Err(invalid("it names neither a config nor manifests".to_owned()));
        }
        let (images, tagged) = (self.images.clone(), !reference.contains(':'));
        let missing = blocking(move || {
            if let Some(missing) = spoken_of.into_iter().find(|blob| images.layout().check_blob(blob).is_err()) {
                return Ok(Some(missing));
            }
            let entry = images.put_blob(&media_type, &bytes)?;
            if tagged {
                images.name(entry, &named.to_string(), Origin::Put)?;
            }
            Ok(None)
        });
        if let Some(missing) = missing.await? {
            let message = format!("the blob {missing} has not been pushed");
            return Err(Refusal(StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN", message));
        }
        Ok(created(repository, "manifests", &digest))
    }

    /// `DELETE …/manifests/TAG`: forgets the name. Blobs stay until nothing names them.
    pub(super) async fn delete_manifest(
        &self,
        host: &str,
        repository: &str,
        reference: &str,
    ) -> Result<Response<Body>, Refusal> {
        if reference.contains(':') {
            return Err(Refusal::unsupported());
        }
        let named = Reference::parse(&format!("{host}/{repository}:{reference}"))?;
        let (images, name) = (self.images.clone(), named.familiar());
        match blocking(move || images.forget(&named)).await? {
            true => Ok(empty(StatusCode::ACCEPTED)),
            false => {
                Err(Refusal(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", format!("there is no image {name} to delete")))
            }
        }
    }
}

/// Digests of the blobs and manifests that a manifest or an index speaks of.
fn blobs_of(document: &Value) -> Vec<String> {
    let config = document.get("config").into_iter();
    let lists = ["layers", "manifests"].into_iter().filter_map(|list| document[list].as_array()).flatten();
    let digests = config.chain(lists).filter_map(|entry| serde_json::from_value::<Descriptor>(entry.clone()).ok());
    digests.map(|entry| entry.digest).collect()
}

/// Takes in all of a body.
async fn receive<B: RequestBody>(incoming: Incoming, mut body: B) -> Result<Incoming, Refusal> {
    let feed = Feed::new(incoming);
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Refusal(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", error.to_string()))?;
        if let Ok(piece) = frame.into_data()
            && !feed.push(piece).await
        {
            break;
        }
    }
    feed.close().await.map_err(|error| Refusal(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", error.to_string()))
}

async fn whole<B: RequestBody>(mut body: B, bytes_max: u64) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", error.to_string()))?;
        if let Ok(piece) = frame.into_data() {
            bytes.extend_from_slice(&piece);
        }
        if bytes.len() as u64 > bytes_max {
            let message = format!("a manifest may have {} MiB", bytes_max >> 20);
            return Err(Refusal(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", message));
        }
    }
    Ok(bytes)
}

async fn settle(incoming: Incoming, repository: &str, digest: String) -> Result<Response<Body>, Refusal> {
    check_shape(&digest).map_err(|error| Refusal(StatusCode::BAD_REQUEST, "DIGEST_INVALID", error.to_string()))?;
    let found = Images::settle(incoming, Some(digest)).await?;
    Ok(created(repository, "blobs", &found))
}

fn created(repository: &str, what: &str, digest: &str) -> Response<Body> {
    let mut response = empty(StatusCode::CREATED);
    insert(response.headers_mut(), LOCATION.as_str(), &format!("/v2/{repository}/{what}/{digest}"));
    insert(response.headers_mut(), DIGEST, digest);
    response
}

fn going_on(status: StatusCode, repository: &str, id: &str, size: u64) -> Response<Body> {
    let mut response = empty(status);
    let headers = response.headers_mut();
    insert(headers, LOCATION.as_str(), &format!("/v2/{repository}/blobs/uploads/{id}"));
    insert(headers, RANGE.as_str(), &format!("0-{}", size.saturating_sub(1)));
    insert(headers, "docker-upload-uuid", id);
    response
}

/// A value of the query, percent-decoded where it matters: digests are often sent as `sha256%3A…`.
fn parameter(query: &str, wanted: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
}
