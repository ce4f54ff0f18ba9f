//! Who a node says it is to a registry: the Docker configuration in a pod's pull secrets, and which entry fits an image.
//!
//! The formats are those of `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg` Secrets; the matching follows
//! the Kubernetes documentation ("Images", interpretation of config.json): `*` stands for one part of a host name, a
//! port must be the same, a path matches as a prefix of whole parts, and the longest path is tried first.
//!
//! Refuses: credential helpers (a node runs no foreign programs) and identity tokens (they need a token server's dance).

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::limits;

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user's name and password (RFC 7617), or a robot account's.
    Password {
        /// The name.
        user: String,
        /// The secret.
        password: String,
    },
    /// A token that the registry itself has issued (RFC 6750).
    Token(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => f.debug_struct("Password").field("user", user).finish_non_exhaustive(),
            Self::Token(_) => f.write_str("Token"),
        }
    }
}

/// The credentials at hand, each with the images it is for.
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    entries: Vec<(Scope, Credential)>,
}

/// `HOST[:PORT][/PATH]`, the host's parts possibly `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scope {
    host: String,
    port: Option<String>,
    path: String,
}

#[derive(Deserialize)]
struct File {
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

impl Keyring {
    /// Takes up a `.dockerconfigjson`: `{"auths": {"REGISTRY": {…}}}`.
    ///
    /// # Errors
    /// A sentence about what cannot be read; what was there before stays.
    pub fn add_config_json(&mut self, bytes: &[u8]) -> Result<(), String> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| format!("it cannot be read ({error})"))?;
        self.add(file.auths)
    }

    /// Takes up a `.dockercfg`: the same without the outer `auths`.
    ///
    /// # Errors
    /// As [`Keyring::add_config_json`].
    pub fn add_config(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.add(serde_json::from_slice(bytes).map_err(|error| format!("it cannot be read ({error})"))?)
    }

    fn add(&mut self, auths: BTreeMap<String, Entry>) -> Result<(), String> {
        if self.entries.len() + auths.len() > limits::CREDENTIALS_MAX {
            return Err(format!("there are more than {} credentials", limits::CREDENTIALS_MAX));
        }
        for (scope, entry) in auths {
            if let Some(credential) = entry.credential()? {
                self.entries.push((Scope::parse(&scope), credential));
            }
        }
        Ok(())
    }

    /// The credentials for an image of that full name (`docker.io/library/web`), the most specific first.
    #[must_use]
    pub fn matching(&self, name: &str) -> Vec<Credential> {
        let mut found: Vec<_> = self.entries.iter().filter(|(scope, _)| scope.covers(name)).collect();
        found.sort_by_key(|(scope, _)| std::cmp::Reverse(scope.path.len()));
        found.into_iter().map(|(_, credential)| credential.clone()).collect()
    }
}

impl Entry {
    fn credential(self) -> Result<Option<Credential>, String> {
        if !self.registry_token.is_empty() {
            return Ok(Some(Credential::Token(self.registry_token)));
        }
        if !self.username.is_empty() {
            return Ok(Some(Credential::Password { user: self.username, password: self.password }));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        let unreadable = || "its auth is not base64 of user:password".to_owned();
        let decoded = STANDARD.decode(self.auth.trim()).map_err(|_| unreadable())?;
        let decoded = String::from_utf8(decoded).map_err(|_| unreadable())?;
        let (user, password) = decoded.split_once(':').ok_or_else(unreadable)?;
        // Some tools pad the pair with NUL bytes.
        Ok(Some(Credential::Password { user: user.to_owned(), password: password.trim_end_matches('\0').to_owned() }))
    }
}

impl Scope {
    fn parse(text: &str) -> Self {
        let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        let (authority, path) = text.split_once('/').unwrap_or((text, ""));
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port.to_owned())),
            None => (authority, None),
        };
        // The address of Docker Hub's first API stands for the Hub in everybody's configuration.
        let (host, path) = match (host, path.trim_end_matches('/')) {
            ("index.docker.io" | "registry-1.docker.io" | "docker.io", "v1" | "v2" | "") => ("docker.io", ""),
            (host, path) => (host, path),
        };
        Self { host: host.to_ascii_lowercase(), port, path: path.to_owned() }
    }

    fn covers(&self, name: &str) -> bool {
        let image = Self::parse(name);
        let same_port = self.port == image.port;
        let (mut wanted, mut given) = (self.host.split('.'), image.host.split('.'));
        let same_host = loop {
            match (wanted.next(), given.next()) {
                (None, None) => break true,
                (Some(pattern), Some(part)) if fits(pattern, part) => {}
                _ => break false,
            }
        };
        let rest = image.path.strip_prefix(&self.path);
        same_port
            && same_host
            && rest.is_some_and(|rest| self.path.is_empty() || rest.is_empty() || rest.starts_with('/'))
    }
}

