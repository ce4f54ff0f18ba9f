//! Pulling from and pushing to registries, by the OCI distribution specification 1.1.
//!
//! Refuses: plain HTTP, except to this machine itself and to registries the node was told about.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{Method, StatusCode};
use reqwest::{Client, RequestBuilder, Response, redirect};
use rustls_platform_verifier::BuilderVerifierExt;
use serde_json::Value;

use crate::artifact::{self, Descriptor, Index, Manifest};
use crate::credentials::{Credential, Keyring};
use crate::error::ImageError;
use crate::images::{Images, decode};
use crate::layout::{check_shape, digest_of};
use crate::limits;
use crate::pull::{Answer, PullError, Pulled, Source, blocking, chain, said};
use crate::reference::Reference;
use crate::registry::BoxError;
use crate::session::{Rights, Session};

/// What a pull may find, the most wanted first.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// Redirects followed; registries keep blobs elsewhere, one hop away.
const REDIRECTS_MAX: usize = 5;

/// The way to registries. Clones share connections.
#[derive(Clone, Debug)]
pub struct Remote {
    client: Client,
    plain: Arc<Vec<String>>,
}

impl Remote {
    /// A client that speaks HTTPS with the machine's own roots of trust, and HTTP with registries on this machine and
    /// with those named (`HOST:PORT`) in `plain`.
    ///
    /// # Errors
    /// When the machine's roots of trust cannot be used.
    pub fn new(plain: Vec<String>) -> Result<Self, ImageError> {
        let unusable = |error: &dyn std::fmt::Display| ImageError::registry("TLS", error.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(BuilderVerifierExt::with_platform_verifier)
            .map_err(|error| unusable(&error))?
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(concat!("kogia/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(limits::CONNECT_TIMEOUT)
            .read_timeout(limits::SILENCE_TIMEOUT)
            .redirect(redirect::Policy::limited(REDIRECTS_MAX))
            .build()
            .map_err(|error| unusable(&error))?;
        Ok(Self { client, plain: Arc::new(plain) })
    }

    /// Fetches an image and lets its name mean what the registry says.
    ///
    /// Each credential for the image is tried in turn, then none.
    ///
    /// # Errors
    /// [`ImageError::Registry`] when the registry cannot be reached or refuses, [`ImageError::NotFound`] when it has no
    /// such image, the others when the image is none.
    pub async fn pull(&self, images: &Images, reference: &str, keys: &Keyring) -> Result<Pulled, ImageError> {
        let place = Place::of(reference)?;
        let mut credentials: Vec<Option<Credential>> = keys.matching(&place.name).into_iter().map(Some).collect();
        credentials.truncate(limits::TRIES_MAX);
        credentials.push(None);
        let within = tokio::time::timeout(limits::TRANSFER_TIMEOUT, async {
            let mut refusal = None;
            for credential in credentials {
                let mut source = self.session(&place, Rights::Pull, credential);
                match images.pull(reference, &mut source).await {
                    // Another credential may fit; what the first one heard is what counts.
                    Err(PullError::Denied(why)) => refusal = refusal.or(Some(why)),
                    Err(PullError::Failed(error)) => return Err(error),
                    Ok(pulled) => return Ok(pulled),
                }
            }
            Err(ImageError::registry(&place.registry, refusal.unwrap_or_default()))
        });
        within.await.map_err(|_| place.too_slow())?
    }

    /// Sends an image that is here to a registry, under the name `to`; returns the manifest's digest.
    ///
    /// # Errors
    /// As [`Remote::pull`].
    pub async fn push(&self, images: &Images, from: &str, to: &str, keys: &Keyring) -> Result<String, ImageError> {
        let place = Place::of(to)?;
        let credential = keys.matching(&place.name).into_iter().next();
        let session = self.session(&place, Rights::Push, credential);
        let mut push = Push { session, images, reference: from, registry: &place.registry };
        let pushed = tokio::time::timeout(limits::TRANSFER_TIMEOUT, push.send(to)).await;
        pushed.map_err(|_| place.too_slow())?
    }

    fn session(&self, place: &Place, rights: Rights, credential: Option<Credential>) -> Session {
        let host = place.registry.rsplit_once(':').map_or(&*place.registry, |(host, _)| host);
        let here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        let scheme = if here || self.plain.contains(&place.registry) { "http" } else { "https" };
        // Docker Hub's name for people is not its API's.
        let authority = if place.registry == "docker.io" { "registry-1.docker.io" } else { &place.registry };
        let origin = format!("{scheme}://{authority}");
        Session::new(self.client.clone(), &place.registry, &origin, &place.repository, rights, credential)
    }
}

/// Where an image is: `ghcr.io/me/web` taken apart.
struct Place {
    name: String,
    registry: String,
    repository: String,
}

impl Place {
    fn of(reference: &str) -> Result<Self, ImageError> {
        let Reference::Named { name, .. } = Reference::parse(reference)? else {
            return Err(ImageError::unusable(reference, "a file: image has no registry"));
        };
        let (registry, repository) = name.split_once('/').unwrap_or(("", &name));
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), name: name.clone() })
    }

