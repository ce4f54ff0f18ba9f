//! `kogia images`: what the cluster's image store holds.

use std::path::Path;
use std::process::ExitCode;

use runtime::image::Images;

pub fn run(data_dir: &Path) -> anyhow::Result<ExitCode> {
    let listed = Images::open(&data_dir.join("images"))?.list()?;
    let width = listed.iter().map(|image| image.name.len()).max().unwrap_or(0).max("IMAGE".len());
    println!("{:width$}   {:19}   SIZE", "IMAGE", "DIGEST");
    for image in listed {
        let digest: String = image.digest.chars().take(19).collect();
        println!("{:width$}   {digest:19}   {} KiB", image.name, image.size.div_ceil(1024));
    }
    Ok(ExitCode::SUCCESS)
}
