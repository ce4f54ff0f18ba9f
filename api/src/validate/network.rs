//! The rules of Services, their endpoints, Ingresses and NetworkPolicies.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Report, items, members, names, pod, text};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub(super) fn check_service(spec: &Value, report: &mut Report) {
    let kinds = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    let kind = text(spec, "type");
    if kind.is_empty() {
        report.required("spec.type", "");
    } else {
        report.one_of("spec.type", &spec["type"], kinds);
    }
    let headless = text(spec, "clusterIP") == "None" || items(&spec["clusterIPs"]).any(|address| address == "None");
    if kind == "ExternalName" {
        report.present("spec.externalName", &spec["externalName"]);
        report.named_if(
            "spec.externalName",
            &json!(text(spec, "externalName").trim_end_matches('.')),
            names::subdomain,
        );
        if !text(spec, "clusterIP").is_empty() {
            report.forbidden("spec.clusterIPs[0]", "may not be set for ExternalName services");
        }
    } else {
        addresses(spec, kind, headless, report);
    }
    service_ports(&spec["ports"], kind == "ExternalName" || headless, kind, report);
    report.one_of("spec.sessionAffinity", &spec["sessionAffinity"], &["ClientIP", "None"]);
    report.labels("spec.selector", &spec["selector"]);
    report.one_of("spec.internalTrafficPolicy", &spec["internalTrafficPolicy"], &["Cluster", "Local"]);
    report.one_of("spec.externalTrafficPolicy", &spec["externalTrafficPolicy"], &["Cluster", "Local"]);
    report.one_of("spec.trafficDistribution", &spec["trafficDistribution"], &["PreferClose"]);
    let policies = &["SingleStack", "PreferDualStack", "RequireDualStack"];
    report.one_of("spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], policies);
    for (index, family) in items(&spec["ipFamilies"]).enumerate() {
        report.one_of(format!("spec.ipFamilies[{index}]"), family, &["IPv4", "IPv6"]);
    }
    let seconds = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    report.between("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, 1, 86400);
}

fn addresses(spec: &Value, kind: &str, headless: bool, report: &mut Report) {
    let first = &spec["clusterIPs"][0];
    if !first.is_null() && spec["clusterIP"] != *first {
        report.invalid("spec.clusterIPs", &spec["clusterIPs"], "first value must match `clusterIP`");
    }
    if headless && kind != "ClusterIP" {
        let detail = format!("may not be set to 'None' for {kind} services");
        report.invalid("spec.clusterIPs[0]", &json!("None"), &detail);
    }
    if !headless {
        report.named_if("spec.clusterIPs[0]", &spec["clusterIP"], names::address);
    }
    for (index, address) in items(&spec["externalIPs"]).enumerate() {
        report.named(&format!("spec.externalIPs[{index}]"), address.as_str().unwrap_or_default(), names::address);
    }
}

fn service_ports(ports: &Value, optional: bool, kind: &str, report: &mut Report) {
    let count = items(ports).count();
    if count == 0 && !optional {
        report.required("spec.ports", "");
    }
    report.unique("spec.ports", ports, "name");
    let mut seen = HashSet::new();
    for (index, port) in items(ports).enumerate() {
        let at = |name: &str| format!("spec.ports[{index}].{name}");
        if count > 1 {
            report.present(at("name"), &port["name"]);
        }
        report.named_if(&at("name"), &port["name"], names::label);
        report.port(at("port"), &port["port"]);
        report.one_of(at("protocol"), &port["protocol"], PROTOCOLS);
        if !port["targetPort"].is_null() {
            pod::named_or_numbered(&port["targetPort"], &at("targetPort"), report);
        }
        if port["nodePort"].as_i64().is_some_and(|number| number != 0) {
            if kind == "ClusterIP" {
                report.forbidden(at("nodePort"), "may not be used when `type` is 'ClusterIP'");
            } else {
                report.port(at("nodePort"), &port["nodePort"]);
            }
        }
        if !seen.insert((port["port"].as_i64(), text(port, "protocol"))) {
            report.duplicate(
                format!("spec.ports[{index}]"),
                &json!({"port": port["port"], "protocol": port["protocol"]}),
            );
        }
    }
}

/// A Service keeps its addresses while it has any.
pub(super) fn check_service_update(old: &Value, new: &Value, report: &mut Report) {
    let (old, new) = (&old["spec"], &new["spec"]);
    if text(old, "type") == "ExternalName" || text(new, "type") == "ExternalName" {
        return;
    }
    let (before, after) = (text(old, "clusterIP"), text(new, "clusterIP"));
    if !before.is_empty() && !after.is_empty() && before != after {
        report.invalid("spec.clusterIPs[0]", &json!([after]), "may not change once set");
    }
}

pub(super) fn check_endpoints(object: &Value, report: &mut Report) {
    for (index, subset) in items(&object["subsets"]).enumerate() {
        let field = format!("subsets[{index}]");
        for list in ["addresses", "notReadyAddresses"] {
            for (place, address) in items(&subset[list]).enumerate() {
                report.named(&format!("{field}.{list}[{place}].ip"), text(address, "ip"), names::address);
            }
        }
        for (place, port) in items(&subset["ports"]).enumerate() {
            report.port(format!("{field}.ports[{place}].port"), &port["port"]);
            report.one_of(format!("{field}.ports[{place}].protocol"), &port["protocol"], PROTOCOLS);
        }
    }
}

/// How many addresses one endpoint, and how many endpoints one slice may have, as upstream has it.
const ADDRESSES_MAX: usize = 100;
const ENDPOINTS_MAX: usize = 1000;

pub(super) fn check_slice(object: &Value, report: &mut Report) {
    let kind = text(object, "addressType");
    if kind.is_empty() {
        report.required("addressType", "");
    } else {
        report.one_of("addressType", &object["addressType"], &["FQDN", "IPv4", "IPv6"]);
    }
    if items(&object["endpoints"]).count() > ENDPOINTS_MAX {
        report.invalid("endpoints", &json!(ENDPOINTS_MAX), "must have at most 1000 items");
    }
    for (index, endpoint) in items(&object["endpoints"]).enumerate() {
        let field = format!("endpoints[{index}].addresses");
        match items(&endpoint["addresses"]).count() {
            0 => report.required(&*field, "must contain at least 1 address"),
            count if count > ADDRESSES_MAX => report.invalid(&*field, &json!(count), "must have at most 100 items"),
            _ => {}
        }
        for (place, address) in items(&endpoint["addresses"]).enumerate() {
            let rule = if kind == "FQDN" { names::subdomain } else { names::address };
            report.named(&format!("{field}[{place}]"), address.as_str().unwrap_or_default(), rule);
        }
    }
    for (index, port) in items(&object["ports"]).enumerate() {
        report.one_of(format!("ports[{index}].protocol"), &port["protocol"], PROTOCOLS);
        report.named_if(&format!("ports[{index}].name"), &port["name"], names::label);
    }
}

pub(super) fn check_ingress(spec: &Value, report: &mut Report) {
    let rules = items(&spec["rules"]).count();
    if rules == 0 && !spec["defaultBackend"].is_object() {
        report.invalid("spec", &Value::Null, "either `defaultBackend` or `rules` must be specified");
    }
    if spec["defaultBackend"].is_object() {
        backend(&spec["defaultBackend"], "spec.defaultBackend", report);
    }
    report.named_if("spec.ingressClassName", &spec["ingressClassName"], names::subdomain);
    for (index, rule) in items(&spec["rules"]).enumerate() {
        let field = format!("spec.rules[{index}]");
        host(&rule["host"], &format!("{field}.host"), report);
        if !rule["http"].is_object() {
            continue;
        }
        let field = format!("{field}.http.paths");
        if items(&rule["http"]["paths"]).next().is_none() {
            report.required(&*field, "");
        }
        for (place, path) in items(&rule["http"]["paths"]).enumerate() {
            ingress_path(path, &format!("{field}[{place}]"), report);
        }
    }
    for (index, entry) in items(&spec["tls"]).enumerate() {
        for (place, name) in items(&entry["hosts"]).enumerate() {
            host(name, &format!("spec.tls[{index}].hosts[{place}]"), report);
        }
    }
}

fn host(host: &Value, field: &str, report: &mut Report) {
    let name = host.as_str().unwrap_or_default();
    if name.parse::<std::net::IpAddr>().is_ok() {
        report.invalid(field, host, "must be a DNS name, not an IP address");
    } else if name.contains('*') {
        report.named(field, name, names::wildcard_subdomain);
    } else {
        report.named_if(field, host, names::subdomain);
    }
}

fn ingress_path(path: &Value, field: &str, report: &mut Report) {
    let kind = text(path, "pathType");
    if kind.is_empty() {
        report.required(format!("{field}.pathType"), "pathType must be specified");
    } else {
        let kinds = &["Exact", "ImplementationSpecific", "Prefix"];
        report.one_of(format!("{field}.pathType"), &path["pathType"], kinds);
    }
    let (place, route) = (format!("{field}.path"), text(path, "path"));
    let absolute = route.starts_with('/') || (route.is_empty() && kind == "ImplementationSpecific");
    if !absolute {
        report.invalid(&*place, &json!(route), "must be an absolute path");
    }
    if matches!(kind, "Exact" | "Prefix") {
        let lower = route.to_lowercase();
        for bad in ["//", "/./", "/../", "%2f"].iter().filter(|bad| lower.contains(**bad)) {
            report.invalid(&*place, &json!(route), &format!("must not contain '{bad}'"));
        }
        for bad in ["/..", "/."].iter().filter(|bad| route.ends_with(**bad)) {
            report.invalid(&*place, &json!(route), &format!("cannot end with '{bad}'"));
        }
    }
    backend(&path["backend"], &format!("{field}.backend"), report);
}

fn backend(backend: &Value, field: &str, report: &mut Report) {
    let (service, resource) = (&backend["service"], &backend["resource"]);
    match (service.is_object(), resource.is_object()) {
        (true, true) => report.invalid(field, &json!(""), "cannot set both resource and service backends"),
        (false, false) => report.required(field, "resource or service backend is required"),
        (false, true) => {
            report.present(format!("{field}.resource.kind"), &resource["kind"]);
            report.present(format!("{field}.resource.name"), &resource["name"]);
        }
        (true, false) => {
            report.present(format!("{field}.service.name"), &service["name"]);
            report.named_if(&format!("{field}.service.name"), &service["name"], names::letter_label);
            let (name, number) = (text(&service["port"], "name"), service["port"]["number"].as_i64().unwrap_or(0));
            match (name, number) {
                ("", 0) => report.required(field, "port name or number is required"),
                ("", _) => report.port(format!("{field}.service.port.number"), &service["port"]["number"]),
                (_, 0) => report.named(&format!("{field}.service.port.name"), name, names::label),
                _ => report.invalid(field, &json!(""), "cannot set both port name & port number"),
            }
        }
    }
}

pub(super) fn check_policy(spec: &Value, report: &mut Report) {
    report.selector("spec.podSelector", &spec["podSelector"]);
    for (index, kind) in items(&spec["policyTypes"]).enumerate() {
        report.one_of(format!("spec.policyTypes[{index}]"), kind, &["Ingress", "Egress"]);
    }
    for (direction, side) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in items(&spec[direction]).enumerate() {
            let field = format!("spec.{direction}[{index}]");
            for (place, port) in items(&rule["ports"]).enumerate() {
                policy_port(port, &format!("{field}.ports[{place}]"), report);
            }
            for (place, peer) in items(&rule[side]).enumerate() {
                policy_peer(peer, &format!("{field}.{side}[{place}]"), report);
            }
        }
    }
}

