//! Room on the disk: when it gets full, images go that nobody uses, and the code that was compiled from them. The kubelet's
//! thresholds, and its words where that is not enough.

use std::io;
use std::sync::Arc;

use image::{Collected, ImageError};

use crate::events::Note;
use crate::host::{self, Disk};
use crate::limits::{IMAGE_GC_AGE_MIN, IMAGE_GC_HIGH_PERCENT, IMAGE_GC_LOOK, IMAGE_GC_LOW_PERCENT};
use crate::node::Agent;

/// Looks at the disk now and then, and after every pull. Ends never.
pub(crate) async fn run(agent: Arc<Agent>) {
    let mut look = tokio::time::interval(IMAGE_GC_LOOK);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = agent.pulls.pulled() => {}
        }
        let config = agent.config.clone();
        let Some(wanted) = host::disk(config.images.folder()).and_then(wanted) else { continue };
        let collecting = tokio::task::spawn_blocking(move || collect(&config, wanted));
        match collecting.await.map_err(io::Error::other) {
            Ok(Ok(freed)) => report(&agent, wanted, &freed),
            Ok(Err(error)) => tracing::warn!(%error, "images cannot be removed to make room"),
            Err(error) => tracing::error!(%error, "the removal of images failed"),
        }
    }
}

/// How many bytes have to go, if any.
fn wanted(disk: Disk) -> Option<u64> {
    let used_percent = 100 - (disk.available_bytes.saturating_mul(100)).checked_div(disk.bytes)?.min(100);
    let in_use_max = disk.bytes / 100 * IMAGE_GC_LOW_PERCENT;
    let in_use = disk.bytes.saturating_sub(disk.available_bytes);
    (used_percent >= IMAGE_GC_HIGH_PERCENT).then(|| in_use.saturating_sub(in_use_max))
}

fn collect(config: &crate::NodeConfig, wanted: u64) -> Result<Collected, ImageError> {
    let images = &config.images;
    let collected = images.collect(wanted, IMAGE_GC_AGE_MIN)?;
    match config.engine.remove_code(|digest| images.has(digest)) {
        Ok(bytes) => Ok(Collected { bytes: collected.bytes + bytes, ..collected }),
        // Another node of this machine may have been faster.
        Err(error) => {
            tracing::debug!(%error, "compiled code cannot be removed");
            Ok(collected)
        }
    }
}

fn report(agent: &Agent, wanted: u64, freed: &Collected) {
    tracing::info!(bytes = freed.bytes, images = ?freed.images, "made room on the disk");
    if freed.bytes < wanted {
        let message = format!(
            "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {} \
             bytes eligible to free.",
            freed.bytes
        );
        agent.events.tell(Note::of_node(&agent.config.name, "Warning", "FreeDiskSpaceFailed", message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_fuller_than_85_percent_is_emptied_to_80() {
        let cases = [
            ((1000, 1000), None),
            ((1000, 160), None),
            ((1000, 150), Some(50)),
            ((1000, 0), Some(200)),
            // One that is smaller than nothing, or larger inside than outside, is odd, not full.
            ((0, 0), None),
            ((1000, 5000), None),
        ];
        for ((bytes, available_bytes), expected) in cases {
            assert_eq!(wanted(Disk { bytes, available_bytes }), expected, "{available_bytes} of {bytes}");
        }
    }
}
