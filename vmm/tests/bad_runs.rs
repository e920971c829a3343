//! Launches that cannot be: one clear line, a documented exit status, and nothing left behind.

mod common;

use common::{Lab, Outcome, finish, manifest};
use kami_kernels::guest::HAS_TRIPLE_FAULT;
use kami_kernels::{Entry, guest};
use kami_vmm::arch::host;

/// Runs the image with what `content` is as its kernel, and asserts that nothing is left.
fn run_kernel(content: &[u8]) -> Outcome {
    let lab = Lab::with_guest();
    let before = lab.left();
    let kernel = lab.file("vmlinuz", content);
    let outcome = lab.kami(&["run", "test image", "--kernel", &kernel, "--memory", "128M"]);
    assert_eq!(lab.left(), before);
    assert_eq!(lab.state(), None);
    // Nor does the store take it.
    let import = lab.kami(&["kernel", "import", &kernel]);
    assert!(
        outcome.code != Some(3) || import.code == Some(3),
        "{import:?}"
    );
    outcome
}

#[test]
fn kernel_that_is_none_is_refused() {
    run_kernel(b"This is not a kernel, but a text.\n").refused(3, &["vmlinuz", "not a kernel"]);
    run_kernel(b"").refused(3, &["vmlinuz"]);
}

#[test]
fn truncated_kernel_is_refused() {
    run_kernel(&guest::TEST_GUEST[..20]).refused(3, &["vmlinuz"]);
    // An arm64 Image that is no EFI program does not say how long its file is.
    if guest::TEST_GUEST.starts_with(b"\x7fELF") {
        let part = &guest::TEST_GUEST[..guest::TEST_GUEST.len() / 4];
        run_kernel(part).refused(3, &["vmlinuz", "truncated"]);
    }
}

/// The test guest with a breakpoint as its first instruction.
fn broken_guest() -> Vec<u8> {
    let kernel = guest::open().unwrap();
    let (entry, breakpoint) = match kernel.entry {
        // int3, brk #0
        Entry::Pvh(entry) => (entry, &[0xcc][..]),
        Entry::Arm64(entry) => (entry, &[0x00, 0x00, 0x20, 0xd4][..]),
        other => panic!("{other:?}"),
    };
    let holds = |s: &&kami_kernels::Segment| (s.guest_address..s.end_address()).contains(&entry);
    let segment = kernel.segments.iter().find(holds).unwrap();
    let offset = segment.file_offset + (entry - segment.guest_address);
    let mut bytes = guest::TEST_GUEST.to_vec();
    let offset = usize::try_from(offset).unwrap();
    bytes[offset..offset + breakpoint.len()].copy_from_slice(breakpoint);
    bytes
}

#[test]
fn guest_that_kvm_cannot_run_at_all_leaves_nothing() {
    if host::emulates_kernels() {
        let outcome = run_kernel(&broken_guest());
        outcome.refused(102, &["internal error 1", "instruction bytes cc"]);
        outcome.helps("neither VMX nor SVM");
    } else {
        // Hardware takes the breakpoint, for which the guest has no handler yet: an Arm processor tries for ever.
        let lab = Lab::with_guest();
        let kernel = lab.file("vmlinuz", broken_guest());
        let args = ["run", "test image", "--kernel", &kernel, "--memory", "128M"];
        let (code, more) = match HAS_TRIPLE_FAULT {
            true => (101, &[][..]),
            false => (124, &["--timeout", "1s"][..]),
        };
        let outcome = lab.kami(&[&args[..], more].concat());
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
    }
}

#[test]
fn files_and_images_that_are_not_there_are_named() {
    let lab = Lab::with_guest();
    let before = lab.left();
    let guest = lab.path("guest");
    let guest = guest.to_str().unwrap();
    lab.kami(&["run", "test image", "--kernel", "/nowhere/k"])
        .refused(3, &["/nowhere/k"]);
    let initrd = [
        "run",
        "test image",
        "--kernel",
        guest,
        "--initrd",
        "/nowhere/i",
    ];
    lab.kami(&initrd).refused(3, &["/nowhere/i"]);
    let none = lab.kami(&["run", "test image"]);
    none.refused(3, &["ami-00000000000000001", "no kernel"]);
    none.helps("--kernel FILE");
    lab.kami(&["run", "ami-00000000000000009", "--kernel", guest])
        .refused(4, &["ami-00000000000000009", "does not exist"]);
    lab.kami(&["run", "no such", "--kernel", guest])
        .refused(4, &["no such"]);
    assert_eq!((lab.left(), lab.state()), (before, None));
}

#[test]
fn mapping_of_a_launch_must_be_sound() {
    let lab = Lab::with_guest();
    let before = lab.left();
    let unknown = "/dev/sdd=snap-00000000000000009";
    lab.run_guest("self", &["-b", unknown])
        .refused(4, &["snap-00000000000000009"]);
    let twice = ["-b", "/dev/sdd=:1", "-b", "/dev/sdd=:2"];
    lab.run_guest("self", &twice)
        .refused(3, &["/dev/sdd", "more than one"]);
    lab.run_guest("self", &["-b", "/dev/sdd=:0"])
        .refused(3, &["/dev/sdd"]);
    assert_eq!((lab.left(), lab.state()), (before, None));
}

