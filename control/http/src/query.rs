//! The query string: names and values, decoded once, asked by name.
//!
//! Unknown parameters are ignored, as Kubernetes does; a parameter that is known and cannot be read is refused.

use api::Status;

/// The decoded parameters in the order they were sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a query string (`application/x-www-form-urlencoded`, RFC 3986 escapes).
    pub(crate) fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// All of it, encoded again; `None` when there is nothing.
    pub(crate) fn encoded(&self) -> Option<String> {
        let all = form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.0).finish();
        (!all.is_empty()).then_some(all)
    }

    /// The first value of that name; `None` when absent or empty, which mean the same everywhere in the API.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).find(|value| !value.is_empty())
    }

    /// Every value of that name.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A boolean; `?follow` and `?follow=1` count as true, as in Go's query decoder.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, Status> {
        match self.all(name).next() {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(unreadable(name, other)),
        }
    }

    /// A boolean that may be absent.
    pub(crate) fn optional_flag(&self, name: &str) -> Result<Option<bool>, Status> {
        if self.all(name).next().is_none() { Ok(None) } else { self.flag(name).map(Some) }
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        self.get(name).map(|text| text.parse().map_err(|_| unreadable(name, text))).transpose()
    }
}

fn unreadable(name: &str, value: &str) -> Status {
    Status::bad_request(format!("unable to convert {value:?} of query parameter {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_asked_by_name() {
        let query = Query::parse("labelSelector=a%3Db%2Cc+in+%28d%29&watch=true&limit=500&empty=&x=1&x=2");
        assert_eq!(query.get("labelSelector"), Some("a=b,c in (d)"));
        assert!(query.flag("watch").unwrap() && !query.flag("follow").unwrap());
        assert_eq!(query.number("limit").unwrap(), Some(500));
        assert_eq!((query.get("empty"), query.all("x").count()), (None, 2));
        assert!(query.optional_flag("sendInitialEvents").unwrap().is_none());
        for text in ["watch=perhaps", "limit=ten"] {
            let query = Query::parse(text);
            assert!(query.flag("watch").is_err() || query.number("limit").is_err(), "{text}");
        }
    }
}
