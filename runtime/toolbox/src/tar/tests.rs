//! Archives that other programs write, and ones that nobody honest does.

use std::fs;

use super::header::{Header, Kind, long};
use super::*;

fn entry(name: &str, kind: Kind, content: &[u8]) -> Vec<u8> {
    let size = content.len() as u64;
    let header = Header { name: name.to_owned(), kind, size, changed: 1, link: "target".to_owned() };
    let mut bytes = header.write().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len() + usize::try_from(padding(size)).unwrap(), 0);
    bytes
}

fn extract(archive: &[u8], folder: &std::path::Path) -> Result<String, String> {
    let args = ["-xf", "-", "-C", &folder.to_string_lossy()].map(str::to_owned);
    let (mut out, mut err, mut input) = (Vec::new(), Vec::new(), archive);
    match tar(&args, &mut Streams { stdin: &mut input, stdout: &mut out, stderr: &mut err }) {
        Ok(()) => Ok(String::from_utf8(err).unwrap()),
        Err(Failure::Said(why)) => Err(why),
        Err(Failure::Silent) => Err(String::new()),
    }
}

#[test]
fn nothing_is_written_outside_the_folder() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("in");
    fs::create_dir(&folder).unwrap();
    assert!(extract(&entry("../out", Kind::File, b"x"), &folder).unwrap_err().contains("'..'"));
    assert!(extract(&entry("a/../../out", Kind::File, b"x"), &folder).unwrap_err().contains("'..'"));
    extract(&entry("/etc/absolute", Kind::File, b"x"), &folder).unwrap();
    assert!(folder.join("etc/absolute").is_file() && !parent.path().join("out").exists());
    #[cfg(unix)]
    {
        fs::write(parent.path().join("outside"), "kept").unwrap();
        std::os::unix::fs::symlink(parent.path().join("outside"), folder.join("link")).unwrap();
        extract(&entry("link", Kind::File, b"new"), &folder).unwrap();
        assert_eq!(fs::read(parent.path().join("outside")).unwrap(), b"kept");
        assert_eq!(fs::read(folder.join("link")).unwrap(), b"new");
    }
    assert!(extract(&entry("l", Kind::Link, b""), &folder).unwrap().contains("only files and folders"));
}

#[test]
fn names_of_any_length_in_every_spelling() {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("{}/{}", "n".repeat(120), "m".repeat(511));
    let mut archive = long(Kind::LongName, &"g".repeat(200));
    archive.extend(entry("cut", Kind::File, b"gnu"));
    let record = |text: &str| {
        let length = text.len() + 2;
        let digits = (length + 3).to_string().len();
        format!("{} {text}\n", length + digits)
    };
    let attributes = record(&format!("path={}", "p".repeat(150))) + &record("mtime=1.5");
    archive.extend(entry("attributes", Kind::Attributes, attributes.as_bytes()));
    archive.extend(entry("cut", Kind::File, b"pax"));
    archive.extend(entry("everywhere", Kind::Other(b'g'), b"12 comment=x"));
    archive.extend([0; 1024]);
    extract(&archive, folder.path()).unwrap();
    assert_eq!(fs::read(folder.path().join("g".repeat(200))).unwrap(), b"gnu");
    assert_eq!(fs::read(folder.path().join("p".repeat(150))).unwrap(), b"pax");
    for length in [511, 512, 513, 1023] {
        assert!(long(Kind::LongName, &name[..length.min(name.len())]).len().is_multiple_of(BLOCK));
    }
}

#[test]
fn damaged_archives_are_refused_without_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut whole = long(Kind::LongName, &"x".repeat(130));
    whole.extend(entry("a", Kind::File, &[1; 700]));
    whole.extend(entry("attributes", Kind::Attributes, b"12 path=abc\n"));
    whole.extend(entry("b", Kind::Folder, b""));
    extract(&whole, folder.path()).unwrap();
    for length in (0..whole.len()).step_by(13) {
        let _ = extract(&whole[..length], folder.path());
    }
    for at in (0..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        let _ = extract(&damaged, folder.path());
    }
    let mut huge =
        Header { name: "h".into(), kind: Kind::File, size: u64::MAX, changed: 0, link: String::new() }.write();
    assert!(extract(&huge, folder.path()).unwrap_err().contains("Unexpected EOF"));
    huge[0] ^= 1;
    assert!(extract(&huge, folder.path()).unwrap_err().contains("does not look like"));
}
