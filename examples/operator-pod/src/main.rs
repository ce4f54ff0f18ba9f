//! An operator that runs in the cluster it looks after, as a pod like any other.
//!
//! A Mirror names a ConfigMap and namespaces; the operator keeps a copy of it in each of them, tells in the status how many
//! there are, and takes the copies away before the Mirror goes: that is what its finalizer is for.

mod api;

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use api::{Api, Error};

const MIRRORS: &str = "/apis/examples.kogia.dev/v1/mirrors";
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const FINALIZER: &str = "examples.kogia.dev/copies";
/// How long one watch lasts. After it everything is looked at again: sources change, and namespaces come.
const WATCH_SECONDS: u32 = 5;
/// How long to rest when the API cannot be reached.
const REST: Duration = Duration::from_secs(1);

fn main() -> std::io::Result<()> {
    let api = Api::of_pod()?;
    println!("watching mirrors");
    loop {
        if let Err(error) = turn(&api) {
            eprintln!("{error}");
            thread::sleep(REST);
        }
    }
}

/// Looks at every Mirror, and then at each that changes.
fn turn(api: &Api) -> Result<(), Error> {
    let list = api.get(MIRRORS)?;
    list["items"].as_array().into_iter().flatten().for_each(|mirror| look(api, mirror));
    let since = text(&list["metadata"], "resourceVersion");
    let watch = format!("{MIRRORS}?watch=true&resourceVersion={since}&timeoutSeconds={WATCH_SECONDS}");
    for change in api.watch(&watch)? {
        let change = change?;
        match text(&change, "type") {
            "ADDED" | "MODIFIED" => look(api, &change["object"]),
            // Too much has happened meanwhile: everything is listed again.
            "ERROR" => return Ok(()),
            _ => {}
        }
    }
    Ok(())
}

/// What cannot be done now is tried again after the watch.
fn look(api: &Api, mirror: &Value) {
    let name = format!("{}/{}", text(&mirror["metadata"], "namespace"), text(&mirror["metadata"], "name"));
    match reconcile(api, mirror) {
        Ok(()) => println!("reconciled {name}"),
        // Somebody else changed it first, and that change is on its way here.
        Err(Error::Refused(409, _)) => {}
        Err(error) => eprintln!("{name}: {error}"),
    }
}

fn reconcile(api: &Api, mirror: &Value) -> Result<(), Error> {
    let (metadata, source) = (&mirror["metadata"], text(&mirror["spec"], "source"));
    let home = text(metadata, "namespace");
    let own = format!("/apis/examples.kogia.dev/v1/namespaces/{home}/mirrors/{}", text(metadata, "name"));
    let copy = |namespace: &str| format!("/api/v1/namespaces/{namespace}/configmaps/{source}");
    let wanted: Vec<&str> = texts(&mirror["spec"]["namespaces"]).filter(|namespace| *namespace != home).collect();
    let had: Vec<&str> = texts(&mirror["status"]["copies"]).collect();
    let finalizers: Vec<&str> = texts(&metadata["finalizers"]).collect();
    let with_finalizers =
        |list: Vec<&str>| json!({"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": list}});
    if metadata["deletionTimestamp"].is_string() {
        if !finalizers.contains(&FINALIZER) {
            return Ok(());
        }
        for namespace in &had {
            api.delete(&copy(namespace))?;
        }
        let others = finalizers.into_iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        return api.patch(&own, MERGE, &with_finalizers(others)).map(drop);
    }
    if !finalizers.contains(&FINALIZER) {
        // The change comes back as an event, and then the copies are made.
        let all = finalizers.into_iter().chain([FINALIZER]).collect();
        return api.patch(&own, MERGE, &with_finalizers(all)).map(drop);
    }
    let original = api.get(&copy(home))?;
    // What may be there is written down before it is made, so that nothing is left behind whatever happens in between.
    let known: Vec<&str> = had.iter().copied().chain(wanted.iter().copied().filter(|one| !had.contains(one))).collect();
    status(api, &own, mirror, &known)?;
    for namespace in had.iter().filter(|namespace| !wanted.contains(namespace)) {
        api.delete(&copy(namespace))?;
    }
    let mut copies = Vec::new();
    for namespace in wanted {
        let body =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": source}, "data": original["data"]});
        let applied = format!("{}?fieldManager=mirror-operator&force=true", copy(namespace));
        match api.patch(&applied, APPLY, &body) {
            Ok(_) => copies.push(namespace),
            // The namespace may come later.
            Err(Error::Refused(404, _)) => {}
            Err(error) => return Err(error),
        }
    }
    let now = json!({"status": {"copies": known}, "metadata": metadata, "spec": mirror["spec"]});
    status(api, &own, &now, &copies)
}

/// Tells where copies are, unless that is told already.
fn status(api: &Api, own: &str, mirror: &Value, copies: &[&str]) -> Result<(), Error> {
    let generation = &mirror["metadata"]["generation"];
    let status = json!({"copies": copies, "observedGeneration": generation});
    if mirror["status"] == status {
        return Ok(());
    }
    api.patch(&format!("{own}/status"), MERGE, &json!({"status": status})).map(drop)
}

fn text<'v>(of: &'v Value, field: &str) -> &'v str {
    of[field].as_str().unwrap_or_default()
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}
