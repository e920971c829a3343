mod performance;
mod properties;

use super::*;
use crate::manifest::Manifest;

fn snapshot(n: u64) -> SnapshotId {
    format!("snap-{n:017x}").parse().unwrap()
}

/// Snapshot N holds N GiB.
fn sizes() -> SnapshotSizes {
    (1..=40).map(|n| (snapshot(n), n * GIB)).collect()
}

const EPHEMERAL: Ephemeral = Ephemeral {
    count: 2,
    size_bytes: 7 * GIB,
};

/// An image with the given entries; its root is /dev/sda1 of snapshot 8.
fn image(entries: &[&str]) -> Image {
    let root = format!("/dev/sda1={}", snapshot(8));
    let entries: Vec<BlockDeviceMapping> = std::iter::once(root.as_str())
        .chain(entries.iter().copied())
        .map(|text| text.parse().unwrap())
        .collect();
    let text = serde_json::json!({
        "Name": "image", "Architecture": "x86_64", "VirtualizationType": "hvm",
        "BlockDeviceMappings": entries,
    });
    let manifest = Manifest::parse(&text.to_string()).unwrap();
    manifest.check().unwrap();
    manifest.complete(&sizes()).unwrap()
}

fn overrides(texts: &[&str]) -> Vec<BlockDeviceMapping> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn resolved(entries: &[&str], changes: &[&str]) -> Result<Vec<Disk>, Error> {
    resolve(&image(entries), &overrides(changes), EPHEMERAL, &sizes())
}

fn error(entries: &[&str], changes: &[&str]) -> String {
    resolved(entries, changes).unwrap_err().to_string()
}

fn names(disks: &[Disk]) -> Vec<&str> {
    disks.iter().map(|disk| disk.device_name.as_str()).collect()
}

fn volume(snapshot: Option<u64>, gib: u64, volume_type: VolumeType, delete: bool) -> DiskKind {
    DiskKind::Volume {
        snapshot: snapshot.map(self::snapshot),
        size_bytes: gib * GIB,
        volume_type,
        iops: None,
        throughput: None,
        delete_on_termination: delete,
        root: false,
    }
}

#[test]
fn an_image_without_overrides_resolves_to_its_mapping() {
    let disks = resolved(&["/dev/sdb=ephemeral0", "/dev/sdc=:20"], &[]).unwrap();
    assert_eq!(names(&disks), ["/dev/sda1", "/dev/sdb", "/dev/sdc"]);
    assert_eq!(
        disks[0].kind,
        DiskKind::Volume {
            snapshot: Some(snapshot(8)),
            size_bytes: 8 * GIB,
            volume_type: VolumeType::Gp3,
            iops: None,
            throughput: None,
            delete_on_termination: true,
            root: true,
        }
    );
    assert_eq!(
        disks[1].kind,
        DiskKind::Ephemeral {
            index: 0,
            size_bytes: 7 * GIB
        }
    );
    assert_eq!(disks[2].kind, volume(None, 20, VolumeType::Gp3, false));
}

#[test]
fn the_root_comes_first_whatever_its_place() {
    let mut image = image(&["/dev/sdb=ephemeral0", "/dev/sdc=:20"]);
    image.block_device_mappings.rotate_left(1);
    let disks = resolve(&image, &[], EPHEMERAL, &sizes()).unwrap();
    assert_eq!(names(&disks), ["/dev/sda1", "/dev/sdb", "/dev/sdc"]);
}

#[test]
fn ephemeral_disks_beyond_the_count_are_ignored() {
    let entries = [
        "/dev/sdb=ephemeral1",
        "/dev/sdc=ephemeral2",
        "/dev/sdd=ephemeral23",
    ];
    let disks = resolved(&entries, &[]).unwrap();
    assert_eq!(names(&disks), ["/dev/sda1", "/dev/sdb"]);
}

#[test]
fn an_override_of_the_size_keeps_the_snapshot() {
    let entry = format!("/dev/sdh={}:10:true", snapshot(4));
    let disks = resolved(&[&entry], &["/dev/sdh=:300"]).unwrap();
    assert_eq!(disks[1].kind, volume(Some(4), 300, VolumeType::Gp3, true));
}