#[test]
fn more_memory_than_the_host_has_is_refused() {
    let lab = Lab::with_guest();
    let before = lab.left();
    let outcome = lab.run_guest("self", &["--memory", "900G"]);
    outcome.refused(1, &["921600 MiB", "this host has"]);
    outcome.helps("--memory");
    assert_eq!((lab.left(), lab.state()), (before, None));
}

#[test]
fn kernel_of_the_image_is_kept_and_used() {
    let lab = Lab::new();
    let guest = lab.file("guest", guest::TEST_GUEST);
    let kernel = lab.done(&["kernel", "import", &guest, "--name", "test-guest"]);
    assert!(kernel.starts_with("aki-"), "{kernel}");
    assert_eq!(lab.done(&["kernel", "import", &guest]), kernel);
    let ramdisk = lab.file("initrd", [&b"070701"[..], &[b'0'; 506]].concat());
    let ramdisk = lab.done(&["kernel", "import", &ramdisk]);
    assert!(ramdisk.starts_with("ari-"), "{ramdisk}");
    assert_eq!(lab.done(&["kernel", "ls"]).lines().count(), 3);

    let named = manifest(|text| {
        let member = format!("\"KernelId\": \"{kernel}\", \"Name\"");
        text.replacen("\"Name\"", &member, 1)
    });
    let mut pattern = Vec::new();
    guest::write_test_disk(&mut pattern, 2048).unwrap();
    let disk = lab.file("root.raw", pattern);
    let file = lab.file("manifest.json", named);
    let snapshot = format!("{}={disk}", common::SNAPSHOT);
    lab.done(&["image", "register", &file, "--snapshot", &snapshot]);
    std::fs::remove_file(guest).unwrap();
    let outcome = lab.kami(&["run", "--rm", "test image", "--memory", "128M"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

/// Runs the guest in a mount namespace of its own, once `setup` has changed that.
fn in_namespace(lab: &Lab, setup: &str, mode: &str) -> Outcome {
    let script = format!("{setup}\nexec \"$@\"");
    let mut command = lab.command("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("-r");
    }
    command.args(["-m", "sh", "-ec", &script, "sh", common::KAMI]);
    finish(command.args(lab.guest_args(mode, &[])).spawn().unwrap())
}

#[test]
fn host_without_kvm_is_told_what_to_do() {
    let lab = Lab::with_guest();
    let before = lab.left();
    let absent = in_namespace(&lab, "mount -t tmpfs none /dev", "self");
    absent.refused(1, &["cannot open /dev/kvm", "No such file"]);
    absent.helps("kami doctor");
    // Refused like a device that belongs to others, but also to root.
    let setup = "mount --bind /dev/kvm /dev/kvm; mount -o remount,bind,nodev /dev/kvm";
    let denied = in_namespace(&lab, setup, "self");
    denied.refused(1, &["cannot open /dev/kvm", "Permission denied"]);
    denied.helps("usermod -aG kvm");
    assert_eq!((lab.left(), lab.state()), (before, None));
}

#[test]
fn doctor_explains_a_host_without_kvm() {
    let lab = Lab::new();
    let script = "mount -t tmpfs none /dev; exec \"$@\"";
    let mut command = lab.command("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("-r");
    }
    command.args(["-m", "sh", "-ec", script, "sh", common::KAMI, "doctor"]);
    let outcome = finish(command.spawn().unwrap());
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.out.contains("missing  kvm device"), "{outcome:?}");
    assert!(outcome.out.contains("help: "), "{outcome:?}");
    assert!(outcome.out.contains("was not started"), "{outcome:?}");
}

#[test]
fn doctor_finds_this_host_in_order() {
    let lab = Lab::new();
    let outcome = lab.kami(&["doctor"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.out.contains("ok       test guest"), "{outcome:?}");
    assert!(outcome.out.contains("result=pass"), "{outcome:?}");
    // It tests in a store of its own.
    assert!(!lab.path("home").exists());
}

#[test]
fn guest_on_a_full_disk_gets_errors_and_lives() {
    let lab = Lab::with_guest();
    let volumes = lab.path("home/volumes");
    std::fs::create_dir_all(&volumes).unwrap();
    let setup = format!("mount -t tmpfs -o size=16k none {}", volumes.display());
    let outcome = in_namespace(&lab, &setup, "self");
    // The guest was told that a write failed, said so, and panicked.
    assert_eq!(outcome.code, Some(100), "{outcome:?}");
    assert!(outcome.out.contains("write of sector"), "{outcome:?}");
    assert!(!outcome.err.contains("kami: error"), "{outcome:?}");
}
