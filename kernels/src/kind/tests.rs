//! Tests of the recognition of files.

use proptest::prelude::*;

use super::{identify, of_head};
use crate::fixture::{Elf, READ, arm64_image, bzimage, compress, payload, vmlinux, zboot};
use crate::{Architecture, Cache, Compression, FileKind};

const CPIO: &[u8] = b"07070100000000000000000000000000000000";

fn kind(file: &[u8]) -> FileKind {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, file).unwrap();
    identify(&path).unwrap()
}

fn pe(machine: u16) -> Vec<u8> {
    crate::fixture::pe(machine, 0x400)
}

#[test]
fn kernels_are_recognised() {
    let architecture = Some(Architecture::X86_64);
    let file = bzimage(&payload(Compression::Gzip, b"kernel"));
    assert_eq!(kind(&file), FileKind::BzImage { architecture });
    let machine = Architecture::X86_64.into();
    assert_eq!(kind(&vmlinux()), FileKind::Elf { machine });
    assert_eq!(kind(&arm64_image()), FileKind::Arm64Image);
    let machine = Architecture::Aarch64.into();
    let file = zboot(
        Compression::Gzip,
        &payload(Compression::Gzip, &arm64_image()),
    );
    assert_eq!(kind(&file), FileKind::EfiZboot { machine });
}

#[test]
fn machine_of_each_kind_of_kernel_is_told() {
    let i386 = Elf::kernel_i386(None).bytes();
    let mut bzimage_i386 = bzimage(&payload(Compression::Xz, &i386));
    bzimage_i386[0x236] = 0;
    // Before protocol 2.12 the header does not tell, and 0x3f in that place means nothing.
    let mut old = bzimage(&payload(Compression::Lzma, &i386));
    old[0x206] = 0x0a;
    for (file, architecture) in [
        (vmlinux(), Architecture::X86_64),
        (i386.clone(), Architecture::I386),
        (compress(Compression::Zstd, &i386), Architecture::I386),
        (bzimage_i386, Architecture::I386),
        (old, Architecture::I386),
        (arm64_image(), Architecture::Aarch64),
        (
            compress(Compression::Lz4, &arm64_image()),
            Architecture::Aarch64,
        ),
        (zboot(Compression::Gzip, b"whatever"), Architecture::Aarch64),
    ] {
        let kind = kind(&file);
        assert_eq!(kind.machine(), Some(architecture.into()), "{kind}");
    }
    let mut riscv = Elf::kernel(None);
    riscv.machine = 243;
    let machine = kind(&riscv.bytes()).machine().unwrap();
    assert_eq!(machine.to_string(), "riscv");
    assert_eq!(kind(CPIO).machine(), None);
}

/// A bzImage with an EFI stub begins as a PE file does.
#[test]
fn bzimage_with_efi_stub_is_a_bzimage() {
    let mut file = bzimage(&payload(Compression::Gzip, b"kernel"));
    let stub = pe(0x8664);
    file[..0x1f1].copy_from_slice(&stub[..0x1f1]);
    assert!(matches!(kind(&file), FileKind::BzImage { .. }));
}

#[test]
fn compressed_kernels_are_recognised_within_each_compression() {
    for compression in READ {
        for kernel in [arm64_image(), vmlinux()] {
            let recognised = kind(&compress(compression, &kernel));
            let kernel = Box::new(of_head(&kernel));
            let expected = FileKind::CompressedKernel {
                compression,
                kernel,
            };
            assert_eq!(recognised, expected);
        }
    }
}

#[test]
fn ramdisks_are_recognised_within_each_compression() {
    assert_eq!(kind(CPIO), FileKind::Ramdisk { compression: None });
    for compression in READ {
        let ramdisk = FileKind::Ramdisk {
            compression: Some(compression),
        };
        assert_eq!(kind(&compress(compression, CPIO)), ramdisk);
        let other = compress(compression, b"something else");
        assert_eq!(kind(&other), FileKind::Compressed(compression));
    }
}

#[test]
fn what_is_no_kernel_is_named_in_the_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let refusal = |file: &[u8]| {
        std::fs::write(&path, file).unwrap();
        let error = Cache::new(folder.path()).open(&path).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        (source, error.help().is_some())
    };
    let not = |what: &str| (format!("{what}, not a kernel that boots here"), true);
    assert_eq!(refusal(b""), not("an empty file"));
    assert_eq!(
        refusal(b"#!/bin/sh\n"),
        not("a file of a format that is not known here")
    );
    assert_eq!(refusal(CPIO), not("an initial ramdisk (cpio)"));
    assert_eq!(
        refusal(&compress(Compression::Gzip, b"x")),
        not("gzip-compressed data")
    );
    let ramdisk = compress(Compression::Zstd, CPIO);
    assert_eq!(
        refusal(&ramdisk),
        not("an initial ramdisk (zstd-compressed cpio)")
    );
    let host = Architecture::HOST;
    let (own, other, name) = match host {
        Architecture::Aarch64 => (0xaa64, 0x8664, "x86_64"),
        _ => (0x8664, 0xaa64, "arm64"),
    };
    let wrong = format!("a kernel for {name}, this host is {host}");
    assert_eq!(refusal(&pe(other)), (wrong, false));
    assert_eq!(
        refusal(&pe(own)),
        not(&format!("an EFI (PE) program for {host}"))
    );
}

#[test]
fn missing_file_and_folder_are_errors_of_reading() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_owned(), folder.path().join("nothing")] {
        let error = identify(&path).unwrap_err();
        assert!(matches!(error, crate::Error::Read { .. }), "{error:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_something(mut head in prop::collection::vec(any::<u8>(), 0..600), magic in 0usize..4) {
        let start: &[u8] = [&b""[..], b"MZ", b"\x7fELF", b"070701"][magic];
        let count = start.len().min(head.len());
        head[..count].copy_from_slice(&start[..count]);
        let name = of_head(&head).to_string();
        prop_assert!(!name.is_empty());
    }
}