    fn too_slow(&self) -> ImageError {
        ImageError::registry(&self.registry, format!("it took more than {:?}", limits::TRANSFER_TIMEOUT))
    }
}

impl Source for Session {
    fn name(&self) -> &str {
        &self.registry
    }

    async fn get(&mut self, path: &str) -> Result<Answer, BoxError> {
        let manifest = path.starts_with("/manifests/");
        let shape = |request: RequestBuilder| if manifest { request.header(ACCEPT, MANIFESTS) } else { request };
        let response = self.send(Method::GET, path, shape).await?;
        let status = response.status();
        let pieces = response.bytes_stream().map(|piece| piece.map_err(BoxError::from));
        Ok(Answer { status, pieces: pieces.boxed() })
    }
}

struct Push<'a> {
    session: Session,
    images: &'a Images,
    reference: &'a str,
    registry: &'a str,
}

impl Push<'_> {
    async fn send(&mut self, to: &str) -> Result<String, ImageError> {
        let source = Reference::parse(self.reference)?;
        let images = self.images.clone();
        let (entry, mut bytes) = blocking(move || images.document(&source)).await?;
        let mut document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let mut digest_here = entry.digest;
        if document["manifests"].is_array() {
            // Of an image for several platforms only the one for Wasm is here.
            let index: Index = decode(self.reference, document)?;
            let why = "it is built for other platforms only";
            let entry = index.for_wasm().ok_or_else(|| ImageError::unusable(self.reference, why))?;
            digest_here.clone_from(&entry.digest);
            let (images, digest) = (self.images.clone(), entry.digest.clone());
            bytes = blocking(move || images.layout().bytes(&digest, limits::DOCUMENT_BYTES_MAX)).await?;
            document = serde_json::from_slice(&bytes).unwrap_or_default();
        }
        let manifest: Manifest = decode(self.reference, document)?;
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            self.send_blob(blob).await?;
        }
        let under = match Reference::parse(to)? {
            Reference::Named { tag, digest, .. } => tag.or(digest).unwrap_or(digest_here),
            Reference::File { .. } => digest_here,
        };
        let media_type = if manifest.media_type.is_empty() { artifact::MANIFEST } else { &manifest.media_type };
        let put = |request: RequestBuilder| request.header(CONTENT_TYPE, media_type).body(bytes.clone());
        let response = self.session.send(Method::PUT, &format!("/manifests/{under}"), put).await;
        self.expect(response, &[StatusCode::CREATED, StatusCode::OK]).await?;
        Ok(digest_of(&bytes))
    }

    async fn send_blob(&mut self, blob: &Descriptor) -> Result<(), ImageError> {
        let digest = check_shape(&blob.digest)?.to_owned();
        let head = self.session.send(Method::HEAD, &format!("/blobs/{digest}"), |request| request).await;
        if head.map_err(|error| self.failed(chain(&error)))?.status() == StatusCode::OK {
            return Ok(());
        }
        let (images, known) = (self.images.clone(), digest.clone());
        let bytes = blocking(move || images.layout().bytes(&known, limits::COMPONENT_BYTES_MAX)).await?;
        let bytes = Bytes::from(bytes);
        let start = |request: RequestBuilder| request.header(CONTENT_LENGTH, 0);
        let begun = self.session.send(Method::POST, "/blobs/uploads/", start).await;
        let begun = self.expect(begun, &[StatusCode::ACCEPTED]).await?;
        let location = self.session.upload(&begun, &digest);
        let location = location.ok_or_else(|| self.failed("it names no place to upload to".to_owned()))?;
        // The answer to a whole blob comes only when the registry has it all.
        let put = |request: RequestBuilder| {
            let request = request.header(CONTENT_TYPE, "application/octet-stream");
            request.timeout(limits::TRANSFER_TIMEOUT).body(bytes.clone())
        };
        let sent = self.session.send_to(Method::PUT, location, put).await;
        self.expect(sent, &[StatusCode::CREATED]).await.map(drop)
    }

    /// Lets an answer pass that has one of the statuses; others become what the registry says of them.
    async fn expect(
        &self,
        answered: Result<Response, reqwest::Error>,
        wanted: &[StatusCode],
    ) -> Result<Response, ImageError> {
        let response = answered.map_err(|error| self.failed(chain(&error)))?;
        let status = response.status();
        if wanted.contains(&status) {
            return Ok(response);
        }
        let body = self.session.read(response, limits::ANSWER_BYTES_MAX).await.unwrap_or_default();
        Err(self.failed(said(status, &body)))
    }

    fn failed(&self, why: String) -> ImageError {
        ImageError::registry(self.registry, why)
    }
}

#[cfg(test)]
mod tests;
