//! Imports that do not come to their end: interrupted, killed, on a full disk.

mod common;

use std::fs;
use std::process::Child;

use common::{Lab, finish, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// Starts the import of a disk that takes a while, and waits until it has written something.
fn importing(lab: &Lab) -> Child {
    // Chunks that all differ, so that each one is written.
    let words = (0..40_u64 << 20).step_by(8);
    let content: Vec<u8> = words
        .flat_map(|word| (word ^ 0x5555_aaaa_0f0f_f0f0).to_le_bytes())
        .collect();
    let disk = lab.file("disk.raw", content);
    let child = lab.start(&["image", "import", &disk, "--name", "interrupted"]);
    // proc_pid_io(5): what the process has written so far.
    let io = format!("/proc/{}/io", child.id());
    wait_until("something is written", || {
        let io = fs::read_to_string(&io).unwrap_or_default();
        let written = io
            .lines()
            .find_map(|line| line.strip_prefix("wchar: ")?.parse().ok());
        written.is_some_and(|bytes: u64| bytes > 1 << 20)
    });
    child
}

#[test]
fn interrupt_undoes_an_import() {
    for signal in [Signal::INT, Signal::TERM] {
        let lab = Lab::new();
        let child = importing(&lab);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let outcome = finish(child);
        outcome.refused(130, &["interrupted"]);
        assert_eq!(lab.left(), [""; 0]);
        assert_eq!(lab.done(&["image", "ls"]).lines().count(), 1);
    }
}

#[test]
fn what_a_killed_import_leaves_is_swept_by_the_next_one() {
    let lab = Lab::new();
    let child = importing(&lab);
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    assert_eq!(finish(child).code, None);
    assert_eq!(lab.done(&["image", "ls"]).lines().count(), 1);
    // One whose chunks are all zeroes adds no segment of its own.
    let disk = lab.file("zeroes.raw", vec![0; 1 << 20]);
    lab.done(&["image", "import", &disk, "--name", "next"]);
    let left = lab.left();
    assert!(
        left.iter().all(|name| name.starts_with("snapshots/")),
        "{left:?}"
    );
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn full_disk_undoes_an_import() {
    let lab = Lab::new();
    let words = (0..8_u64 << 20)
        .step_by(8)
        .flat_map(|word| (!word).to_le_bytes());
    let disk = lab.file("disk.raw", words.collect::<Vec<_>>());
    let home = lab.path("home");
    fs::create_dir(&home).unwrap();
    let script = "mount -t tmpfs -o size=4m none \"$KAMI_HOME\"\n\
        status=0; \"$@\" || status=$?\n\
        cd \"$KAMI_HOME\"; find . -mindepth 2; exit $status";
    let mut command = lab.command("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("-r");
    }
    command.args(["-m", "sh", "-ec", script, "sh", common::KAMI]);
    let outcome = finish(
        command
            .args(["image", "import", &disk, "--name", "full"])
            .spawn()
            .unwrap(),
    );
    outcome.refused(1, &["No space left on device"]);
    assert_eq!(outcome.out, "", "something is left");
}
