//! Strategic merge patch as a table of stories: `scenarios/strategic.txt`.

use std::fmt::Write as _;

use api::patch;
use serde_json::Value;

fn result(lines: &[&str]) -> String {
    let part = |word: &str| -> Value {
        let line = lines.iter().find_map(|line| line.strip_prefix(word)).expect("a live object and a patch");
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    };
    let message = lines[1].trim();
    let (live, patch) = (part("live "), part("patch "));
    match patch::strategic(&live, &patch, &format!("k8s.io/api/{message}")) {
        Ok(result) => format!("=     {result}"),
        Err(refusal) => format!("!     {} {}", refusal.code, refusal.message),
    }
}

#[test]
fn patches_do_what_the_documentation_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios/strategic.txt");
    let given = std::fs::read_to_string(path).unwrap();
    let (head, blocks) = given.split_once("\n== ").expect("a comment and stories");
    let mut told = head.to_owned();
    for block in blocks.split("\n== ") {
        let lines: Vec<&str> = block.lines().filter(|line| !line.is_empty()).collect();
        let kept = lines.iter().filter(|line| !line.starts_with(['=', '!'])).copied().collect::<Vec<_>>().join("\n");
        write!(told, "\n== {kept}\n{}\n", result(&lines)).unwrap();
    }
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &told).unwrap();
        return;
    }
    pretty(&given, &told);
}

/// Fails at the first block that differs, which is easier to read than all of them.
fn pretty(given: &str, told: &str) {
    for (given, told) in given.trim_end().split("\n== ").zip(told.trim_end().split("\n== ")) {
        assert_eq!(given.trim_end(), told.trim_end(), "UPDATE=1 rewrites the expectations");
    }
    assert_eq!(given.matches("\n== ").count(), told.matches("\n== ").count());
}
