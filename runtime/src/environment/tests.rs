//! Environments as tables: what a specification says, what the container sees.

use serde_json::{Value, json};

use super::*;

fn pod(container: &Value) -> k8s::Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "default", "uid": "u1", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [container]},
    }))
    .unwrap()
}

fn settings() -> Settings {
    let map = json!({"metadata": {"name": "settings"}, "data": {"COLOR": "blue", "SIZE": "xl"}});
    let secret = json!({"metadata": {"name": "keys"}, "data": {"TOKEN": "aHVzaA=="}});
    Settings {
        config_maps: BTreeMap::from([("settings".to_owned(), serde_json::from_value(map).unwrap())]),
        secrets: BTreeMap::from([("keys".to_owned(), serde_json::from_value(secret).unwrap())]),
        ..Settings::default()
    }
}

fn place() -> Place {
    Place {
        pod_addresses: vec!["10.42.0.7".into()],
        host_addresses: vec!["192.0.2.1".into()],
        cpu_millis: 2000,
        memory_bytes: 8 << 30,
    }
}

fn resolve(container: &Value) -> Result<Vec<(String, String)>, String> {
    let pod = pod(container);
    environment(&pod, &pod.spec.as_ref().unwrap().containers[0], &settings(), &place(), &[])
}

#[test]
fn one_variable_at_a_time() {
    let from = |source: Value| json!({"valueFrom": source});
    let key = |kind: &str, name: &str, key: &str| from(json!({kind: {"name": name, "key": key}}));
    let optional = |kind: &str, name: &str| from(json!({kind: {"name": name, "key": "X", "optional": true}}));
    let field = |path: &str| from(json!({"fieldRef": {"fieldPath": path}}));
    let amount =
        |resource: &str, divisor: &str| from(json!({"resourceFieldRef": {"resource": resource, "divisor": divisor}}));
    let table = [
        (json!({"value": "plain"}), Ok(Some("plain"))),
        (json!({}), Ok(Some(""))),
        (json!({"value": "$(COLOR)-$(NOBODY)-$$(COLOR)-$5"}), Ok(Some("blue-$(NOBODY)-$(COLOR)-$5"))),
        (key("configMapKeyRef", "settings", "SIZE"), Ok(Some("xl"))),
        (key("secretKeyRef", "keys", "TOKEN"), Ok(Some("hush"))),
        (optional("configMapKeyRef", "ghost"), Ok(None)),
        (optional("secretKeyRef", "keys"), Ok(None)),
        (key("configMapKeyRef", "settings", "X"), Err("couldn't find key X in ConfigMap default/settings")),
        (key("configMapKeyRef", "ghost", "X"), Err("configmap \"ghost\" not found")),
        (key("secretKeyRef", "keys", "X"), Err("couldn't find key X in Secret default/keys")),
        (key("secretKeyRef", "ghost", "X"), Err("secret \"ghost\" not found")),
        (field("metadata.name"), Ok(Some("web-1"))),
        (field("metadata.labels['app']"), Ok(Some("web"))),
        (field("metadata.labels['none']"), Ok(Some(""))),
        (field("spec.nodeName"), Ok(Some("n1"))),
        (field("status.podIP"), Ok(Some("10.42.0.7"))),
        (field("status.hostIP"), Ok(Some("192.0.2.1"))),
        (field("spec.containers"), Err("unsupported fieldPath: spec.containers")),
        (amount("limits.cpu", "0"), Ok(Some("1"))),
        (amount("limits.cpu", "1m"), Ok(Some("250"))),
        (amount("requests.cpu", "1m"), Ok(Some("250"))),
        (amount("limits.memory", "1Mi"), Ok(Some("8192"))),
    ];
    for (mut variable, expected) in table {
        variable["name"] = json!("V");
        let container = json!({
            "name": "web", "envFrom": [{"configMapRef": {"name": "settings"}}], "env": [variable],
            "resources": {"limits": {"cpu": "250m"}},
        });
        let found =
            resolve(&container).map(|all| all.into_iter().find(|(name, _)| name == "V").map(|(_, value)| value));
        let expected = expected.map(|value| value.map(str::to_owned)).map_err(str::to_owned);
        assert_eq!(found, expected, "{variable}");
    }
}

