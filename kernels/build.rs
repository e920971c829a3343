//! Compiles the bare-metal test guest of `guest/` into one file, which `src/guest` embeds: for x86_64 an ELF file, for
//! aarch64 the flat `Image` of Linux `Documentation/arch/arm64/booting.rst`.
//!
//! It needs what building this crate needs anyway: the compiler that cargo uses, with the `core` of the Linux
//! target, and its linker. Nothing is downloaded.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// What makes a freestanding program of a target that is meant for hosted ones.
const FLAGS: [&str; 18] = [
    "--edition=2024",
    "--crate-type=bin",
    "--crate-name=kami_test_guest",
    "--cap-lints=warn",
    // Small: a launch copies all of it, and no test here is short of speed.
    "-Copt-level=s",
    "-Ccodegen-units=1",
    "-Clto=fat",
    "-Cpanic=abort",
    // A bug in the guest shall stop it, loudly.
    "-Coverflow-checks=on",
    "-Cforce-unwind-tables=no",
    "-Cstrip=symbols",
    "-Crelro-level=off",
    "-Clink-arg=-nostartfiles",
    "-Clink-arg=-Wl,--build-id=none",
    "-Clink-arg=-Wl,-z,max-page-size=4096",
    "-Clink-arg=-Wl,-z,noexecstack",
    "-Clink-arg=-Wl,--no-eh-frame-hdr",
    "-Cdebuginfo=0",
];

/// At fixed addresses.
const FLAGS_X86_64: [&str; 5] = [
    // Not the target of the build: the guest is the same for gnu and musl programs.
    "--target=x86_64-unknown-linux-gnu",
    "-Crelocation-model=static",
    "-Clink-arg=-static",
    "-Clink-arg=-no-pie",
    "-Clink-arg=-Wl,-z,norelro",
];

/// To be relocated: not every loader puts an `Image` at the same address.
const FLAGS_AARCH64: [&str; 3] = [
    "--target=aarch64-unknown-linux-gnu",
    "-Crelocation-model=pie",
    // The relocations that boot.s applies, and no others.
    "-Clink-arg=-Wl,-z,text,-z,norelro,--no-dynamic-linker",
];

fn main() {
    println!("cargo::rerun-if-changed=guest");
    println!("cargo::rerun-if-changed=src/guest");
    println!("cargo::rerun-if-env-changed=RUSTC");
    let architecture = variable("CARGO_CFG_TARGET_ARCH");
    let flags = match architecture.as_str() {
        "x86_64" => &FLAGS_X86_64[..],
        "aarch64" => &FLAGS_AARCH64,
        other => panic!("the test guest is written for x86_64 and aarch64, not for {other}"),
    };
    let package = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let root = package.join("guest");
    let out = PathBuf::from(variable("OUT_DIR")).join("test-guest");
    let script = root.join("arch").join(&architecture).join("link.ld");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(FLAGS)
        .args(flags)
        .arg(format!("-Clink-arg=-Wl,-T,{}", script.display()))
        // The guest, and the kami that carries it, are the same wherever they are built.
        .arg(format!("--remap-path-prefix={}=kernels", package.display()))
        .arg(root.join("main.rs"))
        .arg("-o")
        .arg(&out);
    if let Some(linker) = linker(&architecture) {
        rustc.arg(format!("-Clinker={linker}"));
    }
    compile(rustc);
    if architecture == "aarch64" {
        let elf = fs::read(&out).expect("the compiler has written the guest");
        fs::write(&out, flatten(&elf)).expect("the guest can be written again");
    }
}

/// The linker that cargo uses; where it leaves that to the compiler, which asks this host's, the usual cross linker.
fn linker(architecture: &str) -> Option<String> {
    let is_native = variable("HOST").starts_with(architecture);
    let cross = || (!is_native).then(|| format!("{architecture}-linux-gnu-gcc"));
    env::var("RUSTC_LINKER").ok().or_else(cross)
}

fn compile(mut rustc: Command) {
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

/// What a loader of `elf`, a 64-bit little-endian ELF file, puts into memory from address 0 on, without the zeroes at
/// the end. Not left to the linker: not every one can.
fn flatten(elf: &[u8]) -> Vec<u8> {
    const PT_LOAD: usize = 1;
    let number = |at: usize, bytes: usize| {
        let bytes = elf[at..at + bytes].iter().rev();
        bytes.fold(0, |number, &byte| number << 8 | usize::from(byte))
    };
    let mut image = Vec::new();
    let (headers, header_bytes, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    for header in (0..count).map(|index| headers + index * header_bytes) {
        if number(header, 4) != PT_LOAD {
            continue;
        }
        let (offset, address, bytes) = (
            number(header + 0x08, 8),
            number(header + 0x10, 8),
            number(header + 0x20, 8),
        );
        let end = address + bytes;
        image.resize(end.max(image.len()), 0);
        image[address..end].copy_from_slice(&elf[offset..offset + bytes]);
    }
    image
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
