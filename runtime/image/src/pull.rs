//! What a pull takes of an image, wherever the bytes come from: the manifest for Wasm, its config, and the layer with the
//! code (or all layers of an image that packs it).
//!
//! Everything is hashed on its way in, has a bound, and is named only when it is whole; what is here already is not
//! fetched again.
//!
//! Refuses: whatever a source promises; only what its digest says is kept.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::StatusCode;
use serde_json::Value;

use crate::artifact::{self, Descriptor, INDEX, Index, Manifest};
use crate::error::ImageError;
use crate::images::{Images, Origin, decode};
use crate::incoming::Feed;
use crate::layout::{check_shape, digest_of};
use crate::reference::Reference;
use crate::registry::BoxError;
use crate::{limits, packed};

/// Where an image comes from: something that answers the reading half of the distribution API for one repository.
pub trait Source: Send {
    /// How people know it, for error sentences: `ghcr.io`, `node "worker-1"`.
    fn name(&self) -> &str;

    /// Answers `GET /manifests/…` or `GET /blobs/…`, the path being relative to the repository.
    ///
    /// # Errors
    /// When there is no answer at all.
    fn get(&mut self, path: &str) -> impl Future<Output = Result<Answer, BoxError>> + Send;
}

/// What a source says.
pub struct Answer {
    /// 200 when it has what was asked for.
    pub status: StatusCode,
    /// The bytes.
    pub pieces: BoxStream<'static, Result<Bytes, BoxError>>,
}

impl Answer {
    /// A whole body of at most that size; what is beyond is cut off, so that it no longer has its digest.
    pub(crate) async fn read(mut self, bytes_max: u64) -> Result<Vec<u8>, BoxError> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.pieces.next().await {
            bytes.extend_from_slice(&piece?);
            if bytes.len() as u64 > bytes_max {
                bytes.truncate(usize::try_from(bytes_max).unwrap_or(usize::MAX));
                break;
            }
        }
        Ok(bytes)
    }
}

/// What a pull brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Digest of the manifest (or index) that the name means.
    pub digest: String,
    /// Bytes that came over the network; small when the component was here already.
    pub bytes: u64,
}

/// Why a pull ended.
#[derive(Debug)]
pub enum PullError {
    /// 401 or 403: another credential may help.
    Denied(String),
    /// Anything else.
    Failed(ImageError),
}

impl From<ImageError> for PullError {
    fn from(error: ImageError) -> Self {
        Self::Failed(error)
    }
}

impl Images {
    /// Fetches an image and lets its name mean what the source says.
    ///
    /// # Errors
    /// [`PullError::Denied`] when the source wants to know more about us; else [`ImageError::Registry`] when it cannot be
    /// asked or refuses, [`ImageError::NotFound`] when it has no such image, the others when the image is none.
    pub async fn pull<S: Source>(&self, reference: &str, source: &mut S) -> Result<Pulled, PullError> {
        let named = Reference::parse(reference)?;
        let Reference::Named { tag, digest, .. } = &named else {
            return Err(ImageError::unusable(reference, "a file: image has no registry").into());
        };
        let wanted = digest.as_ref().or(tag.as_ref()).expect("a name has a tag or a digest");
        let mut pull = Pull { images: self, reference, source, bytes: 0 };
        let top = pull.image(wanted, digest.as_deref()).await?;
        let (digest, bytes) = (top.digest.clone(), pull.bytes);
        let (images, name) = (self.clone(), named.to_string());
        blocking(move || images.name(top, &name, Origin::Pulled)).await?;
        Ok(Pulled { digest, bytes })
    }
}

struct Pull<'a, S> {
    images: &'a Images,
    reference: &'a str,
    source: &'a mut S,
    bytes: u64,
}

