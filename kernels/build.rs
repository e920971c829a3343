//! Compiles the bare-metal test guest of `guest/` into one ELF file, which `src/guest` embeds.
//!
//! It needs what building this crate needs anyway: the compiler that cargo uses, with the `core` of the Linux
//! target, and its linker. Nothing is downloaded.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What makes a freestanding program, at fixed addresses, of a target that is meant for hosted ones.
const FLAGS: [&str; 21] = [
    "--edition=2024",
    "--crate-type=bin",
    "--crate-name=kami_test_guest",
    "--cap-lints=warn",
    // Small: a launch copies all of it, and no test here is short of speed.
    "-Copt-level=s",
    "-Ccodegen-units=1",
    "-Clto=fat",
    "-Cpanic=abort",
    "-Crelocation-model=static",
    // A bug in the guest shall stop it, loudly.
    "-Coverflow-checks=on",
    "-Cforce-unwind-tables=no",
    "-Cstrip=symbols",
    "-Crelro-level=off",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-static",
    "-Clink-arg=-no-pie",
    "-Clink-arg=-Wl,--build-id=none",
    "-Clink-arg=-Wl,-z,max-page-size=4096",
    "-Clink-arg=-Wl,-z,noexecstack",
    "-Clink-arg=-Wl,--no-eh-frame-hdr",
    "-Cdebuginfo=0",
];

fn main() {
    println!("cargo::rerun-if-changed=guest");
    println!("cargo::rerun-if-changed=src/guest/pattern.rs");
    println!("cargo::rerun-if-env-changed=RUSTC");
    let architecture = variable("CARGO_CFG_TARGET_ARCH");
    assert!(
        architecture == "x86_64",
        "the test guest is written for x86_64, not for {architecture}"
    );
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("guest");
    let out = PathBuf::from(variable("OUT_DIR")).join("test-guest.elf");
    compile(&root, &out);
}

fn compile(root: &Path, out: &Path) {
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(FLAGS)
        // Not the target of the build: the guest is the same for gnu and musl programs.
        .arg("--target=x86_64-unknown-linux-gnu")
        .arg(format!(
            "-Clink-arg=-Wl,-T,{}",
            root.join("arch/x86_64/link.ld").display()
        ))
        .arg("-o")
        .arg(out)
        .arg(root.join("main.rs"));
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    let output = rustc.output().expect("the compiler starts");
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "the test guest does not compile:\n{messages}"
    );
    for line in messages.lines() {
        println!("cargo::warning=test guest: {line}");
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
