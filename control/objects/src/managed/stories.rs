//! Server-side apply as a table of stories: `scenarios.txt`.

use std::fmt::Write as _;

use super::*;

struct Story<'s> {
    shape: Shape<'s>,
    api_version: String,
    live: Value,
    seconds: u32,
}

impl Story<'_> {
    /// Does one step; the conflicts, if any, are lines.
    fn step(&mut self, line: &str) -> Vec<String> {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (verb, who, body) = (word(), word(), word());
        let (manager, subresource) = who.split_once('/').unwrap_or((who, ""));
        let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{line}: {error}"));
        self.seconds += 1;
        let now = format!("2026-01-01T00:00:{:02}Z", self.seconds);
        let writer = Writer { manager, api_version: &self.api_version, subresource, now: &now };
        let kept = if subresource == "status" { "spec" } else { "status" };
        let kept = (kept, self.live.get(kept).cloned());
        if verb == "update" {
            let mut new = restored(api::patch::merge(&self.live, &body).unwrap(), kept);
            track(self.shape, Some(&self.live), &mut new, &writer);
            self.live = new;
            return Vec::new();
        }
        match apply(self.shape, &self.live, &body, &writer, verb == "force") {
            Ok(merged) => {
                self.live = restored(merged, kept);
                Vec::new()
            }
            Err(conflicts) => conflicts.iter().map(|told| format!("! {}: {}", told.manager, told.field)).collect(),
        }
    }

    fn end(&self) -> String {
        let mut object = self.live.clone();
        let managed = decode(&object);
        meta::metadata_mut(&mut object).remove("managedFields");
        let mut told = format!("= {object}");
        for entry in managed {
            let operation = if entry.applied { "Apply" } else { "Update" };
            let part = if entry.subresource.is_empty() { String::new() } else { format!("/{}", entry.subresource) };
            write!(told, "\n{operation} {}{part}: {}", entry.manager, entry.fields.paths().join(" ")).unwrap();
        }
        told
    }
}

/// The door lets no write change what its subresource does not serve.
fn restored(mut object: Value, (part, before): (&str, Option<Value>)) -> Value {
    match before {
        Some(before) => object[part] = before,
        None => drop(object.as_object_mut().map(|object| object.remove(part))),
    }
    object
}

fn told(block: &str) -> String {
    let mut lines = block.lines().filter(|line| !line.is_empty());
    let (title, message) = (lines.next().unwrap(), lines.next().unwrap());
    let (package, _) = message.split_once('.').unwrap();
    let mut story = Story {
        shape: Shape::of_message(&format!("k8s.io/api/{message}")),
        api_version: package.trim_start_matches("core/").to_owned(),
        live: json!({"metadata": {"name": "x"}}),
        seconds: 0,
    };
    let mut told = format!("\n== {title}\n{message}\n");
    for line in lines.filter(|line| ["apply ", "force ", "update "].iter().any(|verb| line.starts_with(verb))) {
        writeln!(told, "{line}").unwrap();
        for conflict in story.step(line) {
            writeln!(told, "{conflict}").unwrap();
        }
    }
    writeln!(told, "{}", story.end()).unwrap();
    told
}

#[test]
fn applying_does_what_the_documentation_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/managed/scenarios.txt");
    let given = std::fs::read_to_string(path).unwrap();
    let (head, blocks) = given.split_once("\n== ").expect("a comment and stories");
    let all = blocks.split("\n== ").map(told).collect::<String>();
    let all = format!("{head}{all}");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &all).unwrap();
        return;
    }
    for (given, told) in given.split("\n== ").zip(all.split("\n== ")) {
        assert_eq!(given.trim_end(), told.trim_end(), "UPDATE=1 rewrites the outcomes");
    }
}
