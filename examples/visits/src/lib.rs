//! A component of WASI 0.3: an instance of it answers many visitors, several at once, and counts them.
//!
//! `/` says how many visits this instance has seen and how many it was answering at the same time; `/slow` takes a
//! while to think, without keeping others from being answered.

use std::sync::atomic::{AtomicU32, Ordering};

use wasip3::clocks::monotonic_clock;
use wasip3::exports::http::handler::Guest;
use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

static VISITS: AtomicU32 = AtomicU32::new(0);
static NOW: AtomicU32 = AtomicU32::new(0);

struct Visits;

wasip3::http::service::export!(Visits);

impl Guest for Visits {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let visit = VISITS.fetch_add(1, Ordering::Relaxed) + 1;
        let at_once = NOW.fetch_add(1, Ordering::Relaxed) + 1;
        if request.get_path_with_query().is_some_and(|path| path.starts_with("/slow")) {
            monotonic_clock::wait_for(500_000_000).await;
        }
        NOW.fetch_sub(1, Ordering::Relaxed);
        Ok(text(format!("visit {visit} of this instance, {at_once} at once\n")))
    }
}

/// A response whose body is written while it is already on its way.
fn text(body: String) -> Response {
    let (mut writer, contents) = wit_stream::new();
    let (ended, trailers) = wit_future::new(|| Ok(None));
    let (response, _) = Response::new(Fields::new(), Some(contents), trailers);
    drop(ended);
    wit_bindgen::spawn_local(async move {
        // A visitor who has gone reads nothing more; that is no fault of ours.
        let _ = writer.write_all(body.into_bytes()).await;
    });
    response
}