#[test]
fn an_override_of_the_snapshot_drops_the_size_that_belonged_to_the_other() {
    let entry = format!("/dev/sdh={}:10", snapshot(4));
    let change = format!("/dev/sdh={}", snapshot(20));
    let disks = resolved(&[&entry], &[&change]).unwrap();
    assert_eq!(disks[1].kind, volume(Some(20), 20, VolumeType::Gp3, false));
}

#[test]
fn an_override_of_the_type_drops_the_iops_that_belonged_to_the_other() {
    let disks = resolved(&["/dev/sdh=:10::io1:300"], &["/dev/sdh=:::gp2"]).unwrap();
    assert_eq!(disks[1].kind, volume(None, 10, VolumeType::Gp2, false));
}

#[test]
fn an_override_replaces_a_mapping_of_another_kind() {
    let changes = ["/dev/sdb=:5", "/dev/sdc=ephemeral1"];
    let disks = resolved(&["/dev/sdb=ephemeral0", "/dev/sdc=:20"], &changes).unwrap();
    assert_eq!(disks[1].kind, volume(None, 5, VolumeType::Gp3, false));
    assert!(matches!(
        disks[2].kind,
        DiskKind::Ephemeral { index: 1, .. }
    ));
}

#[test]
fn none_removes_and_an_unknown_device_is_added_last() {
    let changes = ["/dev/sdf=:1", "/dev/sdb=none", "/dev/sdz=none"];
    let disks = resolved(&["/dev/sdb=ephemeral0", "/dev/sdc=:20"], &changes).unwrap();
    assert_eq!(names(&disks), ["/dev/sda1", "/dev/sdc", "/dev/sdf"]);
}

#[test]
fn the_root_may_grow_and_change_type_and_deletion() {
    let disks = resolved(&[], &["/dev/sda1=:30:false:io2:100"]).unwrap();
    assert_eq!(
        disks[0].kind,
        DiskKind::Volume {
            snapshot: Some(snapshot(8)),
            size_bytes: 30 * GIB,
            volume_type: VolumeType::Io2,
            iops: Some(100),
            throughput: None,
            delete_on_termination: false,
            root: true,
        }
    );
    let same = format!("/dev/sda1={}", snapshot(8));
    resolved(&[], &[&same]).unwrap();
}

#[test]
fn nothing_else_of_the_root_may_change() {
    let other = format!("/dev/sda1={}", snapshot(9));
    let encrypted = r#"{"DeviceName": "/dev/sda1", "Ebs": {"Encrypted": false}}"#;
    for (change, member) in [
        (other.as_str(), "SnapshotId"),
        ("/dev/sda1=none", "NoDevice"),
        ("/dev/sda1=ephemeral0", "VirtualName"),
        (encrypted, "Encrypted"),
    ] {
        assert_eq!(
            error(&[], &[change]),
            format!("{member} of the root device '/dev/sda1' cannot be changed")
        );
    }
    assert_eq!(
        error(&[], &["/dev/sda1=:7"]),
        format!(
            "Volume of size 7GB is smaller than snapshot '{}', expect size >= 8GB",
            snapshot(8)
        )
    );
    let mut image = image(&[]);
    image.block_device_mappings[0]
        .ebs
        .as_mut()
        .unwrap()
        .volume_size = Some(20);
    assert_eq!(
        resolve(&image, &overrides(&["/dev/sda1=:19"]), EPHEMERAL, &sizes()),
        Err(Error::RootShrinks {
            device: "/dev/sda1".to_owned(),
            from: 20,
            to: 19
        })
    );
}

