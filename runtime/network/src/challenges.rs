//! What an ACME server wants to see under a host's name before it signs (RFC 8555, 8.3).

use std::collections::HashMap;

/// Where it is asked for.
pub const PATH: &str = "/.well-known/acme-challenge/";

/// The challenges that are open, by their tokens. Built from the API and installed whole.
#[derive(Debug, Default)]
pub struct Challenges(HashMap<String, Open>);

#[derive(Debug)]
struct Open {
    host: String,
    key: String,
}

impl Challenges {
    /// One more: under `host` (no port), `token` is answered by `key`.
    pub fn add(&mut self, host: &str, token: &str, key: &str) {
        self.0.insert(token.to_owned(), Open { host: host.to_ascii_lowercase(), key: key.to_owned() });
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The answer to a request for `path` at `host` (no port, lower case), if it asks for an open challenge.
    #[must_use]
    pub fn answer(&self, host: &str, path: &str) -> Option<&str> {
        self.key(host, path.strip_prefix(PATH)?)
    }

    /// The answer to a token at `host` (no port, lower case).
    #[must_use]
    pub fn key(&self, host: &str, token: &str) -> Option<&str> {
        let open = self.0.get(token)?;
        (open.host == host).then_some(&*open.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_open_is_answered_and_only_under_its_host() {
        let mut challenges = Challenges::default();
        challenges.add("Web.Test", "token", "token.thumb");
        let cases = [
            ("web.test", "/.well-known/acme-challenge/token", Some("token.thumb")),
            ("other.test", "/.well-known/acme-challenge/token", None),
            ("web.test", "/.well-known/acme-challenge/other", None),
            ("web.test", "/.well-known/acme-challenge/", None),
            ("web.test", "/token", None),
        ];
        for (host, path, expected) in cases {
            assert_eq!(challenges.answer(host, path), expected, "{host}{path}");
        }
    }
}
