//! What names may look like, with the complaints Kubernetes makes about those that do not.
//!
//! Source: `k8s.io/apimachinery/pkg/util/validation`. Every rule returns its complaints; none means the name is fine.

use crate::limits::{LABEL_MAX, SUBDOMAIN_MAX};

fn complaint(rule: &str, examples: &[&str], regex: &str) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{rule} (e.g. {}regex used for validation is '{regex}')", examples.join(" or "))
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn judge(length: usize, max: usize, fits: bool, complaint: impl FnOnce() -> String) -> Vec<String> {
    let long = (length > max).then(|| too_long(max));
    long.into_iter().chain((!fits).then(complaint)).collect()
}

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|&byte| lower(byte))
        && bytes.last().is_some_and(|&byte| lower(byte))
        && bytes.iter().all(|&byte| lower(byte) || byte == b'-')
}

/// A DNS label (RFC 1123): `my-name`.
#[must_use]
pub fn label(text: &str) -> Vec<String> {
    judge(text.len(), LABEL_MAX, is_label(text), || {
        complaint(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
            &["my-name", "123-abc"],
            "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
        )
    })
}

/// A DNS label that begins with a letter (RFC 1035): a Service's name.
#[must_use]
pub fn letter_label(text: &str) -> Vec<String> {
    let fits = is_label(text) && text.as_bytes()[0].is_ascii_lowercase();
    judge(text.len(), LABEL_MAX, fits, || {
        complaint(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            &["my-name", "abc-123"],
            "[a-z]([-a-z0-9]*[a-z0-9])?",
        )
    })
}

/// A DNS subdomain (RFC 1123): `example.com`. What most names are.
#[must_use]
pub fn subdomain(text: &str) -> Vec<String> {
    judge(text.len(), SUBDOMAIN_MAX, text.split('.').all(is_label), || {
        complaint(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            &["example.com"],
            r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
        )
    })
}

/// A subdomain whose first label is `*`: an Ingress host.
#[must_use]
pub fn wildcard_subdomain(text: &str) -> Vec<String> {
    let fits = text.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(is_label));
    judge(text.len(), SUBDOMAIN_MAX, fits, || {
        complaint(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &["*.example.com"],
            r"\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
        )
    })
}

/// Anything that can stand between two slashes of a URL: RBAC names such as `system:node`.
#[must_use]
pub fn path_segment(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"].iter().filter(|bad| text.contains(**bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

/// `[A-Za-z0-9]`, or with `-_.` between such.
fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

const WORDS: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const WORD_EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
const WORD_REGEX: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// The value of a label.
#[must_use]
pub fn label_value(text: &str) -> Vec<String> {
    judge(text.len(), LABEL_MAX, text.is_empty() || is_word(text), || {
        complaint(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &["MyValue", "my_value", "12345"],
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
        )
    })
}

/// The key of a label or annotation, the name of a finalizer or resource: `name` or `example.com/name`.
#[must_use]
pub fn qualified(text: &str) -> Vec<String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) if !name.contains('/') => (Some(prefix), name),
        Some(_) => {
            let whole = complaint(&format!("a qualified name {WORDS}"), WORD_EXAMPLES, WORD_REGEX);
            return vec![format!("{whole} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")];
        }
        None => (None, text),
    };
    let mut complaints = Vec::new();
    match prefix {
        Some("") => complaints.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => complaints.extend(subdomain(prefix).into_iter().map(|why| format!("prefix part {why}"))),
        None => {}
    }
    if name.is_empty() {
        complaints.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        complaints.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_word(name) {
        complaints.push(format!("name part {}", complaint(WORDS, WORD_EXAMPLES, WORD_REGEX)));
    }
    complaints
}