#[test]
fn one_device_in_two_mappings_is_refused() {
    for (entries, changes, device) in [
        (
            &["/dev/sdb=ephemeral0"][..],
            &["/dev/sdc=:1", "/dev/sdc=:2"][..],
            "/dev/sdc",
        ),
        (&["/dev/xvdb=:1"], &["xvdb=:2"], "xvdb"),
        (&[], &["/dev/xvdb=none", "xvdb=:2"], "xvdb"),
    ] {
        assert_eq!(
            error(entries, changes),
            format!("The device '{device}' is used in more than one block-device mapping")
        );
    }
    assert_eq!(
        error(&["/dev/sdb=ephemeral0"], &["/dev/sdc=ephemeral0"]),
        "The virtual device 'ephemeral0' is used in more than one block-device mapping"
    );
}

#[test]
fn device_names_follow_ec2s_rule() {
    for good in [
        "/dev/sdb",
        "/dev/sdz",
        "sdb",
        "/dev/xvdb",
        "xvda",
        "/dev/xvdba",
        "/dev/xvdcz",
    ] {
        resolved(&[], &[&format!("{good}=:1")]).unwrap();
    }
    for bad in [
        "/dev/sdb1",
        "/dev/sda2",
        "sda1",
        "/dev/sd",
        "/dev/sdB",
        "/dev/sdaa",
        "/dev/xvdaa",
        "/dev/xvdda",
        "/dev/xvda1",
        "/dev/vda",
        "/dev/hda",
        "/dev//sdb",
        "/dev/",
        "dev/sdb",
        "é",
    ] {
        let error = resolved(&[], &[&format!("{bad}=:1")]).unwrap_err();
        assert_eq!(
            error,
            Error::DeviceName {
                device: bad.to_owned()
            }
        );
    }
}

#[test]
fn entries_that_say_too_little_or_too_much_are_refused() {
    let json = |rest: &str| format!("{{\"DeviceName\": \"/dev/sdb\"{rest}}}");
    let ebs = r#", "Ebs": {"VolumeSize": 1}"#;
    let virtual_name = r#", "VirtualName": "ephemeral0""#;
    let no_device = r#", "NoDevice": """#;
    for (rest, expected) in [
        (String::new(), "says nothing"),
        (
            format!("{ebs}{virtual_name}"),
            "has both Ebs and VirtualName",
        ),
        (format!("{ebs}{no_device}"), "has both Ebs and NoDevice"),
        (
            format!("{virtual_name}{no_device}"),
            "has both VirtualName and NoDevice",
        ),
        (
            r#", "Ebs": {}"#.to_owned(),
            "must contain a SnapshotId or a VolumeSize",
        ),
        (
            r#", "Ebs": {"VolumeSize": 1, "Encrypted": true}"#.to_owned(),
            "not supported",
        ),
        (
            r#", "Ebs": {"VolumeSize": 1, "KmsKeyId": "k"}"#.to_owned(),
            "not supported",
        ),
    ] {
        let error = error(&[], &[&json(&rest)]);
        assert!(error.contains(expected), "{error}");
    }
    for name in [
        "ephemeral24",
        "ephemeral",
        "ephemeral01",
        "ephemeral+1",
        "ephemeral-1",
        "root",
    ] {
        let change = json(&format!(", \"VirtualName\": \"{name}\""));
        let error = error(&[], &[&change]);
        assert!(error.contains(&format!("VirtualName '{name}'")), "{error}");
    }
}

#[test]
fn sizes_have_a_range_for_each_type() {
    for (volume_type, min, max) in [
        ("standard", 1, 1024),
        ("io1:100", 4, 16384),
        ("io2:100", 4, 65536),
        ("gp2", 1, 16384),
        ("gp3", 1, 65536),
        ("sc1", 125, 16384),
        ("st1", 125, 16384),
    ] {
        for good in [min, max] {
            resolved(&[], &[&format!("/dev/sdb=:{good}::{volume_type}")]).unwrap();
        }
        for bad in [min - 1, max + 1, u64::MAX] {
            let error = error(&[], &[&format!("/dev/sdb=:{bad}::{volume_type}")]);
            let limit = match bad < min {
                true => format!("is too small; minimum is {min}GiB"),
                false => format!(
                    "is too large for volume type {}; maximum is {max}GiB",
                    &volume_type[..3]
                ),
            };
            let limit = limit.replace("type sta", "type standard");
            assert!(error.contains(&limit), "{error}");
        }
    }
}

