//! Uploads that have begun and not ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::incoming::Incoming;
use crate::limits;

/// One upload: between two requests its bytes lie here; during one they are taken out, so that no two write at once.
#[derive(Debug)]
struct Upload {
    incoming: Option<Incoming>,
    touched: Instant,
}

/// The open uploads. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Uploads {
    open: Arc<Mutex<HashMap<String, Upload>>>,
}

impl Uploads {
    /// Takes up a new one under a name nobody can guess; `None` when too many are open.
    pub(crate) fn begin(&self, incoming: Incoming, now: Instant) -> Option<String> {
        let mut open = self.open();
        open.retain(|_, upload| now.saturating_duration_since(upload.touched) < limits::UPLOAD_IDLE_MAX);
        if open.len() >= limits::UPLOADS_MAX {
            return None;
        }
        let id = uuid::Uuid::new_v4().to_string();
        open.insert(id.clone(), Upload { incoming: Some(incoming), touched: now });
        Some(id)
    }

    /// Takes the bytes out, to go on with them; `None` when there is no such upload or another request has them.
    pub(crate) fn take(&self, id: &str, now: Instant) -> Option<Incoming> {
        let mut open = self.open();
        let upload = open.get_mut(id)?;
        upload.touched = now;
        upload.incoming.take()
    }

    /// Puts them back until the next request. Nothing happens when the upload was given up meanwhile.
    pub(crate) fn put_back(&self, id: &str, incoming: Incoming, now: Instant) {
        if let Some(upload) = self.open().get_mut(id) {
            *upload = Upload { incoming: Some(incoming), touched: now };
        }
    }

    /// Ends one; `false` when there is none.
    pub(crate) fn end(&self, id: &str) -> bool {
        self.open().remove(id).is_some()
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<String, Upload>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn uploads_are_bounded_and_forgotten_when_idle() {
        let folder = tempfile::tempdir().unwrap();
        let incoming = || Incoming::new(folder.path().to_owned(), 10).unwrap();
        let (uploads, start) = (Uploads::default(), Instant::now());
        let first = uploads.begin(incoming(), start).unwrap();
        let taken = uploads.take(&first, start).unwrap();
        assert!(uploads.take(&first, start).is_none(), "one request at a time");
        uploads.put_back(&first, taken, start);
        while uploads.begin(incoming(), start).is_some() {}
        let later = start + limits::UPLOAD_IDLE_MAX + Duration::from_secs(1);
        assert!(uploads.begin(incoming(), later).is_some(), "the idle ones made room");
        assert!(uploads.take(&first, later).is_none());
        assert!(!uploads.end(&first));
    }
}
