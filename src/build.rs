//! `kogia build`: builds the guest in a folder and puts it into the cluster's image store. A Rust package is built with
//! `cargo build --target wasm32-wasip2 --release`, the target added when it is missing; anything else by the folder's
//! `Makefile`, which knows its language's tools.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The one target whose output is a component that needs no further tool.
const TARGET: &str = "wasm32-wasip2";

#[derive(clap::Args)]
pub struct Args {
    /// The folder of a Rust package or with a Makefile, or a component that another tool has built
    #[arg(value_name = "FOLDER|FILE.wasm")]
    source: PathBuf,
    /// Name of the image [default: the package's NAME:VERSION, or the folder's or file's name]
    #[arg(long, short, value_name = "NAME:TAG")]
    tag: Option<String>,
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let source = args.source.clone();
    let mut built = match source.is_dir() {
        true => tokio::task::spawn_blocking(move || build(&source)).await??,
        false => file(source)?,
    };
    if let Some(tag) = args.tag {
        built.image = tag;
    }
    println!("{}", store(&built, data_dir)?.line);
    Ok(ExitCode::SUCCESS)
}

/// A component as it lies there, named after its file.
fn file(path: PathBuf) -> anyhow::Result<Built> {
    anyhow::ensure!(path.is_file(), "{} is neither a folder nor a file", path.display());
    let name = path.file_stem().unwrap_or_default().to_string_lossy().to_ascii_lowercase().replace(['_', ' '], "-");
    Ok(Built { image: format!("{name}:latest"), wasm: path })
}

/// A component in the image store.
pub struct Stored {
    /// Its name pinned to its digest.
    pub pinned: String,
    /// A line about it.
    pub line: String,
}

/// Puts the component into the cluster's image store.
pub fn store(built: &Built, data_dir: &Path) -> anyhow::Result<Stored> {
    let wasm = std::fs::read(&built.wasm).with_context(|| format!("cannot read {}", built.wasm.display()))?;
    let images = runtime::image::Images::open(&data_dir.join("images"))?;
    let digest = images.put(&built.image, &wasm, &BTreeMap::new())?;
    let line = format!("image/{} stored ({} KiB)", built.image, wasm.len().div_ceil(1024));
    Ok(Stored { pinned: format!("{}@{digest}", built.image), line })
}

/// A component fresh from the compiler.
pub struct Built {
    /// `NAME:VERSION` of the package, or `NAME:latest` of a folder or file.
    pub image: String,
    /// The component.
    pub wasm: PathBuf,
}

/// Builds what is in `folder`. Cargo and make show their own progress.
pub fn build(folder: &Path) -> anyhow::Result<Built> {
    match (folder.join("Cargo.toml").exists(), folder.join("Makefile").exists()) {
        (true, _) => package(folder),
        (false, true) => made(folder),
        (false, false) => bail!("{} has neither a Cargo.toml nor a Makefile to build from", folder.display()),
    }
}

/// What the folder's Makefile makes: `target/FOLDER.wasm`.
fn made(folder: &Path) -> anyhow::Result<Built> {
    let folder = folder.canonicalize()?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let wasm = format!("target/{name}.wasm");
    println!("Building {name} …");
    let mut make = Command::new("make");
    let status = make.arg("--no-print-directory").arg(&wasm).current_dir(&folder).status();
    let status = status.with_context(|| format!("{name} is built by make, which is not here to run"))?;
    anyhow::ensure!(
        status.success(),
        "{name} does not build; make says why above, and {name}/Makefile says which tools it needs"
    );
    file(folder.join(wasm))
}

/// Builds the Rust package in a folder.
fn package(folder: &Path) -> anyhow::Result<Built> {
    let (name, version) = name_and_version(folder)?;
    ensure_target(folder)?;
    println!("Building {name} …");
    let output = cargo(folder)
        .args(["build", "--release", "--target", TARGET, "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    anyhow::ensure!(output.status.success(), "{name} does not build; cargo says why above");
    let folder = folder.canonicalize()?;
    let artifact = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && manifest_is_in(message, &folder))
        .find_map(|message| {
            let files = message["filenames"].as_array()?.iter().filter_map(Value::as_str).map(PathBuf::from);
            files.into_iter().find(|file| file.extension().is_some_and(|end| end == "wasm"))
        });
    let wasm = artifact.with_context(|| {
        format!("{name} builds, but not to a component: it needs a `main.rs`, or `crate-type = [\"cdylib\"]`")
    })?;
    Ok(Built { image: format!("{name}:{version}"), wasm })
}

/// Name and version of the package in a folder.
fn name_and_version(folder: &Path) -> anyhow::Result<(String, String)> {
    let manifest = folder.join("Cargo.toml");
    let mut command = cargo(folder);
    command.args(["metadata", "--no-deps", "--format-version", "1"]).stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo; Rust is needed to build an app (https://rustup.rs)")?;
    anyhow::ensure!(output.status.success(), "{} cannot be read", manifest.display());
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let folder = folder.canonicalize()?;
    let mut packages = metadata["packages"].as_array().into_iter().flatten();
    let found = packages.find(|package| manifest_is_in(package, &folder));
    let package = found.with_context(|| format!("{} describes no package", manifest.display()))?;
    let text = |field: &str| package[field].as_str().unwrap_or_default().to_owned();
    Ok((text("name"), text("version")))
}

fn manifest_is_in(message: &Value, folder: &Path) -> bool {
    let manifest = message["manifest_path"].as_str().map(PathBuf::from);
    manifest.and_then(|path| path.parent()?.canonicalize().ok()).is_some_and(|parent| parent == folder)
}

/// Adds the target when the folder's toolchain does not have it.
fn ensure_target(folder: &Path) -> anyhow::Result<()> {
    let sysroot = Command::new("rustc").current_dir(folder).args(["--print", "sysroot"]).output();
    let sysroot = sysroot.context("cannot run rustc; Rust is needed to build an app (https://rustup.rs)")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    if sysroot.join("lib").join("rustlib").join(TARGET).is_dir() {
        return Ok(());
    }
    println!("Adding the Rust target {TARGET} …");
    let status = Command::new("rustup").current_dir(folder).args(["target", "add", TARGET]).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => bail!("rustup could not add the target {TARGET}; it says why above"),
        Err(_) => bail!("the Rust target {TARGET} is missing, and there is no rustup to add it with"),
    }
}

fn cargo(folder: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(folder);
    command
}
