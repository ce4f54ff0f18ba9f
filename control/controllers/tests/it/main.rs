//! Stories of the controllers, read from `scenarios/*.txt`.
//!
//! A story is a list of blocks: a command (perhaps with a document under it), a line `----`, and what is seen. The
//! stories run without a clock, a store or a task; with `UPDATE=1` what is seen is written back, and the reviewer
//! reads the difference.

mod interpreter;
mod simulation;
mod whole;

use std::path::Path;
use std::{env, fs};

use interpreter::Story;

#[test]
fn stories_end_as_they_are_told() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut wrong = Vec::new();
    for file in files {
        let told = fs::read_to_string(&file).unwrap();
        let seen = Story::default().retell(&told);
        if told == seen {
            continue;
        }
        if env::var_os("UPDATE").is_some() {
            fs::write(&file, seen).unwrap();
        } else {
            wrong.push(format!("{}:\n{}", file.display(), first_difference(&told, &seen)));
        }
    }
    assert!(wrong.is_empty(), "{}\nUPDATE=1 rewrites the files.", wrong.join("\n"));
}

fn first_difference(told: &str, seen: &str) -> String {
    let lines = told.lines().zip(seen.lines()).enumerate();
    let different = lines.filter(|(_, (told, seen))| told != seen).take(5);
    let list: Vec<String> = different
        .map(|(line, (told, seen))| format!("  line {}\n    told: {told}\n    seen: {seen}", line + 1))
        .collect();
    if list.is_empty() { "  one is longer than the other".to_owned() } else { list.join("\n") }
}
