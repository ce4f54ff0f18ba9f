//! Which container of a pod a request is about, in the API server's words where it does not say.

use api::{Object, Status};

use crate::query::Query;

/// The container that `?container=` names, or the only one.
///
/// # Errors
/// 400 when there are several to choose from, or none of that name.
pub(crate) fn choose(pod: &Object, query: &Query) -> Result<String, Status> {
    let (containers, init) = (names(pod, "containers"), names(pod, "initContainers"));
    let ephemeral = names(pod, "ephemeralContainers");
    let name = pod.name();
    let container = match query.get("container").filter(|container| !container.is_empty()) {
        Some(container) => container,
        None => match containers.as_slice() {
            [only] => only,
            several => {
                let mut message = format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]",
                    several.join(" ")
                );
                if !init.is_empty() {
                    message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                return Err(Status::bad_request(message));
            }
        },
    };
    if ![&containers, &init, &ephemeral].iter().any(|list| list.contains(&container)) {
        return Err(Status::bad_request(format!("container {container} is not valid for pod {name}")));
    }
    Ok(container.to_owned())
}

fn names<'a>(pod: &'a Object, list: &str) -> Vec<&'a str> {
    let containers = pod.value["spec"][list].as_array();
    containers.into_iter().flatten().filter_map(|container| container["name"].as_str()).collect()
}
