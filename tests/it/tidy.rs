//! The house rules that a compiler cannot keep: who may import what, how long files are, what no file may say.
//!
//! Function length and missing docs are clippy's and rustc's part (`clippy.toml`, the lint table in `Cargo.toml`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::root;

/// A file longer than this is more than one idea. Tests at its end count.
const FILE_LINES_MAX: usize = 600;

/// Our own crates, and of those each may import exactly these (`ARCHITECTURE.md` draws it).
const IMPORTS: &[(&str, &[&str])] = &[
    (".", &["api", "control", "runtime"]),
    ("api", &[]),
    ("raft-store", &[]),
    ("control", &["api", "objects", "http-api", "scheduler", "controllers", "raft-store"]),
    ("control/objects", &["api", "raft-store"]),
    ("control/http", &["api", "objects"]),
    ("control/scheduler", &["api"]),
    ("control/controllers", &["api"]),
    ("runtime", &["api", "engine", "image", "network", "pod", "toolbox"]),
    ("runtime/engine", &["network"]),
    ("runtime/image", &[]),
    ("runtime/network", &[]),
    ("runtime/pod", &["api"]),
    ("runtime/toolbox", &[]),
];

/// Crates of others that belong to one place each.
const WRAPPED: &[(&str, &[&str])] = &[
    ("raft", &["raft-store"]),
    ("redb", &["raft-store"]),
    ("wasmtime", &["runtime/engine"]),
    ("wasmtime-wasi", &["runtime/engine"]),
    ("wasmtime-wasi-http", &["runtime/engine"]),
    ("kube", &[".", "runtime"]),
    ("quinn", &["runtime"]),
    ("rcgen", &["control"]),
    ("reqwest", &["control", "runtime/image"]),
    ("instant-acme", &["control"]),
    ("json-patch", &["api"]),
    ("cel", &["api"]),
];

/// Crates that decide and therefore may not wait, listen or look at a clock.
const PURE: &[&str] = &["api", "control/scheduler", "control/controllers", "runtime/pod"];

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The crates named under `[dependencies]` of a manifest.
fn dependencies(member: &str) -> BTreeSet<String> {
    let manifest = text(&root().join(member).join("Cargo.toml"));
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let names = lines.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| !name.is_empty() && !name.starts_with('#')).map(str::to_owned).collect()
}

/// Every file of ours with one of these endings, as a path from the root.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    const NOT_OURS: [&str; 3] = ["target", ".git", ".kogia"];
    let (mut found, mut folders) = (Vec::new(), vec![root().to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !NOT_OURS.contains(&name.as_str()) {
                folders.push(path);
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no file ends with {endings:?}");
    found
}

/// Fails with all complaints at once.
#[track_caller]
fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn crates_import_only_what_they_may() {
    let mut complaints = Vec::new();
    let ours: BTreeSet<&str> = IMPORTS.iter().flat_map(|(_, imports)| *imports).copied().collect();
    for (member, allowed) in IMPORTS {
        let dependencies = dependencies(member);
        for name in dependencies.iter().filter(|name| ours.contains(name.as_str())) {
            if !allowed.contains(&name.as_str()) {
                complaints.push(format!("{member} may not import {name}"));
            }
        }
        for (name, homes) in WRAPPED {
            if dependencies.contains(*name) && !homes.contains(member) {
                complaints.push(format!("{member} may not import {name}: it belongs to {}", homes.join(", ")));
            }
        }
        for name in ["tokio", "hyper", "rand"] {
            if PURE.contains(member) && dependencies.contains(name) {
                complaints.push(format!("{member} decides and may not import {name}"));
            }
        }
    }
    none(&complaints);
}

#[test]
fn every_member_is_in_the_import_table() {
    let manifest = text(&root().join("Cargo.toml"));
    let members = manifest.lines().skip_while(|line| *line != "members = [").skip(1).take_while(|line| *line != "]");
    let members: BTreeSet<&str> = members.map(|line| line.trim().trim_matches(['"', ','])).collect();
    let table: BTreeSet<&str> = IMPORTS.iter().map(|(member, _)| *member).collect();
    assert_eq!(members, table);
}

#[test]
fn pure_crates_look_at_no_clock() {
    let mut complaints = Vec::new();
    for file in files(&[".rs"]) {
        let shown = file.to_string_lossy().into_owned();
        if !PURE.iter().any(|member| shown.starts_with(&format!("{member}/src"))) {
            continue;
        }
        for word in ["SystemTime::now", "Instant::now", "Timestamp::now", "std::thread", "std::net::Tcp"] {
            if text(&root().join(&file)).contains(word) {
                complaints.push(format!("{shown}: {word} in a crate that decides; let the caller hand it in"));
            }
        }
    }
    none(&complaints);
}

#[test]
fn files_say_what_they_are_for_and_are_one_idea_long() {
    let mut complaints = Vec::new();
    for file in files(&[".rs"]) {
        let (text, shown) = (text(&root().join(&file)), file.display());
        if !text.starts_with("//!") {
            complaints.push(format!("{shown}: does not open with what it is for (//!)"));
        }
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            complaints.push(format!("{shown}: {lines} lines, the limit is {FILE_LINES_MAX}"));
        }
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if ["util", "utils", "common", "helpers", "manager", "misc"].contains(&name.as_str()) {
            complaints.push(format!("{shown}: the name says nothing"));
        }
    }
    none(&complaints);
}

#[test]
fn no_file_speaks_of_unfinished_work_or_of_one_machine() {
    // Spelled in parts, so that this file does not contain what it forbids.
    let words = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["todo", "!("],
        ["unimplemented", "!("],
        ["not yet ", "implemented"],
        ["not yet ", "supported"],
        ["#[ig", "nore"],
        ["/wo", "rk/"],
        ["/ro", "ot/"],
    ]
    .map(|parts| parts.concat());
    let mut complaints = Vec::new();
    for file in files(&[".rs", ".md", ".toml", ".yaml", ".txt", ".wit"]) {
        for (number, line) in text(&root().join(&file)).lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(word.as_str())) {
                complaints.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    none(&complaints);
}

#[test]
fn tests_wait_for_conditions_only() {
    let mut complaints = Vec::new();
    for file in files(&[".rs"]) {
        let shown = file.to_string_lossy().into_owned();
        if !shown.contains("tests/") {
            continue;
        }
        for (number, line) in text(&root().join(&file)).lines().enumerate() {
            if line.contains(&["sleep(", "Duration::from_"].concat()) {
                complaints.push(format!("{shown}:{}: sleeps for luck; wait for a condition, with a bound", number + 1));
            }
        }
    }
    none(&complaints);
}

#[test]
fn pages_have_one_title() {
    let mut complaints = Vec::new();
    for file in files(&[".md"]) {
        let text = text(&root().join(&file));
        let mut fenced = false;
        let titles = text.lines().filter(|line| {
            fenced ^= line.starts_with("```");
            !fenced && line.starts_with("# ")
        });
        let count = titles.count();
        if count != 1 {
            complaints.push(format!("{}: {count} titles", file.display()));
        }
    }
    none(&complaints);
}
