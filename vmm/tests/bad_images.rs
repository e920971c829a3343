//! Bad manifests and disk files: one clear line, a documented exit status, and nothing left behind.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};

use common::{Lab, SNAPSHOT, finish, manifest};

/// Registers a manifest with a sound snapshot and returns what came of it, once nothing is left.
fn register(text: &str) -> common::Outcome {
    let lab = Lab::new();
    let file = lab.file("manifest.json", text);
    let disk = lab.file("root.raw", vec![1; 1 << 20]);
    let snapshot = format!("{SNAPSHOT}={disk}");
    let outcome = lab.kami(&["image", "register", &file, "--snapshot", &snapshot]);
    assert!(
        outcome.code == Some(0) || lab.left().is_empty(),
        "{:?}",
        lab.left()
    );
    outcome
}

fn changed(from: &str, to: &str) -> common::Outcome {
    register(&manifest(|text| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    }))
}

#[test]
fn sound_manifest_is_registered() {
    let outcome = register(&manifest(str::to_owned));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.out, "ami-00000000000000001\n");
}

#[test]
fn what_is_not_json_is_told_with_its_place() {
    register("{ \"Name\": oops }").refused(3, &["manifest.json", "line 1", "column"]);
    register("[1, 2]").refused(3, &["manifest.json", "expecting a JSON object"]);
    register("").refused(3, &["manifest.json"]);
}

#[test]
fn missing_member_is_named_with_its_line() {
    changed("  \"Architecture\": \"x86_64\",\n", "").refused(3, &["line", "Architecture"]);
    changed("  \"Name\": \"test image\",\n", "").refused(3, &["line", "Name"]);
}

#[test]
fn mistyped_member_is_named_with_its_line() {
    changed("\"VolumeSize\": 1", "\"VolumeSize\": \"big\"")
        .refused(3, &["line 10", "BlockDeviceMappings[0].Ebs.VolumeSize"]);
    changed("\"test image\"", "7").refused(3, &["line 3", "Name"]);
}

#[test]
fn unsupported_machines_are_refused() {
    changed("\"x86_64\"", "\"x86_64_mac\"").refused(3, &["x86_64_mac"]);
    changed("\"hvm\"", "\"paravirtual\"").refused(3, &["paravirtual", "hvm"]);
}

#[test]
fn mapping_must_be_sound() {
    changed("/dev/sdc", "/dev/sdb").refused(3, &["/dev/sdb", "more than one"]);
    let same = manifest(|text| {
        text.replace("/dev/sdb", "/dev/xvdba")
            .replace("/dev/sdc", "xvdba")
    });
    register(&same).refused(3, &["'xvdba'", "more than one"]);
    changed("snap-00000000000000001", "snap-00000000000000002")
        .refused(3, &["snap-00000000000000001", "does not name"]);
}

#[test]
fn snapshot_without_content_is_not_found() {
    let lab = Lab::new();
    let file = lab.file("manifest.json", manifest(str::to_owned));
    let outcome = lab.kami(&["image", "register", &file]);
    outcome.refused(4, &[SNAPSHOT]);
    outcome.helps("--snapshot");
    assert!(lab.left().is_empty(), "{:?}", lab.left());
}

#[test]
fn volume_smaller_than_its_snapshot_is_refused() {
    let lab = Lab::new();
    let file = lab.file("manifest.json", manifest(str::to_owned));
    let disk = lab.file("root.raw", "");
    let raw = std::fs::File::options().write(true).open(&disk).unwrap();
    raw.set_len(2 << 30).unwrap();
    let snapshot = format!("{SNAPSHOT}={disk}");
    let outcome = lab.kami(&["image", "register", &file, "--snapshot", &snapshot]);
    outcome.refused(3, &["1GB", SNAPSHOT, "2GB"]);
    assert!(lab.left().is_empty(), "{:?}", lab.left());
}

#[test]
fn files_that_are_not_there_are_named() {
    let lab = Lab::new();
    lab.kami(&["image", "register", "/nowhere/m.json"])
        .refused(3, &["/nowhere/m.json", "No such file"]);
    lab.kami(&["image", "import", "/nowhere/disk", "--name", "abc"])
        .refused(3, &["/nowhere/disk", "No such file"]);
    let file = lab.file("manifest.json", manifest(str::to_owned));
    let snapshot = format!("{SNAPSHOT}=/nowhere/root.raw");
    lab.kami(&["image", "register", &file, "--snapshot", &snapshot])
        .refused(3, &["/nowhere/root.raw"]);
    assert!(lab.left().is_empty(), "{:?}", lab.left());
}

