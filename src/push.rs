//! `kogia push`: sends an image from the cluster's image store to a registry, with the user's own credentials.
//!
//! The credentials are those of `docker login` and its kin: `config.json` under `DOCKER_CONFIG` or `~/.docker`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use runtime::image::{Images, Keyring, Remote};

#[derive(clap::Args)]
pub struct Args {
    /// An image in the cluster's image store
    image: String,
    /// Where to: HOST[:PORT]/NAME:TAG [default: the image's own name]
    to: Option<String>,
    /// A registry that speaks plain HTTP; those on this machine may in any case
    #[arg(long, value_name = "HOST:PORT")]
    insecure_registry: Vec<String>,
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let images = Images::open(&data_dir.join("images"))?;
    let to = args.to.as_ref().unwrap_or(&args.image);
    let digest = Remote::new(args.insecure_registry)?.push(&images, &args.image, to, &credentials()?).await?;
    println!("image/{} pushed to {to}\n{digest}", args.image);
    Ok(ExitCode::SUCCESS)
}

/// What the user is known by at registries; nothing where nobody has logged in.
pub fn credentials() -> anyhow::Result<Keyring> {
    let mut keys = Keyring::default();
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let Some(folder) = folder.or_else(|| Some(std::env::home_dir()?.join(".docker"))) else { return Ok(keys) };
    let path = folder.join("config.json");
    match std::fs::read(&path) {
        Ok(file) => keys.add_config_json(&file).map_err(anyhow::Error::msg),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
    .with_context(|| format!("cannot use {}", path.display()))?;
    Ok(keys)
}
