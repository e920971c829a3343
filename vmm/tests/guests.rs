//! `kami run` with the test guest: every way in which a guest ends, and its exit status.

mod common;

use std::io::{Read, Write};
use std::process::Stdio;

use common::{Lab, finish};
use kami_kernels::{Architecture, guest};
use kami_vmm::arch::host;

#[test]
fn self_test_passes_and_its_report_is_on_standard_output_and_in_the_log() {
    let lab = Lab::with_guest();
    let outcome = lab.run_guest("self", &["--cpus", "2"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.out.contains("result=pass"), "{outcome:?}");
    assert_eq!(lab.console(), outcome.out);
    assert_eq!(lab.state().unwrap(), "stopped (0)");
}

#[test]
fn each_end_has_its_own_status() {
    let lab = Lab::with_guest();
    for (mode, code) in [
        ("panic", 100),
        ("panic-line", 100),
        ("triple-fault", common::TRIPLE_FAULT),
    ] {
        let outcome = lab.run_guest(mode, &[]);
        assert_eq!(outcome.code, Some(code), "{mode}: {outcome:?}");
        assert_eq!(lab.state().unwrap(), format!("stopped ({code})"), "{mode}");
        let listing = lab.done(&["ps", "-a"]);
        let id = listing.lines().nth(1).unwrap().split(' ').next().unwrap();
        lab.done(&["rm", id]);
    }
}

#[test]
fn reset_brings_the_guest_up_again_on_the_same_volumes() {
    let lab = Lab::with_guest();
    for mode in guest::RESETS {
        let outcome = lab.run_guest(mode, &["--rm"]);
        assert_eq!(outcome.code, Some(0), "{mode}: {outcome:?}");
        let order = ["boot=1", "boot=2", "result=pass"].map(|text| outcome.out.rfind(text));
        assert!(
            order.is_sorted() && order[0].is_some(),
            "{mode}: {outcome:?}"
        );
    }
}

#[test]
fn time_out_ends_a_guest_that_hangs_or_spins() {
    let lab = Lab::with_guest();
    for mode in ["hang", "spin", "flood"] {
        let outcome = lab.run_guest(mode, &["--timeout", "300ms", "--rm"]);
        assert_eq!(outcome.code, Some(124), "{mode}: {:?}", outcome.err);
    }
    assert_eq!(lab.state(), None);
}

#[test]
fn kvm_that_cannot_run_the_guest_is_told_with_address_and_bytes() {
    let lab = Lab::with_guest();
    let outcome = lab.run_guest("bad-instruction", &["--rm"]);
    let bytes = "instruction bytes";
    if Architecture::HOST == Architecture::Aarch64 {
        outcome.refused(102, &["cannot run vcpu 0", "at 0x", bytes, "40 b8"]);
        outcome.helps("kami doctor");
    } else if host::emulates_kernels() {
        outcome.refused(102, &["internal error 1", "at 0x", bytes, "0f c7"]);
        outcome.helps("VMX");
    } else {
        // Hardware runs the instruction that an emulating KVM lacks.
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
}

#[test]
fn input_from_a_pipe_reaches_the_guest_and_its_end_does_not_end_it() {
    let lab = Lab::with_guest();
    let args = lab.guest_args("echo", &["--rm"]);
    let mut child = lab
        .command(common::KAMI)
        .args(&args)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    lab.wait_for("echo=ready");
    // More than the serial port holds at once.
    let typed = "0123456789".repeat(1000);
    keyboard.write_all(typed.as_bytes()).unwrap();
    keyboard.write_all(b"q").unwrap();
    drop(keyboard);
    let outcome = finish(child);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.out.contains(&typed));
}

#[test]
fn guest_goes_on_when_its_listener_goes_away() {
    let lab = Lab::with_guest();
    let mut child = lab.start_guest("flood", &[]);
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 100]).unwrap();
    drop(out);
    let seen = lab.console().len();
    common::wait_until("the log goes on", || lab.console().len() > seen + 1000);
    lab.end_all();
    assert_eq!(finish(child).code, Some(137));
}

#[test]
fn guest_goes_on_when_its_listener_stops_listening() {
    let lab = Lab::with_guest();
    let mut child = lab.start_guest("flood", &[]);
    // Taken, kept open, and never read.
    let out = child.stdout.take().unwrap();
    rustix::pipe::fcntl_setpipe_size(&out, 4096).unwrap();
    // More than the pipe and the two queues before it, of 16 KiB each: the log goes on without the listener.
    common::wait_until("the log outgrows the pipe", || lab.console().len() > 40_000);
    lab.end_all();
    assert_eq!(finish(child).code, Some(137));
}

#[test]
fn console_goes_where_it_is_told() {
    let lab = Lab::with_guest();
    let file = lab.path("console.txt");
    let to_file = format!("file={}", file.display());
    let outcome = lab.run_guest("self", &["--rm", "--console", &to_file]);
    assert_eq!((outcome.code, outcome.out.as_str()), (Some(0), ""));
    assert!(
        std::fs::read_to_string(&file)
            .unwrap()
            .contains("result=pass")
    );
    let outcome = lab.run_guest("self", &["--rm", "--console", "none"]);
    assert_eq!((outcome.code, outcome.out.as_str()), (Some(0), ""));
    let nowhere = lab.run_guest("self", &["--console", "file=/nowhere/x"]);
    nowhere.refused(1, &["/nowhere/x", "No such file"]);
    assert_eq!(lab.state(), None);
}
