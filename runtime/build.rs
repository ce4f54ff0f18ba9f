//! Builds the toolbox, the component behind `kubectl exec`, `cp` and `debug`, for the guests' target.
//!
//! `rust-toolchain.toml` names that target, so rustup has it before anything is built. A toolchain that came another way
//! may lack it: then Kogia is built without the toolbox and says so where it would be needed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "wasm32-wasip2";

fn main() {
    let sources = Path::new(&variable("CARGO_MANIFEST_DIR")).join("toolbox/src");
    println!("cargo:rerun-if-changed={}", sources.display());
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(variable("OUT_DIR"));
    let component = out.join("toolbox.wasm");
    if let Err(why) = build(&sources, &out, &component) {
        println!("cargo:warning=kubectl exec will lack its toolbox: {why}");
        std::fs::write(&component, b"").expect("the output folder is ours");
    }
}

fn build(sources: &Path, out: &Path, component: &Path) -> Result<(), String> {
    let library = out.join("libtoolbox.rlib");
    let common = ["--edition", "2024", "--target", TARGET, "-Copt-level=s", "-Cpanic=abort", "-Cstrip=debuginfo"];
    let mut rlib = Command::new(variable("RUSTC"));
    rlib.args(common).args(["--crate-type", "rlib", "--crate-name", "toolbox"]);
    rlib.arg("-o").arg(&library).arg(sources.join("lib.rs"));
    run(&mut rlib)?;
    let mut program = Command::new(variable("RUSTC"));
    program.args(common).args(["-Clto=fat", "--crate-name", "toolbox_program"]);
    program.arg("--extern").arg(format!("toolbox={}", library.display()));
    program.arg("-o").arg(component).arg(sources.join("main.rs"));
    run(&mut program)
}

/// Runs the compiler; its first words are the reason when it fails.
fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().find(|line| !line.trim().is_empty()).unwrap_or("the compiler failed").to_owned())
}

fn variable(name: &str) -> String {
    env::var(name).expect("cargo sets it")
}
