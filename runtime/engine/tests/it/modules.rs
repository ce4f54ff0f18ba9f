//! Core modules of WASI's first preview: commands as all others, with the same limits.

use crate::{House, PATIENCE, spec, until};
use engine::{ContainerSpec, Exit, Kind, Mount};
use network::pipe::pipe;
use std::sync::Arc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// A module whose `_start` is `body`; `$print` writes bytes of its memory, `$copy` what it reads from a descriptor.
fn module(body: &str) -> String {
    format!(
        r#"(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "note")
  (func $print (param $fd i32) (param $at i32) (param $length i32)
    (i32.store (i32.const 1024) (local.get $at))
    (i32.store (i32.const 1028) (local.get $length))
    (drop (call $write (local.get $fd) (i32.const 1024) (i32.const 1) (i32.const 1032))))
  (func $copy (param $fd i32)
    (loop $more
      (i32.store (i32.const 1024) (i32.const 4096))
      (i32.store (i32.const 1028) (i32.const 4096))
      (drop (call $read (local.get $fd) (i32.const 1024) (i32.const 1) (i32.const 1032)))
      (if (i32.load (i32.const 1032))
        (then (call $print (i32.const 1) (i32.const 4096) (i32.load (i32.const 1032))) (br $more)))))
  (func $open_note (param $flags i32) (param $rights i64) (result i32) (local $error i32)
    (local.set $error (call $open (i32.const 3) (i32.const 0) (i32.const 8) (i32.const 4) (local.get $flags)
      (local.get $rights) (i64.const 0) (i32.const 0) (i32.const 1036)))
    (if (local.get $error) (then (call $exit (local.get $error))))
    (i32.load (i32.const 1036)))
  (func $inner_work {body})
  (func (export "_start") (call $inner_work)))"#
    )
}

async fn run(body: &str, adjust: impl FnOnce(&mut ContainerSpec)) -> (Exit, String) {
    let house = House::new();
    let code = house.load(&module(body)).await.unwrap();
    assert_eq!(code.kind(), Kind::Command);
    let (mut spec, output) = spec();
    adjust(&mut spec);
    let exit = timeout(PATIENCE, house.engine.run(&code, spec, CancellationToken::new())).await.unwrap();
    (exit, output.stdout())
}

#[tokio::test]
async fn a_module_sees_its_arguments_its_environment_and_its_streams() {
    let words = "(drop (call $args_sizes (i32.const 1040) (i32.const 1044)))
        (drop (call $args (i32.const 2048) (i32.const 3072)))
        (call $print (i32.const 1) (i32.const 3072) (i32.load (i32.const 1044)))
        (drop (call $environ_sizes (i32.const 1040) (i32.const 1044)))
        (drop (call $environ (i32.const 2048) (i32.const 3072)))
        (call $print (i32.const 1) (i32.const 3072) (i32.load (i32.const 1044)))";
    let (exit, said) = run(words, |spec| {
        spec.args = vec!["main".into(), "--deep".into()];
        spec.env = vec![("COLOR".into(), "blue".into())];
    })
    .await;
    assert_eq!((exit, said.as_str()), (Exit::Code(0), "main\0--deep\0COLOR=blue\0"));

    let (writer, reader) = pipe(1024);
    let mut bytes = bytes::Bytes::from_static(b"typed");
    writer.write(&mut bytes).unwrap();
    writer.shutdown();
    let (exit, said) = run("(call $copy (i32.const 0))", |spec| spec.input = Some(Arc::new(reader))).await;
    assert_eq!((exit, said.as_str()), (Exit::Code(0), "typed"));
}

#[tokio::test]
async fn a_module_sees_its_mounts_and_may_write_where_it_may() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("note"), "kept").unwrap();
    let mounted = |read_only| {
        let host = dir.path().to_owned();
        move |spec: &mut ContainerSpec| spec.mounts = vec![Mount { host, guest: "/data".into(), read_only }]
    };
    let (exit, said) = run("(call $copy (call $open_note (i32.const 0) (i64.const 2)))", mounted(true)).await;
    assert_eq!((exit, said.as_str()), (Exit::Code(0), "kept"));
    // Truncates it and writes its name into it.
    let change = "(call $print (call $open_note (i32.const 8) (i64.const 64)) (i32.const 8) (i32.const 4))";
    let (refused, _) = run(change, mounted(true)).await;
    assert!(matches!(refused, Exit::Code(code) if code > 0), "{refused:?}");
    assert_eq!(run(change, mounted(false)).await.0, Exit::Code(0));
    assert_eq!(std::fs::read_to_string(dir.path().join("note")).unwrap(), "note");
    let (unmounted, _) = run("(drop (call $open_note (i32.const 0) (i64.const 2)))", |_| ()).await;
    assert_eq!(unmounted, Exit::Code(8), "there is no such descriptor");
}

#[tokio::test]
async fn a_module_ends_as_any_other_command() {
    assert_eq!(run("(call $exit (i32.const 7))", |_| ()).await.0, Exit::Code(7));
    assert_eq!(run("(call $exit (i32.const 0))", |_| ()).await.0, Exit::Code(0));
    let (exit, _) = run("unreachable", |_| ()).await;
    assert!(matches!(&exit, Exit::Trap { backtrace, .. } if backtrace.contains("inner_work")), "{exit:?}");
    let limited = |spec: &mut ContainerSpec| spec.memory_limit_bytes = Some(4 << 20);
    assert_eq!(run("(drop (memory.grow (i32.const 32)))", limited).await.0, Exit::Code(0));
    assert_eq!(run("(drop (memory.grow (i32.const 64)))", limited).await.0, Exit::OomKilled);

    let house = House::new();
    let forever = house.load(&module("(loop $l (br $l))")).await.unwrap();
    let stop = CancellationToken::new();
    let burner = house.engine.run(&forever, spec().0, stop.clone());
    until("it runs", || burner.usage().cpu_nanos > 0).await;
    stop.cancel();
    assert_eq!(timeout(PATIENCE, burner).await.unwrap(), Exit::Stopped);

    let metered = house.load_as(&module("(loop $l (br $l)) (; counted ;)"), true).await.unwrap();
    let (mut counted, _) = spec();
    counted.terms.fuel = Some(100_000);
    let exit = timeout(PATIENCE, house.engine.run(&metered, counted, CancellationToken::new())).await.unwrap();
    assert_eq!(exit, Exit::OutOfFuel(100_000));
}

#[tokio::test]
async fn what_the_preview_does_not_have_is_said() {
    let house = House::new();
    let text = r#"(module (import "wasi_snapshot_preview1" "fd_levitate" (func)) (func (export "_start")))"#;
    let refused = house.load(text).await.unwrap_err().to_string();
    assert!(refused.contains("fd_levitate"), "{refused}");
}
