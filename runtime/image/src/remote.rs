//! Pulling from and pushing to registries, by the OCI distribution specification 1.1.
//!
//! A pull takes what a component needs: the manifest for Wasm, its config, and the layer with the code (or all layers of
//! an image that packs it). Everything is hashed on its way in, has a bound, and is named only when it is whole.
//!
//! Refuses: plain HTTP, except to this machine itself and to registries the node was told about, and answers larger than
//! `limits` say, whatever a registry promises.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use http::{Method, StatusCode};
use reqwest::{Client, Response, redirect};
use rustls_platform_verifier::BuilderVerifierExt;
use serde_json::Value;

use crate::artifact::{self, Descriptor, INDEX, Index, Manifest};
use crate::credentials::{Credential, Keyring};
use crate::error::ImageError;
use crate::images::{Images, Origin, decode};
use crate::incoming::Feed;
use crate::layout::{check_shape, digest_of};
use crate::reference::Reference;
use crate::session::{Rights, Session};
use crate::{limits, packed};

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

/// What a pull brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Digest of the manifest (or index) that the name means.
    pub digest: String,
    /// Bytes that came over the network; 0 when everything was here already.
    pub bytes: u64,
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

    /// Fetches an image and lets its name mean what the registry says. What is here already is not fetched again.
    ///
    /// Each credential for the image is tried in turn, then none.
    ///
    /// # Errors
    /// [`ImageError::Registry`] when the registry cannot be reached or refuses, [`ImageError::NotFound`] when it has no
    /// such image, the others when the image is none.
    pub async fn pull(&self, images: &Images, reference: &str, keys: &Keyring) -> Result<Pulled, ImageError> {
        let named = Reference::parse(reference)?;
        let place = Place::of(reference, &named)?;
        let mut credentials: Vec<Option<Credential>> = keys.matching(&place.name).into_iter().map(Some).collect();
        credentials.truncate(limits::TRIES_MAX);
        credentials.push(None);
        let within = tokio::time::timeout(limits::TRANSFER_TIMEOUT, async {
            let mut refusal = None;
            for credential in credentials {
                let session = self.session(&place, Rights::Pull, credential);
                let mut pull = Transfer { session, images, reference, place: &place, bytes: 0 };
                match pull.run(&named).await {
                    // Another credential may fit; what the first one heard is what counts.
                    Err(Fault::Denied(why)) => refusal = refusal.or(Some(why)),
                    Err(Fault::Failed(error)) => return Err(error),
                    Ok(digest) => return Ok(Pulled { digest, bytes: pull.bytes }),
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
        let (source, named) = (Reference::parse(from)?, Reference::parse(to)?);
        let place = Place::of(to, &named)?;
        let credential = keys.matching(&place.name).into_iter().next();
        let session = self.session(&place, Rights::Push, credential);
        let mut push = Transfer { session, images, reference: from, place: &place, bytes: 0 };
        let pushed = tokio::time::timeout(limits::TRANSFER_TIMEOUT, push.send(&source, &named)).await;
        pushed.map_err(|_| place.too_slow())?.map_err(|fault| fault.at(&place))
    }

    fn session(&self, place: &Place, rights: Rights, credential: Option<Credential>) -> Session {
        let host = place.registry.rsplit_once(':').map_or(&*place.registry, |(host, _)| host);
        let here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        let scheme = if here || self.plain.contains(&place.registry) { "http" } else { "https" };
        // Docker Hub's name for people is not its API's.
        let authority = if place.registry == "docker.io" { "registry-1.docker.io" } else { &place.registry };
        Session::new(self.client.clone(), format!("{scheme}://{authority}"), &place.repository, rights, credential)
    }
}

/// Where an image is: `ghcr.io/me/web` taken apart.
struct Place {
    name: String,
    registry: String,
    repository: String,
}

impl Place {
    fn of(reference: &str, named: &Reference) -> Result<Self, ImageError> {
        let Reference::Named { name, .. } = named else {
            return Err(ImageError::unusable(reference, "a file: image has no registry"));
        };
        let (registry, repository) = name.split_once('/').unwrap_or(("", name));
        Ok(Self { name: name.clone(), registry: registry.to_owned(), repository: repository.to_owned() })
    }

    fn too_slow(&self) -> ImageError {
        ImageError::registry(&self.registry, format!("it took more than {:?}", limits::TRANSFER_TIMEOUT))
    }
}

/// Why a transfer ended.
pub(crate) enum Fault {
    /// 401 or 403: another credential may help.
    Denied(String),
    Failed(ImageError),
}

impl From<ImageError> for Fault {
    fn from(error: ImageError) -> Self {
        Self::Failed(error)
    }
}

impl Fault {
    fn at(self, place: &Place) -> ImageError {
        match self {
            Self::Denied(why) => ImageError::registry(&place.registry, why),
            Self::Failed(error) => error,
        }
    }
}

struct Transfer<'a> {
    session: Session,
    images: &'a Images,
    reference: &'a str,
    place: &'a Place,
    bytes: u64,
}

impl Transfer<'_> {
    /// Pulls; returns the digest of what the name means.
    async fn run(&mut self, named: &Reference) -> Result<String, Fault> {
        let Reference::Named { tag, digest, .. } = named else { unreachable!("a place was found for it") };
        let wanted = digest.as_ref().or(tag.as_ref()).expect("a name has a tag or a digest");
        let (top, document) = self.document(wanted, digest.as_deref()).await?;
        let mut manifest = document;
        if manifest["mediaType"] == INDEX || manifest["manifests"].is_array() {
            let index: Index = decode(self.reference, manifest)?;
            let why = "it is built for other platforms only";
            let entry = index.for_wasm().ok_or_else(|| ImageError::unusable(self.reference, why))?;
            manifest = self.document(&entry.digest, Some(&entry.digest)).await?.1;
        }
        let manifest: Manifest = decode(self.reference, manifest)?;
        // The config may be the empty descriptor; then it is two bytes.
        self.blob(&manifest.config, limits::DOCUMENT_BYTES_MAX).await?;
        let (images, known) = (self.images.clone(), manifest.config.clone());
        let config = self.blocking(move || Ok(images.layout().document(&known).unwrap_or(Value::Null))).await?;
        if packed::is_packed(&manifest, &config) {
            for layer in manifest.layers.iter().take(limits::LAYERS_MAX) {
                self.blob(layer, limits::COMPONENT_BYTES_MAX).await?;
            }
        } else {
            self.blob(manifest.component(self.reference)?, limits::COMPONENT_BYTES_MAX).await?;
        }
        let digest = top.digest.clone();
        let (images, name) = (self.images.clone(), named.to_string());
        self.blocking(move || images.name(top, &name, Origin::Pulled)).await?;
        Ok(digest)
    }

    /// A manifest or index, by tag or digest; kept in the layout and decoded.
    async fn document(&mut self, wanted: &str, digest: Option<&str>) -> Result<(Descriptor, Value), Fault> {
        let accept = |request: reqwest::RequestBuilder| request.header(ACCEPT, MANIFESTS);
        let response = self.session.send(Method::GET, &format!("/manifests/{wanted}"), accept).await;
        let response = response.map_err(|error| self.unreachable(&error))?;
        if response.status() == StatusCode::NOT_FOUND {
            let name = Reference::parse(self.reference)?.familiar();
            return Err(ImageError::NotFound(format!("{} has no image {name}", self.place.registry)).into());
        }
        let response = self.expect(response, &[StatusCode::OK]).await?;
        let bytes =
            self.session.read(response, limits::DOCUMENT_BYTES_MAX).await.map_err(|error| self.unreachable(&error))?;
        let found = digest_of(&bytes);
        if digest.is_some_and(|digest| digest != found) {
            return Err(self.failed(format!("it answered {wanted} with something else, {found}")).into());
        }
        self.bytes += bytes.len() as u64;
        let document: Value = serde_json::from_slice(&bytes)
            .map_err(|error| ImageError::unusable(self.reference, format!("its manifest cannot be read ({error})")))?;
        let media_type = document["mediaType"].as_str().unwrap_or(artifact::MANIFEST).to_owned();
        let images = self.images.clone();
        let kept = self.blocking(move || images.put_blob(&media_type, &bytes)).await?;
        Ok((kept, document))
    }

    /// A blob that is not here yet.
    async fn blob(&mut self, wanted: &Descriptor, bytes_max: u64) -> Result<(), Fault> {
        let digest = check_shape(&wanted.digest)?.to_owned();
        if wanted.size > bytes_max {
            let why = format!("{digest} is larger than {} MiB", bytes_max >> 20);
            return Err(ImageError::unusable(self.reference, why).into());
        }
        let (images, known) = (self.images.clone(), digest.clone());
        if self.blocking(move || Ok(images.layout().check_blob(&known).is_ok())).await? {
            return Ok(());
        }
        let response = self.session.send(Method::GET, &format!("/blobs/{digest}"), |request| request).await;
        let response = response.map_err(|error| self.unreachable(&error))?;
        let response = self.expect(response, &[StatusCode::OK]).await?;
        let feed = Feed::new(self.images.incoming(bytes_max)?);
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| self.failed(chain(&error)))?;
            self.bytes += piece.len() as u64;
            if !feed.push(piece).await {
                break;
            }
        }
        let incoming = feed.close().await?;
        Images::settle(incoming, Some(digest)).await?;
        Ok(())
    }

    /// Pushes; returns the manifest's digest.
    async fn send(&mut self, source: &Reference, to: &Reference) -> Result<String, Fault> {
        let (images, source) = (self.images.clone(), source.clone());
        let (mut entry, mut bytes) = self.blocking(move || images.document(&source)).await?;
        let mut document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if document["manifests"].is_array() {
            // Of an image for several platforms only the one for Wasm is here.
            let index: Index = decode(self.reference, document)?;
            let why = "it is built for other platforms only";
            entry = index.for_wasm().ok_or_else(|| ImageError::unusable(self.reference, why))?.clone();
            let (images, digest) = (self.images.clone(), entry.digest.clone());
            bytes = self.blocking(move || images.layout().bytes(&digest, limits::DOCUMENT_BYTES_MAX)).await?;
            document = serde_json::from_slice(&bytes).unwrap_or_default();
        }
        let manifest: Manifest = decode(self.reference, document)?;
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            self.send_blob(blob).await?;
        }
        let Reference::Named { tag, digest, .. } = to else { unreachable!("a place was found for it") };
        let under = tag.as_ref().or(digest.as_ref()).unwrap_or(&entry.digest);
        let media_type = if manifest.media_type.is_empty() { artifact::MANIFEST } else { &manifest.media_type };
        let put = |request: reqwest::RequestBuilder| request.header(CONTENT_TYPE, media_type).body(bytes.clone());
        let response = self.session.send(Method::PUT, &format!("/manifests/{under}"), put).await;
        let response = response.map_err(|error| self.unreachable(&error))?;
        self.expect(response, &[StatusCode::CREATED, StatusCode::OK]).await?;
        Ok(digest_of(&bytes))
    }

    async fn send_blob(&mut self, blob: &Descriptor) -> Result<(), Fault> {
        let digest = check_shape(&blob.digest)?.to_owned();
        let response = self.session.send(Method::HEAD, &format!("/blobs/{digest}"), |request| request).await;
        if response.map_err(|error| self.unreachable(&error))?.status() == StatusCode::OK {
            return Ok(());
        }
        let images = self.images.clone();
        let known = digest.clone();
        let bytes = self.blocking(move || images.layout().bytes(&known, limits::COMPONENT_BYTES_MAX)).await?;
        let bytes = Bytes::from(bytes);
        let start = |request: reqwest::RequestBuilder| request.header(CONTENT_LENGTH, 0);
        let response = self.session.send(Method::POST, "/blobs/uploads/", start).await;
        let response = response.map_err(|error| self.unreachable(&error))?;
        let response = self.expect(response, &[StatusCode::ACCEPTED]).await?;
        let location =
            self.session.upload(&response, &digest).ok_or_else(|| self.failed("it names no place to upload to"))?;
        let put = |request: reqwest::RequestBuilder| {
            request.header(CONTENT_TYPE, "application/octet-stream").timeout(WHOLE_BLOB).body(bytes.clone())
        };
        let response = self.session.send_to(Method::PUT, location, put).await;
        let response = response.map_err(|error| self.unreachable(&error))?;
        self.expect(response, &[StatusCode::CREATED]).await?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Lets an answer pass that has one of the statuses; others become what the registry says of them.
    async fn expect(&self, response: Response, wanted: &[StatusCode]) -> Result<Response, Fault> {
        let status = response.status();
        if wanted.contains(&status) {
            return Ok(response);
        }
        let body = self.session.read(response, limits::ANSWER_BYTES_MAX).await.unwrap_or_default();
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = said["errors"][0]["message"].as_str().or(said["errors"][0]["code"].as_str()).unwrap_or_default();
        let why = if message.is_empty() { format!("it answers {status}") } else { format!("{message} ({status})") };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Fault::Denied(why)),
            _ => Err(Fault::Failed(self.failed(why))),
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Fault {
        Fault::Failed(self.failed(chain(error)))
    }

    fn failed(&self, why: impl Into<String>) -> ImageError {
        ImageError::registry(&self.place.registry, why)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| ImageError::unusable(self.reference, error.to_string()))?
    }
}

/// The answer to a whole blob comes only when the registry has it all.
const WHOLE_BLOB: Duration = limits::TRANSFER_TIMEOUT;

/// The sentence at the bottom of an error: "connection refused" rather than "error sending request".
fn chain(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests;
