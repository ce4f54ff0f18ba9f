//! What can be wrong with an image, as sentences a person understands: they reach the pod's status and its events.

use std::io;
use std::path::{Path, PathBuf};

/// Why an image could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name can never name an image; only changing the pod helps (`InvalidImageName`).
    #[error("{reference:?} is not an image name: {why}")]
    InvalidName {
        /// As the pod has it.
        reference: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// No such image here; it may be put later (`ErrImagePull`, then `ImagePullBackOff`).
    #[error("{0}")]
    NotFound(String),
    /// The image is here but is not one this node can run.
    #[error("image {reference} cannot run here: {why}")]
    Unusable {
        /// The image's name.
        reference: String,
        /// What is wrong with its contents.
        why: String,
    },
    /// A file does not have the contents its digest promises.
    #[error("{path} is damaged: its contents are {found}, not {expected}", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The digest asked for.
        expected: String,
        /// The digest of what is there.
        found: String,
    },
    /// A registry could not be asked, or did not give the image; it may later (`ErrImagePull`).
    #[error("{registry}: {why}")]
    Registry {
        /// Its host and port.
        registry: String,
        /// What it said, or why it could not be asked.
        why: String,
    },
    /// The operating system refused.
    #[error("cannot {what} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried: `read`, `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl ImageError {
    pub(crate) fn unusable(reference: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unusable { reference: reference.into(), why: why.into() }
    }

    pub(crate) fn registry(registry: &str, why: impl Into<String>) -> Self {
        Self::Registry { registry: registry.to_owned(), why: why.into() }
    }

    /// For `map_err`: says what was tried on which file.
    pub(crate) fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }
}
