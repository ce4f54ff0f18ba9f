//! The URL grammar of the OCI distribution API: `/v2/`, `/v2/_catalog`, and what stands below a repository's name.

use crate::reference::Reference;

/// What a path asks for. Names are those of the path: a repository may have several parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/v2/`: is this a registry?
    Root,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/NAME/tags/list`
    Tags { repository: String },
    /// `/v2/NAME/manifests/TAG-OR-DIGEST`
    Manifest { repository: String, reference: String },
    /// `/v2/NAME/blobs/DIGEST`
    Blob { digest: String },
    /// `/v2/NAME/blobs/uploads/`
    Uploads { repository: String },
    /// `/v2/NAME/blobs/uploads/ID`
    Upload { repository: String, id: String },
}

impl Route {
    /// `None` for a path that is none of the API's, or whose repository could not be one.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/v2")?;
        if matches!(rest, "" | "/") {
            return Some(Self::Root);
        }
        let rest = rest.strip_prefix('/')?;
        if rest == "_catalog" {
            return Some(Self::Catalog);
        }
        let (rest, last) = rest.rsplit_once('/')?;
        let (route, repository) = if let Some(repository) = rest.strip_suffix("/tags").filter(|_| last == "list") {
            (Self::Tags { repository: repository.to_owned() }, repository)
        } else if let Some(repository) = rest.strip_suffix("/manifests") {
            (Self::Manifest { repository: repository.to_owned(), reference: last.to_owned() }, repository)
        } else if let Some(repository) = rest.strip_suffix("/blobs/uploads") {
            let (repository, id) = (repository.to_owned(), last.to_owned());
            let route = match id.is_empty() {
                true => Self::Uploads { repository },
                false => Self::Upload { repository, id },
            };
            (route, rest.strip_suffix("/blobs/uploads")?)
        } else if let Some(repository) = rest.strip_suffix("/blobs") {
            // Some clients leave out the slash at the end.
            let route = match last {
                "uploads" => Self::Uploads { repository: repository.to_owned() },
                digest => Self::Blob { digest: digest.to_owned() },
            };
            (route, repository)
        } else {
            return None;
        };
        Reference::parse(&format!("localhost/{repository}")).ok()?;
        Some(route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_what_they_ask_for() {
        let name = || "a/b-c".to_owned();
        let table = [
            ("/v2/", Some(Route::Root)),
            ("/v2", Some(Route::Root)),
            ("/v2/_catalog", Some(Route::Catalog)),
            ("/v2/a/b-c/tags/list", Some(Route::Tags { repository: name() })),
            ("/v2/a/b-c/manifests/1.0", Some(Route::Manifest { repository: name(), reference: "1.0".into() })),
            ("/v2/a/b-c/blobs/sha256:12", Some(Route::Blob { digest: "sha256:12".into() })),
            ("/v2/a/b-c/blobs/uploads/", Some(Route::Uploads { repository: name() })),
            ("/v2/a/b-c/blobs/uploads", Some(Route::Uploads { repository: name() })),
            ("/v2/a/b-c/blobs/uploads/7", Some(Route::Upload { repository: name(), id: "7".into() })),
            (
                "/v2/manifests/manifests/x",
                Some(Route::Manifest { repository: "manifests".into(), reference: "x".into() }),
            ),
            ("/v2/../etc/manifests/x", None),
            ("/v2/A/manifests/x", None),
            ("/v2//manifests/x", None),
            ("/v2/manifests/x", None),
            ("/v2/a", None),
            ("/v1/", None),
            ("/v22/", None),
        ];
        for (path, expected) in table {
            assert_eq!(Route::parse(path), expected, "{path}");
        }
    }
}
