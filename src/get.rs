//! `kogia get`: objects as a table, as YAML, as JSON or by name, in kubectl's own form.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use futures::StreamExt;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::client::{Client, Resource, Target, encode, named, text};

/// What the server is asked for when a table is wanted.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[derive(clap::Args)]
pub struct Args {
    /// `pods`, `deployment web`, `svc/web`, or several types: `deployments,pods`
    #[arg(required = true, value_name = "TYPE [NAME]")]
    what: Vec<String>,
    /// `wide`, `yaml`, `json` or `name`
    #[arg(long, short, default_value = "table", hide_default_value = true,
        value_parser = ["table", "wide", "yaml", "json", "name"])]
    output: String,
    /// In all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Only objects with these labels
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    /// Only objects with these fields
    #[arg(long, value_name = "SELECTOR")]
    field_selector: Option<String>,
    /// Go on and print what changes
    #[arg(long, short)]
    watch: bool,
    /// Without the headings
    #[arg(long)]
    no_headers: bool,
    #[command(flatten)]
    target: Target,
}

pub async fn run(args: Args, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let client = Client::connect(&args.target, data_dir).await?;
    let (kinds, names) = named(&args.what)?;
    let kinds: Vec<&str> = kinds.split(',').collect();
    let mut shown = 0;
    for (turn, kind) in kinds.iter().enumerate() {
        let resource = client.resource(kind).await?;
        let found = match args.output.as_str() {
            "table" | "wide" => table(&client, &resource, &names, &args, kinds.len() > 1, turn).await?,
            _ => objects(&client, &resource, &names, &args).await?,
        };
        shown += found;
    }
    if shown == 0 && names.is_empty() && matches!(args.output.as_str(), "table" | "wide") {
        if args.all_namespaces {
            eprintln!("No resources found");
        } else {
            eprintln!("No resources found in {} namespace.", client.namespace);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The URLs to ask: one per name, or the one of the list.
fn paths(client: &Client, resource: &Resource, names: &[String], args: &Args) -> Vec<String> {
    let namespace = (!args.all_namespaces).then_some(client.namespace.as_str());
    let base = resource.path(namespace);
    if !names.is_empty() {
        return names.iter().map(|name| format!("{base}/{name}")).collect();
    }
    let selectors = [("labelSelector", &args.selector), ("fieldSelector", &args.field_selector)];
    let query = selectors.iter().filter_map(|(name, value)| Some(format!("{name}={}", encode(value.as_ref()?))));
    vec![format!("{base}?{}", query.collect::<Vec<_>>().join("&"))]
}

async fn table(
    client: &Client,
    resource: &Resource,
    names: &[String],
    args: &Args,
    prefixed: bool,
    turn: usize,
) -> anyhow::Result<usize> {
    let mut whole = Value::Null;
    for path in paths(client, resource, names, args) {
        let (_, mut part) = client.exchange(Method::GET, &path, TABLE, None).await?;
        match (&mut whole, part["rows"].take()) {
            (Value::Null, rows) => {
                part["rows"] = rows;
                whole = part;
            }
            (whole, Value::Array(rows)) => {
                if let Some(all) = whole["rows"].as_array_mut() {
                    all.extend(rows);
                }
            }
            _ => {}
        }
    }
    let prefix = prefixed.then(|| resource.shown());
    let show = Show { wide: args.output == "wide", namespaces: args.all_namespaces && resource.namespaced, prefix };
    let count = whole["rows"].as_array().map_or(0, Vec::len);
    if count > 0 || args.watch {
        if turn > 0 {
            println!();
        }
        print_rows(&show.rows(&whole, !args.no_headers));
    }
    if args.watch {
        follow(client, resource, names, args, &show, &whole).await?;
    }
    Ok(count)
}

/// Prints one row per change until the watch ends or the reader goes away.
async fn follow(
    client: &Client,
    resource: &Resource,
    names: &[String],
    args: &Args,
    show: &Show,
    seen: &Value,
) -> anyhow::Result<()> {
    let version = text(&seen["metadata"]["resourceVersion"]);
    let namespace = (!args.all_namespaces).then_some(client.namespace.as_str());
    let mut path = format!("{}?watch=true&resourceVersion={version}", resource.path(namespace));
    if let Some(name) = names.first() {
        path += &format!("&fieldSelector={}", encode(&format!("metadata.name={name}")));
    } else if let Some(selector) = &args.selector {
        path += &format!("&labelSelector={}", encode(selector));
    }
    let mut columns = seen["columnDefinitions"].clone();
    let mut chunks = client.stream(&path, TABLE).await?.into_data_stream();
    let mut pending = Vec::new();
    while let Some(chunk) = chunks.next().await {
        pending.extend_from_slice(&chunk?);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let mut event: Value = serde_json::from_slice(&line)?;
            anyhow::ensure!(event["type"] != "ERROR", "{}", text(&event["object"]["message"]));
            match event["object"].get("columnDefinitions") {
                Some(Value::Array(list)) if !list.is_empty() => columns = Value::Array(list.clone()),
                _ => event["object"]["columnDefinitions"] = columns.clone(),
            }
            print_rows(&show.rows(&event["object"], false));
        }
    }
    Ok(())
}

/// How a table is shown.
struct Show {
    wide: bool,
    namespaces: bool,
    prefix: Option<String>,
}

impl Show {
    fn rows(&self, table: &Value, headings: bool) -> Vec<Vec<String>> {
        let columns = table["columnDefinitions"].as_array().map_or(&[][..], Vec::as_slice);
        let shown: Vec<usize> =
            (0..columns.len()).filter(|at| self.wide || columns[*at]["priority"].as_i64().unwrap_or(0) == 0).collect();
        let mut lines = Vec::new();
        if headings {
            let names = shown.iter().map(|at| text(&columns[*at]["name"]).to_uppercase());
            lines.push(self.namespaces.then(|| "NAMESPACE".to_owned()).into_iter().chain(names).collect());
        }
        for row in table["rows"].as_array().into_iter().flatten() {
            let mut cells: Vec<String> = shown.iter().map(|at| cell(&row["cells"][*at])).collect();
            if let (Some(prefix), Some(name)) = (&self.prefix, cells.first_mut()) {
                *name = format!("{prefix}/{name}");
            }
            if self.namespaces {
                cells.insert(0, text(&row["object"]["metadata"]["namespace"]));
            }
            lines.push(cells);
        }
        lines
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "<none>".into(),
        Value::String(text) => text.replace('\n', "\\n"),
        Value::Null => "<none>".into(),
        other => other.to_string(),
    }
}

/// Prints rows in columns three spaces apart, as kubectl does.
pub fn print_rows(rows: &[Vec<String>]) {
    let mut widths = Vec::new();
    for row in rows {
        widths.resize(row.len().max(widths.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = std::io::stdout().lock();
    for row in rows {
        let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}   ")).collect();
        // A reader who has gone away (`| head`) wants no more.
        if writeln!(out, "{}", line.trim_end()).is_err() {
            return;
        }
    }
}

async fn objects(client: &Client, resource: &Resource, names: &[String], args: &Args) -> anyhow::Result<usize> {
    let mut items = Vec::new();
    for path in paths(client, resource, names, args) {
        let mut answer = client.get(&path).await?;
        match answer["items"].take() {
            Value::Array(list) => items.extend(list.into_iter().map(|item| complete(item, resource))),
            _ => items.push(answer),
        }
    }
    let count = items.len();
    if args.output == "name" {
        for item in &items {
            println!("{}/{}", resource.shown(), text(&item["metadata"]["name"]));
        }
        return Ok(count);
    }
    let whole = match <[Value; 1]>::try_from(items) {
        Ok([one]) if !names.is_empty() => one,
        Ok(one) => list(&one),
        Err(items) => list(&items),
    };
    if args.output == "json" {
        println!("{}", serde_json::to_string_pretty(&whole)?);
    } else {
        print!("{}", serde_norway::to_string(&whole)?);
    }
    Ok(count)
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items, "metadata": {"resourceVersion": ""}})
}

/// An item of a list does not repeat what it is; printed alone it must.
fn complete(mut item: Value, resource: &Resource) -> Value {
    let version = match resource.group.as_str() {
        "" => resource.version.clone(),
        group => format!("{group}/{}", resource.version),
    };
    item["apiVersion"] = json!(version);
    item["kind"] = json!(resource.kind);
    item
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_follow_kubectl() {
        let table = json!({
            "columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "Ready"}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["a", "1/1", "10.42.0.2"], "object": {"metadata": {"namespace": "x"}}}],
        });
        let show = Show { wide: false, namespaces: true, prefix: None };
        assert_eq!(show.rows(&table, true), [["NAMESPACE", "NAME", "READY"], ["x", "a", "1/1"]]);
        let show = Show { wide: true, namespaces: false, prefix: Some("pod".into()) };
        assert_eq!(show.rows(&table, false), [["pod/a", "1/1", "10.42.0.2"]]);
    }
}
