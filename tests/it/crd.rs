//! Custom resources, as operators and charts bring them: a definition makes a resource that kubectl 1.27, 1.30 and the
//! newest cannot tell from a built-in one.

use crate::harness::{Cluster, Kubectl, eventually};

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: crontabs.stable.example.com
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct]}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          description: Runs an image again and again.
          required: [spec]
          properties:
            spec:
              type: object
              required: [cronSpec, image]
              properties:
                cronSpec:
                  type: string
                  description: When to run, in five fields.
                  pattern: '^(\S+\s+){4}\S+$'
                image: {type: string, minLength: 1}
                replicas: {type: integer, minimum: 0, maximum: 10, default: 1}
                selector: {type: string}
                colour: {type: string, enum: [red, green]}
                ports:
                  type: array
                  x-kubernetes-list-type: map
                  x-kubernetes-list-map-keys: [port]
                  items:
                    type: object
                    required: [port]
                    properties:
                      port: {x-kubernetes-int-or-string: true}
                      name: {type: string}
                extra: {type: object, x-kubernetes-preserve-unknown-fields: true}
            status:
              type: object
              properties:
                phase: {type: string}
                replicas: {type: integer}
      subresources:
        status: {}
        scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}
      selectableFields:
        - jsonPath: .spec.colour
      additionalPrinterColumns:
        - {name: Spec, type: string, jsonPath: .spec.cronSpec}
        - {name: Replicas, type: integer, jsonPath: .spec.replicas}
        - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    - name: v1beta1
      served: true
      storage: false
      deprecated: true
      schema:
        openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#;

const CRONTAB: &str = r#"
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: nightly}
spec: {cronSpec: "0 2 * * *", image: backup, colour: red, extra: {anything: [1, {goes: true}]}}
"#;

#[test]
fn a_definition_makes_a_resource_for_every_kubectl() {
    let kubectls = Kubectl::all();
    if kubectls.is_empty() {
        return;
    }
    let cluster = Cluster::start();
    for kubectl in &kubectls {
        life(&cluster, kubectl);
    }
}

#[test]
fn definitions_and_their_objects_outlive_the_process_and_go_with_their_namespace() {
    let Some(kubectl) = Kubectl::newest() else { return };
    let mut cluster = Cluster::start();
    kubectl.run_with(&cluster, &["apply", "-f", "-"], DEFINITION).ok();
    let wait = ["wait", "--for=condition=Established", "crd/crontabs.stable.example.com", "--timeout=60s"];
    kubectl.run(&cluster, &wait).ok();
    kubectl.run(&cluster, &["create", "namespace", "night"]).ok();
    kubectl.run_with(&cluster, &["apply", "-n", "night", "-f", "-"], CRONTAB).ok();
    cluster.kill();
    cluster.up();
    let again = CRONTAB.replace("backup", "backup:2");
    let applied = kubectl.run_with(&cluster, &["apply", "-n", "night", "-f", "-"], &again).ok();
    assert!(applied.contains("crontab.stable.example.com/nightly configured"), "{applied}");
    kubectl.run(&cluster, &["delete", "namespace", "night", "--timeout=60s"]).ok();
    let left = kubectl.run(&cluster, &["get", "crontabs", "--all-namespaces", "-o", "name"]).ok();
    assert_eq!(left, "");
}

