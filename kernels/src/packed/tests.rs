//! Tests of finding and unpacking what bzImages, EFI zboot programs and compressed files hold.

#![expect(clippy::cast_possible_truncation, reason = "fixtures are small")]

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::{Packed, UNPACKED_LIMIT_BYTES};
use crate::fixture::{self, READ, arm64_image, bzimage, compress, payload, vmlinux, zboot};
use crate::input::Input;
use crate::kind::{FileKind, of_head};
use crate::{Architecture, Compression, Error, Unbootable};

/// Unpacks `file` for `host`, with a limit of its own where it does not say its size; also what is left of `to`.
fn unpack_to(
    file: &[u8],
    host: Option<Architecture>,
    limit_bytes: u64,
    to: &Path,
) -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vmlinuz");
    std::fs::write(&path, file).unwrap();
    let file = File::open(&path).unwrap();
    let input = Input {
        file: &file,
        path: &path,
    };
    let head = input.head()?;
    let packed = match of_head(&head) {
        FileKind::BzImage { .. } => Packed::in_bzimage(input, &head)?,
        FileKind::EfiZboot { .. } => Packed::in_zboot(input, &head)?,
        FileKind::Compressed(compression) => Packed {
            limit_bytes,
            ..Packed::whole(input, compression)?
        },
        other => panic!("{other}"),
    };
    let mut out = File::create(to).unwrap();
    let (bytes, digest) = packed.unpack(input, host, &mut out, to)?;
    let unpacked = std::fs::read(to).unwrap();
    assert_eq!(bytes, unpacked.len() as u64);
    assert_eq!(digest, blake3::hash(&unpacked));
    Ok(())
}

fn unpack(file: &[u8]) -> Result<Vec<u8>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("vmlinux");
    unpack_to(file, None, UNPACKED_LIMIT_BYTES, &to)?;
    Ok(std::fs::read(&to).unwrap())
}

