//! The annotations of ingress-nginx that people use, read into what is done with a request.
//!
//! One that is not known changes nothing, as everywhere in Kubernetes. One that is known and cannot be read is named in
//! [`Asked::problems`]; where it restricts who may come in, nobody may until it can be read.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

use super::PickFrom;
use super::options::{Cors, Options, Rate, Redirect, Rewrite};
use crate::cidr::Cidr;

/// What the names begin with.
pub const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// What an Ingress' annotations ask for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// For its rules.
    pub options: Options,
    /// Paths may be regular expressions.
    pub regex: bool,
    /// HTTP/2 without TLS is spoken to its backends.
    pub h2c: bool,
    /// Further hosts of its rules, in lower case.
    pub aliases: Vec<String>,
    /// It stands beside another Ingress.
    pub canary: Option<Canary>,
    /// What could not be read: annotation and value.
    pub problems: Vec<String>,
}

/// Who goes to a canary.
#[derive(Clone, Debug)]
pub struct Canary {
    /// So many of `total` requests.
    pub weight: u32,
    /// 100 where nothing is said.
    pub total: u32,
    /// These requests whatever the weight.
    pub picks: Vec<(PickFrom, Option<String>)>,
}

/// Reads annotations whose names have lost [`PREFIX`].
#[must_use]
pub fn read(annotations: &BTreeMap<String, String>) -> Asked {
    if annotations.is_empty() {
        return Asked::default();
    }
    let mut reader = Reader { annotations, problems: Vec::new() };
    let flag = |reader: &mut Reader<'_>, name| reader.parse::<bool>(name).unwrap_or(false);
    let rewrite = reader.text("rewrite-target").map(str::to_owned);
    let regex = flag(&mut reader, "use-regex") || rewrite.as_ref().is_some_and(|target| target.contains('$'));
    let options = Options {
        redirect: redirect(&mut reader),
        https_only: flag(&mut reader, "ssl-redirect") || flag(&mut reader, "force-ssl-redirect"),
        allow: ranges(&mut reader, &["whitelist-source-range", "allowlist-source-range"]),
        deny: ranges(&mut reader, &["denylist-source-range"]),
        rate: rate(&mut reader),
        cors: if flag(&mut reader, "enable-cors") { Some(cors(&mut reader)) } else { None },
        body_bytes_max: reader.read("proxy-body-size", size).flatten(),
        answer: reader.parse::<u64>("proxy-read-timeout").map(Duration::from_secs),
        rewrite: rewrite.map(|target| if regex { Rewrite::Captures(target) } else { Rewrite::Full(target) }),
        host: reader.parse("upstream-vhost"),
        ..Options::default()
    };
    let protocol = reader.read("backend-protocol", |text| match text {
        "HTTP" | "AUTO_HTTP" => Some(false),
        "GRPC" => Some(true),
        _ => None,
    });
    let aliases = reader.text("server-alias").unwrap_or_default().split(',');
    let aliases = aliases.map(|alias| alias.trim().to_ascii_lowercase()).filter(|alias| !alias.is_empty()).collect();
    let canary = flag(&mut reader, "canary").then(|| canary(&mut reader));
    let mut options = options;
    if let Some(prefix) = reader.parse::<HeaderValue>("x-forwarded-prefix") {
        options.request_headers.set.push((http::HeaderName::from_static("x-forwarded-prefix"), prefix));
    }
    Asked { options, regex, h2c: protocol.unwrap_or(false), aliases, canary, problems: reader.problems }
}

struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    problems: Vec<String>,
}

impl<'a> Reader<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        self.annotations.get(name).map(|text| text.trim()).filter(|text| !text.is_empty())
    }

    fn read<T>(&mut self, name: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let value = read(text);
        if value.is_none() {
            self.problems.push(format!("{PREFIX}{name}: {text:?}"));
        }
        value
    }

    fn parse<T: FromStr>(&mut self, name: &str) -> Option<T> {
        self.read(name, |text| text.parse().ok())
    }
}

/// nginx' sizes: bytes, or with `k`, `m`, `g`. 0 is without a bound, which [`None`] stands for.
fn size(text: &str) -> Option<Option<u64>> {
    let lower = text.to_ascii_lowercase();
    let (number, unit) = match lower.strip_suffix(['k', 'm', 'g']) {
        Some(number) => (number, lower.as_bytes()[number.len()]),
        None => (lower.as_str(), b'b'),
    };
    let shift = match unit {
        b'k' => 10,
        b'm' => 20,
        b'g' => 30,
        _ => 0,
    };
    let bytes = number.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    Some((bytes > 0).then_some(bytes))
}

fn ranges(reader: &mut Reader<'_>, names: &[&str]) -> Vec<Cidr> {
    let mut all = Vec::new();
    for name in names {
        let Some(text) = reader.text(name) else { continue };
        for range in text.split(',').map(str::trim).filter(|range| !range.is_empty()) {
            let single = format!("{range}/{}", if range.contains(':') { 128 } else { 32 });
            let range = if range.contains('/') { range } else { single.as_str() };
            match range.parse::<Cidr>() {
                Ok(range) => all.push(range),
                Err(_) => {
                    reader.problems.push(format!("{PREFIX}{name}: {range:?}"));
                    // For the range of those who may it is nobody's address; for those who may not, everybody's.
                    let closed =
                        if name.starts_with("deny") { ["0.0.0.0/0", "::/0"] } else { ["0.0.0.0/32", "::/128"] };
                    all.extend(closed.iter().filter_map(|range| range.parse::<Cidr>().ok()));
                }
            }
        }
    }
    all
}

