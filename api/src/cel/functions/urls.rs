//! Kubernetes' URL library: absolute URIs and absolute paths, as Go's `url.ParseRequestURI` takes them.

use super::{Arg, BOOL, Failure, Function, Gives, Run, S, STRING, Val, fail, global, member, text};
use crate::cel::value::{Map, Text};

const U: Arg = Arg::Is("kubernetes.URL");

/// A URL taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    whole: String,
    scheme: String,
    /// With the port, without the user.
    host: String,
    path: String,
    query: String,
}

impl Url {
    pub(crate) fn text(&self) -> &str {
        &self.whole
    }

    /// The host without its port, an IPv6 address without its brackets, and the port.
    fn host_and_port(&self) -> (&str, &str) {
        if let Some(rest) = self.host.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').unwrap_or((rest, ""));
            return (host, rest.strip_prefix(':').unwrap_or(""));
        }
        self.host.rsplit_once(':').unwrap_or((&self.host, ""))
    }
}

pub(super) const ROWS: &[Function] = &[
    global("url", &[S], Gives::Is("kubernetes.URL"), |run, args| {
        run.charge(text(args, 0).len() as u64 / 10)?;
        match parse(text(args, 0)) {
            Some(url) => Ok(Val::Url(url.into())),
            None => fail(format!(
                "URL parse error during conversion from string: parse {:?}: invalid URI for request",
                text(args, 0)
            )),
        }
    }),
    global("isURL", &[S], BOOL, |_, args| Ok(Val::Bool(parse(text(args, 0)).is_some()))),
    member("getScheme", &[U], STRING, |_, args| Ok(Val::made(&*url(args)?.scheme))),
    member("getHost", &[U], STRING, |_, args| Ok(Val::made(&*url(args)?.host))),
    member("getHostname", &[U], STRING, |_, args| Ok(Val::made(url(args)?.host_and_port().0))),
    member("getPort", &[U], STRING, |_, args| Ok(Val::made(url(args)?.host_and_port().1))),
    member("getEscapedPath", &[U], STRING, |_, args| Ok(Val::made(&*url(args)?.path))),
    member("getQuery", &[U], Gives::Dyn, query),
];

fn url<'v>(args: &'v [Val<'_>]) -> Result<&'v Url, Failure> {
    match args.first() {
        Some(Val::Url(url)) => Ok(url),
        _ => fail("no such overload"),
    }
}

/// Names with the list of their values, decoded.
fn query<'a>(run: &mut Run, args: &[Val<'a>]) -> Result<Val<'a>, Failure> {
    let mut pairs: Vec<(String, Vec<Val<'a>>)> = Vec::new();
    for pair in url(args)?.query.split('&').filter(|pair| !pair.is_empty()) {
        run.charge(1 + pairs.len() as u64)?;
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name), Val::made(decoded(value)));
        match pairs.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => pairs.push((name, vec![value])),
        }
    }
    let entry = |(name, values): (String, Vec<Val<'a>>)| {
        (Val::String(Text::Made(name.into())), Val::List(super::List::made(values)))
    };
    Ok(Val::Map(Map::Made(pairs.into_iter().map(entry).collect::<Vec<_>>().into())))
}

fn decoded(text: &str) -> String {
    let (mut out, bytes) = (Vec::with_capacity(text.len()), text.as_bytes());
    let mut at = 0;
    while at < bytes.len() {
        let hexadecimal = || u8::from_str_radix(text.get(at + 1..at + 3)?, 16).ok();
        match (bytes[at], hexadecimal()) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn parse(text: &str) -> Option<Url> {
    if text.is_empty() || text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) || !escapes_hold(text) {
        return None;
    }
    let (scheme, rest) = match text.split_once(':') {
        _ if text.starts_with('/') => ("", text),
        Some((scheme, rest)) if is_scheme(scheme) => (scheme, rest),
        _ => return None,
    };
    // The part behind `#` is the path's for a request URI, as Go has it.
    let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, path) = match before.strip_prefix("//") {
        Some(authority) if !scheme.is_empty() => {
            let end = authority.find('/').unwrap_or(authority.len());
            let host = authority[..end].rsplit_once('@').map_or(&authority[..end], |(_, host)| host);
            (host, &authority[end..])
        }
        _ if before.starts_with('/') => ("", before),
        // `mailto:a@b`: opaque, no path.
        _ => ("", ""),
    };
    let port = if host.contains('[') { host.rsplit_once("]:") } else { host.rsplit_once(':') };
    if port.is_some_and(|(_, port)| !port.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    Some(Url {
        whole: text.into(),
        scheme: scheme.to_lowercase(),
        host: host.into(),
        path: path.into(),
        query: query.into(),
    })
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Whether every `%` has two hexadecimal digits behind it.
fn escapes_hold(text: &str) -> bool {
    text.match_indices('%').all(|(at, _)| {
        text.as_bytes().get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}
