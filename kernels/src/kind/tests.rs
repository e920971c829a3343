//! Tests of the recognition of files.

use proptest::prelude::*;

use super::{identify, of_head};
use crate::fixture::{Elf, bzimage, compress, payload};
use crate::{Cache, Compression, FileKind};

const CPIO: &[u8] = b"07070100000000000000000000000000000000";

fn kind(file: &[u8]) -> FileKind {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, file).unwrap();
    identify(&path).unwrap()
}

fn pe(machine: u16) -> Vec<u8> {
    let mut file = vec![0; 512];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c] = 0x80;
    file[0x80..0x84].copy_from_slice(b"PE\0\0");
    file[0x84..0x86].copy_from_slice(&machine.to_le_bytes());
    file
}

fn arm64_image() -> Vec<u8> {
    let mut file = pe(0xaa64);
    file[0x38..0x3c].copy_from_slice(b"ARM\x64");
    file
}

#[test]
fn kernels_are_recognised() {
    assert_eq!(
        kind(&bzimage(&payload(Compression::Gzip, b"kernel"))),
        FileKind::BzImage
    );
    let machine = "x86_64".to_owned();
    assert_eq!(kind(&Elf::kernel(None).bytes()), FileKind::Elf { machine });
    assert_eq!(kind(&arm64_image()), FileKind::Arm64Image);
    let mut zboot = pe(0xaa64);
    zboot[4..8].copy_from_slice(b"zimg");
    let machine = "arm64".to_owned();
    assert_eq!(kind(&zboot), FileKind::EfiZboot { machine });
}

/// A bzImage with an EFI stub begins as a PE file does.
#[test]
fn bzimage_with_efi_stub_is_a_bzimage() {
    let mut file = bzimage(&payload(Compression::Gzip, b"kernel"));
    let stub = pe(0x8664);
    file[..0x1f1].copy_from_slice(&stub[..0x1f1]);
    assert_eq!(kind(&file), FileKind::BzImage);
}

#[test]
fn ramdisks_are_recognised_within_each_compression() {
    assert_eq!(kind(CPIO), FileKind::Ramdisk { compression: None });
    for compression in [
        Compression::Gzip,
        Compression::Bzip2,
        Compression::Lzma,
        Compression::Xz,
        Compression::Lz4,
        Compression::Zstd,
    ] {
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
    if cfg!(target_arch = "x86_64") {
        let wrong = ("a kernel for arm64, this host is x86_64".to_owned(), false);
        assert_eq!(refusal(&arm64_image()), wrong);
        assert_eq!(refusal(&pe(0xaa64)), wrong);
        assert_eq!(refusal(&pe(0x8664)), not("an EFI (PE) program for x86_64"));
    }
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