/// Whether one part of a host name fits a pattern in which each `*` stands for any run of characters.
fn fits(pattern: &str, part: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == part };
    let Some(mut rest) = part.strip_prefix(before) else { return false };
    let mut pieces: Vec<&str> = after.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_images_an_entry_is_for() {
        let table = [
            ("ghcr.io", "ghcr.io/me/web", true),
            ("ghcr.io", "ghcr.io.evil.example/me/web", false),
            ("https://ghcr.io", "ghcr.io/me/web", true),
            ("ghcr.io:443", "ghcr.io/me/web", false),
            ("localhost:5000", "localhost:5000/web", true),
            ("localhost:5000", "localhost:5001/web", false),
            ("ghcr.io/me", "ghcr.io/me/web", true),
            ("ghcr.io/me", "ghcr.io/me", true),
            ("ghcr.io/me", "ghcr.io/meagain/web", false),
            ("*.pkg.dev", "europe.pkg.dev/x/web", true),
            ("*.pkg.dev", "a.europe.pkg.dev/x/web", false),
            ("eu*pe.*.dev", "europe.pkg.dev/x", true),
            ("https://index.docker.io/v1/", "docker.io/library/web", true),
            ("docker.io", "docker.io/me/web", true),
            ("https://index.docker.io/v1/", "ghcr.io/me/web", false),
        ];
        for (scope, name, expected) in table {
            assert_eq!(Scope::parse(scope).covers(name), expected, "{scope} for {name}");
        }
    }

    #[test]
    fn both_formats_are_read_and_the_longest_path_comes_first() {
        let mut keys = Keyring::default();
        let pair = STANDARD.encode("anna:secret");
        keys.add_config_json(
            format!(r#"{{"auths": {{"ghcr.io": {{"auth": "{pair}"}}, "ghcr.io/me": {{"registrytoken": "t"}}}}}}"#)
                .as_bytes(),
        )
        .unwrap();
        keys.add_config(br#"{"example.com": {"username": "u", "password": "p:q"}, "empty.example": {}}"#).unwrap();
        let anna = Credential::Password { user: "anna".into(), password: "secret".into() };
        assert_eq!(keys.matching("ghcr.io/me/web"), [Credential::Token("t".into()), anna.clone()]);
        assert_eq!(keys.matching("ghcr.io/you/web"), [anna]);
        let other = Credential::Password { user: "u".into(), password: "p:q".into() };
        assert_eq!(keys.matching("example.com/x"), [other]);
        assert_eq!(keys.matching("empty.example/x"), []);
        assert!(!format!("{:?}", keys.matching("example.com/x")).contains("p:q"), "secrets are not printed");
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let mut keys = Keyring::default();
        for bad in [&b"{"[..], b"[]", br#"{"auths": {"a": {"auth": "%"}}}"#, br#"{"auths": {"a": {"auth": "YQ=="}}}"#] {
            assert!(keys.add_config_json(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