/// From the definition to its end.
fn life(cluster: &Cluster, kubectl: &Kubectl) {
    let run = |args: &[&str]| kubectl.run(cluster, args);
    let with = |args: &[&str], manifest: &str| kubectl.run_with(cluster, args, manifest);
    let created = with(&["apply", "-f", "-"], DEFINITION).ok();
    assert!(created.contains("customresourcedefinition.apiextensions.k8s.io/crontabs.stable.example.com created"));
    run(&["wait", "--for=condition=Established", "crd/crontabs.stable.example.com", "--timeout=60s"]).ok();
    let stored = run(&["get", "crd", "crontabs.stable.example.com", "-o", "jsonpath={.status.storedVersions}"]).ok();
    assert_eq!(stored, r#"["v1"]"#);

    assert!(with(&["apply", "-f", "-"], CRONTAB).ok().contains("crontab.stable.example.com/nightly created"));
    // An apply of what was applied before patches nothing; one of something else patches in a language that is spoken.
    assert!(with(&["apply", "-f", "-"], CRONTAB).ok().contains("unchanged"));
    let changed = with(&["apply", "-f", "-"], &CRONTAB.replace("colour: red, ", "")).ok();
    assert!(changed.contains("crontab.stable.example.com/nightly configured"), "{changed}");
    let listed = run(&["get", "ct"]).ok();
    let words = |line: usize| listed.lines().nth(line).unwrap_or_default().split_whitespace().collect::<Vec<_>>();
    assert_eq!(words(0), ["NAME", "SPEC", "REPLICAS", "AGE"], "{listed}");
    assert_eq!(words(1)[..7], ["nightly", "0", "2", "*", "*", "*", "1"], "{listed}");
    let explained = run(&["explain", "crontab.spec.cronSpec"]).ok();
    assert!(explained.contains("When to run, in five fields."), "{explained}");
    let found = run(&["get", "crontabs", "--field-selector", "spec.colour=green", "-o", "name"]).ok();
    assert_eq!(found, "");

    changes(cluster, kubectl);
    refusals(cluster, kubectl);
    appliers(cluster, kubectl);

    // In another version it is the same object with another apiVersion.
    let other = run(&["get", "crontabs.v1beta1.stable.example.com", "nightly", "-o", "jsonpath={.apiVersion}"]).ok();
    assert_eq!(other, "stable.example.com/v1beta1");

    run(&["delete", "crd", "crontabs.stable.example.com", "--timeout=60s"]).ok();
    let gone = eventually("the resource to go", || {
        let ran = run(&["get", "--raw", "/apis/stable.example.com/v1/crontabs"]);
        (ran.code != Some(0)).then_some(ran.err)
    });
    assert!(gone.contains("could not find the requested resource"), "{gone}");
    // A new definition of the same name finds nothing of the old one's.
    with(&["apply", "-f", "-"], DEFINITION).ok();
    run(&["wait", "--for=condition=Established", "crd/crontabs.stable.example.com", "--timeout=60s"]).ok();
    let left = run(&["get", "--raw", "/apis/stable.example.com/v1/crontabs"]).ok();
    assert!(left.contains(r#""items":[]"#), "{left}");
    run(&["delete", "crd", "crontabs.stable.example.com", "--timeout=60s"]).ok();
}

/// Patches, generations, scale and status.
fn changes(cluster: &Cluster, kubectl: &Kubectl) {
    let run = |args: &[&str]| kubectl.run(cluster, args);
    let read = |path: &str| run(&["get", "crontab", "nightly", "-o", &format!("jsonpath={{{path}}}")]).ok();
    run(&["patch", "crontab", "nightly", "--type=merge", "-p", r#"{"spec":{"image":"backup:2"}}"#]).ok();
    assert_eq!((read(".spec.image"), read(".metadata.generation")), ("backup:2".to_owned(), "3".to_owned()));
    assert_eq!(read(".spec.extra"), r#"{"anything":[1,{"goes":true}]}"#);
    let strategic =
        run(&["patch", "crontab", "nightly", "--type=strategic", "-p", r#"{"spec":{"image":"x"}}"#]).fails();
    assert!(strategic.contains("UnsupportedMediaType") || strategic.contains("unknown format"), "{strategic}");
    run(&["scale", "crontab/nightly", "--replicas=3"]).ok();
    assert_eq!((read(".spec.replicas"), read(".metadata.generation")), ("3".to_owned(), "4".to_owned()));
    let status = r#"{"spec":{"image":"no"},"status":{"phase":"Fine"}}"#;
    run(&["patch", "crontab", "nightly", "--subresource=status", "--type=merge", "-p", status]).ok();
    assert_eq!((read(".status.phase"), read(".spec.image")), ("Fine".to_owned(), "backup:2".to_owned()));
    run(&["patch", "crontab", "nightly", "--type=merge", "-p", r#"{"status":{"phase":"Ignored"}}"#]).ok();
    assert_eq!((read(".status.phase"), read(".metadata.generation")), ("Fine".to_owned(), "4".to_owned()));
    run(&["label", "crontab", "nightly", "tier=night"]).ok();
    assert_eq!(
        run(&["get", "crontab", "-l", "tier=night", "-o", "name"]).ok().trim(),
        "crontab.stable.example.com/nightly"
    );
}

/// What does not follow the schema, in Kubernetes' words.
fn refusals(cluster: &Cluster, kubectl: &Kubectl) {
    let with = |manifest: &str| kubectl.run_with(cluster, &["create", "-f", "-"], manifest).fails();
    let crontab = |spec: &str| {
        format!("apiVersion: stable.example.com/v1\nkind: CronTab\nmetadata: {{name: wrong}}\nspec: {spec}\n")
    };
    let wrong = with(&crontab("{cronSpec: often, replicas: 11}"));
    for part in [
        r#"The CronTab "wrong" is invalid"#,
        "spec.image: Required value",
        r#"spec.cronSpec: Invalid value: "often": spec.cronSpec in body should match '^(\S+\s+){4}\S+$'"#,
        "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10",
    ] {
        assert!(wrong.contains(part), "{part} in\n{wrong}");
    }
    let wrong = with(&crontab("{cronSpec: '* * * * *', image: a, replicas: many}"));
    let typed = r#"spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string""#;
    assert!(wrong.contains(typed), "{wrong}");
    let wrong = with(&crontab("{cronSpec: '* * * * *', image: a, imagee: b}"));
    assert!(wrong.contains(r#"strict decoding error: unknown field "spec.imagee""#), "{wrong}");
    let definition = DEFINITION.replace("name: crontabs.stable", "name: tabs.stable");
    let wrong = with(&definition);
    assert!(wrong.contains(r#"must be spec.names.plural+"."+spec.group"#), "{wrong}");
}

/// Two appliers own the items of a list one by one.
fn appliers(cluster: &Cluster, kubectl: &Kubectl) {
    let crontab = |port: u16, name: &str| {
        format!(
            "apiVersion: stable.example.com/v1\nkind: CronTab\nmetadata: {{name: shared}}\n\
             spec: {{ports: [{{port: {port}, name: {name}}}]}}\n"
        )
    };
    let apply = |manager: &str, manifest: &str| {
        let manager = format!("--field-manager={manager}");
        kubectl.run_with(cluster, &["apply", "--server-side", &manager, "-f", "-"], manifest)
    };
    let ports = || kubectl.run(cluster, &["get", "crontab", "shared", "-o", "jsonpath={.spec.ports[*].name}"]).ok();
    apply("base", &CRONTAB.replace("nightly", "shared")).ok();
    apply("one", &crontab(80, "web")).ok();
    apply("two", &crontab(443, "tls")).ok();
    assert_eq!(ports(), "web tls");
    let conflict = apply("two", &crontab(80, "mine")).fails();
    assert!(conflict.contains(r#"conflict with "one""#), "{conflict}");
    assert!(conflict.contains(".spec.ports[port=80].name"), "{conflict}");
    apply("one", &crontab(81, "web")).ok();
    assert_eq!(ports(), "tls web");
}
