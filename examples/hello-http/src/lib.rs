//! Says hello over HTTP. One instance per request: nothing runs, and nothing is held, in between.

use kogia_sdk::http::{Request, Response};

fn hello(request: Request) -> Response {
    let name = request.query().strip_prefix("name=").unwrap_or("world");
    Response::text(format!("hello, {name}\n"))
}

kogia_sdk::serve!(hello);
