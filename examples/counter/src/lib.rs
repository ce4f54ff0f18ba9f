//! Shows where configuration comes from: environment from a ConfigMap and a Secret, and the same two as files.

use std::fs;

use kogia_sdk::http::{Request, Response};

fn show(request: Request) -> Response {
    match request.path() {
        "/" => Response::text(format!(
            "greeting from the environment: {}\ntoken from the environment: {}\nstep from a file: {}\n",
            variable("GREETING"),
            variable("TOKEN"),
            file("/etc/counter/step"),
        )),
        "/count" => count(request.query()),
        path => Response::text(format!("there is no {path} here\n")).with_status(404),
    }
}

/// Counts from what the caller says, by the configured step: `/count?from=4`.
fn count(query: &str) -> Response {
    let from = query.strip_prefix("from=").unwrap_or("0").parse::<i64>();
    let step = file("/etc/counter/step").parse::<i64>();
    match (from, step) {
        (Ok(from), Ok(step)) => Response::text(format!("{}\n", from.saturating_add(step))),
        (Err(error), _) => Response::text(format!("from: {error}\n")).with_status(400),
        (_, Err(error)) => Response::text(format!("/etc/counter/step: {error}\n")).with_status(500),
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| "not set".into())
}

fn file(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|error| format!("{path}: {error}"), |text| text.trim().to_owned())
}

kogia_sdk::serve!(show);
