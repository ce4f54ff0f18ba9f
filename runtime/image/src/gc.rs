//! Image garbage collection: what goes when the disk gets full, as the kubelet has it.
//!
//! First go blobs that no name leads to; then images that were fetched and that nobody uses, the one first that has not been
//! used for longest. Refused: what is in use, by whatever process of this machine, and what was built or pushed here, since
//! nobody else may have it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::artifact::{self, Descriptor, Index, Manifest};
use crate::error::ImageError;
use crate::images::Images;
use crate::layout::{Layout, check_shape};
use crate::limits::{LEFTOVER_AGE_MIN, UNNAMED_AGE_MIN};
use crate::uses;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Bytes of files that are gone.
    pub bytes: u64,
    /// Names of images that are gone, in full.
    pub images: Vec<String>,
}

/// A name and all that it leads to.
#[derive(Clone, Debug)]
struct Named {
    name: String,
    blobs: BTreeSet<String>,
    /// Built or pushed here, or in use.
    stays: bool,
    last_used: SystemTime,
}

impl Images {
    /// Removes what nobody needs until so many bytes are free, or nothing is left that may go. Images used within `age_min`
    /// stay. Blocks on files.
    ///
    /// # Errors
    /// An index that cannot be read or written, a folder that cannot be listed. What was removed by then is gone whole.
    pub fn collect(&self, wanted_bytes: u64, age_min: Duration) -> Result<Collected, ImageError> {
        let layout = self.layout();
        let _lock = layout.lock()?;
        let mut index = layout.index()?;
        let named: Vec<Named> = index.manifests.iter().map(|entry| named(layout, entry)).collect();
        let files = layout.blobs()?;
        let now = SystemTime::now();
        let age = |since: SystemTime| now.duration_since(since).unwrap_or_default();
        let (mut kept, mut recent) = (BTreeSet::new(), BTreeSet::new());
        for digest in layout.uses()? {
            if uses::is_used(layout, &digest) {
                kept.extend(reached(layout, &digest));
            } else if uses::last_used(layout, &digest).is_some_and(|used| age(used) < UNNAMED_AGE_MIN) {
                recent.extend(reached(layout, &digest));
            }
        }

        let known: BTreeSet<&String> =
            named.iter().flat_map(|named| &named.blobs).chain(&kept).chain(&recent).collect();
        let is_stray = |digest: &String, came: SystemTime| !known.contains(digest) && age(came) >= UNNAMED_AGE_MIN;
        let strays = files.iter().filter(|(digest, found)| is_stray(digest, found.changed));
        let mut doomed: BTreeSet<String> = strays.map(|(digest, _)| digest.clone()).collect();
        let sizes: BTreeMap<String, u64> = files.iter().map(|(digest, found)| (digest.clone(), found.bytes)).collect();
        let freed: u64 = doomed.iter().map(|digest| sizes[digest]).sum();
        let may_go: Vec<Named> =
            named.iter().map(|one| Named { stays: one.stays || age(one.last_used) < age_min, ..one.clone() }).collect();
        let (names, blobs) = choose(&may_go, &kept, &sizes, wanted_bytes.saturating_sub(freed));
        doomed.extend(blobs);

        if !names.is_empty() {
            index.manifests.retain(|entry| !entry.ref_name().is_some_and(|name| names.iter().any(|gone| gone == name)));
            layout.write_index(&index)?;
        }
        let mut collected = Collected { bytes: layout.remove_leftovers(LEFTOVER_AGE_MIN)?, images: names };
        for digest in doomed {
            let path = layout.blob_path(&digest);
            fs::remove_file(&path).map_err(ImageError::io("remove", &path))?;
            let _ = fs::remove_file(layout.use_path(&digest));
            collected.bytes += sizes[&digest];
        }
        Ok(collected)
    }

    /// Whether the component of a digest (64 hexadecimal digits) is here.
    #[must_use]
    pub fn has(&self, hex: &str) -> bool {
        let digest = format!("sha256:{hex}");
        check_shape(&digest).is_ok_and(|digest| self.layout().has_blob(digest))
    }
}

/// Names that go, the one first that was last used longest ago, and the blobs that go with them: those that nothing else
/// leads to.
fn choose(
    named: &[Named],
    kept: &BTreeSet<String>,
    sizes: &BTreeMap<String, u64>,
    wanted_bytes: u64,
) -> (Vec<String>, BTreeSet<String>) {
    let mut leads: BTreeMap<&String, usize> = BTreeMap::new();
    for blob in named.iter().flat_map(|named| &named.blobs).chain(kept) {
        *leads.entry(blob).or_default() += 1;
    }
    let mut going: Vec<&Named> = named.iter().filter(|named| !named.stays).collect();
    going.sort_by(|one, other| (one.last_used, &one.name).cmp(&(other.last_used, &other.name)));
    let (mut names, mut blobs, mut freed) = (Vec::new(), BTreeSet::new(), 0_u64);
    for named in going {
        if freed >= wanted_bytes {
            break;
        }
        names.push(named.name.clone());
        for blob in &named.blobs {
            let left = leads.get_mut(blob).expect("every blob was counted");
            *left -= 1;
            // One that is named and not there frees nothing.
            if let Some(size) = sizes.get(blob).filter(|_| *left == 0) {
                freed += size;
                blobs.insert(blob.clone());
            }
        }
    }
    (names, blobs)
}

fn named(layout: &Layout, entry: &Descriptor) -> Named {
    let blobs = reached(layout, &entry.digest);
    let pulled = entry.annotations.contains_key(artifact::PULLED);
    let in_use = blobs.iter().any(|digest| uses::is_used(layout, digest));
    let came = fs::metadata(layout.blob_path(&entry.digest)).and_then(|found| found.modified()).ok();
    let used = blobs.iter().filter_map(|digest| uses::last_used(layout, digest)).max();
    Named {
        name: entry.ref_name().unwrap_or_default().to_owned(),
        stays: !pulled || in_use || entry.ref_name().is_none(),
        last_used: used.max(came).unwrap_or(SystemTime::UNIX_EPOCH),
        blobs,
    }
}

/// A blob and, where it is a manifest or an index, all that it leads to. What is not there leads nowhere.
fn reached(layout: &Layout, digest: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut open = vec![digest.to_owned()];
    while let Some(digest) = open.pop() {
        if check_shape(&digest).is_err() || !reached.insert(digest.clone()) {
            continue;
        }
        let said: Value =
            layout.small(&digest).and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        if let Ok(index) = serde_json::from_value::<Index>(said.clone()) {
            open.extend(index.manifests.into_iter().map(|entry| entry.digest));
        }
        if let Ok(manifest) = serde_json::from_value::<Manifest>(said) {
            open.extend(manifest.layers.into_iter().chain([manifest.config]).map(|part| part.digest));
        }
    }
    reached
}

#[cfg(test)]
mod tests;
