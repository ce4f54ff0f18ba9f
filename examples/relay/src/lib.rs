//! Fetches the URL that its caller names and passes the answer on: one service calling another, by name.

use kogia_sdk::http::{Request, Response, send};

/// More than this of an answer is not passed on.
const ANSWER_BYTES_MAX: usize = 1 << 20;

fn relay(request: Request) -> Response {
    let Some(url) = request.query().strip_prefix("url=") else {
        return Response::text("name a URL: /?url=http://hello/\n").with_status(400);
    };
    let fetched = Request::get(url).and_then(send);
    match fetched {
        Ok(reply) => {
            let status = reply.status;
            match reply.body.bytes(ANSWER_BYTES_MAX) {
                Ok(bytes) => Response::new(status, "text/plain", bytes),
                Err(error) => Response::text(format!("{url}: {error}\n")).with_status(502),
            }
        }
        Err(error) => Response::text(format!("{url}: {error:?}\n")).with_status(502),
    }
}

kogia_sdk::serve!(relay);