#[test]
fn whole_maps_come_first_and_single_variables_win() {
    let container = json!({
        "name": "web",
        "envFrom": [{"prefix": "P_", "secretRef": {"name": "keys"}}, {"configMapRef": {"name": "settings"}},
                    {"configMapRef": {"name": "ghost", "optional": true}}],
        "env": [{"name": "SIZE", "value": "s"}, {"name": "BOTH", "value": "$(SIZE) $(P_TOKEN)"}],
        "args": ["--size=$(SIZE)"],
    });
    let found = resolve(&container).unwrap();
    let found: Vec<(String, String)> = found.into_iter().filter(|(name, _)| !name.starts_with("KUBERNETES_")).collect();
    let expected = [("HOSTNAME", "web-1"), ("P_TOKEN", "hush"), ("COLOR", "blue"), ("SIZE", "s"), ("BOTH", "s hush")];
    assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let container = pod(&container).spec.unwrap().containers.remove(0);
    assert_eq!(arguments(&container, None, &found), ["web", "--size=s"]);
    let names = references(&container);
    assert_eq!(names.config_maps.into_iter().collect::<Vec<_>>(), ["ghost", "settings"]);
    let container = json!({"name": "web", "envFrom": [{"configMapRef": {"name": "ghost"}}]});
    assert_eq!(resolve(&container), Err("configmap \"ghost\" not found".to_owned()));
}

#[test]
fn services_as_variables() {
    let read = |name: &str, spec: Value| {
        let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        crate::network_driver::objects::service(&serde_json::from_value(object).unwrap())
    };
    let many = (0..300).map(|number| read(&format!("z{number:03}"), json!({"clusterIP": "10.43.1.1"})));
    let services = [
        read("redis-primary", json!({"clusterIP": "10.43.0.11", "ports": [{"port": 6379, "protocol": "TCP"}]})),
        read(
            "dns",
            json!({"clusterIPs": ["fd43::9"], "clusterIP": "fd43::9", "ports": [
                {"name": "dns-udp", "port": 53, "protocol": "UDP"}, {"name": "dns", "port": 53, "protocol": "TCP"}]}),
        ),
        read("headless", json!({"clusterIP": "None", "ports": [{"port": 80}]})),
        read("elsewhere", json!({"type": "ExternalName", "externalName": "example.com"})),
    ];
    let table = network::ServiceTable::build(services.into_iter().chain(many).collect(), &[]);
    let linked = links::linked(&table, "default");
    assert_eq!(linked.len(), crate::limits::SERVICE_LINKS_MAX);
    assert!(links::linked(&table, "other").is_empty());
    let container = json!({"name": "web", "env": [{"name": "WHERE", "value": "$(REDIS_PRIMARY_SERVICE_HOST):$(DNS_PORT)"},
                                                  {"name": "DNS_PORT", "value": "mine"}]});
    let pod = pod(&container);
    let found = environment(&pod, &pod.spec.as_ref().unwrap().containers[0], &settings(), &place(), &linked[..2]);
    let found: BTreeMap<String, String> = found.unwrap().into_iter().collect();
    let expected = [
        ("DNS_PORT", "mine"),
        ("DNS_PORT_53_TCP", "tcp://[fd43::9]:53"),
        ("DNS_PORT_53_TCP_ADDR", "fd43::9"),
        ("DNS_PORT_53_TCP_PORT", "53"),
        ("DNS_PORT_53_TCP_PROTO", "tcp"),
        ("DNS_PORT_53_UDP", "udp://[fd43::9]:53"),
        ("DNS_PORT_53_UDP_ADDR", "fd43::9"),
        ("DNS_PORT_53_UDP_PORT", "53"),
        ("DNS_PORT_53_UDP_PROTO", "udp"),
        ("DNS_SERVICE_HOST", "fd43::9"),
        ("DNS_SERVICE_PORT", "53"),
        ("DNS_SERVICE_PORT_DNS", "53"),
        ("DNS_SERVICE_PORT_DNS_UDP", "53"),
        ("HOSTNAME", "web-1"),
        ("KUBERNETES_PORT", "tcp://10.43.0.1:443"),
        ("KUBERNETES_PORT_443_TCP", "tcp://10.43.0.1:443"),
        ("KUBERNETES_PORT_443_TCP_ADDR", "10.43.0.1"),
        ("KUBERNETES_PORT_443_TCP_PORT", "443"),
        ("KUBERNETES_PORT_443_TCP_PROTO", "tcp"),
        ("KUBERNETES_SERVICE_HOST", "10.43.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
        ("REDIS_PRIMARY_PORT", "tcp://10.43.0.11:6379"),
        ("REDIS_PRIMARY_PORT_6379_TCP", "tcp://10.43.0.11:6379"),
        ("REDIS_PRIMARY_PORT_6379_TCP_ADDR", "10.43.0.11"),
        ("REDIS_PRIMARY_PORT_6379_TCP_PORT", "6379"),
        ("REDIS_PRIMARY_PORT_6379_TCP_PROTO", "tcp"),
        ("REDIS_PRIMARY_SERVICE_HOST", "10.43.0.11"),
        ("REDIS_PRIMARY_SERVICE_PORT", "6379"),
        ("WHERE", "10.43.0.11:udp://[fd43::9]:53"),
    ];
    assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
}
