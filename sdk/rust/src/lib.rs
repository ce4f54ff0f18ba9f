//! Writes WebAssembly services for Kogia, or for any other WASI 0.2 host.
//!
//! ```ignore
//! use kogia_sdk::http::{Request, Response};
//!
//! fn hello(request: Request) -> Response {
//!     Response::text(format!("you asked for {}\n", request.path()))
//! }
//!
//! kogia_sdk::serve!(hello);
//! ```
//!
//! Programs that only run from start to end need nothing from here but [`exit`]: plain `std` does the rest.

pub mod http;

#[doc(hidden)]
pub use wasip2;

/// Ends the program with an exit code of its own choice.
///
/// `std::process::exit` knows only success and failure on WASI 0.2; this keeps the number, and Kubernetes shows it.
pub fn exit(code: u8) -> ! {
    wasip2::cli::exit::exit_with_code(code);
    unreachable!("the host has ended this program")
}

/// Makes a function `fn(Request) -> Response` the component's HTTP service.
#[macro_export]
macro_rules! serve {
    ($handler:path) => {
        struct KogiaService;

        impl $crate::wasip2::exports::http::incoming_handler::Guest for KogiaService {
            fn handle(
                request: $crate::wasip2::http::types::IncomingRequest,
                out: $crate::wasip2::http::types::ResponseOutparam,
            ) {
                $crate::http::answer(out, $handler($crate::http::Request::incoming(request)));
            }
        }

        $crate::wasip2::http::proxy::export!(KogiaService with_types_in $crate::wasip2);
    };
}
