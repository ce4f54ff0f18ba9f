//! Core modules of WASI's first preview, as pods like all others.

use std::fs;

use crate::harness::{Cluster, Kubectl, eventually};

/// Prints the file `text` of its first volume and its arguments, and exits with 3.
const MODULE: &str = r#"(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "text")
  (func $print (param $at i32) (param $length i32)
    (i32.store (i32.const 1024) (local.get $at))
    (i32.store (i32.const 1028) (local.get $length))
    (drop (call $write (i32.const 1) (i32.const 1024) (i32.const 1) (i32.const 1032))))
  (func (export "_start")
    (drop (call $open (i32.const 3) (i32.const 0) (i32.const 8) (i32.const 4) (i32.const 0)
      (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 1036)))
    (i32.store (i32.const 1024) (i32.const 4096))
    (i32.store (i32.const 1028) (i32.const 4096))
    (drop (call $read (i32.load (i32.const 1036)) (i32.const 1024) (i32.const 1) (i32.const 1032)))
    (call $print (i32.const 4096) (i32.load (i32.const 1032)))
    (drop (call $args_sizes (i32.const 1040) (i32.const 1044)))
    (drop (call $args (i32.const 2048) (i32.const 3072)))
    (call $print (i32.const 3072) (i32.load (i32.const 1044)))
    (call $exit (i32.const 3))))"#;

#[test]
fn a_core_module_is_a_program_like_any_other() {
    let cluster = Cluster::start();
    let path = cluster.scratch().join("preview.wasm");
    fs::write(&path, wat::parse_str(MODULE).unwrap()).unwrap();
    let image = format!("file://{}", path.display());
    let manifest = format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: words}}, data: {{text: hello}}}}\n---\n\
         {{apiVersion: v1, kind: Pod, metadata: {{name: old}}, spec: {{restartPolicy: Never, containers: [\
         {{name: main, image: '{image}', args: [one, two], resources: {{limits: {{memory: 1Mi}}}}, \
         volumeMounts: [{{name: words, mountPath: /words}}]}}], volumes: [{{name: words, configMap: {{name: words}}}}]}}}}"
    );
    cluster.apply(&manifest).ok();
    let ended = eventually("the program to end", || {
        let ended = cluster.find("pod", "old")?["status"]["containerStatuses"][0]["state"]["terminated"].clone();
        ended.is_object().then_some(ended)
    });
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&3.into(), &"Error".into()), "{ended}");
    assert_eq!(cluster.kogia(&["logs", "old"]).ok().trim_end_matches('\n'), "hellomain\0one\0two\0");
    let Some(kubectl) = Kubectl::newest() else { return };
    assert_eq!(kubectl.run(&cluster, &["get", "pod", "old", "-o", "jsonpath={.status.phase}"]).ok(), "Failed");
}
