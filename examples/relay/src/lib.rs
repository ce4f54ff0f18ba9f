//! Calls the URL that its caller names and passes the answer on: one service calling another, by name.

use kogia_sdk::http::{Request, Response, send};

/// More than this of a body is not passed on, either way.
const BODY_BYTES_MAX: usize = 1 << 20;

fn relay(request: Request) -> Response {
    let Some(url) = request.query().strip_prefix("url=").map(str::to_owned) else {
        return Response::text("name a URL: /?url=http://hello/\n").with_status(400);
    };
    let mut call = Request::get(&url);
    if request.method() == "POST" {
        match request.into_body().bytes(BODY_BYTES_MAX) {
            Ok(body) => call = call.map(|call| call.post(body)),
            Err(error) => return Response::text(format!("{error}\n")).with_status(400),
        }
    }
    match call.and_then(send) {
        Ok(reply) => {
            let status = reply.status;
            match reply.body.bytes(BODY_BYTES_MAX) {
                Ok(bytes) => Response::new(status, "text/plain", bytes),
                Err(error) => Response::text(format!("{url}: {error}\n")).with_status(502),
            }
        }
        Err(error) => Response::text(format!("{url}: {error:?}\n")).with_status(502),
    }
}

kogia_sdk::serve!(relay);
