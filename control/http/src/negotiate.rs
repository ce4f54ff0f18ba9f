//! Media types: what a client wants to see, and what the body it sent is written in.

use api::Status;

/// The version of `meta.k8s.io` a client asked a table or metadata in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetaVersion {
    V1,
    V1Beta1,
}

impl MetaVersion {
    /// `meta.k8s.io/v1`.
    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// How an object or a list is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As it is.
    Object,
    /// As rows and columns for people (KEP-2334).
    Table(MetaVersion),
    /// Only `metadata`.
    Metadata(MetaVersion),
}

/// How discovery is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discovery {
    /// One document for all groups (KEP-3352), in that version.
    Aggregated(&'static str),
    /// One document per group and version.
    Legacy,
}

/// What a request body is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syntax {
    Json,
    Yaml,
    Protobuf,
}

/// The four languages of PATCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// One alternative of an `Accept` header.
struct Media<'a> {
    type_: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Media<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let type_ = parts.next().unwrap_or_default();
        let parameters = parts.filter_map(|part| part.split_once('=')).map(|(k, v)| (k.trim(), v.trim())).collect();
        Self { type_, parameters }
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value)
    }

    /// RFC 9110 weight in thousandths; 1000 when absent or unreadable.
    fn weight(&self) -> u32 {
        let weight = self.get("q").and_then(|q| q.parse::<f32>().ok()).unwrap_or(1.0);
        // A weight lies between 0 and 1, so the product fits.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let thousandths = (weight.clamp(0.0, 1.0) * 1000.0) as u32;
        thousandths
    }

    fn is_json(&self) -> bool {
        matches!(self.type_, "application/json" | "*/*" | "application/*")
    }
}

/// The alternatives, best first; equal weights keep their order.
fn alternatives(accept: &str) -> Vec<Media<'_>> {
    let accept = if accept.trim().is_empty() { "*/*" } else { accept };
    let mut list: Vec<_> = accept.split(',').map(Media::parse).filter(|media| media.weight() > 0).collect();
    list.sort_by_key(|media| std::cmp::Reverse(media.weight()));
    list
}

/// How objects are to be shown; the first alternative that can be served wins.
pub(crate) fn shape(accept: &str) -> Result<Shape, Status> {
    alternatives(accept)
        .iter()
        .filter(|media| media.is_json())
        .find_map(|media| {
            let version = match (media.get("g"), media.get("v")) {
                (None | Some("meta.k8s.io"), None | Some("v1")) => MetaVersion::V1,
                (Some("meta.k8s.io"), Some("v1beta1")) => MetaVersion::V1Beta1,
                _ => return None,
            };
            match media.get("as") {
                None => Some(Shape::Object),
                Some("Table") => Some(Shape::Table(version)),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Shape::Metadata(version)),
                Some(_) => None,
            }
        })
        .ok_or_else(|| Status::not_acceptable("only the following media types are accepted: application/json"))
}

/// How discovery is to be shown.
pub(crate) fn discovery(accept: &str) -> Discovery {
    let known = |media: &Media<'_>| {
        if !media.is_json() {
            return None;
        }
        match (media.get("g"), media.get("v"), media.get("as")) {
            (Some("apidiscovery.k8s.io"), Some("v2"), Some("APIGroupDiscoveryList")) => {
                Some(Discovery::Aggregated("v2"))
            }
            (Some("apidiscovery.k8s.io"), Some("v2beta1"), Some("APIGroupDiscoveryList")) => {
                Some(Discovery::Aggregated("v2beta1"))
            }
            (None, None, None) => Some(Discovery::Legacy),
            _ => None,
        }
    };
    alternatives(accept).iter().find_map(known).unwrap_or(Discovery::Legacy)
}

/// The type before the parameters, in lower case.
pub(crate) fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// What a body is written in; no `Content-Type` means JSON.
pub(crate) fn syntax(content_type: &str) -> Result<Syntax, Status> {
    match essence(content_type).as_str() {
        "" | "application/json" => Ok(Syntax::Json),
        "application/yaml" => Ok(Syntax::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Syntax::Protobuf),
        other => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json, application/yaml, application/vnd.kubernetes.protobuf (not {other:?})"
        ))),
    }
}

/// Which language a patch is written in.
pub(crate) fn patch_type(content_type: &str) -> Result<PatchType, Status> {
    match essence(content_type).as_str() {
        "application/json-patch+json" => Ok(PatchType::Json),
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
        "application/apply-patch+yaml" => Ok(PatchType::Apply),
        _ => Err(Status::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
             application/apply-patch+yaml",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_really_send_is_understood() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
                     application/json";
        let cases = [
            (table, Shape::Table(MetaVersion::V1)),
            ("application/json;as=Table;v=v1beta1;g=meta.k8s.io", Shape::Table(MetaVersion::V1Beta1)),
            ("application/vnd.kubernetes.protobuf,application/json", Shape::Object),
            ("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json", Shape::Object),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Shape::Metadata(MetaVersion::V1)),
            ("*/*", Shape::Object),
            ("", Shape::Object),
            ("application/json;q=0.1,application/json;as=Table;v=v1;g=meta.k8s.io", Shape::Table(MetaVersion::V1)),
        ];
        for (accept, expected) in cases {
            assert_eq!(shape(accept).unwrap(), expected, "{accept}");
        }
        for accept in ["text/html", "application/json;as=Chart", "application/vnd.kubernetes.protobuf"] {
            assert_eq!(shape(accept).unwrap_err().code, 406, "{accept}");
        }
    }

    #[test]
    fn discovery_prefers_what_the_client_prefers() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                  application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(discovery(v2), Discovery::Aggregated("v2"));
        let beta = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(discovery(beta), Discovery::Aggregated("v2beta1"));
        assert_eq!(discovery("application/json"), Discovery::Legacy);
    }
}
