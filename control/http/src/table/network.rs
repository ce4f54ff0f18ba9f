//! Sheets of how traffic finds its way.

use api::Object;
use serde_json::Value;

use super::cells::{NONE, age, first_few, int_at, joined, labels, list_at, or_none, scalar, selector, str_at};
use super::{AGE, NAME, Sheet, text, wide};

pub(super) fn sheet(resource: &str) -> Option<&'static Sheet> {
    Some(match resource {
        "services" => &SERVICES,
        "endpoints" => &ENDPOINTS,
        "endpointslices.discovery.k8s.io" => &ENDPOINT_SLICES,
        "ingresses.networking.k8s.io" => &INGRESSES,
        "ingressclasses.networking.k8s.io" => &INGRESS_CLASSES,
        "networkpolicies.networking.k8s.io" => &NETWORK_POLICIES,
        _ => return None,
    })
}

/// How many addresses a cell shows before it counts the rest.
const SHOWN_MAX: usize = 3;

static SERVICES: Sheet = Sheet {
    columns: &[NAME, text("Type"), text("Cluster-IP"), text("External-IP"), text("Port(s)"), AGE, wide("Selector")],
    row: |object, now_ms| {
        let value = &object.value;
        vec![
            object.name().into(),
            str_at(value, "spec.type").into(),
            or_none(str_at(value, "spec.clusterIP")),
            external_address(value).into(),
            joined(list_at(value, "spec.ports").iter().map(service_port)).into(),
            age(object, now_ms),
            labels(object.field("spec.selector")).into(),
        ]
    },
};

