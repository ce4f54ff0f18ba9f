//! Every command as people type it.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use crate::{Streams, digest, knows, run, words};

/// Exit, stdout and stderr of a command line; words are separated by blanks.
fn ran(line: &str, stdin: &[u8]) -> (bool, String, String) {
    let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let (mut out, mut err, mut input) = (Vec::new(), Vec::new(), stdin);
    let code = run(&args, &mut Streams { stdin: &mut input, stdout: &mut out, stderr: &mut err });
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (code == ExitCode::SUCCESS, text(out), text(err))
}

fn out(line: &str, stdin: &str) -> String {
    let (ok, out, err) = ran(line, stdin.as_bytes());
    assert!(ok, "{line}: {err}");
    out
}

#[test]
fn words_and_text() {
    let ten: String = (1..=10).map(|n| format!("{n}\n")).collect();
    let table = [
        ("echo hello world", "", "hello world\n"),
        ("echo -n x", "", "x"),
        ("/bin/echo x", "", "x\n"),
        ("toolbox echo x", "", "x\n"),
        ("cat", "abc", "abc"),
        ("head -n 2", &ten, "1\n2\n"),
        ("head -3", &ten, "1\n2\n3\n"),
        ("head -c 4", &ten, "1\n2\n"),
        ("tail -n 2", &ten, "9\n10\n"),
        ("tail -n2", &ten, "9\n10\n"),
        ("tail -n +9", &ten, "9\n10\n"),
        ("tail -c 3", &ten, "10\n"),
        ("tail -c+20", &ten, "0\n"),
        ("wc -l", &ten, "10\n"),
        ("wc", "a b\nc", "1 3 5\n"),
        ("basename /a/b.txt .txt", "", "b\n"),
        ("dirname /a/b.txt", "", "/a\n"),
        ("dirname b.txt", "", ".\n"),
        ("true", "", ""),
        ("test -n x", "", ""),
        ("test a != b", "", ""),
        ("test ! -e /no/such", "", ""),
        ("sha256sum", "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  -\n"),
        ("tee", "x", "x"),
    ];
    for (line, stdin, expected) in table {
        assert_eq!(out(line, stdin), expected, "{line}");
    }
}

#[test]
fn failures_are_said_by_name() {
    let table = [
        ("false", ""),
        ("test -e /no/such", ""),
        ("cat /no/such", "cat: /no/such: No such file or directory\n"),
        ("ls -Z", "ls: unknown option -Z\n"),
        ("head -n many", "head: invalid number \"many\"\n"),
        ("sh -c x", "sh: not found\n"),
        ("cp onlyone", "cp: from where to where?\n"),
        ("sleep soon", "sleep: invalid time interval \"soon\"\n"),
        ("wget https://example.com/", "wget: https is not spoken here\n"),
        ("tar -xzf -", "tar: compressed archives are not read or written here\n"),
        ("tar -x", "tar: Unexpected EOF in archive\n"),
    ];
    for (line, complaint) in table {
        let (ok, _, err) = ran(line, b"x");
        assert!(!ok && err == complaint, "{line}: {err}");
    }
    assert!(knows("/usr/bin/tar") && !knows("sh"));
}

#[test]
fn files_are_made_moved_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path).to_string_lossy().into_owned();
    assert!(!ran(&format!("mkdir {}", at("a/b")), b"").0);
    out(&format!("mkdir -p {}", at("a/b")), "");
    out(&format!("touch {}", at("a/b/empty")), "");
    out(&format!("tee {}", at("a/one")), "1");
    out(&format!("tee -a {}", at("a/one")), "2");
    assert_eq!(out(&format!("cat {}", at("a/one")), ""), "12");
    assert_eq!(out(&format!("ls {}", at("a")), ""), "b\none\n");
    let long = out(&format!("ls -l {}", at("a/one")), "");
    assert!(long.starts_with("-            2 20") && long.ends_with("/a/one\n"), "{long}");
    assert!(ran(&format!("cp {} {}", at("a"), at("c")), b"").2.contains("-r copies it"));
    out(&format!("cp -r {} {}", at("a"), at("c")), "");
    assert!(ran(&format!("cp -r {} {}", at("a"), at("a/b/d")), b"").2.contains("into itself"));
    out(&format!("mv {} {}", at("c/one"), at("c/b")), "");
    assert_eq!(out(&format!("ls {}", at("c/b")), ""), "empty\none\n");
    assert!(ran(&format!("rm {}", at("c")), b"").2.contains("Is a directory"));
    out(&format!("rm -rf {} {}", at("c"), at("never")), "");
    assert!(!Path::new(&at("c")).exists() && Path::new(&at("a/one")).exists());
    assert!(!ran(&format!("rmdir {}", at("a")), b"").0);
}

#[test]
fn moments_and_digests() {
    let table =
        [(0, "1970-01-01T00:00:00Z"), (951_782_399, "2000-02-28T23:59:59Z"), (951_782_400, "2000-02-29T00:00:00Z")];
    for (seconds, expected) in table {
        assert_eq!(words::moment(seconds), expected);
    }
    let million = vec![b'a'; 1_000_000];
    let expected = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
    assert_eq!(digest::digest(&mut &million[..]).unwrap(), expected);
}

#[test]
fn folders_go_through_an_archive_unchanged() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let deep = from.path().join("top").join("d".repeat(60)).join("e".repeat(60));
    fs::create_dir_all(&deep).unwrap();
    let big: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(deep.join("f".repeat(90)), &big).unwrap();
    fs::write(from.path().join("top/empty"), "").unwrap();
    fs::write(from.path().join("top/block"), [7; 512]).unwrap();
    let args = ["tar", "cf", "-", "-C", &from.path().to_string_lossy(), "top"].map(str::to_owned);
    let (mut archive, mut err) = (Vec::new(), Vec::new());
    let mut none: &[u8] = &[];
    let code = run(&args, &mut Streams { stdin: &mut none, stdout: &mut archive, stderr: &mut err });
    assert!(code == ExitCode::SUCCESS && archive.len().is_multiple_of(512), "{}", String::from_utf8_lossy(&err));
    let (ok, _, err) = ran(&format!("tar -xmf - -C {}", to.path().display()), &archive);
    assert!(ok, "{err}");
    let there = to.path().join("top").join("d".repeat(60)).join("e".repeat(60)).join("f".repeat(90));
    assert!(fs::read(there).unwrap() == big);
    assert_eq!(fs::read(to.path().join("top/block")).unwrap(), [7; 512]);
    assert!(to.path().join("top/empty").is_file());
    let (_, list, _) = ran("tar tf -", &archive);
    assert_eq!(list.lines().count(), 6, "{list}");
}
