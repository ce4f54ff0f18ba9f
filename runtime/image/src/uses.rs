//! Who uses which image: a file per digest under `used/`, locked as long as somebody does, and touched when that begins and ends.
//!
//! A lock ends with its process, whatever ends that. So nodes of one machine may share their images, and nobody has to
//! tidy up after a crash. Files are made and removed under the layout's lock only.

use std::collections::HashMap;
use std::fs::{self, File};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use crate::error::ImageError;
use crate::images::Resolved;
use crate::layout::{Layout, check_shape};

/// Held while an image is used.
#[derive(Debug)]
pub(crate) struct Use(Vec<File>);

impl Use {
    /// Takes digests into use. The caller then looks whether what it wants is still there.
    pub(crate) fn take(layout: &Layout, digests: &[&str]) -> Result<Self, ImageError> {
        let _lock = layout.lock()?;
        let mut files = Vec::with_capacity(digests.len());
        for digest in digests {
            let path = layout.use_path(check_shape(digest)?);
            let file = File::options().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(ImageError::io("open", &path))?;
            // Others lock it for themselves alone under the layout's lock only, so this never waits.
            file.lock_shared().map_err(ImageError::io("lock", &path))?;
            touch(&file);
            files.push(file);
        }
        Ok(Self(files))
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.iter().for_each(touch);
    }
}

/// What cannot be touched counts as used earlier than it was.
fn touch(file: &File) {
    let _ = file.set_modified(SystemTime::now());
}

/// When a digest was last used; `None` when nobody ever has.
pub(crate) fn last_used(layout: &Layout, digest: &str) -> Option<SystemTime> {
    fs::metadata(layout.use_path(digest)).and_then(|found| found.modified()).ok()
}

/// Whether somebody uses a digest now. Only under the layout's lock.
pub(crate) fn is_used(layout: &Layout, digest: &str) -> bool {
    let Ok(file) = File::options().write(true).open(layout.use_path(digest)) else { return false };
    // Whoever uses it has locked it. One that cannot be asked is left alone.
    file.try_lock().is_err()
}

/// The images in use by this process, each of them once.
#[derive(Debug, Default)]
pub(crate) struct InUse(Mutex<HashMap<String, Weak<Resolved>>>);

impl InUse {
    /// The one in use that equals `found`, or `found` itself, which is then in use.
    pub(crate) fn share(&self, layout: &Layout, found: Resolved) -> Result<Arc<Resolved>, ImageError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = known.get(&found.id).and_then(Weak::upgrade).filter(|shared| shared.is_same(&found)) {
            return Ok(shared);
        }
        let manifest = found.id.rsplit_once('@').map_or(&*found.digest, |(_, digest)| digest);
        let held = Use::take(layout, &[manifest, &found.digest])?;
        if !found.path.is_file() {
            return Err(ImageError::NotFound(format!("image {} has just been removed", found.id)));
        }
        let shared = Arc::new(Resolved { _held: Some(held), ..found });
        known.retain(|_, other| other.strong_count() > 0);
        known.insert(shared.id.clone(), Arc::downgrade(&shared));
        Ok(shared)
    }
}