fn refusal(file: &[u8]) -> Unbootable {
    match unpack(file) {
        Err(Error::Unbootable { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

/// What packs a kernel and says how large it unpacks.
fn sized(compression: Compression, packed: &[u8]) -> [Vec<u8>; 2] {
    [bzimage(packed), zboot(compression, packed)]
}

#[test]
fn each_compression_is_unpacked_from_each_kind_of_file() {
    for kernel in [vmlinux(), arm64_image()] {
        for compression in READ {
            let packed = payload(compression, &kernel);
            for file in sized(compression, &packed) {
                assert!(unpack(&file).unwrap() == kernel, "{compression}");
            }
            let whole = compress(compression, &kernel);
            assert!(unpack(&whole).unwrap() == kernel, "{compression}");
        }
    }
}

#[test]
fn unknown_compression_shows_its_first_bytes() {
    for file in sized(Compression::Gzip, b"who knows\0\0\0\0") {
        assert!(matches!(
            refusal(&file),
            Unbootable::UnknownCompression { .. }
        ));
    }
    for file in sized(Compression::Gzip, b"") {
        assert!(matches!(refusal(&file), Unbootable::NoPayload));
    }
}

#[test]
fn size_that_is_not_the_promised_one_is_corrupt() {
    let kernel = vmlinux();
    for change in [-1, 1] {
        let mut packed = payload(Compression::Zstd, &kernel);
        let at = packed.len() - 4;
        let promised = (kernel.len() as u32).wrapping_add_signed(change);
        packed[at..].copy_from_slice(&promised.to_le_bytes());
        for file in sized(Compression::Zstd, &packed) {
            match refusal(&file) {
                Unbootable::WrongSize { promised_bytes, .. } => {
                    assert_eq!(promised_bytes, u64::from(promised));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn small_payload_that_promises_too_much_is_refused_unread() {
    let mut packed = payload(Compression::Zstd, b"kernel");
    let at = packed.len() - 4;
    packed[at..].copy_from_slice(&(UNPACKED_LIMIT_BYTES as u32 + 1).to_le_bytes());
    for file in sized(Compression::Zstd, &packed) {
        assert!(matches!(refusal(&file), Unbootable::TooLarge { .. }));
    }
}

#[test]
fn bomb_is_refused_at_the_limit() {
    let mut bomb = arm64_image();
    bomb.resize(3 << 20, 0);
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("vmlinux");
    for compression in READ {
        let packed = compress(compression, &bomb);
        assert!(packed.len() < 50_000, "{compression}");
        let limit = bomb.len() as u64;
        unpack_to(&packed, None, limit, &to).unwrap();
        let refused = unpack_to(&packed, None, limit - 1, &to);
        match refused.unwrap_err() {
            Error::Unbootable {
                source: Unbootable::Unbounded { limit_bytes },
                ..
            } => assert_eq!(limit_bytes, limit - 1),
            other => panic!("{other:?}"),
        }
        assert!(std::fs::metadata(&to).unwrap().len() <= limit);
    }
}

#[test]
fn truncated_zboot_says_what_is_missing() {
    let gzip = payload(Compression::Gzip, &arm64_image());
    let xz = payload(Compression::Xz, &arm64_image());
    for (compression, packed) in [(Compression::Gzip, gzip), (Compression::Xz, xz)] {
        let file = zboot(compression, &packed);
        let needed = file.len() - 99;
        assert!(unpack(&file[..needed]).is_ok());
        for holds in [0x380, needed - 1] {
            match refusal(&file[..holds]) {
                Unbootable::Truncated {
                    promised_bytes,
                    holds_bytes,
                } => {
                    assert_eq!(holds_bytes, holds as u64);
                    assert!(promised_bytes > holds_bytes && promised_bytes <= needed as u64);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn damaged_payload_is_corrupt() {
    for compression in READ {
        let mut packed = payload(compression, &vmlinux());
        let middle = packed.len() / 2;
        packed[middle..].fill(0xff);
        // The promise stays believable.
        let end = packed.len() - 4;
        packed[end..].copy_from_slice(&(vmlinux().len() as u32).to_le_bytes());
        for file in sized(compression, &packed) {
            let error = refusal(&file);
            assert!(
                matches!(
                    error,
                    Unbootable::Corrupt { .. } | Unbootable::WrongSize { .. }
                ),
                "{compression}: {error:?}"
            );
        }
    }
}

#[test]
fn what_is_no_kernel_is_refused_at_its_first_bytes() {
    let packed = payload(Compression::Zstd, b"#!/bin/sh");
    for file in sized(Compression::Zstd, &packed) {
        assert!(matches!(
            refusal(&file),
            Unbootable::HoldsNoKernel(FileKind::Unknown)
        ));
    }
    // Far more than its first bytes would be refused for their size.
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("vmlinux");
    let refused = unpack_to(
        &compress(Compression::Gzip, &vec![0; 1 << 20]),
        None,
        100,
        &to,
    );
    match refused.unwrap_err() {
        Error::Unbootable { source, .. } => assert!(
            matches!(
                source,
                Unbootable::NotKernel(FileKind::Compressed(Compression::Gzip))
            ),
            "{source:?}"
        ),
        other => panic!("{other:?}"),
    }
    assert_eq!(std::fs::metadata(&to).unwrap().len(), 0);
}

#[test]
fn kernel_for_another_machine_is_refused_at_its_first_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("vmlinux");
    let mut riscv = fixture::Elf::kernel(None);
    riscv.machine = 243;
    for (kernel, host, found) in [
        (arm64_image(), Architecture::X86_64, "arm64"),
        (vmlinux(), Architecture::Aarch64, "x86_64"),
        (
            fixture::Elf::kernel_i386(None).bytes(),
            Architecture::Aarch64,
            "i386",
        ),
        (riscv.bytes(), Architecture::Aarch64, "riscv"),
    ] {
        let whole = compress(Compression::Gzip, &kernel);
        let packed = payload(Compression::Gzip, &kernel);
        for file in sized(Compression::Gzip, &packed).iter().chain([&whole]) {
            let refused = unpack_to(file, Some(host), UNPACKED_LIMIT_BYTES, &to);
            let error = std::error::Error::source(&refused.unwrap_err())
                .unwrap()
                .to_string();
            assert_eq!(error, format!("a kernel for {found}, this host is {host}"));
            assert_eq!(std::fs::metadata(&to).unwrap().len(), 0);
        }
    }
}

#[test]
fn full_disk_is_an_error_of_the_file_written() {
    let full = Path::new("/dev/full");
    let file = compress(Compression::Gzip, &vmlinux());
    match unpack_to(&file, None, UNPACKED_LIMIT_BYTES, full) {
        Err(Error::Write { path, source }) => {
            assert_eq!(path, full);
            assert_eq!(source.kind(), ErrorKind::StorageFull);
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_files_do_not_panic_and_stay_within_their_bounds(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in any::<prop::sample::Index>(),
        compression in 0..READ.len(),
        container in 0usize..3,
    ) {
        // Compressing anew for each case would take most of the time.
        static FILES: LazyLock<[[Vec<u8>; 3]; 7]> = LazyLock::new(|| READ.map(|compression| {
            let [bzimage, zboot] = sized(compression, &payload(compression, &arm64_image()));
            [bzimage, zboot, compress(compression, &arm64_image())]
        }));
        let mut file = FILES[compression][container].clone();
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        file.truncate(file.len() - cut.index(200));
        let head = &file[..file.len().min(4096)];
        let packs = matches!(
            of_head(head),
            FileKind::BzImage { .. } | FileKind::EfiZboot { .. } | FileKind::Compressed(_)
        );
        if packs {
            let folder = tempfile::tempdir().unwrap();
            let to = folder.path().join("vmlinux");
            let outcome = unpack_to(&file, None, 1 << 20, &to);
            let left = std::fs::metadata(&to).map_or(0, |metadata| metadata.len());
            prop_assert!(left <= (1 << 20) + 1 || outcome.is_err());
        }
    }
}
