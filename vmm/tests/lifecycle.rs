//! Instances in the background, and the commands that follow and end them.

mod common;

use std::fs;

use common::{Lab, finish, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// The process of the only instance.
fn process(lab: &Lab) -> Pid {
    let socket = fs::read_dir(lab.path("run/kami")).unwrap().next().unwrap();
    let stream = std::os::unix::net::UnixStream::connect(socket.unwrap().path()).unwrap();
    let pid = rustix::net::sockopt::socket_peercred(&stream).unwrap().pid;
    assert_ne!(
        pid,
        Pid::from_raw(i32::try_from(std::process::id()).unwrap()).unwrap()
    );
    pid
}

fn sockets(lab: &Lab) -> usize {
    fs::read_dir(lab.path("run/kami")).map_or(0, Iterator::count)
}

#[test]
fn background_instance_is_listed_stopped_by_its_button_and_removed() {
    let lab = Lab::with_guest();
    let empty = lab.left();
    let id = lab.background("button", &["--name", "web"]);
    assert!(id.starts_with("i-") && id.len() == 19, "{id}");
    let listing = lab.done(&["ps"]);
    let row = listing.lines().nth(1).unwrap();
    assert!(
        row.starts_with(&id) && row.contains("web") && row.contains("running"),
        "{listing}"
    );
    lab.wait_for("button=waiting");
    assert_eq!(lab.done(&["stop", "web"]), id);
    assert_eq!(lab.state().unwrap(), "stopped (0)");
    assert_eq!(lab.done(&["ps"]).lines().count(), 1);
    assert!(lab.done(&["logs", &id[..8]]).contains("button=pressed"));
    assert_eq!(sockets(&lab), 0);
    assert_eq!(lab.done(&["rm", &id]), id);
    assert_eq!(lab.left(), empty);
}

#[test]
fn guest_that_ignores_its_button_is_ended_by_force() {
    let lab = Lab::with_guest();
    let id = lab.background("hang", &[]);
    lab.done(&["stop", "--time", "1", &id]);
    assert_eq!(lab.state().unwrap(), "stopped (137)");
    // It has ended: stopping it again is no error.
    lab.done(&["stop", &id]);
}

#[test]
fn running_instance_is_removed_by_force_only() {
    let lab = Lab::with_guest();
    let empty = lab.left();
    let id = lab.background("hang", &[]);
    let refused = lab.kami(&["rm", &id]);
    refused.refused(1, &[&id, "it runs"]);
    refused.helps("kami stop");
    assert_eq!(lab.state().unwrap(), "running");
    lab.done(&["rm", "-f", &id]);
    assert_eq!(lab.state(), None);
    assert_eq!(lab.left(), empty);
}

#[test]
fn listing_is_true_after_a_kill() {
    let lab = Lab::with_guest();
    let empty = lab.left();
    let id = lab.background("hang", &[]);
    let pid = process(&lab);
    kill_process(pid, Signal::KILL).unwrap();
    wait_until("the kill is seen", || {
        lab.state().unwrap() == "stopped (137)"
    });
    assert_eq!(lab.done(&["ps"]).lines().count(), 1);
    lab.done(&["stop", &id]);
    lab.done(&["rm", &id]);
    assert_eq!((lab.left(), sockets(&lab)), (empty, 0));
}

#[test]
fn instance_whose_socket_is_gone_is_stopped_by_signals() {
    let lab = Lab::with_guest();
    let id = lab.background("button", &[]);
    lab.wait_for("button=waiting");
    fs::remove_dir_all(lab.path("run/kami")).unwrap();
    lab.done(&["stop", &id]);
    assert_eq!(lab.state().unwrap(), "stopped (0)");
}

#[test]
fn termination_signal_presses_the_button_and_a_second_one_ends_the_guest() {
    let lab = Lab::with_guest();
    let child = lab.start_guest("button", &["--rm"]);
    let pid = Pid::from_child(&child);
    lab.wait_for("button=waiting");
    kill_process(pid, Signal::TERM).unwrap();
    let outcome = finish(child);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");

    let child = lab.start_guest("hang", &["--rm"]);
    let pid = Pid::from_child(&child);
    wait_until("the guest runs", || {
        lab.state().as_deref() == Some("running")
    });
    wait_until("the socket is there", || sockets(&lab) == 1);
    kill_process(pid, Signal::INT).unwrap();
    // Two signals that are pending at once are one: the second follows when the first was taken.
    wait_until("the second signal ends it", || {
        let _ = kill_process(pid, Signal::INT);
        lab.state().is_none()
    });
    assert_eq!(finish(child).code, Some(137));
}

#[test]
fn removal_at_the_end_leaves_nothing() {
    let lab = Lab::with_guest();
    let empty = lab.left();
    for mode in ["self", "panic"] {
        lab.run_guest(mode, &["--rm"]);
        assert_eq!(
            (lab.left(), lab.state(), sockets(&lab)),
            (empty.clone(), None, 0),
            "{mode}"
        );
    }
    let id = lab.background("hang", &["--rm"]);
    lab.done(&["stop", "--time", "0", &id]);
    wait_until("it removes itself", || lab.state().is_none());
    assert_eq!(lab.left(), empty);
}

#[test]
fn logs_are_followed_to_the_end() {
    let lab = Lab::with_guest();
    let id = lab.background("button", &[]);
    let follower = lab.start(&["logs", "-f", &id]);
    lab.wait_for("button=waiting");
    lab.done(&["stop", &id]);
    let outcome = finish(follower);
    assert_eq!(outcome.code, Some(0));
    assert!(outcome.out.contains("button=pressed"), "{outcome:?}");
    assert_eq!(outcome.out, lab.console());
}

#[test]
fn listing_as_json_has_the_shape_of_ec2() {
    let lab = Lab::with_guest();
    assert_eq!(
        lab.done(&["ps", "--output", "json"]),
        "{\n  \"Reservations\": []\n}"
    );
    let id = lab.background("hang", &["--name", "web", "-b", "/dev/sdd=:1"]);
    let shown: serde_json::Value =
        serde_json::from_str(&lab.done(&["ps", "--output", "json"])).unwrap();
    let instance = &shown["Reservations"][0]["Instances"][0];
    assert_eq!(instance["InstanceId"], id);
    assert_eq!(
        instance["State"],
        serde_json::json!({ "Code": 16, "Name": "running" })
    );
    assert_eq!(instance["ImageId"], "ami-00000000000000001");
    assert_eq!(instance["Tags"][0]["Value"], "web");
    let mappings = instance["BlockDeviceMappings"].as_array().unwrap();
    let names: Vec<_> = mappings
        .iter()
        .map(|m| m["DeviceName"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["/dev/sda1", "/dev/sdd"]);
    lab.done(&["rm", "-f", &id]);
}

#[test]
fn one_name_is_one_instance() {
    let lab = Lab::with_guest();
    let id = lab.background("hang", &["--name", "web"]);
    let refused = lab.run_guest("hang", &["--name", "web"]);
    refused.refused(1, &["web", &id]);
    lab.done(&["rm", "-f", "web"]);
    lab.kami(&["logs", "web"]).refused(4, &["web"]);
    lab.kami(&["stop", "i-0"]).refused(4, &["i-0"]);
}

#[test]
fn error_of_a_background_launch_is_the_command_s_own() {
    let lab = Lab::with_guest();
    let empty = lab.left();
    let args = ["run", "-d", "test image", "--kernel", "/nowhere/vmlinuz"];
    let outcome = lab.kami(&args);
    outcome.refused(3, &["/nowhere/vmlinuz"]);
    assert_eq!(outcome.out, "");
    let stdio = lab.kami(&["run", "-d", "test image", "--console", "stdio"]);
    stdio.refused(2, &["--console stdio"]);
    assert_eq!(lab.left(), empty);
}
