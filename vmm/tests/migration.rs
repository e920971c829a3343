//! Stores that an older version has written: brought to the present schema whole, or not at all.

mod common;

use std::fs;

use common::{Lab, finish};
use rusqlite::Connection;
use serde_json::Value;

/// The schema of the first release, and what fills it from the present one.
const VERSION_1: &str = include_str!("common/version_1.sql");

/// A store with an image, a stopped instance that has written to its disks and a volume that survived
/// another, as the first release would have left it: that one's files were what they are now, and so were
/// the columns that its tables had.
fn old_store() -> Lab {
    let lab = Lab::with_guest();
    let survivor = lab.run_guest("self", &["--name", "gone", "-b", "/dev/sdd=:1:false"]);
    assert_eq!(survivor.code, Some(0), "{survivor:?}");
    lab.done(&["rm", "gone"]);
    let kept = lab.run_guest("self", &["--name", "kept"]);
    assert_eq!(kept.code, Some(0), "{kept:?}");

    let present = lab.path("present.db");
    let old = lab.path("home/catalogue.db");
    // Of its own log nothing may be left for a catalogue that is not its own.
    let connection = Connection::open(&old).unwrap();
    connection
        .pragma_update(None, "journal_mode", "DELETE")
        .unwrap();
    drop(connection);
    fs::rename(&old, &present).unwrap();
    let connection = Connection::open(&old).unwrap();
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .unwrap();
    connection
        .execute("ATTACH ?1 AS present", [present.to_str().unwrap()])
        .unwrap();
    connection.execute_batch(VERSION_1).unwrap();
    assert_eq!(version(&connection), 1);
    lab
}

fn version(connection: &Connection) -> i64 {
    connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap()
}

fn shown(lab: &Lab, args: &[&str]) -> Value {
    serde_json::from_str(&lab.done(&[args, &["--output", "json"]].concat())).unwrap()
}

/// What both versions know of the only instance.
fn instance(lab: &Lab) -> Vec<Value> {
    let shown = shown(lab, &["ps", "-a"]);
    let instance = &shown["Reservations"][0]["Instances"][0];
    let ids = ["InstanceId", "ImageId", "State", "LaunchTime", "Tags"];
    let mut known: Vec<_> = ids.iter().map(|name| instance[name].clone()).collect();
    for mapping in instance["BlockDeviceMappings"].as_array().unwrap() {
        known.push(mapping["DeviceName"].clone());
        known.push(mapping["Ebs"]["VolumeId"].clone());
    }
    known
}

#[test]
fn store_of_the_first_release_is_upgraded_with_all_that_is_in_it() {
    let new = Lab::with_guest();
    let expected = shown(&new, &["image", "ls"]);
    let lab = old_store();
    let files = lab.left();
    let images = shown(&lab, &["image", "ls"]);
    let (found, expected) = (&images["Images"][0], &expected["Images"][0]);
    for member in ["ImageId", "Name", "BlockDeviceMappings", "OwnerId", "State"] {
        assert_eq!(found[member], expected[member], "{images}");
    }
    let known = instance(&lab);
    assert_eq!(known[2]["Name"], "stopped");
    let connection = Connection::open(lab.path("home/catalogue.db")).unwrap();
    assert!(version(&connection) > 1);
    assert_eq!(lab.left(), files);

    // It goes on as any other: content is shared, nothing counts as what a crash left, guests boot.
    let content = fs::read(lab.path("root.raw")).unwrap();
    let disk = lab.file("same.raw", content);
    lab.done(&["image", "import", &disk, "--name", "same"]);
    let added: Vec<_> = lab
        .left()
        .into_iter()
        .filter(|name| !files.contains(name))
        .collect();
    assert_eq!(added.len(), 1, "a table and no content: {added:?}");
    assert!(lab.left().len() == files.len() + 1, "{:?}", lab.left());
    let again = lab.run_guest("self", &["--rm"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    lab.done(&["rm", "kept"]);
    assert_eq!(lab.state(), None);
}

#[test]
fn many_commands_may_upgrade_a_store_at_once() {
    let lab = old_store();
    let listings: Vec<_> = (0..16).map(|_| lab.start(&["ps", "-a"])).collect();
    for listing in listings {
        let outcome = finish(listing);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.out.contains("kept"), "{outcome:?}");
    }
}

#[test]
fn store_of_a_newer_version_is_refused_and_left_alone() {
    let lab = Lab::new();
    lab.done(&["image", "ls"]);
    let connection = Connection::open(lab.path("home/catalogue.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    for args in [&["ps"][..], &["image", "ls"], &["run", "x"]] {
        let outcome = lab.kami(args);
        outcome.refused(1, &["catalogue.db", "newer version", "99"]);
        outcome.helps("KAMI_HOME");
    }
    assert_eq!(version(&connection), 99);
}