/// The name of a port: a service name of RFC 6335.
#[must_use]
pub fn port(text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut unless = |fits: bool, complaint: &str| {
        if !fits {
            complaints.push(complaint.to_owned());
        }
    };
    unless(text.len() <= 15, "must be no more than 15 characters");
    unless(
        text.bytes().all(|byte| lower(byte) || byte == b'-'),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    unless(text.bytes().any(|byte| byte.is_ascii_lowercase()), "must contain at least one letter (a-z)");
    unless(!text.contains("--"), "must not contain consecutive hyphens");
    unless(!text.starts_with('-') && !text.ends_with('-'), "must not begin or end with a hyphen");
    complaints
}

/// The name of an environment variable.
#[must_use]
pub fn variable(text: &str) -> Vec<String> {
    let fits = text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=');
    let complaint = "a valid environment variable name must consist only of printable ASCII characters other than '='";
    if fits { Vec::new() } else { vec![complaint.to_owned()] }
}

/// A key of a ConfigMap or Secret.
#[must_use]
pub fn data_key(text: &str) -> Vec<String> {
    if text == "." || text.starts_with("..") {
        return vec![format!(
            "must not {} '{}'",
            if text == ".." || text == "." { "be" } else { "start with" },
            &text[..text.len().min(2)]
        )];
    }
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    judge(text.len(), SUBDOMAIN_MAX, fits, || {
        complaint(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            &["key.name", "KEY_NAME", "key-name"],
            "[-._a-zA-Z0-9]+",
        )
    })
}

/// An IP address.
#[must_use]
pub fn address(text: &str) -> Vec<String> {
    let complaint = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
    if text.parse::<std::net::IpAddr>().is_ok() { Vec::new() } else { vec![complaint.to_owned()] }
}

/// A network such as `10.0.0.0/8`.
#[must_use]
pub fn network(text: &str) -> Vec<String> {
    let fits = text.split_once('/').is_some_and(|(address, bits)| {
        let most = match address.parse() {
            Ok(std::net::IpAddr::V4(_)) => 32,
            Ok(std::net::IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    let complaint = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    if fits { Vec::new() } else { vec![complaint.to_owned()] }
}

/// A percentage.
#[must_use]
pub fn percent(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Vec::new();
    }
    let rule = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![complaint(rule, &["1%", "93%"], "[0-9]+%")]
}

#[cfg(test)]
mod tests {
    use super::*;

    type Rule = fn(&str) -> Vec<String>;

    #[test]
    fn good_names_and_bad_ones() {
        let long = "a".repeat(64);
        let cases: &[(Rule, &[&str], &[&str])] = &[
            (label, &["a", "a-b", "1a"], &["", "-a", "a-", "A", "a.b", "a_b", "ä", &long]),
            (letter_label, &["a", "a1"], &["1a", "", "a."]),
            (subdomain, &["a", "a.b-c.1", &long], &["", "a..b", ".a", "a.", "a_b", "A"]),
            (wildcard_subdomain, &["*.a.b"], &["*", "*.", "a.b", "*.*.a"]),
            (path_segment, &["system:node", "A b", ""], &[".", "..", "a/b", "a%b"]),
            (label_value, &["", "a", "A_b.c"], &["-a", "a b", "a/b", &long]),
            (qualified, &["a", "A_b.c", "example.com/a"], &["", "/a", "a/", "a/b/c", "-a/b", "a b"]),
            (port, &["http", "a-1"], &["", "1", "-a", "a--b", "HTTP", "abcdefghijklmnop"]),
            (variable, &["A", "a.b-c d"], &["A=B", "ä"]),
            (data_key, &["a", "A_b.c", ".a"], &["", "..", "..a", ".", "a/b"]),
            (address, &["10.0.0.1", "::1"], &["", "10.0.0", "a"]),
            (network, &["10.0.0.0/8", "fd00::/64"], &["10.0.0.0", "10.0.0.0/33", "a/8"]),
            (percent, &["0%", "25%"], &["25", "%", "-1%"]),
        ];
        for (index, (rule, good, bad)) in cases.iter().enumerate() {
            for name in *good {
                assert_eq!(rule(name), [""; 0], "rule {index}: {name:?}");
            }
            for name in *bad {
                assert_ne!(rule(name), [""; 0], "rule {index}: {name:?}");
            }
        }
    }

    #[test]
    fn complaints_are_kubernetes_own() {
        let expected = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
        assert_eq!(label("A"), [expected]);
        assert_eq!(qualified("/x"), ["prefix part must be non-empty"]);
    }
}