#[test]
fn disk_that_may_not_be_read_is_named() {
    let lab = Lab::new();
    let disk = lab.file("root.raw", vec![1; 1 << 20]);
    fs::set_permissions(&disk, Permissions::from_mode(0o000)).unwrap();
    let mut command = lab.command(if rustix::process::geteuid().is_root() {
        // Root may read everything, but not in a user namespace that does not know the owner.
        chown(&disk, Some(1), Some(1)).unwrap();
        "unshare"
    } else {
        "env"
    });
    if rustix::process::geteuid().is_root() {
        command.args(["-U", "-r"]);
    }
    command.args([common::KAMI, "image", "import", &disk, "--name", "abc"]);
    finish(command.spawn().unwrap()).refused(3, &["root.raw", "Permission denied"]);
    assert!(lab.left().is_empty(), "{:?}", lab.left());
}

#[test]
fn import_refuses_a_folder_and_a_bad_name() {
    let lab = Lab::new();
    let folder = lab.path("run");
    lab.kami(&["image", "import", folder.to_str().unwrap(), "--name", "abc"])
        .refused(3, &["run"]);
    let disk = lab.file("root.raw", vec![1; 1 << 20]);
    lab.kami(&["image", "import", &disk, "--name", "a!"])
        .refused(3, &["a!", "malformed"]);
    lab.done(&["image", "import", &disk, "--name", "same"]);
    let files = lab.left();
    lab.kami(&["image", "import", &disk, "--name", "same"])
        .refused(1, &["same", "already in use"]);
    assert_eq!(lab.left(), files);
}

/// A qcow2 header (docs/interop/qcow2.txt) of version 2 for a disk of 1 MiB, with a backing file.
fn qcow2(backing: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let name = u32::try_from(backing.len()).unwrap();
    bytes.extend_from_slice(b"QFI\xfb");
    for word in [2_u32, 0, 72, name, 16] {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes.extend_from_slice(&(1_u64 << 20).to_be_bytes());
    bytes.extend_from_slice(&0_u32.to_be_bytes());
    // One L1 entry at cluster 1, the reference table at cluster 2 with its block at 3.
    bytes.extend_from_slice(&1_u32.to_be_bytes());
    bytes.extend_from_slice(&0x1_0000_u64.to_be_bytes());
    bytes.extend_from_slice(&0x2_0000_u64.to_be_bytes());
    bytes.extend_from_slice(&1_u32.to_be_bytes());
    bytes.extend_from_slice(&0_u32.to_be_bytes());
    bytes.extend_from_slice(&0_u64.to_be_bytes());
    bytes.extend_from_slice(backing.as_bytes());
    bytes.resize(4 << 16, 0);
    bytes[0x2_0000..0x2_0008].copy_from_slice(&0x3_0000_u64.to_be_bytes());
    for cluster in 0..4 {
        bytes[0x3_0001 + 2 * cluster] = 1;
    }
    bytes
}

#[test]
fn qcow2_needs_its_backing_file() {
    let lab = Lab::new();
    let disk = lab.file("a.qcow2", qcow2("gone.qcow2"));
    lab.kami(&["image", "import", &disk, "--name", "abc"])
        .refused(3, &["gone.qcow2"]);
    assert!(lab.left().is_empty(), "{:?}", lab.left());
}

#[test]
fn qcow2_that_backs_itself_is_refused() {
    let lab = Lab::new();
    let disk = lab.file("a.qcow2", qcow2("b.qcow2"));
    lab.file("b.qcow2", qcow2("a.qcow2"));
    lab.kami(&["image", "import", &disk, "--name", "abc"])
        .refused(3, &["a.qcow2", "its own backing file"]);
    assert!(lab.left().is_empty(), "{:?}", lab.left());
}

#[test]
fn truncated_qcow2_is_refused() {
    let lab = Lab::new();
    let whole = qcow2("");
    let disk = lab.file("cut.qcow2", &whole[..60]);
    lab.kami(&["image", "import", &disk, "--name", "abc"])
        .refused(3, &["cut.qcow2"]);
    let disk = lab.file("cut2.qcow2", &whole[..0x1_0000]);
    lab.kami(&["image", "import", &disk, "--name", "abc"])
        .refused(3, &["cut2.qcow2"]);
    assert!(lab.left().is_empty(), "{:?}", lab.left());
}
