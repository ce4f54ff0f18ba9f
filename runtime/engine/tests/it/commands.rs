//! Commands: how they end, and the limits that hold them.

use crate::{House, PATIENCE, guests, spec, until};
use engine::{CodeError, ContainerSpec, Exit, Kind};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

async fn run(text: &str, adjust: impl FnOnce(&mut ContainerSpec)) -> Exit {
    let house = House::new();
    let code = house.load(text).await.unwrap();
    assert_eq!(code.kind(), Kind::Command);
    let (mut spec, _) = spec();
    adjust(&mut spec);
    timeout(PATIENCE, house.engine.run(&code, spec, CancellationToken::new())).await.unwrap()
}

#[tokio::test]
async fn a_command_ends_with_the_code_it_chose() {
    assert_eq!(run(&guests::command(""), |_| ()).await, Exit::Code(0));
    assert_eq!(run(guests::FAILING, |_| ()).await, Exit::Code(1));
    assert_eq!(run(guests::EXITING, |_| ()).await, Exit::Code(7));
}

#[tokio::test]
async fn a_trap_tells_where_by_name() {
    let exit = run(&guests::command("unreachable"), |_| ()).await;
    let Exit::Trap { message, backtrace } = exit else { panic!("{exit:?}") };
    assert!(message.contains("unreachable"), "{message}");
    let frames: Vec<_> = backtrace.lines().collect();
    assert!(frames[0].contains("inner_work") && frames[1].contains("run"), "{backtrace}");
}

#[tokio::test]
async fn a_command_of_0_3_runs_like_any_other() {
    assert_eq!(run(&guests::async_command(""), |_| ()).await, Exit::Code(0));
    let exit = run(&guests::async_command("unreachable"), |_| ()).await;
    assert!(matches!(&exit, Exit::Trap { backtrace, .. } if backtrace.contains("inner_work")), "{exit:?}");
    let limited = |spec: &mut ContainerSpec| spec.memory_limit_bytes = Some(4 << 20);
    assert_eq!(run(&guests::async_command("(drop (memory.grow (i32.const 64)))"), limited).await, Exit::OomKilled);

    let house = House::new();
    let forever = house.load(&guests::async_command("(loop $l (br $l))")).await.unwrap();
    let stop = CancellationToken::new();
    let burner = house.engine.run(&forever, spec().0, stop.clone());
    until("it runs", || burner.usage().cpu_nanos > 0).await;
    stop.cancel();
    assert_eq!(timeout(PATIENCE, burner).await.unwrap(), Exit::Stopped);
}

#[tokio::test]
async fn a_budget_of_instructions_ends_with_its_own_reason() {
    for text in [guests::command, guests::async_command] {
        let house = House::new();
        let spend = |text: String, fuel| {
            let house = &house;
            async move {
                let code = house.load_as(&text, true).await.unwrap();
                let (mut spec, _) = spec();
                spec.terms.fuel = Some(fuel);
                timeout(PATIENCE, house.engine.run(&code, spec, CancellationToken::new())).await.unwrap()
            }
        };
        assert_eq!(spend(text("(loop $l (br $l))"), 100_000).await, Exit::OutOfFuel(100_000));
        assert_eq!(spend(text(""), 100_000).await, Exit::Code(0));
    }
    assert_eq!(Exit::OutOfFuel(7).to_string(), "used up its budget of 7 instructions (kogia.dev/fuel)");
}

#[tokio::test]
async fn growing_beyond_the_memory_limit_is_oom_killed() {
    let limited = |spec: &mut ContainerSpec| spec.memory_limit_bytes = Some(4 << 20);
    let grow = |pages: u32| guests::command(&format!("(drop (memory.grow (i32.const {pages})))"));
    assert_eq!(run(&grow(32), limited).await, Exit::Code(0));
    assert_eq!(run(&grow(64), limited).await, Exit::OomKilled);
    assert_eq!(run(&grow(0), |spec| spec.memory_limit_bytes = Some(1000)).await, Exit::OomKilled);
}

#[tokio::test]
async fn what_a_guest_can_make_the_host_hold_is_bounded() {
    // A stream of the host's for every call, never dropped.
    let hoard = guests::printer("(loop $again (drop (call $get-stdout)) (br $again))");
    let exit = run(&hoard, |_| ()).await;
    assert!(matches!(&exit, Exit::Trap { .. } | Exit::Failed(_)), "{exit:?}");
    // A table that would be larger than any program's: the guest sees -1 and goes on. Tables count as memory.
    let grow = |elements: u32| guests::command(&format!("(drop (table.grow (ref.null func) (i32.const {elements})))"));
    let limited = |spec: &mut ContainerSpec| spec.memory_limit_bytes = Some(300_000);
    assert_eq!(run(&grow(100_000), limited).await, Exit::Code(0));
    assert_eq!(run(&grow(60_000), limited).await, Exit::OomKilled);
}

#[tokio::test]
async fn endless_recursion_is_a_trap() {
    let exit = run(&guests::command("(call $inner_work)"), |_| ()).await;
    assert!(matches!(&exit, Exit::Trap { message, .. } if message.contains("stack")), "{exit:?}");
}

#[tokio::test]
async fn an_endless_loop_is_stopped_and_costs_no_other_guest_its_turn() {
    let house = House::new();
    let forever = house.load(&guests::command("(loop $l (br $l))")).await.unwrap();
    let stop = CancellationToken::new();
    // More of them than threads.
    let burners: Vec<_> = (0..4).map(|_| house.engine.run(&forever, spec().0, stop.clone())).collect();
    until("all burners run", || burners.iter().all(|burner| burner.usage().cpu_nanos > 0)).await;

    let brief = house.load(&guests::command("")).await.unwrap();
    let exit = timeout(PATIENCE, house.engine.run(&brief, spec().0, CancellationToken::new())).await.unwrap();
    assert_eq!(exit, Exit::Code(0));

    stop.cancel();
    for burner in burners {
        assert_eq!(timeout(PATIENCE, burner).await.unwrap(), Exit::Stopped);
    }
}

