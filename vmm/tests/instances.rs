//! Instances over more than one boot: stopped, started, rebooted, terminated, modified.
//!
//! The guest counts its boots on every disk, so its console tells which disks lasted.

mod common;

use std::fs;

use common::{Lab, SNAPSHOT, finish, manifest, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

impl Lab {
    /// The instance as `describe-instances` shows it.
    fn describe(&self, id: &str) -> Value {
        let shown = self.done(&["instance", "show", id, "--output", "json"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        shown["Reservations"][0]["Instances"][0].clone()
    }

    fn state_of(&self, id: &str) -> String {
        self.describe(id)["State"]["Name"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn log(&self, id: &str) -> String {
        self.done(&["logs", id])
    }

    /// Waits until the guest of `id` has said so often that it waits for its button.
    fn wait_for_boot(&self, id: &str, number: usize) {
        wait_until("the guest waits", || {
            self.log(id).matches("button=waiting").count() == number
        });
    }

    /// What the guest of `id` reported of its boots on each disk, in order.
    fn boots(&self, id: &str) -> Vec<String> {
        let log = self.log(id);
        let said = log.lines().filter_map(|line| {
            let (disk, boots) = line
                .split_once("kami-test: disk")?
                .1
                .split_once(".boots=")?;
            Some(format!("{disk}:{boots}"))
        });
        said.collect()
    }

    fn volumes(&self) -> Vec<String> {
        let shown = self.done(&["volume", "ls", "--output", "json"]);
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let volumes = shown["Volumes"].as_array().unwrap().iter();
        volumes
            .map(|volume| volume["VolumeId"].as_str().unwrap().to_owned())
            .collect()
    }

    fn pid(&self, id: &str) -> Pid {
        let stream = std::os::unix::net::UnixStream::connect(
            self.path("run/kami").join(format!("{id}.sock")),
        );
        rustix::net::sockopt::socket_peercred(stream.unwrap())
            .unwrap()
            .pid
    }

    fn kill(&self, id: &str) {
        kill_process(self.pid(id), Signal::KILL).unwrap();
        wait_until("the kill is seen", || self.state_of(id) != "running");
    }
}

const DISKS: [&str; 4] = ["-b", "/dev/sdd=:1", "-b", "/dev/sdc=none"];

#[test]
fn stopped_instance_starts_on_its_volumes_with_fresh_ephemeral_disks() {
    let lab = Lab::with_guest();
    let id = lab.background("count", &DISKS);
    lab.wait_for_boot(&id, 1);
    let mappings = lab.describe(&id)["BlockDeviceMappings"].clone();
    assert_eq!(mappings.as_array().unwrap().len(), 2);
    lab.done(&["stop", &id]);
    assert_eq!(lab.state_of(&id), "stopped");
    let stopped = lab.describe(&id);
    assert_eq!(
        stopped["StateReason"]["Code"],
        "Client.UserInitiatedShutdown"
    );
    assert_eq!(stopped["BlockDeviceMappings"], mappings);

    assert_eq!(lab.done(&["start", &id]), id);
    lab.wait_for_boot(&id, 2);
    assert_eq!(lab.state_of(&id), "running");
    assert_eq!(lab.describe(&id)["BlockDeviceMappings"], mappings);
    // The second disk is ephemeral.
    let boots = ["0:1", "1:1", "2:1", "0:2", "1:1", "2:2"];
    assert_eq!(lab.boots(&id), boots);
    // One that runs is none the worse for it.
    assert_eq!(lab.done(&["start", &id]), id);
    lab.done(&["terminate", &id]);
}

#[test]
fn start_with_the_terminal_ends_with_the_guest() {
    let lab = Lab::with_guest();
    assert_eq!(lab.run_guest("self", &[]).code, Some(0));
    let id = lab.done(&["ps", "-a"]).lines().nth(1).unwrap()[..19].to_owned();
    let again = lab.kami(&["instance", "start", "-a", &id]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.out.contains("result=pass"), "{again:?}");
    assert_eq!(lab.state().unwrap(), "stopped (0)");
}

#[test]
fn killed_instance_is_told_truthfully_and_starts_again() {
    let lab = Lab::with_guest();
    let id = lab.background("count", &DISKS);
    lab.wait_for_boot(&id, 1);
    lab.kill(&id);
    assert_eq!(lab.state_of(&id), "stopped");
    lab.done(&["start", &id]);
    lab.wait_for_boot(&id, 2);
    assert_eq!(lab.boots(&id)[3..], ["0:2", "1:1", "2:2"]);
    // What the killed process left of its ephemeral disk is gone: root, bitmap, ephemeral, data.
    let volumes = fs::read_dir(lab.path("home/volumes")).unwrap().count();
    assert_eq!(volumes, 4);
    lab.done(&["terminate", &id]);
}

#[test]
fn reboot_boots_the_guest_again_in_the_same_process() {
    let lab = Lab::with_guest();
    let id = lab.background("count", &DISKS);
    lab.wait_for_boot(&id, 1);
    let pid = lab.pid(&id);
    lab.done(&["reboot", &id]);
    lab.wait_for_boot(&id, 2);
    assert_eq!(
        (lab.state_of(&id), lab.pid(&id)),
        ("running".to_owned(), pid)
    );
    // A reboot keeps the ephemeral disk.
    assert_eq!(lab.boots(&id)[3..], ["0:2", "1:2", "2:2"]);
    lab.done(&["stop", &id]);
    let refused = lab.kami(&["reboot", &id]);
    refused.refused(
        1,
        &[&id, "not in a state", "rebooted", "IncorrectInstanceState"],
    );
}

#[test]
fn guest_that_ignores_its_button_is_rebooted_by_force() {
    let lab = Lab::with_guest();
    let id = lab.background("hang", &[]);
    let greetings = || lab.log(&id).matches("Kami test guest").count();
    wait_until("it boots", || greetings() == 1);
    lab.done(&["reboot", "--time", "0", &id]);
    wait_until("it boots again", || greetings() == 2);
    lab.done(&["rm", "-f", &id]);
}

#[test]
fn termination_deletes_what_goes_with_the_instance_and_lists_it_for_a_while() {
    let lab = Lab::with_guest();
    let id = lab.background("button", &[&DISKS[..], &["--name", "web"]].concat());
    lab.wait_for_boot(&id, 1);
    assert_eq!(lab.volumes().len(), 2);
    assert_eq!(lab.done(&["terminate", &id]), id);
    let shown = lab.describe(&id);
    assert_eq!(shown["State"]["Name"], "terminated");
    assert_eq!(shown["State"]["Code"], 48);
    assert_eq!(shown["BlockDeviceMappings"], serde_json::json!([]));
    // The volume that a launch adds is kept.
    assert_eq!(lab.volumes().len(), 1);
    // Again is no error; anything else is.
    assert_eq!(lab.done(&["terminate", &id]), id);
    for verb in ["start", "stop", "reboot"] {
        let refused = lab.kami(&[verb, &id]);
        refused.refused(1, &[&id, "not in a state", "IncorrectInstanceState"]);
    }
    // Its name is free.
    let other = lab.background("button", &["--name", "web"]);
    lab.done(&["terminate", "web"]);
    assert_eq!(lab.done(&["rm", &id, &other]), format!("{id}\n{other}"));
    assert_eq!(lab.state(), None);
}

#[test]
fn guest_that_powers_off_terminates_an_instance_that_says_so() {
    let lab = Lab::with_guest();
    let behavior = ["--shutdown-behavior", "terminate"];
    assert_eq!(lab.run_guest("self", &behavior).code, Some(0));
    assert_eq!(lab.state().unwrap(), "terminated (0)");
    assert_eq!(lab.volumes().len(), 0);
    // A stop from outside is a stop all the same; a panic is no shutdown.
    let id = lab.background("button", &behavior);
    lab.wait_for_boot(&id, 1);
    lab.done(&["stop", &id]);
    assert_eq!(lab.state_of(&id), "stopped");
    lab.done(&["rm", &id]);
    assert_eq!(lab.run_guest("panic", &behavior).code, Some(100));
    let listing = lab.done(&["ps", "-a"]);
    assert!(listing.contains("stopped (100)"), "{listing}");
}

#[test]
fn protected_instance_is_neither_terminated_nor_removed() {
    let lab = Lab::with_guest();
    let id = lab.background("button", &["--disable-api-termination"]);
    let other = lab.background("button", &[]);
    lab.wait_for_boot(&id, 1);
    lab.wait_for_boot(&other, 1);
    for args in [&["terminate", &other, &id][..], &["rm", "-f", &other, &id]] {
        let refused = lab.kami(args);
        refused.refused(1, &[&id, "disableApiTermination", "OperationNotPermitted"]);
        refused.helps("instance modify");
        // One that cannot fails all, before anything is done.
        assert_eq!(lab.state_of(&other), "running");
    }
    lab.done(&[
        "instance",
        "modify",
        &id,
        "--disable-api-termination",
        "false",
    ]);
    lab.done(&["terminate", &other, &id]);
    assert_eq!(lab.state_of(&id), "terminated");
}

#[test]
fn one_bad_id_fails_the_whole_request() {
    let lab = Lab::with_guest();
    let id = lab.background("button", &[]);
    lab.wait_for_boot(&id, 1);
    for verb in ["stop", "terminate", "reboot", "start", "rm"] {
        let refused = lab.kami(&[verb, &id, "i-0123456789abcdef0"]);
        refused.refused(4, &["i-0123456789abcdef0", "InvalidInstanceID.NotFound"]);
        assert_eq!(lab.state_of(&id), "running");
    }
    lab.done(&["terminate", &id]);
}

#[test]
fn instance_store_instance_cannot_stop_and_always_terminates() {
    let lab = Lab::with_guest();
    let disk = lab.path("root.raw");
    let change = |text: &str| {
        text.replace("\"ebs\"", "\"instance-store\"")
            .replace("test image", "store image")
            .replace("00000000000000001", "00000000000000002")
    };
    let file = lab.file("store.json", manifest(change));
    let snapshot = format!("snap-00000000000000002={}", disk.display());
    assert_ne!(SNAPSHOT, &snapshot[..22]);
    lab.done(&["image", "register", &file, "--snapshot", &snapshot]);
    let launch = |mode: &str, more: &[&str]| {
        let mut args = lab.guest_args(mode, more);
        args[1] = "store image".to_owned();
        finish(lab.start(&args.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    let id = launch("count", &["-d", "-b", "/dev/sdd=:1"]).out;
    let id = id.trim_end();
    lab.wait_for_boot(id, 1);
    let shown = lab.describe(id);
    assert_eq!(shown["RootDeviceType"], "instance-store");
    let mappings = shown["BlockDeviceMappings"].as_array().unwrap();
    assert_eq!(mappings.len(), 1, "{shown}");
    assert_eq!(mappings[0]["DeviceName"], "/dev/sdd");
    assert_eq!(lab.volumes().len(), 1);
    let refused = lab.kami(&["stop", id]);
    refused.refused(
        1,
        &[
            "does not have an 'ebs' root device type",
            "UnsupportedOperation",
        ],
    );
    lab.done(&["reboot", id]);
    lab.wait_for_boot(id, 2);
    assert_eq!(lab.boots(id)[4..5], ["0:2"]);
    lab.kill(id);
    assert_eq!(lab.state_of(id), "terminated");
    lab.kami(&["start", id])
        .refused(1, &["IncorrectInstanceState"]);
    lab.done(&["rm", id]);
    // What a launch adds is kept.
    assert_eq!(lab.volumes().len(), 1);

    assert_eq!(launch("self", &["-b", "/dev/sdd=none"]).code, Some(0));
    assert_eq!(lab.done(&["ps", "-a"]).matches("terminated (0)").count(), 1);
    let left = lab.left();
    let volumes = left.iter().filter(|name| name.starts_with("volumes/"));
    assert_eq!(volumes.count(), 1, "{left:?}");
}

/// Killed where it counts, by the command or by the instance's own process: the next command finishes it, and
/// nothing is lost or left.
#[test]
fn termination_that_is_killed_anywhere_is_finished_by_the_next_command() {
    let lab = Lab::with_guest();
    let empty = lab.left();
    let points = [
        "terminate.begun",
        "terminate.changed",
        "terminate.committed",
    ];
    for point in points {
        for runs in [true, false] {
            let in_process = runs && point != "terminate.begun";
            let mut launch = lab.command(common::KAMI);
            if in_process {
                launch.env("KAMI_FAULT", point);
            }
            let args = lab.guest_args("button", &["-d", "-b", "/dev/sdd=:1"]);
            let launched = finish(launch.args(args).spawn().unwrap());
            let id = launched.out.trim_end();
            lab.wait_for_boot(id, 1);
            if !runs {
                lab.done(&["stop", id]);
            }
            if in_process {
                // The command sees to it that the instance is terminated, whoever dies.
                assert_eq!(lab.done(&["terminate", id]), id, "{point}");
            } else {
                assert_eq!(
                    lab.killed_at(point, &["terminate", id]).code,
                    None,
                    "{point}"
                );
            }
            if point == "terminate.begun" && runs {
                // Its guest was not asked yet.
                assert_eq!(lab.state_of(id), "shutting-down");
            }
            lab.done(&["terminate", id]);
            assert_eq!(lab.state_of(id), "terminated", "{point}");
            assert_eq!(lab.volumes().len(), 1, "the data volume survives: {point}");
            lab.done(&["store", "gc"]);
            lab.done(&["store", "check"]);
            lab.done(&["volume", "delete", &lab.volumes()[0]]);
            lab.done(&["rm", id]);
            assert_eq!(lab.left(), empty, "{point}");
        }
    }
}
