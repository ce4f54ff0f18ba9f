//! A conversation with one repository of one registry: URLs, and who we say we are.
//!
//! The first request goes out without a credential unless it is a token; what the registry then asks for
//! (`WWW-Authenticate`, RFC 7235) is done once: a password as it is (`Basic`), or exchanged for a token at the place the
//! registry names (`Bearer`, the Docker token protocol).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use reqwest::{Client, RequestBuilder, Response, Url};
use serde_json::Value;

use crate::credentials::Credential;
use crate::limits;

/// What the conversation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    Pull,
    Push,
}

impl Rights {
    fn words(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
        }
    }
}

pub(crate) struct Session {
    client: Client,
    /// How people know it.
    pub(crate) registry: String,
    base: String,
    repository: String,
    rights: Rights,
    credential: Option<Credential>,
    authorization: Option<HeaderValue>,
}

impl Session {
    /// `origin` is scheme, host and port.
    pub(crate) fn new(
        client: Client,
        registry: &str,
        origin: &str,
        repository: &str,
        rights: Rights,
        credential: Option<Credential>,
    ) -> Self {
        let authorization = match &credential {
            Some(Credential::Token(token)) => secret(format!("Bearer {token}")),
            _ => None,
        };
        let base = format!("{origin}/v2/{repository}");
        let registry = registry.to_owned();
        Self { client, registry, base, repository: repository.to_owned(), rights, credential, authorization }
    }

    /// Sends a request below the repository; `shape` adds headers and body, once more if it has to be sent again.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        shape: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, reqwest::Error> {
        match Url::parse(&format!("{}{path}", self.base)) {
            Ok(url) => self.send_to(method, url, shape).await,
            // A registry's name that is no host; the client says so in its own words.
            Err(_) => self.client.request(method, format!("{}{path}", self.base)).send().await,
        }
    }

    /// As [`Session::send`], to a place that the registry has named.
    pub(crate) async fn send_to(
        &mut self,
        method: Method,
        url: Url,
        shape: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, reqwest::Error> {
        let response = self.once(&method, &url, &shape).await?;
        if response.status() != StatusCode::UNAUTHORIZED || self.authorization.is_some() {
            return Ok(response);
        }
        let asked = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let asked: Vec<Challenge> = asked.filter_map(|value| Challenge::parse(value.to_str().ok()?)).collect();
        for challenge in asked {
            if let Some(authorization) = self.answer(&challenge).await? {
                self.authorization = Some(authorization);
                return self.once(&method, &url, &shape).await;
            }
        }
        Ok(response)
    }

    async fn once(
        &self,
        method: &Method,
        url: &Url,
        shape: &impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, reqwest::Error> {
        let mut request = shape(self.client.request(method.clone(), url.clone()));
        // An upload may be sent elsewhere; what we are known by here is nobody else's business.
        let ours = Url::parse(&self.base).is_ok_and(|base| base.origin() == url.origin());
        if let Some(authorization) = self.authorization.clone().filter(|_| ours) {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.send().await
    }

    /// What to answer a challenge with; `None` when nothing would be new.
    async fn answer(&self, challenge: &Challenge) -> Result<Option<HeaderValue>, reqwest::Error> {
        let password = match &self.credential {
            Some(Credential::Password { user, password }) => Some((user, password)),
            _ => None,
        };
        if challenge.scheme == "basic" {
            return Ok(password.and_then(|(user, password)| {
                let pair = STANDARD.encode(format!("{user}:{password}"));
                secret(format!("Basic {pair}"))
            }));
        }
        let Some(realm) = challenge.get("realm").filter(|_| challenge.scheme == "bearer") else { return Ok(None) };
        // A password goes over TLS or stays on this machine, as the registry's own connection does.
        let secure = realm.starts_with("https://") || self.base.starts_with("http://");
        if !secure {
            return Ok(None);
        }
        let scope = format!("repository:{}:{}", self.repository, self.rights.words());
        let mut request = self.client.get(realm).query(&[("scope", scope.as_str())]);
        if let Some(service) = challenge.get("service") {
            request = request.query(&[("service", service)]);
        }
        if let Some((user, password)) = password {
            request = request.basic_auth(user, Some(password));
        }
        let response = request.send().await?;
        if !response.status().is_success() {
            return Ok(None);
        }
        let body = self.read(response, limits::ANSWER_BYTES_MAX).await.unwrap_or_default();
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let token = said["token"].as_str().or(said["access_token"].as_str());
        Ok(token.and_then(|token| secret(format!("Bearer {token}"))))
    }

    /// A whole body of at most that size; what is beyond is cut off, so that it no longer has its digest.
    pub(crate) async fn read(&self, mut response: Response, bytes_max: u64) -> Result<Vec<u8>, reqwest::Error> {
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > bytes_max {
                bytes.truncate(usize::try_from(bytes_max).unwrap_or(usize::MAX));
                break;
            }
        }
        Ok(bytes)
    }

    /// Where the registry wants the bytes of an upload it has begun, the digest added.
    pub(crate) fn upload(&self, begun: &Response, digest: &str) -> Option<Url> {
        let location = begun.headers().get(LOCATION)?.to_str().ok()?;
        let mut url = begun.url().join(location).ok()?;
        url.query_pairs_mut().append_pair("digest", digest);
        Some(url)
    }
}

fn secret(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// One `WWW-Authenticate` header with one scheme, which is how registries write it.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, mut rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let mut parameters = Vec::new();
        while let Some((name, after)) = rest.trim_start_matches([' ', ',']).split_once('=') {
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            parameters.push((name.trim().to_ascii_lowercase(), value.to_owned()));
            rest = after;
        }
        (!scheme.is_empty()).then(|| Self { scheme: scheme.to_ascii_lowercase(), parameters })
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registries_ask_for() {
        let text =
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#;
        let challenge = Challenge::parse(text).unwrap();
        assert_eq!(challenge.scheme, "bearer");
        assert_eq!(challenge.get("realm"), Some("https://auth.example/token"));
        assert_eq!(challenge.get("scope"), Some("repository:a/b:pull,push"), "a comma inside quotes is no end");
        assert_eq!(Challenge::parse("Basic realm=x").unwrap().get("realm"), Some("x"));
        assert_eq!(Challenge::parse("Negotiate").unwrap().parameters, []);
        assert_eq!(Challenge::parse(""), None);
        assert_eq!(Challenge::parse(r#"Bearer realm="half"#), None, "an open quote is no challenge");
    }
}
