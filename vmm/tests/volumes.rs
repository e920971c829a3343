//! `kami volume` on the volumes of instances: what the guest sees of it.

mod common;

use common::{Lab, SNAPSHOT};
use serde_json::Value;

const GIB: u64 = 1 << 30;

/// The serial number of the volume's disk.
fn serial(volume: &str) -> String {
    volume.replace('-', "")
}

/// Boots the stopped instance, whose guest tells its disks and powers off.
fn report(lab: &Lab, instance: &str) -> String {
    let report = lab.done(&["start", "--attach", instance]);
    assert!(report.contains("result=pass"), "{report}");
    report
}

fn json(lab: &Lab, args: &[&str]) -> Value {
    serde_json::from_str(&lab.done(args)).unwrap()
}

#[test]
fn a_volume_is_attached_grown_and_outlives_the_instance() {
    let lab = Lab::with_guest();
    assert_eq!(lab.run_guest("self", &["--name", "web"]).code, Some(0));
    let volume = lab.done(&["volume", "create", "--size", "2", "--tag", "Name=data"]);
    lab.done(&["volume", "attach", &volume, "web", "/dev/sdf"]);

    let shown = &json(&lab, &["volume", "show", &volume])["Volumes"][0];
    assert_eq!(shown["State"], "in-use");
    assert_eq!(shown["Size"], 2);
    assert_eq!(shown["Tags"][0]["Value"], "data");
    let attachment = &shown["Attachments"][0];
    assert_eq!(attachment["Device"], "/dev/sdf");
    assert_eq!(attachment["DeleteOnTermination"], false);
    lab.kami(&["volume", "delete", &volume])
        .refused(1, &["is currently attached to i-", "(VolumeInUse)"]);

    // Behind the root and two ephemeral disks.
    let seen = report(&lab, "web");
    assert!(
        seen.contains(&format!("disk3.serial={}", serial(&volume))),
        "{seen}"
    );
    assert!(seen.contains(&format!("disk3.bytes={}", 2 * GIB)), "{seen}");
    lab.done(&["volume", "modify", &volume, "--size", "3"]);
    let seen = report(&lab, "web");
    assert!(seen.contains(&format!("disk3.bytes={}", 3 * GIB)), "{seen}");
    lab.kami(&["volume", "modify", &volume, "--size", "2"])
        .refused(3, &["cannot be smaller", "(InvalidParameterValue)"]);

    lab.done(&["terminate", "web"]);
    let free = ["volume", "ls", "--filter", "Name=status,Values=available"];
    let listing = lab.done(&free);
    let rows: Vec<_> = listing.lines().skip(1).collect();
    assert!(rows.len() == 1 && rows[0].starts_with(&volume), "{listing}");
    assert_eq!(lab.done(&["volume", "delete", &volume]), volume);
    assert_eq!(lab.done(&free).lines().count(), 1);
}

#[test]
fn the_root_is_swapped_for_another_volume() {
    let lab = Lab::with_guest();
    assert_eq!(lab.run_guest("self", &["--name", "web"]).code, Some(0));
    let listing = lab.done(&["volume", "ls"]);
    let root = listing.lines().nth(1).unwrap().split(' ').next().unwrap();
    let other = lab.done(&["volume", "create", "--snapshot", SNAPSHOT, "--size", "4"]);
    lab.done(&["volume", "detach", root, "--instance", "web"]);
    lab.kami(&["start", "web"]).refused(
        1,
        &[
            "does not have a volume attached at root",
            "(IncorrectInstanceState)",
        ],
    );
    lab.done(&["volume", "attach", &other, "web", "/dev/sda1"]);
    let seen = report(&lab, "web");
    assert!(
        seen.contains(&format!("disk0.serial={}", serial(&other))),
        "{seen}"
    );
    assert!(seen.contains(&format!("disk0.bytes={}", 4 * GIB)), "{seen}");
    assert!(seen.contains("disk0.pattern=ok"), "{seen}");
}

#[test]
fn nothing_is_attached_or_detached_while_the_instance_runs() {
    let lab = Lab::with_guest();
    let id = lab.background("hang", &[]);
    let volume = lab.done(&["volume", "create", "--size", "1"]);
    let listing = lab.done(&["volume", "ls"]);
    let root = listing.lines().find(|row| row.contains("in-use")).unwrap();
    let root = root.split(' ').next().unwrap();
    for args in [
        &["volume", "attach", &volume, &id, "/dev/sdf"][..],
        &["volume", "detach", root],
        &["volume", "modify", root, "--size", "9"],
    ] {
        let refused = lab.kami(args);
        refused.refused(
            1,
            &["is not in the 'stopped' state", "(IncorrectInstanceState)"],
        );
        refused.helps("kami stop");
    }
    lab.end_all();
    lab.done(&["volume", "attach", &volume, &id, "/dev/sdf"]);
}

#[test]
fn bad_requests_are_refused_with_ec2s_codes_before_anything_is_made() {
    let lab = Lab::new();
    for (code, args, parts) in [
        (3, "create --size 70000", "(InvalidParameterValue)"),
        (3, "create --size 10 --type io1", "(MissingParameter)"),
        (
            3,
            "create --size 10 --type gp2 --iops 100",
            "(InvalidParameterCombination)",
        ),
        (
            4,
            "create --snapshot snap-00000000000000009",
            "(InvalidSnapshot.NotFound)",
        ),
        (4, "show vol-00000000000000009", "(InvalidVolume.NotFound)"),
        (
            4,
            "attach vol-00000000000000009 web /dev/sdf",
            "(InvalidVolume.NotFound)",
        ),
        (
            4,
            "delete vol-00000000000000009",
            "(InvalidVolume.NotFound)",
        ),
    ] {
        let args: Vec<_> = ["volume"].into_iter().chain(args.split(' ')).collect();
        lab.kami(&args).refused(code, &[parts]);
    }
    assert_eq!(lab.done(&["volume", "ls"]).lines().count(), 1);
    let volume = lab.done(&["volume", "create", "--size", "1"]);
    // One bad id fails all.
    lab.kami(&["volume", "delete", &volume, "vol-00000000000000009"])
        .refused(4, &["(InvalidVolume.NotFound)"]);
    let told = lab.done(&["volume", "delete", "--dry-run", &volume]);
    assert_eq!(told, format!("would delete {volume}"));
    assert_eq!(lab.done(&["volume", "ls"]).lines().count(), 2);
}
