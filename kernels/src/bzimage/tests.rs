//! Tests of the bzImage's header and of unpacking.

#![expect(clippy::cast_possible_truncation, reason = "fixtures are small")]

use std::io::ErrorKind;

use proptest::prelude::*;

use super::{UNPACKED_LIMIT_BYTES, parse, unpack};
use crate::fixture::{self, bzimage, payload};
use crate::{Compression, Error, FileKind, Unbootable};

const UNPACKED: [Compression; 6] = [
    Compression::Gzip,
    Compression::Bzip2,
    Compression::Lzma,
    Compression::Xz,
    Compression::Lz4,
    Compression::Zstd,
];

fn refusal(file: &[u8]) -> Unbootable {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bzImage");
    std::fs::write(&path, file).unwrap();
    match unpack(&path, &folder.path().join("vmlinux")) {
        Err(Error::Unbootable {
            path: named,
            source,
        }) => {
            assert_eq!(named, path);
            source
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_compression_unpacks_to_the_vmlinux() {
    let vmlinux = fixture::vmlinux();
    let folder = tempfile::tempdir().unwrap();
    let (path, to) = (folder.path().join("bzImage"), folder.path().join("vmlinux"));
    for compression in UNPACKED {
        std::fs::write(&path, bzimage(&payload(compression, &vmlinux))).unwrap();
        unpack(&path, &to).unwrap();
        assert!(std::fs::read(&to).unwrap() == vmlinux, "{compression}");
    }
}

#[test]
fn setup_header_reaches_to_the_end_that_it_gives() {
    let mut file = bzimage(&payload(Compression::Gzip, b"kernel"));
    let header = parse(&file, file.len() as u64).unwrap();
    assert_eq!(header.setup_header, file[0x1f1..0x202 + 0x6a]);
    // The jump's length is the file's word; the next field of the zero page is not the header's.
    file[0x201] = 0xff;
    let header = parse(&file, file.len() as u64).unwrap();
    assert_eq!(header.setup_header.len(), 0x290 - 0x1f1);
}

#[test]
fn truncated_file_says_what_is_missing() {
    let file = bzimage(&payload(Compression::Xz, &fixture::vmlinux()));
    let needed = file.len() as u64 - 99;
    for holds in [0x300, needed / 2, needed - 1] {
        match refusal(&file[..usize::try_from(holds).unwrap()]) {
            Unbootable::Truncated {
                promised_bytes,
                holds_bytes,
            } => assert_eq!((promised_bytes, holds_bytes), (needed, holds)),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(
        refusal(&file[..0x220]),
        Unbootable::Truncated { .. }
    ));
    assert!(matches!(
        refusal(b""),
        Unbootable::NotKernel(FileKind::Empty)
    ));
}

#[test]
fn kernel_for_32_bits_is_named() {
    let mut file = bzimage(&payload(Compression::Gzip, b"kernel"));
    file[0x236] = 0;
    let error = refusal(&file).to_string();
    assert!(
        error.starts_with("a kernel for i386, this host is"),
        "{error}"
    );
}

#[test]
fn old_protocols_and_zimages_are_refused() {
    let mut file = bzimage(&payload(Compression::Gzip, b"kernel"));
    file[0x206] = 0x07;
    let error = refusal(&file).to_string();
    assert!(error.contains("boot protocol is 2.07"), "{error}");
    file[0x206] = 0x0f;
    file[0x211] = 0;
    assert!(matches!(refusal(&file), Unbootable::BadSetupHeader(_)));
}

#[test]
fn unknown_and_unsupported_compressions_are_told_apart() {
    let lzo = bzimage(&payload(Compression::Lzo, b""));
    let error = refusal(&lzo);
    assert!(matches!(
        error,
        Unbootable::UnsupportedCompression(Compression::Lzo)
    ));
    let error = refusal(&bzimage(b"who knows\0\0\0\0"));
    assert!(matches!(error, Unbootable::UnknownCompression { .. }));
    assert!(matches!(
        refusal(&bzimage(b"")),
        Unbootable::BadSetupHeader(_)
    ));
}

#[test]
fn size_that_is_not_the_promised_one_is_corrupt() {
    let vmlinux = fixture::vmlinux();
    for change in [-1, 1] {
        let mut packed = payload(Compression::Zstd, &vmlinux);
        let at = packed.len() - 4;
        let promised = (vmlinux.len() as u32).wrapping_add_signed(change);
        packed[at..].copy_from_slice(&promised.to_le_bytes());
        match refusal(&bzimage(&packed)) {
            Unbootable::WrongSize { promised_bytes, .. } => {
                assert_eq!(promised_bytes, u64::from(promised))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn small_payload_that_promises_too_much_is_refused_unread() {
    let mut packed = payload(Compression::Zstd, b"kernel");
    let at = packed.len() - 4;
    packed[at..].copy_from_slice(&(UNPACKED_LIMIT_BYTES as u32 + 1).to_le_bytes());
    assert!(matches!(
        refusal(&bzimage(&packed)),
        Unbootable::TooLarge { .. }
    ));
}

#[test]
fn damaged_payload_is_corrupt() {
    for compression in UNPACKED {
        let mut packed = payload(compression, &fixture::vmlinux());
        let middle = packed.len() / 2;
        packed[middle..].fill(0xff);
        // The promise stays believable.
        let end = packed.len() - 4;
        packed[end..].copy_from_slice(&(fixture::vmlinux().len() as u32).to_le_bytes());
        let error = refusal(&bzimage(&packed));
        assert!(
            matches!(
                error,
                Unbootable::Corrupt { .. } | Unbootable::WrongSize { .. }
            ),
            "{compression}: {error:?}"
        );
    }
}

#[test]
fn full_disk_is_an_error_of_the_file_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bzImage");
    std::fs::write(
        &path,
        bzimage(&payload(Compression::Gzip, &fixture::vmlinux())),
    )
    .unwrap();
    let full = std::path::Path::new("/dev/full");
    match unpack(&path, full) {
        Err(Error::Write { path, source }) => {
            assert_eq!(path, full);
            assert_eq!(source.kind(), ErrorKind::StorageFull);
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn hostile_headers_do_not_panic(
        changes in prop::collection::vec((0x1f1usize..0x290, any::<u8>()), 0..40),
        file_bytes in any::<u64>(),
        cut in 0usize..2000,
    ) {
        let mut file = bzimage(&payload(Compression::Gzip, b"kernel"));
        file.resize(2000, 0);
        for (at, byte) in changes {
            file[at] = byte;
        }
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file.truncate(file.len() - cut);
        if let Ok(header) = parse(&file, file_bytes) {
            prop_assert!(header.payload_offset + header.payload_bytes <= file_bytes);
            prop_assert!(header.setup_header.len() <= 0x290 - 0x1f1);
        }
    }
}