/// nginx lets five times the rate through at once, unless told otherwise.
const BURST_DEFAULT: f64 = 5.0;

fn rate(reader: &mut Reader<'_>) -> Option<Rate> {
    let positive = |text: &str| text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate > 0.0);
    let per_second = reader.read("limit-rps", positive);
    let per_second = per_second.or_else(|| Some(reader.read("limit-rpm", positive)? / 60.0))?;
    let burst = reader.read("limit-burst-multiplier", positive).unwrap_or(BURST_DEFAULT);
    Some(Rate { per_second, burst: (per_second * burst).max(1.0) })
}

fn cors(reader: &mut Reader<'_>) -> Cors {
    let list = |text: Option<&str>, default: &str| -> Vec<String> {
        text.unwrap_or(default).split(',').map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect()
    };
    let methods = reader.parse("cors-allow-methods");
    let headers = reader.parse("cors-allow-headers");
    // The defaults that its documentation names.
    Cors {
        origins: list(reader.text("cors-allow-origin"), "*"),
        methods: methods.unwrap_or_else(|| HeaderValue::from_static("GET, PUT, POST, DELETE, PATCH, OPTIONS")),
        headers: headers.unwrap_or_else(|| {
            HeaderValue::from_static(
                "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization",
            )
        }),
        expose: reader.parse("cors-expose-headers"),
        credentials: reader.parse("cors-allow-credentials").unwrap_or(true),
        age_seconds: reader.parse("cors-max-age").unwrap_or(1_728_000),
    }
}

fn redirect(reader: &mut Reader<'_>) -> Option<Redirect> {
    let to = |url: &str, status| Redirect {
        status,
        url: Some(url.to_owned()),
        scheme: None,
        host: None,
        port: None,
        path: None,
    };
    let code = |text: &str| {
        let code = text.parse::<u16>().ok().filter(|code| matches!(code, 301 | 302 | 303 | 307 | 308))?;
        StatusCode::from_u16(code).ok()
    };
    if let Some(url) = reader.text("permanent-redirect") {
        let status = reader.read("permanent-redirect-code", code).unwrap_or(StatusCode::MOVED_PERMANENTLY);
        return Some(to(url, status));
    }
    let url = reader.text("temporal-redirect")?;
    let status = reader.read("temporal-redirect-code", code).unwrap_or(StatusCode::FOUND);
    Some(to(url, status))
}

fn canary(reader: &mut Reader<'_>) -> Canary {
    let total = reader.parse::<u32>("canary-weight-total").filter(|total| *total > 0).unwrap_or(100);
    let weight = reader.parse::<u32>("canary-weight").unwrap_or(0).min(total);
    let mut picks = Vec::new();
    if let Some(name) = reader.text("canary-by-header") {
        let value = reader.text("canary-by-header-value").map(str::to_owned);
        picks.push((PickFrom::Header(name.to_ascii_lowercase()), value));
    }
    if let Some(name) = reader.text("canary-by-cookie") {
        picks.push((PickFrom::Cookie(name.to_owned()), None));
    }
    Canary { weight, total, picks }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Asked {
        let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        read(&text.lines().filter_map(|line| pair(line.trim())).collect())
    }

    #[test]
    fn what_people_write_is_read() {
        let read = asked(
            "rewrite-target=/$2
             ssl-redirect=true
             whitelist-source-range=10.0.0.0/8, 192.168.1.7,fd00::/8
             limit-rps=5
             proxy-body-size=8m
             proxy-read-timeout=120
             backend-protocol=GRPC
             server-alias=www.a.test, B.test
             configuration-snippet=ignored",
        );
        assert!(read.problems.is_empty(), "{:?}", read.problems);
        assert!(read.regex && read.h2c && read.options.https_only);
        assert_eq!(read.options.rewrite, Some(Rewrite::Captures("/$2".into())));
        assert_eq!(read.options.rate, Some(Rate { per_second: 5.0, burst: 25.0 }));
        assert_eq!(read.options.body_bytes_max, Some(8 << 20));
        assert_eq!(read.options.answer, Some(Duration::from_secs(120)));
        assert_eq!(read.aliases, ["www.a.test", "b.test"]);
        for (client, admitted) in
            [("10.1.2.3", true), ("192.168.1.7", true), ("192.168.1.8", false), ("fd00::1", true), ("::1", false)]
        {
            assert_eq!(read.options.admits(client.parse().unwrap()), admitted, "{client}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_and_closes_what_it_guards() {
        let read = asked("whitelist-source-range=office\nlimit-rps=many\nproxy-body-size=8x\nbackend-protocol=AJP");
        assert_eq!(read.problems.len(), 4, "{:?}", read.problems);
        assert!(!read.options.admits("10.0.0.1".parse().unwrap()));
        assert!(!asked("denylist-source-range=everybody").options.admits("10.0.0.1".parse().unwrap()));
        assert!(read.options.rate.is_none() && read.options.body_bytes_max.is_none());
        assert_eq!(asked("proxy-body-size=0").options.body_bytes_max, None);
    }

    #[test]
    fn redirects_canaries_and_cross_origin_requests() {
        let read = asked("permanent-redirect=https://new.test\npermanent-redirect-code=308\nenable-cors=true");
        assert_eq!(read.options.redirect.unwrap().status, StatusCode::PERMANENT_REDIRECT);
        assert_eq!(read.options.cors.unwrap().origins, ["*"]);
        let canary = asked("canary=true\ncanary-weight=30\ncanary-by-header=X-Canary").canary.unwrap();
        assert_eq!((canary.weight, canary.total, canary.picks.len()), (30, 100, 1));
        assert!(asked("canary=false\ncanary-weight=30").canary.is_none());
    }
}
