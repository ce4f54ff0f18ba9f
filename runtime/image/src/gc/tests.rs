//! What goes and what stays: the choice as a table, and the store before and after.

use std::fs::File;

use super::*;
use crate::images::Origin;
use crate::images::tests::{component, store};
use crate::reference::Reference;

const HOUR: Duration = Duration::from_secs(3600);

/// Names with the blobs they lead to, oldest first: `name:abc`, `!` before those that stay.
fn chosen(text: &str, kept: &str, wanted_bytes: u64) -> (Vec<String>, String) {
    let blobs = |letters: &str| letters.chars().map(String::from).collect::<BTreeSet<_>>();
    let named = |(word, second): (&str, u64)| {
        let (name, letters) = word.split_once(':').unwrap();
        let stays = name.starts_with('!');
        let last_used = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        Named { name: name.trim_start_matches('!').to_owned(), blobs: blobs(letters), stays, last_used }
    };
    let named: Vec<Named> = text.split(' ').zip(0..).map(named).collect();
    // Each blob weighs 10, and `z` is not there.
    let sizes = ('a'..='y').map(|letter| (letter.to_string(), 10)).collect();
    let (names, gone) = choose(&named, &blobs(kept), &sizes, wanted_bytes);
    (names, gone.into_iter().collect())
}

#[test]
fn what_was_used_longest_ago_goes_until_it_is_enough() {
    let cases = [
        ("old:a new:b", "", 0, vec![], ""),
        ("old:a new:b", "", 1, vec!["old"], "a"),
        ("old:a new:b", "", 11, vec!["old", "new"], "ab"),
        ("old:a new:b", "", 1000, vec!["old", "new"], "ab"),
        ("!old:a new:b", "", 1, vec!["new"], "b"),
        // What two lead to goes with the second of them, and with neither when it is kept.
        ("one:ab two:bc", "", 10, vec!["one"], "a"),
        ("one:ab two:bc", "", 20, vec!["one", "two"], "abc"),
        ("one:ab !two:bc", "", 20, vec!["one"], "a"),
        ("one:ab two:bc", "b", 100, vec!["one", "two"], "ac"),
        ("gone:z old:a", "", 10, vec!["gone", "old"], "a"),
    ];
    for (named, kept, wanted, names, blobs) in cases {
        let expected = (names.into_iter().map(str::to_owned).collect(), blobs.to_owned());
        assert_eq!(chosen(named, kept, wanted), expected, "{named} {kept} {wanted}");
    }
}

fn put(images: &Images, name: &str) -> String {
    images.put(name, &component(name), &BTreeMap::new()).unwrap()
}

/// An image that came from elsewhere, so long ago.
fn pulled(images: &Images, name: &str, age: Duration) -> String {
    let digest = put(images, name);
    let named = Reference::parse(name).unwrap().to_string();
    images.name(Descriptor::new(artifact::MANIFEST, digest.clone(), 0), &named, Origin::Pulled).unwrap();
    backdate(images, age);
    digest
}

/// Nothing in the store has changed or was used for so long.
fn backdate(images: &Images, age: Duration) {
    for folder in [images.layout().blob_folder(), images.folder().join("used")] {
        for entry in fs::read_dir(folder).unwrap() {
            let file = File::options().write(true).open(entry.unwrap().path()).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
    }
}

fn names(images: &Images) -> Vec<String> {
    images.list().unwrap().into_iter().map(|listed| listed.name).collect()
}

#[test]
fn what_nobody_else_has_and_what_is_used_stays() {
    let (folder, images) = store();
    put(&images, "built:1");
    for name in ["used:1", "elsewhere:1", "idle:1", "young:1"] {
        pulled(&images, name, HOUR);
    }
    let used = images.resolve("used:1").unwrap();
    // Another node of this machine.
    let other = Images::open(folder.path()).unwrap();
    let elsewhere = other.resolve("elsewhere:1").unwrap();
    drop(images.resolve("young:1").unwrap());
    let collected = images.collect(u64::MAX, Duration::from_secs(60)).unwrap();
    assert_eq!(collected.images, ["docker.io/library/idle:1"]);
    assert!(collected.bytes > 0);
    assert_eq!(names(&images), ["built:1", "elsewhere:1", "used:1", "young:1"]);
    assert!(matches!(images.resolve("idle:1").unwrap_err(), ImageError::NotFound(_)));
    for name in ["built:1", "elsewhere:1", "used:1", "young:1"] {
        images.resolve(name).unwrap();
    }
    drop((used, elsewhere));
    backdate(&images, HOUR);
    images.collect(u64::MAX, Duration::from_secs(60)).unwrap();
    assert_eq!(names(&images), ["built:1"]);
    images.resolve("built:1").unwrap();
    // What comes again is as good as before.
    pulled(&images, "idle:1", HOUR);
    images.resolve("idle:1").unwrap();
}

#[test]
fn what_no_name_leads_to_goes_once_it_is_old() {
    let (_folder, images) = store();
    let first = put(&images, "hello:1");
    let running = images.resolve(&format!("hello@{first}")).unwrap();
    images.put("hello:1", &component("second"), &BTreeMap::new()).unwrap();
    let pinned = format!("hello@{first}");
    assert_eq!(images.collect(0, HOUR).unwrap(), Collected::default(), "it is young");
    backdate(&images, HOUR);
    assert_eq!(images.collect(0, HOUR).unwrap(), Collected::default(), "it is used");
    images.resolve(&pinned).unwrap();
    drop(running);
    assert_eq!(images.collect(0, HOUR).unwrap(), Collected::default(), "it was used a moment ago");
    backdate(&images, HOUR);
    assert!(images.collect(0, HOUR).unwrap().bytes > 0);
    assert!(matches!(images.resolve(&pinned).unwrap_err(), ImageError::NotFound(_)));
    images.resolve("hello:1").unwrap();
    assert!(!images.has(&"0".repeat(64)) && !images.has("x"));
}

#[test]
fn half_written_files_go_after_a_day() {
    let (_folder, images) = store();
    let left = images.layout().blob_folder().join(".new-half");
    fs::write(&left, [7; 100]).unwrap();
    assert_eq!(images.collect(0, HOUR).unwrap().bytes, 0);
    backdate(&images, LEFTOVER_AGE_MIN);
    assert_eq!(images.collect(0, HOUR).unwrap().bytes, 100);
    assert!(!left.exists());
}

#[test]
fn equal_answers_are_one_and_say_the_same() {
    let (_folder, images) = store();
    put(&images, "a:1");
    let (one, other) = (images.resolve("a:1").unwrap(), images.resolve("docker.io/library/a:1").unwrap());
    assert!(std::sync::Arc::ptr_eq(&one, &other));
    put(&images, "b:1");
    assert!(!std::sync::Arc::ptr_eq(&one, &images.resolve("b:1").unwrap()));
}
