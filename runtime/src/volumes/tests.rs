//! Volumes as tables, and mounts with everything people try with sub-paths.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

fn settings() -> Settings {
    let map = json!({"data": {"a.txt": "A", "b.txt": "B"}, "binaryData": {"c.bin": "AAE="}});
    let secret = json!({"data": {"key": "aHVzaA=="}});
    let pod = ("web-1".to_owned(), String::new());
    let token = Token { account: "default".to_owned(), pod, audience: None, seconds: TOKEN_SECONDS };
    Settings {
        config_maps: BTreeMap::from([("settings".to_owned(), serde_json::from_value(map).unwrap())]),
        secrets: BTreeMap::from([("keys".to_owned(), serde_json::from_value(secret).unwrap())]),
        claims: BTreeMap::new(),
        tokens: BTreeMap::from([(token, "bearer".to_owned())]),
    }
}

fn rendered(volume: Value) -> Result<Vec<String>, String> {
    let pod = json!({
        "metadata": {"name": "web-1", "labels": {"app": "web", "tier": "1"}},
        "spec": {"containers": [{"name": "web", "resources": {"limits": {"memory": "64Mi"}}}]},
    });
    let volume = serde_json::from_value(volume).unwrap();
    let pod = serde_json::from_value(pod).unwrap();
    render(&volume, &pod, &settings(), &Place::default(), false).map(|contents| match contents {
        Contents::Files(files) => {
            files.iter().map(|(path, bytes)| format!("{path}={}", String::from_utf8_lossy(bytes))).collect()
        }
        other => vec![format!("{other:?}")],
    })
}

#[test]
fn what_volumes_hold() {
    let map = |extra: Value| {
        let mut source = json!({"name": "settings"});
        source.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"name": "v", "configMap": source})
    };
    let memory = json!({"containerName": "web", "resource": "limits.memory"});
    let downward = json!({"items": [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}, {"path": "m", "resourceFieldRef": memory},
    ]});
    let projected = json!({"sources": [
        {"secret": {"name": "keys", "items": [{"key": "key", "path": "s/key"}]}}, {"configMap": {"name": "settings"}},
    ]});
    let table = [
        (json!({"name": "v", "emptyDir": {}}), Ok(vec!["Empty"])),
        (map(json!({})), Ok(vec!["a.txt=A", "b.txt=B", "c.bin=\0\u{1}"])),
        (map(json!({"items": [{"key": "a.txt", "path": "x/y"}]})), Ok(vec!["x/y=A"])),
        (map(json!({"items": [{"key": "ghost", "path": "x"}], "optional": true})), Ok(vec![])),
        (
            map(json!({"items": [{"key": "ghost", "path": "x"}]})),
            Err("configmap \"settings\" references non-existent key: ghost"),
        ),
        (map(json!({"items": [{"key": "a.txt", "path": "../x"}]})), Err("the path \"../x\" leaves the volume")),
        (json!({"name": "v", "secret": {"secretName": "ghost"}}), Err("secret \"ghost\" not found")),
        (json!({"name": "v", "secret": {"secretName": "keys"}}), Ok(vec!["key=hush"])),
        (json!({"name": "v", "downwardAPI": downward}), Ok(vec!["labels=app=\"web\"\ntier=\"1\"", "m=67108864"])),
        (json!({"name": "v", "projected": projected}), Ok(vec!["a.txt=A", "b.txt=B", "c.bin=\0\u{1}", "s/key=hush"])),
        (
            json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}),
            Ok(vec!["token=bearer"]),
        ),
        (
            json!({"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "audience": "vault"}}]}}),
            Err("failed to fetch token"),
        ),
        (json!({"name": "v", "hostPath": {"path": "/etc"}}), Err("hostPath volumes are not allowed on this node")),
        (json!({"name": "v", "nfs": {"server": "a", "path": "/"}}), Err(NOT_OFFERED)),
    ];
    for (volume, expected) in table {
        let expected = expected.map(|list| list.into_iter().map(str::to_owned).collect()).map_err(str::to_owned);
        assert_eq!(rendered(volume.clone()), expected, "{volume}");
    }
}

#[test]
fn where_containers_see_them() {
    let folder = tempfile::tempdir().unwrap();
    let files = Contents::Files(Files::from([("app.yaml".into(), b"x".to_vec()), ("d/e".into(), b"y".to_vec())]));
    let volumes = BTreeMap::from([
        ("config".to_owned(), materialise(&folder.path().join("config"), folder.path(), &files).unwrap()),
        ("scratch".to_owned(), materialise(&folder.path().join("scratch"), folder.path(), &Contents::Empty).unwrap()),
    ]);
    let stage = folder.path().join("stage");
    let see = |list: Value| {
        let container = serde_json::from_value(json!({"name": "web", "volumeMounts": list})).unwrap();
        mounts(&container, &[("POD".to_owned(), "web-1".to_owned())], &volumes, &stage)
    };
    let found = see(json!([
        {"name": "config", "mountPath": "/etc/app/"},
        {"name": "scratch", "mountPath": "/data", "subPathExpr": "of/$(POD)"},
        {"name": "scratch", "mountPath": "/ro", "readOnly": true},
        {"name": "config", "mountPath": "/conf/app.yaml", "subPath": "app.yaml"},
        {"name": "config", "mountPath": "/conf/other", "subPath": "d/e"},
    ]))
    .unwrap();
    let seen: Vec<_> = found.iter().map(|mount| (&*mount.guest, mount.read_only)).collect();
    assert_eq!(seen, [("/etc/app", true), ("/data", false), ("/ro", true), ("/conf", true)]);
    assert!(found[1].host.ends_with("scratch/of/web-1") && found[1].host.is_dir());
    assert_eq!(fs::read(found[3].host.join("app.yaml")).unwrap(), b"x");
    assert_eq!(fs::read(found[3].host.join("other")).unwrap(), b"y");

    #[cfg(unix)]
    std::os::unix::fs::symlink("/etc", folder.path().join("scratch/link")).unwrap();
    for (sub_path, complaint) in [
        ("../config", "leaves its volume"),
        ("a/../../x", "leaves its volume"),
        ("/etc", "leaves its volume"),
        #[cfg(unix)]
        ("link/passwd", "leads through a link"),
    ] {
        let error = see(json!([{"name": "scratch", "mountPath": "/x", "subPath": sub_path}])).unwrap_err();
        assert!(error.contains(complaint), "{error}");
    }
    assert!(see(json!([{"name": "ghost", "mountPath": "/x"}])).unwrap_err().contains("not defined"));
}

#[test]
fn a_volume_follows_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let volume = folder.path().join("config");
    let files = |list: &[(&str, &str)]| {
        Contents::Files(list.iter().map(|(path, text)| ((*path).to_owned(), (*text).into())).collect())
    };
    let seen = || {
        let mut seen = Vec::new();
        let mut folders = vec![volume.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(&volume).unwrap().display().to_string();
                    seen.push((name, fs::read_to_string(&path).unwrap()));
                }
            }
        }
        seen.sort();
        seen
    };
    let stages: [&[(&str, &str)]; 4] = [
        &[("a", "1"), ("d/b", "2"), ("d/e/c", "3")],
        &[("a", "1"), ("d/b", "two"), ("d/f", "4")],
        &[("a/x", "a folder now"), ("d", "a file now")],
        &[],
    ];
    for stage in stages {
        materialise(&volume, folder.path(), &files(stage)).unwrap();
        let expected: Vec<_> = stage.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        assert_eq!(seen(), expected);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}
