//! Output as `kubectl logs` sees it: tails, times, limits, attempts, rotation, following.

use engine::{Output, Stream};

use super::*;

fn output() -> (tempfile::TempDir, Arc<ContainerOutput>) {
    let folder = tempfile::tempdir().unwrap();
    let output = ContainerOutput::new(folder.path().join("web"));
    (folder, output)
}

async fn read(output: &ContainerOutput, previous: bool, wanted: Wanted) -> Option<String> {
    let mut reader = output.reader(previous, &wanted).unwrap()?;
    let mut text = Vec::new();
    while let Some((chunk, next)) = reader.next().await.unwrap() {
        text.extend_from_slice(&chunk);
        reader = next;
    }
    Some(String::from_utf8(text).unwrap())
}

async fn all(output: &ContainerOutput) -> String {
    read(output, false, Wanted::default()).await.unwrap()
}

#[tokio::test]
async fn lines_come_back_as_they_were_printed() {
    let (_folder, output) = output();
    let attempt = output.begin(0).unwrap();
    attempt.write(Stream::Stdout, b"one\ntw");
    attempt.write(Stream::Stderr, b"oops\n");
    attempt.write(Stream::Stdout, b"o\n\nlast, without an end");
    assert_eq!(all(&output).await, "one\noops\ntwo\n\n", "the open line is not there yet");
    drop(attempt);
    assert_eq!(all(&output).await, "one\noops\ntwo\n\nlast, without an end");
}

#[tokio::test]
async fn a_line_of_any_length_stays_one_line() {
    let (_folder, output) = output();
    let long = "x".repeat(3 * OUTPUT_LINE_BYTES_MAX + 5);
    let attempt = output.begin(0).unwrap();
    attempt.write(Stream::Stdout, format!("a\n{long}\nb\n").as_bytes());
    assert_eq!(all(&output).await, format!("a\n{long}\nb\n"));
    let tail = Wanted { tail_lines: Some(2), ..Wanted::default() };
    assert_eq!(read(&output, false, tail).await.unwrap(), format!("{long}\nb\n"));
    let stamped = Wanted { timestamps: true, ..Wanted::default() };
    let stamped = read(&output, false, stamped).await.unwrap();
    assert!(stamped.lines().all(|line| line.split(' ').next().unwrap().ends_with('Z')), "one time per line");
    assert_eq!(stamped.lines().count(), 3);
}

#[tokio::test]
async fn part_of_the_output() {
    let (_folder, output) = output();
    let attempt = output.begin(0).unwrap();
    attempt.write(Stream::Stdout, b"one\ntwo\nthree\n");
    let between = Timestamp::now();
    attempt.write(Stream::Stdout, b"four\n");
    let tail = |lines| Wanted { tail_lines: Some(lines), ..Wanted::default() };
    let limit = |bytes| Wanted { limit_bytes: Some(bytes), ..Wanted::default() };
    let table = [
        (tail(0), ""),
        (tail(2), "three\nfour\n"),
        (tail(99), "one\ntwo\nthree\nfour\n"),
        (limit(5), "one\nt"),
        (limit(0), ""),
        (Wanted { since: Some(between), ..Wanted::default() }, "four\n"),
        (Wanted { limit_bytes: Some(3), ..tail(1) }, "fou"),
    ];
    for (wanted, expected) in table {
        assert_eq!(read(&output, false, wanted.clone()).await.unwrap(), expected, "{wanted:?}");
    }
}

#[tokio::test]
async fn the_previous_attempt_is_kept_and_those_before_it_are_not() {
    let (folder, output) = output();
    assert_eq!(read(&output, false, Wanted::default()).await, None);
    for attempt in 0..3 {
        let writer = output.begin(attempt).unwrap();
        writer.write(Stream::Stdout, format!("attempt {attempt}\n").as_bytes());
    }
    assert_eq!(all(&output).await, "attempt 2\n");
    assert_eq!(read(&output, true, Wanted::default()).await.unwrap(), "attempt 1\n");
    assert_eq!(LogFile::list(&folder.path().join("web")).unwrap().len(), 2);
}

#[tokio::test]
async fn a_flood_keeps_its_end_within_bounds() {
    let (folder, output) = output();
    let attempt = output.begin(0).unwrap();
    let line = format!("{}\n", "y".repeat(1000));
    let block = line.repeat(60);
    for _ in 0..700 {
        attempt.write(Stream::Stdout, block.as_bytes());
    }
    attempt.write(Stream::Stdout, b"the end\n");
    let folder = folder.path().join("web");
    let files = LogFile::list(&folder).unwrap();
    let kept: u64 = files.iter().map(|file| fs::metadata(file.path(&folder)).unwrap().len()).sum();
    assert!(files.len() == 2 && kept < 2 * OUTPUT_FILE_BYTES_MAX + (1 << 20), "{kept} bytes in {files:?}");
    let text = all(&output).await;
    assert!(text.len() as u64 > OUTPUT_FILE_BYTES_MAX / 2 && text.ends_with("the end\n"));
}

#[tokio::test]
async fn a_follower_sees_rotation_and_restarts_and_ends_with_the_container() {
    let (_folder, output) = output();
    let first = output.begin(0).unwrap();
    first.write(Stream::Stdout, b"before\n");
    let wanted = Wanted { follow: true, ..Wanted::default() };
    let follower = tokio::spawn({
        let output = output.clone();
        async move { read(&output, false, wanted).await.unwrap() }
    });
    let big = format!("{}\n", "z".repeat(16_000)).repeat(500);
    let writer = tokio::task::spawn_blocking({
        let output = output.clone();
        move || {
            first.write(Stream::Stdout, big.as_bytes());
            first.write(Stream::Stdout, b"still the first\n");
            drop(first);
            let second = output.begin(1).unwrap();
            second.write(Stream::Stdout, b"second\n");
            drop(second);
            output.finish();
        }
    });
    writer.await.unwrap();
    let text = tokio::time::timeout(std::time::Duration::from_secs(30), follower).await.unwrap().unwrap();
    assert!(text.starts_with("before\n") && text.ends_with("still the first\nsecond\n"), "{} bytes", text.len());
}

#[tokio::test]
async fn a_first_attempt_that_prints_nothing_leaves_nothing_behind() {
    let (_folder, output) = output();
    assert!(output.reader(false, &Wanted::default()).unwrap().is_none(), "nothing has begun");
    let first = output.begin(0).unwrap();
    assert!(!output.folder.exists());
    assert_eq!(all(&output).await, "", "it runs and has printed nothing");
    let follower = output.reader(false, &Wanted { follow: true, ..Wanted::default() }).unwrap().unwrap();
    let followed = tokio::spawn(follower.next());
    first.write(Stream::Stdout, b"now\n");
    let (chunk, _) = followed.await.unwrap().unwrap().unwrap();
    assert_eq!(chunk, "now\n", "who followed before the first line sees it");
}

#[tokio::test]
async fn the_attempt_before_is_empty_when_it_printed_nothing() {
    let (_folder, output) = output();
    drop(output.begin(0).unwrap());
    output.begin(1).unwrap().write(Stream::Stdout, b"second\n");
    assert_eq!(all(&output).await, "second\n");
    assert_eq!(read(&output, true, Wanted::default()).await.unwrap(), "");
}