#[test]
fn unknown_and_larger_snapshots_are_refused() {
    let change = format!("/dev/sdb={}:10", snapshot(99));
    assert_eq!(
        error(&[], &[&change]),
        format!("The snapshot '{}' does not exist.", snapshot(99))
    );
    let change = format!("/dev/sdb={}:29", snapshot(30));
    assert_eq!(
        error(&[], &[&change]),
        format!(
            "Volume of size 29GB is smaller than snapshot '{}', expect size >= 30GB",
            snapshot(30)
        )
    );
}

#[test]
fn the_short_syntax_says_what_it_means() {
    let parse = |text: &str| text.parse::<BlockDeviceMapping>().unwrap();
    let id = snapshot(3);
    assert_eq!(
        parse("/dev/sdb=ephemeral0").virtual_name.as_deref(),
        Some("ephemeral0")
    );
    assert_eq!(parse("/dev/sdb=none").no_device.as_deref(), Some(""));
    let ebs = |text: &str| parse(text).ebs.unwrap();
    assert_eq!(ebs("/dev/sdc=:20").volume_size, Some(20));
    assert_eq!(ebs(&format!("/dev/sdc={id}")).snapshot_id, Some(id));
    assert_eq!(
        ebs(&format!("/dev/sdd={id}:30:true:io1:500")),
        Ebs {
            snapshot_id: Some(id),
            volume_size: Some(30),
            delete_on_termination: Some(true),
            volume_type: Some(VolumeType::Io1),
            iops: Some(500),
            ..Ebs::default()
        }
    );
    assert_eq!(ebs("/dev/sdc=::false").delete_on_termination, Some(false));
    assert_eq!(ebs("/dev/sdc=:::st1:").volume_type, Some(VolumeType::St1));
}

#[test]
fn json_is_accepted_for_one_entry_and_for_a_list() {
    let one = r#" {"DeviceName": "/dev/sdb", "NoDevice": ""}"#;
    let list = format!("[{one}, {one}]");
    assert_eq!(parse(one).unwrap().len(), 1);
    assert_eq!(parse(&list).unwrap().len(), 2);
    assert!(one.parse::<BlockDeviceMapping>().is_ok());
    let error = list.parse::<BlockDeviceMapping>().unwrap_err();
    assert!(matches!(error, SyntaxError::Count { count: 2 }), "{error}");
    let error = "[]".parse::<BlockDeviceMapping>().unwrap_err();
    assert!(error.to_string().contains("0 entries"), "{error}");
    assert!(parse("{").is_err());
    assert!(parse(r#"{"VirtualName": "ephemeral0"}"#).is_err());
}

#[test]
fn texts_that_are_no_mapping_are_refused() {
    let id = snapshot(3);
    for text in [
        "",
        "/dev/sdb",
        "=",
        "=:20",
        "/dev/sdb=",
        "/dev/sdb=:",
        "/dev/sdb=::::",
        "/dev/sdb=ephemeral24",
        "/dev/sdb=20",
        "/dev/sdb=NONE",
        &format!("/dev/sdb={id}:1:true:io1:5:encrypted"),
    ] {
        let error = text.parse::<BlockDeviceMapping>().unwrap_err();
        assert!(matches!(error, SyntaxError::Form { .. }), "{text}: {error}");
    }
    for (text, part) in [
        ("/dev/sdb=snap-1:20", "block device mapping"),
        ("/dev/sdb=ami-1:20", "block device mapping"),
        ("/dev/sdb=:x", "whole number of GiB"),
        ("/dev/sdb=:-1", "whole number of GiB"),
        ("/dev/sdb=:+1", "whole number of GiB"),
        ("/dev/sdb=:99999999999999999999", "whole number of GiB"),
        ("/dev/sdb=:1:yes", "true or false"),
        ("/dev/sdb=:1:true:gp9", "block device mapping"),
        ("/dev/sdb=:1:true:io1:x", "I/O operations"),
    ] {
        let error = text.parse::<BlockDeviceMapping>().unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(text), "{error}");
    }
}