fn external_address(service: &Value) -> String {
    let listed = list_at(service, "spec.externalIPs").iter().filter_map(Value::as_str);
    match str_at(service, "spec.type") {
        "ExternalName" => str_at(service, "spec.externalName").to_owned(),
        "LoadBalancer" => {
            let given = list_at(service, "status.loadBalancer.ingress").iter().map(balancer_address);
            let all: Vec<&str> = given.chain(listed).filter(|address| !address.is_empty()).collect();
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        _ => joined(listed),
    }
}

fn balancer_address(ingress: &Value) -> &str {
    match str_at(ingress, "ip") {
        "" => str_at(ingress, "hostname"),
        ip => ip,
    }
}

fn service_port(port: &Value) -> String {
    let (number, protocol) = (int_at(port, "port"), str_at(port, "protocol"));
    match int_at(port, "nodePort") {
        0 => format!("{number}/{protocol}"),
        node_port => format!("{number}:{node_port}/{protocol}"),
    }
}

static ENDPOINTS: Sheet = Sheet {
    columns: &[NAME, text("Endpoints"), AGE],
    row: |object, now_ms| {
        let mut all: Vec<String> = Vec::new();
        for subset in list_at(&object.value, "subsets") {
            for address in list_at(subset, "addresses") {
                let ip = str_at(address, "ip");
                let ports = list_at(subset, "ports");
                all.extend(ports.iter().map(|port| format!("{ip}:{}", int_at(port, "port"))));
                if ports.is_empty() {
                    all.push(ip.to_owned());
                }
            }
        }
        vec![object.name().into(), first_few(&all, SHOWN_MAX).into(), age(object, now_ms)]
    },
};

static ENDPOINT_SLICES: Sheet = Sheet {
    columns: &[NAME, text("AddressType"), text("Ports"), text("Endpoints"), AGE],
    row: |object, now_ms| {
        let value = &object.value;
        let ports: Vec<String> = list_at(value, "ports").iter().map(|port| scalar(&port["port"], "*")).collect();
        let endpoints = list_at(value, "endpoints").iter().flat_map(|endpoint| list_at(endpoint, "addresses"));
        let endpoints: Vec<String> = endpoints.filter_map(Value::as_str).map(str::to_owned).collect();
        let unset = |text: String| if text == NONE { Value::from("<unset>") } else { text.into() };
        vec![
            object.name().into(),
            str_at(value, "addressType").into(),
            unset(first_few(&ports, SHOWN_MAX)),
            unset(first_few(&endpoints, SHOWN_MAX)),
            age(object, now_ms),
        ]
    },
};

static INGRESSES: Sheet = Sheet {
    columns: &[NAME, text("Class"), text("Hosts"), text("Address"), text("Ports"), AGE],
    row: |object, now_ms| {
        let value = &object.value;
        let class = match str_at(value, "spec.ingressClassName") {
            "" => object.annotation("kubernetes.io/ingress.class").unwrap_or_default(),
            class => class,
        };
        let addresses: Vec<_> = list_at(value, "status.loadBalancer.ingress").iter().map(balancer_address).collect();
        vec![
            object.name().into(),
            or_none(class),
            hosts(object).into(),
            addresses.join(",").into(),
            if list_at(value, "spec.tls").is_empty() { "80".into() } else { "80, 443".into() },
            age(object, now_ms),
        ]
    },
};

fn hosts(ingress: &Object) -> String {
    let hosts: Vec<String> = list_at(&ingress.value, "spec.rules")
        .iter()
        .map(|rule| str_at(rule, "host"))
        .filter(|host| !host.is_empty())
        .map(str::to_owned)
        .collect();
    if hosts.is_empty() { "*".into() } else { first_few(&hosts, SHOWN_MAX) }
}

static INGRESS_CLASSES: Sheet = Sheet {
    columns: &[NAME, text("Controller"), text("Parameters"), AGE],
    row: |object, now_ms| {
        let parameters = object.field("spec.parameters");
        let reference = if parameters.is_object() {
            let group = str_at(parameters, "apiGroup");
            let dotted = if group.is_empty() { String::new() } else { format!(".{group}") };
            format!("{}{dotted}/{}", str_at(parameters, "kind"), str_at(parameters, "name"))
        } else {
            NONE.into()
        };
        let controller = str_at(&object.value, "spec.controller").into();
        vec![object.name().into(), controller, reference.into(), age(object, now_ms)]
    },
};

static NETWORK_POLICIES: Sheet = Sheet {
    columns: &[NAME, text("Pod-Selector"), AGE],
    row: |object, now_ms| {
        vec![object.name().into(), selector(object.field("spec.podSelector")).into(), age(object, now_ms)]
    },
};

#[cfg(test)]
mod tests {
    use super::*;
    use api::Key;
    use serde_json::json;

    fn cells(sheet: &Sheet, value: Value) -> Vec<String> {
        let row = (sheet.row)(&Object::new(Key::new("x", "d", "x"), 1, value), 0);
        row.iter().map(|cell| scalar(cell, "")).collect()
    }

    #[test]
    fn services_say_how_they_are_reached() {
        let ports = json!([{"port": 80, "protocol": "TCP"}, {"port": 443, "nodePort": 30443, "protocol": "TCP"}]);
        let row = cells(&SERVICES, json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.43.0.9", "ports": ports}}));
        assert_eq!(row[1..5], ["LoadBalancer", "10.43.0.9", "<pending>", "80/TCP,443:30443/TCP"]);
        let row = cells(&SERVICES, json!({"spec": {"type": "ExternalName", "externalName": "example.com"}}));
        assert_eq!(row[2..5], ["<none>", "example.com", "<none>"]);
    }

    #[test]
    fn ingresses_list_hosts() {
        let row = cells(&INGRESSES, json!({"spec": {"rules": [{"host": "a.localhost"}, {}], "tls": [{}]}}));
        assert_eq!(row[1..5], ["<none>", "a.localhost", "", "80, 443"]);
        assert_eq!(cells(&INGRESSES, json!({"spec": {"rules": [{}]}}))[2], "*");
    }

    #[test]
    fn many_endpoints_are_counted() {
        let addresses: Vec<Value> = (1..=5).map(|n| json!({"ip": format!("10.42.0.{n}")})).collect();
        let row = cells(&ENDPOINTS, json!({"subsets": [{"addresses": addresses, "ports": [{"port": 8080}]}]}));
        assert_eq!(row[1], "10.42.0.1:8080,10.42.0.2:8080,10.42.0.3:8080 + 2 more...");
    }
}