fn policy_port(port: &Value, field: &str, report: &mut Report) {
    report.one_of(format!("{field}.protocol"), &port["protocol"], PROTOCOLS);
    if !port["port"].is_null() {
        pod::named_or_numbered(&port["port"], &format!("{field}.port"), report);
    }
    if let Some(end) = port["endPort"].as_i64() {
        match port["port"].as_i64() {
            None => report.invalid(
                format!("{field}.endPort"),
                &port["endPort"],
                "may not be specified when `port` is non-numeric",
            ),
            Some(first) if end < first => {
                report.invalid(format!("{field}.endPort"), &port["endPort"], "must be greater than or equal to `port`");
            }
            Some(_) => report.port(format!("{field}.endPort"), &port["endPort"]),
        }
    }
}

fn policy_peer(peer: &Value, field: &str, report: &mut Report) {
    match members(peer).count() {
        0 => report.required(field, "must specify a peer"),
        count if count > 1 && peer["ipBlock"].is_object() => {
            report.forbidden(field, "may not specify both ipBlock and another peer");
        }
        _ => {}
    }
    for kind in ["podSelector", "namespaceSelector"] {
        report.selector(&format!("{field}.{kind}"), &peer[kind]);
    }
    let block = &peer["ipBlock"];
    if block.is_object() {
        report.named(&format!("{field}.ipBlock.cidr"), text(block, "cidr"), names::network);
        for (index, except) in items(&block["except"]).enumerate() {
            let field = format!("{field}.ipBlock.except[{index}]");
            report.named(&field, except.as_str().unwrap_or_default(), names::network);
        }
    }
}
