//! `kogia describe`: one object as an indented outline, with its events, as kubectl prints objects of any kind.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use crate::client::{Client, Target, encode, named, text};
use crate::get::print_rows;

#[derive(clap::Args)]
pub struct Args {
    /// `pod web`, `deployment/web`; all of the type without a name
    #[arg(required = true, value_name = "TYPE [NAME]")]
    what: Vec<String>,
    #[command(flatten)]
    target: Target,
}

/// How far nested fields are set in.
const INDENT: usize = 2;

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&args.target, data_dir).await?;
    let (kind, names) = named(&args.what)?;
    let resource = client.resource(&kind).await?;
    let base = resource.path(Some(&client.namespace));
    let mut objects = Vec::new();
    if names.is_empty() {
        let mut list = client.get(&base).await?;
        if let Value::Array(items) = list["items"].take() {
            objects = items;
        }
    }
    for name in names {
        objects.push(client.get(&format!("{base}/{name}")).await?);
    }
    for (turn, object) in objects.iter().enumerate() {
        if turn > 0 {
            println!("\n");
        }
        print!("{}", outline(object));
        events(&client, object).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn events(client: &Client, object: &Value) -> anyhow::Result<()> {
    let metadata = &object["metadata"];
    let fields =
        format!("involvedObject.name={},involvedObject.uid={}", text(&metadata["name"]), text(&metadata["uid"]));
    let place = match text(&metadata["namespace"]) {
        namespace if namespace.is_empty() => "/api/v1/events".into(),
        namespace => format!("/api/v1/namespaces/{namespace}/events"),
    };
    let list = client.get(&format!("{place}?fieldSelector={}", encode(&fields))).await?;
    let Some(events) = list["items"].as_array().filter(|events| !events.is_empty()) else {
        println!("Events:  <none>");
        return Ok(());
    };
    println!("Events:");
    let heading = ["  Type", "Reason", "Count", "Last seen", "From", "Message"].map(str::to_owned).to_vec();
    let mut rows = vec![heading];
    let mut events: Vec<&Value> = events.iter().collect();
    events.sort_by_key(|event| text(&event["lastTimestamp"]));
    for event in events {
        let from = [&event["source"]["component"], &event["reportingComponent"]].into_iter().map(text);
        rows.push(vec![
            format!("  {}", text(&event["type"])),
            text(&event["reason"]),
            event["count"].as_i64().unwrap_or(1).to_string(),
            text(&event["lastTimestamp"]),
            from.into_iter().find(|from| !from.is_empty()).unwrap_or_default(),
            text(&event["message"]),
        ]);
    }
    print_rows(&rows);
    Ok(())
}

/// Name, namespace, labels and annotations first, then every field in words: `restartPolicy` is `Restart Policy`.
fn outline(object: &Value) -> String {
    let mut out = String::new();
    let metadata = &object["metadata"];
    for (title, value) in [("Name", &metadata["name"]), ("Namespace", &metadata["namespace"])] {
        if let Some(value) = value.as_str() {
            let _ = writeln!(out, "{:<14}{value}", format!("{title}:"));
        }
    }
    for (title, map) in [("Labels", &metadata["labels"]), ("Annotations", &metadata["annotations"])] {
        let mut entries = map.as_object().into_iter().flatten();
        let first = entries.next().map_or("<none>".into(), |(key, value)| format!("{key}={}", text(value)));
        let _ = writeln!(out, "{:<14}{first}", format!("{title}:"));
        for (key, value) in entries {
            let _ = writeln!(out, "{:<14}{key}={}", "", text(value));
        }
    }
    const SAID: [&str; 4] = ["name", "namespace", "labels", "annotations"];
    let mut rest = object.clone();
    if let Some(metadata) = rest["metadata"].as_object_mut() {
        metadata.retain(|name, _| !SAID.contains(&name.as_str()) && name != "managedFields");
    }
    write_fields(&mut out, &rest, 0);
    out
}

fn write_fields(out: &mut String, value: &Value, depth: usize) {
    let margin = " ".repeat(depth * INDENT);
    for (name, value) in value.as_object().into_iter().flatten() {
        let title = words(name);
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                let _ = writeln!(out, "{margin}{title}:");
                write_fields(out, value, depth + 1);
            }
            Value::Array(items) if !items.is_empty() => {
                let _ = writeln!(out, "{margin}{title}:");
                for item in items {
                    match item {
                        Value::Object(_) => write_fields(out, item, depth + 1),
                        plain => {
                            let _ = writeln!(out, "{margin}{:INDENT$}{}", "", scalar(plain));
                        }
                    }
                }
            }
            plain => {
                let _ = writeln!(out, "{margin}{title}:  {}", scalar(plain));
            }
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(_) | Value::Array(_) => "<none>".into(),
        other => other.to_string(),
    }
}

/// `terminationGracePeriodSeconds` → `Termination Grace Period Seconds`; `podIP` → `Pod IP`; a key with dots or
/// slashes stays as it is.
fn words(name: &str) -> String {
    if name.contains(|letter: char| !letter.is_ascii_alphanumeric()) {
        return name.to_owned();
    }
    let mut title = String::new();
    let mut before = ' ';
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && before.is_ascii_lowercase() {
            title.push(' ');
        }
        title.push(if title.is_empty() { letter.to_ascii_uppercase() } else { letter });
        before = letter;
    }
    title
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_words() {
        assert_eq!(words("terminationGracePeriodSeconds"), "Termination Grace Period Seconds");
        assert_eq!(words("podIP"), "Pod IP");
        assert_eq!(words("kubernetes.io/os"), "kubernetes.io/os");
    }

    #[test]
    fn an_outline_says_name_and_labels_first() {
        let object = serde_json::json!({
            "kind": "Pod", "metadata": {"name": "web", "namespace": "default", "labels": {"app": "web"}, "uid": "u"},
            "spec": {"containers": [{"image": "web:1", "args": ["a", "b"]}]},
        });
        let expected = "Name:         web\nNamespace:    default\nLabels:       app=web\nAnnotations:  <none>\n\
                        Kind:  Pod\nMetadata:\n  Uid:  u\nSpec:\n  Containers:\n    Args:\n      a\n      b\n    \
                        Image:  web:1\n";
        assert_eq!(outline(&object), expected);
    }
}