#[tokio::test]
async fn a_cpu_limit_is_time_per_time() {
    let house = House::new();
    let forever = house.load(&guests::command("(loop $l (br $l))")).await.unwrap();
    let (mut spec, _) = spec();
    spec.cpu_limit_millis = Some(250);
    let began = Instant::now();
    let burner = house.engine.run(&forever, spec, CancellationToken::new());
    until("200 ms of CPU are spent", || burner.usage().cpu_nanos >= 200_000_000).await;
    // 25 ms are there from the start, the rest comes at a quarter of the time that passes.
    assert!(began.elapsed() >= Duration::from_millis(600), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_throttled_command_is_stopped_at_once() {
    let house = House::new();
    let forever = house.load(&guests::command("(loop $l (br $l))")).await.unwrap();
    let (mut spec, _) = spec();
    // A slice of a millisecond costs it seconds of rest.
    spec.cpu_limit_millis = Some(1);
    let stop = CancellationToken::new();
    let burner = house.engine.run(&forever, spec, stop.clone());
    until("it has run", || burner.usage().cpu_nanos > 0).await;
    let began = Instant::now();
    stop.cancel();
    assert_eq!(timeout(PATIENCE, burner).await.unwrap(), Exit::Stopped);
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn dropping_a_command_ends_it_and_returns_its_memory() {
    let house = House::with_instances(1);
    let forever = house.load(&guests::command("(loop $l (br $l))")).await.unwrap();
    let burner = house.engine.run(&forever, spec().0, CancellationToken::new());
    until("it runs", || burner.usage().memory_bytes > 0 && burner.usage().cpu_nanos > 0).await;
    let accounts = burner.accounts();
    drop(burner);
    until("its memory is returned", || accounts.usage().memory_bytes == 0).await;
}

#[tokio::test]
async fn arguments_arrive_and_output_is_taken_in_bounded_pieces() {
    let house = House::new();
    let code = house.load(&guests::printer("")).await.unwrap();
    let (mut written, output) = spec();
    written.args = vec!["main".into(), "--name=kogia".into()];
    let exit = timeout(PATIENCE, house.engine.run(&code, written, CancellationToken::new())).await.unwrap();
    assert_eq!((exit, output.stdout().as_str()), (Exit::Code(0), "main\n--name=kogia\n"));

    let flood = house.load(&guests::printer(guests::FLOOD)).await.unwrap();
    let (flooding, output) = spec();
    let flood = house.engine.run(&flood, flooding, CancellationToken::new());
    until("a flood is under way", || output.total() > 1 << 20).await;
    drop(flood);
    assert!(*output.largest.lock().unwrap() <= 64 << 10);
}

#[tokio::test]
async fn what_cannot_run_is_refused_before_it_is_compiled() {
    let house = House::new();
    let refusal = house.load(guests::DEMANDING).await.unwrap_err();
    assert!(matches!(&refusal, CodeError::UnknownImports(names) if names == &["acme:db/sql@1.0.0"]));
    assert_eq!(refusal.to_string(), r#"component imports "acme:db/sql@1.0.0", which this node does not offer"#);
    let missing = house.engine.load("test:missing", &house.dir.path().join("nowhere"), false).await.unwrap_err();
    assert!(matches!(missing, CodeError::Io(_)));
}

#[tokio::test]
async fn code_is_compiled_once_and_found_again() {
    let house = House::new();
    let text = guests::command("");
    let (first, second) = tokio::join!(house.load(&text), house.load(&text));
    assert!(std::sync::Arc::ptr_eq(&first.unwrap(), &second.unwrap()), "loads at once share one result");
    let digests_written = || {
        let mut files: Vec<_> = std::fs::read_dir(house.dir.path().join("cache"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().extension().is_none_or(|extension| extension != "cwasm"))
            .map(|entry| (entry.file_name(), entry.metadata().unwrap().modified().unwrap()))
            .collect();
        files.sort();
        files
    };
    let before = digests_written();
    assert_eq!(before.len(), 1, "one digest beside the machine code, nothing left over: {before:?}");

    let path = house.dir.path().join("guest.wasm");
    let again = house.engine.load("test:same bytes by another name", &path, false).await.unwrap();
    assert_eq!(digests_written(), before);
    let exit = timeout(PATIENCE, house.engine.run(&again, spec().0, CancellationToken::new())).await.unwrap();
    assert_eq!(exit, Exit::Code(0));
}

#[tokio::test]
async fn a_missing_mount_is_a_failed_start_in_words() {
    let nowhere = |spec: &mut ContainerSpec| {
        spec.mounts.push(engine::Mount { host: "/nowhere/at/all".into(), guest: "/data".into(), read_only: true });
    };
    // What cannot look at files misses none.
    assert_eq!(run(&guests::command(""), nowhere).await, Exit::Code(0));
    let looking = r#"(component (import "wasi:filesystem/preopens@0.2.0" (instance))"#;
    let exit = run(&guests::command("").replacen("(component", looking, 1), nowhere).await;
    assert!(
        matches!(&exit, Exit::Failed(reason) if reason.contains("/nowhere/at/all cannot be mounted at /data")),
        "{exit:?}"
    );
}
