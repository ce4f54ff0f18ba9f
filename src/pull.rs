//! `kogia pull`: fetches an image into the cluster's image store, with the user's own registry credentials.

use std::path::Path;
use std::process::ExitCode;

use runtime::image::{Images, Remote};

use crate::push::credentials;

#[derive(clap::Args)]
pub struct Args {
    /// The image: [HOST[:PORT]/]NAME[:TAG][@DIGEST]
    image: String,
    /// A registry that speaks plain HTTP; those on this machine may in any case
    #[arg(long, value_name = "HOST:PORT")]
    insecure_registry: Vec<String>,
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let images = Images::open(&data_dir.join("images"))?;
    let pulled = Remote::new(args.insecure_registry)?.pull(&images, &args.image, &credentials()?).await?;
    println!("image/{} pulled ({} KiB)\n{}", args.image, pulled.bytes.div_ceil(1024), pulled.digest);
    Ok(ExitCode::SUCCESS)
}
