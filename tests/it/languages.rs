//! Guests in other languages than Rust, built by their own tools where these are installed.

use std::path::Path;
use std::process::Command;

use crate::harness::Cluster;

/// Whether a program runs here; without it the test passes with a notice, or fails in CI.
fn there_is(program: &str, args: &[&str]) -> bool {
    let there = Command::new(program).args(args).output().is_ok_and(|ran| ran.status.success());
    assert!(there || std::env::var_os("CI").is_none(), "{program} {args:?} must work in CI");
    if !there {
        eprintln!("skipped: {program} {args:?} does not work here");
    }
    there
}

/// Starts an example that its Makefile builds, and returns what its Job said.
fn told_by(example: &str) -> String {
    let cluster = Cluster::start();
    cluster.with(example);
    let job = cluster.get("job", example);
    assert_eq!(job["status"]["succeeded"], 1, "{job}");
    cluster.kogia(&["logs", &format!("job/{example}")]).ok()
}

#[test]
fn a_program_in_c() {
    if there_is("clang", &["--print-targets"]) && there_is("wasm-ld", &["--version"]) && has_c_library() {
        assert_eq!(told_by("words-c"), "2 lines, 13 words, 66 bytes in /data/poem.txt\n");
    }
}

/// Debian's package `wasi-libc`, where the Makefile looks for it.
fn has_c_library() -> bool {
    let there = Path::new("/usr/lib/wasm32-wasi/libc.a").exists();
    assert!(there || std::env::var_os("CI").is_none(), "wasi-libc must be there in CI");
    there
}

#[test]
fn a_program_in_python() {
    if there_is("python3", &["-m", "venv", "--help"]) {
        let said = told_by("report-python");
        assert!(said.contains("harbour       42\nmarket         7\n"), "{said}");
        assert!(said.contains("reported by Python 3."), "{said}");
    }
}

#[test]
fn a_program_in_go() {
    if there_is("python3", &["-m", "venv", "--help"]) {
        let said = told_by("tally-go");
        assert!(said.contains("harbour.json     26.50\nmarket.json       3.00\n"), "{said}");
        assert!(said.contains("added up by go1."), "{said}");
    }
}

#[test]
fn a_service_in_javascript() {
    if there_is("npm", &["--version"]) {
        let cluster = Cluster::start();
        cluster.with("greeter-js");
        let answers = [
            ("/?name=you", 200, "{\"hello\":\"you\"}"),
            ("/", 200, "{\"hello\":\"world\"}"),
            ("/no", 404, "not found\n"),
        ];
        for (path, status, text) in answers {
            assert_eq!(cluster.fetch("greeter-js.localhost", path), Some((status, text.to_owned())), "{path}");
        }
    }
}

#[test]
fn a_folder_that_does_not_build_says_why() {
    let cluster = Cluster::start();
    let folder = cluster.scratch().join("broken");
    std::fs::create_dir(&folder).unwrap();
    let build = |folder: &Path| cluster.kogia(&["build", folder.to_str().unwrap()]).fails();
    let said = build(&folder);
    assert!(said.contains("broken has neither a Cargo.toml nor a Makefile to build from"), "{said}");

    std::fs::write(folder.join("Makefile"), "target/broken.wasm:\n\tno-such-compiler\n").unwrap();
    let said = build(&folder);
    assert!(said.contains("broken does not build; make says why above"), "{said}");

    std::fs::write(folder.join("Makefile"), "target/broken.wasm:\n\ttrue\n").unwrap();
    let said = build(&folder);
    assert!(said.contains("broken.wasm is neither a folder nor a file"), "{said}");
}
