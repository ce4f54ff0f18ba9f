//! Waiting between two tries of one request.

use std::future::Future;
use std::time::Duration;

use crate::limits::{REQUEST_TIME_MAX, RETRY_FIRST, RETRY_MAX};

/// The wait before the next try: doubles up to [`RETRY_MAX`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retry {
    tries: u32,
}

impl Retry {
    /// No wait before the first try.
    pub(crate) fn wait(&mut self) -> Duration {
        let doubled = RETRY_FIRST.saturating_mul(1 << self.tries.saturating_sub(1).min(16)).min(RETRY_MAX);
        let wait = if self.tries == 0 { Duration::ZERO } else { doubled };
        self.tries = self.tries.saturating_add(1);
        wait
    }

    /// The last try succeeded.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

/// Tries until it succeeds; each try has a time limit. The caller ends it by dropping the future.
pub(crate) async fn until_ok<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, kube::Error>>,
{
    let mut retry = Retry::default();
    loop {
        tokio::time::sleep(retry.wait()).await;
        match tokio::time::timeout(REQUEST_TIME_MAX, attempt()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(error)) => tracing::debug!(what, %error, "trying again"),
            Err(_) => tracing::debug!(what, "no answer in time, trying again"),
        }
    }
}

/// Whether the API says that the object is not there, or is another one by now: trying again is of no use.
pub(crate) fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 || status.code == 409)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_bound() {
        let mut retry = Retry::default();
        let waits: Vec<u128> = (0..10).map(|_| retry.wait().as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        retry.reset();
        assert_eq!(retry.wait(), Duration::ZERO);
    }
}
