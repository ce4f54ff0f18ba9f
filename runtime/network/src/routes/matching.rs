//! Whether a route fits a request, and which of two that fit goes first.

use std::borrow::Cow;
use std::cmp::Reverse;

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, Method};
use regex::Regex;

use super::Asked;

/// A path as a rule names it.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// This path and no other: `/foo/` and `/foo` are two.
    Exact(String),
    /// Whole segments; the root is empty.
    Prefix(String),
    /// From the beginning of the path.
    Regex(Regex),
}

impl PathMatch {
    /// A prefix of whole segments; a slash at its end means nothing.
    #[must_use]
    pub fn prefix(path: &str) -> Self {
        Self::Prefix(path.trim_end_matches('/').to_owned())
    }

    fn length(&self) -> usize {
        match self {
            Self::Exact(path) | Self::Prefix(path) => path.len(),
            Self::Regex(regex) => regex.as_str().len(),
        }
    }

    /// How much of the path the rule names, and what its groups caught.
    fn matches(&self, path: &str) -> Option<(usize, Vec<String>)> {
        match self {
            Self::Exact(own) => (own == path).then(|| (path.len(), Vec::new())),
            Self::Prefix(own) => {
                let rest = path.strip_prefix(own.as_str())?;
                (rest.is_empty() || rest.starts_with('/')).then(|| (own.len(), Vec::new()))
            }
            Self::Regex(regex) => {
                let captures = regex.captures(path)?;
                let whole = captures.get(0).filter(|whole| whole.start() == 0)?;
                let group = |group: Option<regex::Match<'_>>| group.map_or_else(String::new, |m| m.as_str().to_owned());
                Some((whole.end(), captures.iter().skip(1).map(group).collect()))
            }
        }
    }
}

/// A value as a rule names it.
#[derive(Clone, Debug)]
pub enum Text {
    /// Exactly this.
    Is(String),
    /// The expression is found in it.
    Fits(Regex),
}

impl Text {
    fn matches(&self, value: &str) -> bool {
        match self {
            Self::Is(own) => own == value,
            Self::Fits(regex) => regex.is_match(value),
        }
    }
}

/// Everything a request must have.
#[derive(Clone, Debug)]
pub struct Matcher {
    /// Its path.
    pub path: PathMatch,
    /// Its method.
    pub method: Option<Method>,
    /// Headers, each once; several values of one header count as one, joined by commas (RFC 9110 §5.2).
    pub headers: Vec<(HeaderName, Text)>,
    /// Query parameters; of several with one name the first counts.
    pub query: Vec<(String, Text)>,
    /// Whether requests without TLS fit, and those with it.
    pub plain: bool,
    /// See `plain`.
    pub secure: bool,
}

/// Smaller goes first.
pub(super) type Rank = (bool, Reverse<usize>, bool, Reverse<usize>, Reverse<usize>);

impl Matcher {
    /// Fits every request with this path.
    #[must_use]
    pub fn path(path: PathMatch) -> Self {
        Self { path, method: None, headers: Vec::new(), query: Vec::new(), plain: true, secure: true }
    }

    /// An exact path, the longest path, a method, the most headers, the most query parameters.
    pub(super) fn rank(&self) -> Rank {
        let exact = matches!(self.path, PathMatch::Exact(_));
        let headers = Reverse(self.headers.len());
        (!exact, Reverse(self.path.length()), self.method.is_none(), headers, Reverse(self.query.len()))
    }

    pub(super) fn matches(&self, asked: &Asked<'_>) -> Option<(usize, Vec<String>)> {
        if !(if asked.secure { self.secure } else { self.plain }) {
            return None;
        }
        let found = self.path.matches(asked.path)?;
        let method = self.method.as_ref().is_none_or(|method| method == asked.method);
        let header =
            |(name, text): &(HeaderName, Text)| joined(asked.headers, name).is_some_and(|all| text.matches(&all));
        let parameter = |(name, text): &(String, Text)| {
            let mut pairs = form(asked.query.unwrap_or_default());
            pairs.find(|(given, _)| *given == name.as_str()).is_some_and(|(_, value)| text.matches(&value))
        };
        (method && self.headers.iter().all(header) && self.query.iter().all(parameter)).then_some(found)
    }
}

fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let first = values.next()?;
    let mut all = Cow::Borrowed(first);
    for more in values {
        let all = all.to_mut();
        all.push_str(", ");
        all.push_str(more);
    }
    Some(all)
}

/// The pairs of a query, decoded as forms are.
fn form(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    form_urlencoded::parse(query.as_bytes())
}

/// The value of a cookie.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(given, _)| *given == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked<'a>(path: &'a str, headers: &'a HeaderMap, method: &'a Method) -> Asked<'a> {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        Asked { host: "h", path, query, method, headers, secure: false }
    }

    #[test]
    fn everything_a_route_names_must_be_there() {
        let mut headers = HeaderMap::new();
        headers.append("x-team", "blue".parse().unwrap());
        headers.append("x-team", "green".parse().unwrap());
        let is = |text: &str| Text::Is(text.to_owned());
        let fits = |text: &str| Text::Fits(Regex::new(text).unwrap());
        let base = || Matcher::path(PathMatch::prefix("/api/"));
        let team = HeaderName::from_static("x-team");
        let cases = [
            (base(), "/api", true),
            (base(), "/apis", false),
            (Matcher { method: Some(Method::POST), ..base() }, "/api", false),
            (Matcher { headers: vec![(team.clone(), is("blue, green"))], ..base() }, "/api", true),
            (Matcher { headers: vec![(team.clone(), is("blue"))], ..base() }, "/api", false),
            (Matcher { headers: vec![(team, fits("gre+n$"))], ..base() }, "/api", true),
            (Matcher { query: vec![("a".into(), is("1 2"))], ..base() }, "/api?b=0&a=1%202&a=3", true),
            (Matcher { query: vec![("a".into(), is("3"))], ..base() }, "/api?a=1&a=3", false),
            (Matcher { plain: false, ..base() }, "/api", false),
        ];
        for (matcher, path, expected) in cases {
            assert_eq!(matcher.matches(&asked(path, &headers, &Method::GET)).is_some(), expected, "{matcher:?} {path}");
        }
    }

    #[test]
    fn an_expression_begins_where_the_path_begins() {
        let path = PathMatch::Regex(Regex::new("/shop(/|$)(.*)").unwrap());
        assert_eq!(path.matches("/shop/cart").unwrap(), (10, vec!["/".to_owned(), "cart".to_owned()]));
        assert_eq!(path.matches("/shop").unwrap().1, ["", ""]);
        assert!(path.matches("/other/shop/cart").is_none());
    }

    #[test]
    fn the_order_of_the_gateway_api() {
        let header = vec![(HeaderName::from_static("a"), Text::Is("1".into()))];
        let ordered = [
            Matcher::path(PathMatch::Exact("/a".into())),
            Matcher::path(PathMatch::prefix("/long/path")),
            Matcher { method: Some(Method::GET), ..Matcher::path(PathMatch::prefix("/a")) },
            Matcher { headers: header, ..Matcher::path(PathMatch::prefix("/b")) },
            Matcher { query: vec![("a".into(), Text::Is("1".into()))], ..Matcher::path(PathMatch::prefix("/c")) },
            Matcher::path(PathMatch::prefix("/d")),
            Matcher::path(PathMatch::prefix("/")),
        ];
        assert!(ordered.iter().is_sorted_by(|a, b| a.rank() < b.rank()));
    }
}