impl<S: Source> Pull<'_, S> {
    /// Everything of the image; returns what its name means.
    async fn image(&mut self, wanted: &str, digest: Option<&str>) -> Result<Descriptor, PullError> {
        let (top, mut document) = self.document(wanted, digest).await?;
        if document["mediaType"] == INDEX || document["manifests"].is_array() {
            let index: Index = decode(self.reference, document)?;
            let why = "it is built for other platforms only";
            let entry = index.for_wasm().ok_or_else(|| ImageError::unusable(self.reference, why))?;
            document = self.document(&entry.digest, Some(&entry.digest)).await?.1;
        }
        let manifest: Manifest = decode(self.reference, document)?;
        self.blob(&manifest.config, limits::DOCUMENT_BYTES_MAX).await?;
        let (images, known) = (self.images.clone(), manifest.config.clone());
        let config = blocking(move || Ok(images.layout().document(&known).unwrap_or(Value::Null))).await?;
        if packed::is_packed(&manifest, &config) {
            for layer in manifest.layers.iter().take(limits::LAYERS_MAX) {
                self.blob(layer, limits::COMPONENT_BYTES_MAX).await?;
            }
        } else {
            self.blob(manifest.component(self.reference)?, limits::COMPONENT_BYTES_MAX).await?;
        }
        Ok(top)
    }

    /// A manifest or index, by tag or digest; kept in the layout and decoded.
    async fn document(&mut self, wanted: &str, digest: Option<&str>) -> Result<(Descriptor, Value), PullError> {
        let answer = self.get(&format!("/manifests/{wanted}")).await?;
        let bytes = answer.read(limits::DOCUMENT_BYTES_MAX).await.map_err(|error| self.failed(chain(&*error)))?;
        let found = digest_of(&bytes);
        if digest.is_some_and(|digest| digest != found) {
            return Err(self.failed(format!("it answered {wanted} with something else, {found}")).into());
        }
        self.bytes += bytes.len() as u64;
        let document: Value = serde_json::from_slice(&bytes)
            .map_err(|error| ImageError::unusable(self.reference, format!("its manifest cannot be read ({error})")))?;
        let media_type = document["mediaType"].as_str().unwrap_or(artifact::MANIFEST).to_owned();
        let images = self.images.clone();
        let kept = blocking(move || images.put_blob(&media_type, &bytes)).await?;
        Ok((kept, document))
    }

    /// A blob that is not here yet.
    async fn blob(&mut self, wanted: &Descriptor, bytes_max: u64) -> Result<(), PullError> {
        let digest = check_shape(&wanted.digest)?.to_owned();
        if wanted.size > bytes_max {
            let why = format!("{digest} is larger than {} MiB", bytes_max >> 20);
            return Err(ImageError::unusable(self.reference, why).into());
        }
        let (images, known) = (self.images.clone(), digest.clone());
        if blocking(move || Ok(images.layout().check_blob(&known).is_ok())).await? {
            return Ok(());
        }
        let mut answer = self.get(&format!("/blobs/{digest}")).await?;
        let feed = Feed::new(self.images.incoming(bytes_max)?);
        while let Some(piece) = answer.pieces.next().await {
            let piece = piece.map_err(|error| self.failed(chain(&*error)))?;
            self.bytes += piece.len() as u64;
            if !feed.push(piece).await {
                break;
            }
        }
        let incoming = feed.close().await?;
        Images::settle(incoming, Some(digest)).await?;
        Ok(())
    }

    async fn get(&mut self, path: &str) -> Result<Answer, PullError> {
        let answer = self.source.get(path).await.map_err(|error| self.failed(chain(&*error)))?;
        let status = answer.status;
        if status == StatusCode::OK {
            return Ok(answer);
        }
        if status == StatusCode::NOT_FOUND {
            let name = Reference::parse(self.reference)?.familiar();
            return Err(ImageError::NotFound(format!("{} has no image {name}", self.source.name())).into());
        }
        let body = answer.read(limits::ANSWER_BYTES_MAX).await.unwrap_or_default();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(PullError::Denied(said(status, &body))),
            _ => Err(self.failed(said(status, &body)).into()),
        }
    }

    fn failed(&self, why: String) -> ImageError {
        ImageError::registry(self.source.name(), why)
    }
}

/// A refusal in the distribution API's form as a sentence.
pub(crate) fn said(status: StatusCode, body: &[u8]) -> String {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &said["errors"][0];
    let message = error["message"].as_str().or(error["code"].as_str()).unwrap_or_default();
    if message.is_empty() { format!("it answers {status}") } else { format!("{message} ({status})") }
}

/// The sentence at the bottom of an error: "connection refused" rather than "error sending request".
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// Runs what blocks on files in a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ImageError::unusable("an image", error.to_string()))?
}
