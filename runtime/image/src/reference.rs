//! How people name images, and which names mean the same one.
//!
//! The rules are those every container tool shares: `web` is `docker.io/library/web:latest`, a first part with a dot, a
//! colon or `localhost` is a registry, and a digest names contents for good. To them we add `file:` URLs.

use std::fmt;
use std::path::{Component, PathBuf};

use crate::error::ImageError;
use crate::limits;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_FOLDER: &str = "library/";
const DEFAULT_TAG: &str = "latest";

/// A parsed image name. Two names that mean the same image parse to equal values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// An image in the node's layout.
    Named {
        /// Registry and path: `docker.io/library/web`.
        name: String,
        /// `0.1`; `latest` when neither tag nor digest is given.
        tag: Option<String>,
        /// `sha256:…` of the manifest.
        digest: Option<String>,
    },
    /// A file or a layout folder on this machine.
    File {
        /// Absolute, without `..`.
        path: PathBuf,
        /// Which image of a layout folder.
        digest: Option<String>,
    },
}

impl Reference {
    /// Parses what stands in a container's `image`.
    ///
    /// # Errors
    /// [`ImageError::InvalidName`] says which rule the name breaks.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        parse(text).map_err(|why| ImageError::InvalidName { reference: text.to_owned(), why })
    }

    /// The name as people write it: without the default registry and folder.
    #[must_use]
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        match full.strip_prefix("docker.io/") {
            Some(rest) => rest.strip_prefix(DEFAULT_FOLDER).unwrap_or(rest).to_owned(),
            None => full,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = match self {
            Self::Named { name, tag, digest } => {
                f.write_str(name)?;
                if let Some(tag) = tag {
                    write!(f, ":{tag}")?;
                }
                digest
            }
            Self::File { path, digest } => {
                write!(f, "file://{}", path.display())?;
                digest
            }
        };
        digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > limits::REFERENCE_BYTES_MAX {
        return Err("it is longer than 512 bytes");
    }
    let (rest, digest) = match text.rsplit_once('@') {
        Some((rest, digest)) => (rest, Some(check_digest(digest)?)),
        None => (text, None),
    };
    if let Some(url) = rest.strip_prefix("file:") {
        return Ok(Reference::File { path: file_path(url)?, digest });
    }
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(check_tag(tag)?)),
        _ => (rest, None),
    };
    let name = full_name(name)?;
    let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
    Ok(Reference::Named { name, tag, digest })
}

fn check_digest(digest: &str) -> Result<String, &'static str> {
    let hex = digest.strip_prefix("sha256:").ok_or("its digest does not begin with sha256:")?;
    let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if hex.len() != 64 || !hex.bytes().all(hexadecimal) {
        return Err("its digest is not 64 lower-case hexadecimal digits");
    }
    Ok(digest.to_owned())
}

fn check_tag(tag: &str) -> Result<String, &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let valid = tag.bytes().next().is_some_and(word) && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if !valid || tag.len() > limits::TAG_BYTES_MAX {
        return Err("its tag may hold only letters, digits, '_', '.' and '-', 128 at most");
    }
    Ok(tag.to_owned())
}

/// `file:///a/b.wasm` and `file:/a/b.wasm` name the same file; a host other than this one does not exist for us.
fn file_path(url: &str) -> Result<PathBuf, &'static str> {
    let path = url.strip_prefix("//").unwrap_or(url);
    let path = PathBuf::from(path.strip_prefix("localhost").filter(|rest| rest.starts_with('/')).unwrap_or(path));
    if !path.has_root() {
        return Err("a file: image needs an absolute path, as in file:///home/me/app.wasm");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("a file: image may not contain '..'");
    }
    Ok(path)
}

fn full_name(name: &str) -> Result<String, &'static str> {
    let is_registry = |part: &str| part.contains(['.', ':']) || part == "localhost";
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, name),
    };
    if !path.split('/').all(is_path_part) {
        return Err("a name is made of lower-case letters and digits, with '.', '_' or '-' between them");
    }
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    let folder = if registry == DEFAULT_REGISTRY && !path.contains('/') { DEFAULT_FOLDER } else { "" };
    Ok(format!("{registry}/{folder}{path}"))
}

/// One part of a path: letters and digits, separated by `.`, `_`, `__` or any number of `-`.
fn is_path_part(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = part.bytes().next().is_some_and(plain) && part.bytes().next_back().is_some_and(plain);
    let doubled = ["..", "___", "._", "_.", ".-", "-.", "_-", "-_"].iter().any(|pair| part.contains(pair));
    ends && !doubled && part.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_the_same_image() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let table = [
            ("web", "docker.io/library/web:latest".to_owned()),
            ("web:0.1", "docker.io/library/web:0.1".to_owned()),
            ("library/web", "docker.io/library/web:latest".to_owned()),
            ("docker.io/web", "docker.io/library/web:latest".to_owned()),
            ("index.docker.io/library/web:1", "docker.io/library/web:1".to_owned()),
            ("me/web", "docker.io/me/web:latest".to_owned()),
            ("ghcr.io/me/web:1", "ghcr.io/me/web:1".to_owned()),
            ("localhost/web", "localhost/web:latest".to_owned()),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest".to_owned()),
            (&*format!("web@{digest}"), format!("docker.io/library/web@{digest}")),
            (&*format!("web:1@{digest}"), format!("docker.io/library/web:1@{digest}")),
            ("file:///a/b.wasm", "file:///a/b.wasm".to_owned()),
            ("file:/a/b.wasm", "file:///a/b.wasm".to_owned()),
            ("file://localhost/a", "file:///a".to_owned()),
        ];
        for (text, expected) in table {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.to_string(), expected, "{text}");
            assert_eq!(Reference::parse(&expected).unwrap(), reference, "{text}");
        }
        assert_eq!(Reference::parse("web").unwrap().familiar(), "web:latest");
        assert_eq!(Reference::parse("me/web:2").unwrap().familiar(), "me/web:2");
        assert_eq!(Reference::parse("ghcr.io/me/web:2").unwrap().familiar(), "ghcr.io/me/web:2");
    }

    #[test]
    fn names_that_can_never_name_an_image() {
        let long = "a".repeat(600);
        let table = [
            "",
            "Web",
            "web:",
            "web:a b",
            "-web",
            "web/",
            "/web",
            "a//b",
            "a..b",
            "web@sha256:12",
            "web@md5:00",
            &long,
            "file:app.wasm",
            "file:///a/../etc/passwd",
            "file://elsewhere/x.wasm",
        ];
        for text in table {
            assert!(matches!(Reference::parse(text), Err(ImageError::InvalidName { .. })), "{text}");
        }
    }
}
