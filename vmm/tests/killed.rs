//! Commands that are killed between two of their lasting effects, at every fault point there is: what finished commands
//! promised is still there, the store is sound, the same command can be given again, and what the killed one left is swept.
#![cfg(debug_assertions)] // A release build has no fault points.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use common::store::{CHUNK_BYTES, content};
use common::{Lab, wait_until};
use kami_image::fault::POINTS;
use kami_tests::disk::Disk;

/// Makes what a command needs, and returns its arguments.
type Setup = fn(&Lab) -> Vec<String>;

/// The commands that have fault points, by what the points' names begin with. One that reaches different points in
/// different situations has several.
const COMMANDS: &[(&str, &[Setup])] = &[
    ("migrate", &[]),
    ("register", &[register, import]),
    ("create-volume", &[create_volume, create_empty_volume]),
    ("delete-volume", &[delete_volume]),
    (
        "snapshot",
        &[
            snapshot,
            second_snapshot,
            snapshot_of_empty_volume,
            create_image,
        ],
    ),
    (
        "delete-snapshot",
        &[
            delete_snapshot,
            delete_first_of_two_snapshots,
            delete_snapshot_under_a_volume,
        ],
    ),
    ("deregister", &[deregister, deregister_with_snapshots]),
    ("prune", &[prune]),
    ("copy", &[copy]),
    ("create-image", &[create_image]),
    ("repair", &[]),
    ("terminate", &[terminate, remove]),
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn import(lab: &Lab) -> Vec<String> {
    let disk = lab.disk("new.raw", 1, 3);
    words(&["image", "import", &disk, "--name", "new"])
}

fn register(lab: &Lab) -> Vec<String> {
    let disk = lab.disk("new.raw", 1, 3);
    let text = |text: &str| {
        text.replace("0000001\"", "0000002\"")
            .replace("test image", "new")
    };
    let manifest = lab.file("new.json", common::manifest(text));
    let snapshot = format!("snap-00000000000000002={disk}");
    words(&["image", "register", &manifest, "--snapshot", &snapshot])
}

/// Of its four chunks half are `base`'s too.
fn second(lab: &Lab) -> String {
    let half = [content(0, 2), content(2, 2)].concat();
    let disk = lab.file("second.raw", half);
    lab.done(&["image", "import", &disk, "--name", "second"]);
    lab.root_snapshot("second")
}

fn create_volume(lab: &Lab) -> Vec<String> {
    words(&["volume", "create", "--snapshot", &second(lab)])
}

fn create_empty_volume(_: &Lab) -> Vec<String> {
    words(&["volume", "create", "--size", "16000"])
}

fn delete_volume(lab: &Lab) -> Vec<String> {
    let snapshot = second(lab);
    let volume = lab.done(&["volume", "create", "--snapshot", &snapshot]);
    change(lab, &volume, 3);
    words(&["volume", "delete", &volume])
}

/// Writes to a block here and there.
fn change(lab: &Lab, volume: &str, seed: u8) {
    let mut disk = Disk::open(&lab.path("home"), volume).unwrap();
    for chunk in [0, 3, 4, 1000] {
        let offset = chunk * CHUNK_BYTES as u64 + u64::from(seed) * 8192;
        disk.write(offset, &[seed; 5000]).unwrap();
    }
    disk.flush().unwrap();
}

fn snapshot(lab: &Lab) -> Vec<String> {
    let snapshot = second(lab);
    let volume = lab.done(&["volume", "create", "--snapshot", &snapshot]);
    change(lab, &volume, 3);
    words(&["snapshot", "create", &volume])
}

fn second_snapshot(lab: &Lab) -> Vec<String> {
    let args = snapshot(lab);
    lab.done(&args.iter().map(String::as_str).collect::<Vec<_>>());
    change(lab, &args[2], 4);
    args
}

fn snapshot_of_empty_volume(lab: &Lab) -> Vec<String> {
    let volume = lab.done(&["volume", "create", "--size", "1"]);
    change(lab, &volume, 3);
    words(&["snapshot", "create", &volume])
}

fn delete_snapshot(lab: &Lab) -> Vec<String> {
    let snapshot = second(lab);
    lab.done(&["image", "deregister", "second"]);
    words(&["snapshot", "delete", &snapshot])
}

/// The second has chunks of the first's, and of its own.
fn delete_first_of_two_snapshots(lab: &Lab) -> Vec<String> {
    let args = snapshot(lab);
    let first = lab.done(&["snapshot", "create", &args[2]]);
    change(lab, &args[2], 4);
    lab.done(&["snapshot", "create", &args[2]]);
    words(&["snapshot", "delete", first.lines().last().unwrap()])
}

fn delete_snapshot_under_a_volume(lab: &Lab) -> Vec<String> {
    let snapshot = second(lab);
    lab.done(&["volume", "create", "--snapshot", &snapshot]);
    lab.done(&["image", "deregister", "second"]);
    words(&["snapshot", "delete", &snapshot])
}

fn deregister(lab: &Lab) -> Vec<String> {
    second(lab);
    words(&["image", "deregister", "second"])
}

fn deregister_with_snapshots(lab: &Lab) -> Vec<String> {
    second(lab);
    words(&["image", "deregister", "second", "--delete-snapshots"])
}

fn prune(lab: &Lab) -> Vec<String> {
    second(lab);
    words(&["image", "prune", "--name", "second", "--keep", "0", "--yes"])
}

fn copy(lab: &Lab) -> Vec<String> {
    second(lab);
    words(&["image", "copy", "second", "--name", "third"])
}

fn instance(lab: &Lab) -> Vec<String> {
    second(lab);
    lab.run_guest_of("second", &["--name", "another", "-b", "/dev/sdf=:1:false"]);
    words(&["terminate", "another"])
}

fn terminate(lab: &Lab) -> Vec<String> {
    instance(lab)
}

fn remove(lab: &Lab) -> Vec<String> {
    instance(lab);
    words(&["rm", "another"])
}

/// Of two volumes, one of which has no snapshot yet.
fn create_image(lab: &Lab) -> Vec<String> {
    instance(lab);
    for volume in lab.volumes_of("another") {
        change(lab, &volume, 5);
    }
    words(&["image", "create", "another", "--name", "of another"])
}

/// A store in which finished commands have made an image of known content and a stopped instance of it.
struct Promised {
    lab: Lab,
    snapshot: String,
}

impl Promised {
    fn new() -> Self {
        let lab = Lab::with_guest();
        let snapshot = lab.import("base", 0, 4);
        lab.run_guest_of("base", &["--name", "kept"]);
        change(&lab, &lab.volumes_of("kept")[0], 9);
        Self { lab, snapshot }
    }

    /// Another store with the same in it.
    fn again(&self) -> Self {
        let lab = Lab::new();
        let (from, to) = (self.lab.path("home"), lab.path("home"));
        let mut copy = std::process::Command::new("cp");
        let status = copy
            .args(["-a", "--sparse=always"])
            .arg(from)
            .arg(to)
            .status();
        assert!(status.unwrap().success());
        let snapshot = self.snapshot.clone();
        Self { lab, snapshot }
    }

    /// Looks whether all of it is there.
    fn is_kept(&self) {
        let lab = &self.lab;
        lab.done(&["store", "check"]);
        assert!(
            lab.exported(&self.snapshot, 4 * CHUNK_BYTES) == content(0, 4),
            "its content is another"
        );
        assert_eq!(lab.instance("kept")["State"]["Name"], "stopped");
        let mut disk = Disk::open(&lab.path("home"), &lab.volumes_of("kept")[0]).unwrap();
        let (mut block, mut byte) = ([0; 5000], [0]);
        disk.read(1000 * CHUNK_BYTES as u64 + 9 * 8192, &mut block)
            .unwrap();
        assert!(block == [9; 5000], "what was written to a volume is lost");
        disk.read(CHUNK_BYTES as u64, &mut byte).unwrap();
        assert_eq!(byte[0], content(0, 4)[CHUNK_BYTES]);
    }
}

fn killed_at_each_point(command: &str) {
    let setups = COMMANDS.iter().find(|it| it.0 == command).unwrap().1;
    let points = POINTS.iter().filter(|it| command_of(it) == command);
    let mut unreached: BTreeSet<_> = points.clone().collect();
    for setup in setups {
        let before = Promised::new();
        let args = setup(&before.lab);
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let undisturbed = before.again();
        undisturbed.lab.done(&args);
        undisturbed.lab.done(&["store", "gc"]);
        for point in points.clone() {
            if killed_once(point, &args, before.again(), &undisturbed.lab) {
                unreached.remove(point);
            }
        }
    }
    assert!(unreached.is_empty(), "not reached: {unreached:?}");
}

/// Whether the point was reached.
fn killed_once(point: &str, args: &[&str], promised: Promised, undisturbed: &Lab) -> bool {
    let lab = &promised.lab;
    let outcome = lab.killed_at(point, args);
    let reached = outcome.code.is_none();
    assert!(reached || outcome.code == Some(0), "{point}: {outcome:?}");
    promised.is_kept();
    // Unless it had come as far as to be done, it can be given again.
    if lab.listed() != undisturbed.listed() {
        lab.done(args);
        assert_eq!(lab.listed(), undisturbed.listed(), "{point}: {args:?}");
    }
    lab.done(&["store", "gc"]);
    promised.is_kept();
    assert_eq!(lab.census(), undisturbed.census(), "{point}: {args:?}");
    reached
}

/// The points of a snapshot, made of the root volume of a guest that runs on.
#[test]
fn killed_snapshot_of_a_running_instance() {
    for point in POINTS.iter().filter(|it| command_of(it) == "snapshot") {
        let promised = Promised::new();
        let lab = &promised.lab;
        let kernel = lab.path("guest");
        let kernel = ["--kernel", kernel.to_str().unwrap()];
        let run = ["run", "-d", "base", "--name", "alive", "--memory", "32M"];
        let id = lab.done(&[&run[..], &kernel, &["--append", "kami.test=button"]].concat());
        let volume = &lab.volumes_of("alive")[0];
        wait_until("the guest runs", || {
            lab.done(&["logs", &id]).contains("button=waiting")
        });
        let create = ["snapshot", "create", volume];
        assert_eq!(lab.killed_at(point, &create).code, None, "{point}");
        promised.is_kept();
        let snapshot = lab.done(&create);
        lab.done(&["store", "gc"]);
        promised.is_kept();
        assert!(
            lab.exported(&snapshot, 4 * CHUNK_BYTES) == content(0, 4),
            "{point}"
        );
        assert_eq!(lab.done(&["stop", "alive"]), id, "{point}");
        assert!(
            lab.done(&["logs", &id]).contains("button=pressed"),
            "{point}"
        );
        lab.done(&["store", "check"]);
    }
}

/// A repair takes away what is damaged, and is the one command after whose death the store is not sound.
#[test]
fn killed_repair() {
    for point in POINTS.iter().filter(|it| command_of(it) == "repair") {
        let promised = Promised::new();
        let lab = &promised.lab;
        let segments = || fs::read_dir(lab.path("home/segments")).unwrap();
        let sound: Vec<_> = segments().map(|it| it.unwrap().path()).collect();
        let snapshot = second(lab);
        let paths = segments().map(|it| it.unwrap().path());
        for path in paths.filter(|path| !sound.contains(path)) {
            let file = File::options().write(true).open(path).unwrap();
            file.write_all_at(&[0x55], CHUNK_BYTES as u64 + 5).unwrap();
        }
        assert_eq!(lab.kami(&["store", "check"]).code, Some(1));
        let repair = ["store", "check", "--repair"];
        assert_eq!(lab.killed_at(point, &repair).code, None, "{point}");
        lab.done(&repair);
        lab.done(&["store", "gc"]);
        promised.is_kept();
        let shown = lab.json(&["snapshot", "ls"]);
        let shown = shown["Snapshots"].as_array().unwrap();
        let damaged: Vec<_> = shown.iter().filter(|it| it["State"] == "error").collect();
        assert_eq!(damaged.len(), 1, "{point}: {shown:?}");
        assert_eq!(damaged[0]["SnapshotId"], snapshot);
    }
}

fn command_of(point: &str) -> &str {
    point.split_once('.').unwrap().0
}

#[test]
fn every_point_is_one_of_a_command_that_is_killed_here() {
    let commands: BTreeSet<_> = POINTS.iter().map(|point| command_of(point)).collect();
    let killed: BTreeSet<_> = COMMANDS.iter().map(|it| it.0).collect();
    assert_eq!(commands, killed);
}

/// The first command on a new store, and nobody's promise.
#[test]
fn killed_creation_of_a_store() {
    let lab = Lab::new();
    assert_eq!(lab.killed_at("migrate.filled", &["image", "ls"]).code, None);
    assert_eq!(lab.done(&["image", "ls"]).lines().count(), 1);
}

#[test]
fn killed_registration() {
    killed_at_each_point("register");
}

#[test]
fn killed_creation_of_a_volume() {
    killed_at_each_point("create-volume");
}

#[test]
fn killed_deletion_of_a_volume() {
    killed_at_each_point("delete-volume");
}

#[test]
fn killed_snapshot() {
    killed_at_each_point("snapshot");
}

#[test]
fn killed_deletion_of_a_snapshot() {
    killed_at_each_point("delete-snapshot");
}

#[test]
fn killed_deregistration() {
    killed_at_each_point("deregister");
}

#[test]
fn killed_prune() {
    killed_at_each_point("prune");
}

#[test]
fn killed_copy() {
    killed_at_each_point("copy");
}

#[test]
fn killed_creation_of_an_image() {
    killed_at_each_point("create-image");
}

#[test]
fn killed_termination() {
    killed_at_each_point("terminate");
}
