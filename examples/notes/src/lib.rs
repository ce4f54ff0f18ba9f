//! Shows where data stays: each pod of a StatefulSet keeps its notes in a volume of its own.

use std::fs::{self, File};
use std::io::{self, Write};

use kogia_sdk::http::{Request, Response};

const NOTES: &str = "/data/notes";

fn answer(request: Request) -> Response {
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    match request.path() {
        "/" => match fs::read_to_string(NOTES) {
            Ok(notes) => Response::text(format!("{name} has kept:\n{notes}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Response::text(format!("{name} has kept nothing\n"))
            }
            Err(error) => Response::text(format!("{name}: {error}\n")).with_status(500),
        },
        "/keep" => match keep(request.query()) {
            Ok(()) => Response::text(format!("{name} keeps it\n")),
            Err(error) => Response::text(format!("{name}: {error}\n")).with_status(500),
        },
        path => Response::text(format!("there is no {path} here\n")).with_status(404),
    }
}

/// Appends a line to the pod's own notes: `/keep?buy+milk`.
fn keep(note: &str) -> io::Result<()> {
    let mut notes = File::options().create(true).append(true).open(NOTES)?;
    writeln!(notes, "{}", note.replace('+', " "))
}

kogia_sdk::serve!(answer);
