//! Finds a disk file's format by the magic number it begins with.
//!
//! What begins with no known magic is raw. Formats that are known but not read are named, because
//! importing their bytes as a raw disk would give a disk that nobody can use.

use super::{Error, Format, raw};
use std::fs::File;
use std::path::Path;

/// qcow2.txt "Header": the magic number.
pub(super) const QCOW2: &[u8] = b"QFI\xfb";

/// Byte offset, magic, and what has it.
const UNSUPPORTED: &[(usize, &[u8], &str)] = &[
    (0, b"COWD", "a sparse VMDK of ESX"),
    (0, b"vhdxfile", "a VHDX"),
    (0, b"conectix", "a VHD"),
    (0, b"QED\0", "a QED"),
    (0x40, &[0x7f, 0x10, 0xda, 0xbe], "a VDI"),
    (0, &[0x1f, 0x8b, 0x08], "gzip-compressed"),
    (0, b"\xfd7zXZ\0", "xz-compressed"),
    (0, &[0x28, 0xb5, 0x2f, 0xfd], "zstd-compressed"),
    (0, b"BZh", "bzip2-compressed"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (257, b"ustar", "a tar archive"),
];

/// *Virtual Disk Format 5.0*, "SparseExtentHeader": the magic number.
const SPARSE_VMDK: &[u8] = b"KDMV";

/// The first line of a VMDK descriptor.
const VMDK_DESCRIPTOR: &[u8] = b"# disk descriptorfile";

pub(super) fn probe(path: &Path, file: &File) -> Result<Format, Error> {
    let mut start = [0; 512];
    raw::read(path, file, 0, &mut start)?;
    if start.starts_with(QCOW2) {
        return Ok(Format::Qcow2);
    }
    if start.starts_with(SPARSE_VMDK) {
        return Ok(Format::Vmdk);
    }
    if start
        .get(..VMDK_DESCRIPTOR.len())
        .is_some_and(|line| line.eq_ignore_ascii_case(VMDK_DESCRIPTOR))
    {
        return Ok(Format::Vmdk);
    }
    let known = |(offset, magic, _): &&(usize, &[u8], &str)| {
        start.get(*offset..).is_some_and(|it| it.starts_with(magic))
    };
    match UNSUPPORTED.iter().find(known) {
        Some((_, _, what)) => Err(Error::Unsupported {
            path: path.to_owned(),
            what: (*what).to_owned(),
        }),
        None => Ok(Format::Raw),
    }
}

/// Whether a VMDK is one file, and not the descriptor of others.
pub(super) fn is_sparse_vmdk(path: &Path, file: &File) -> Result<bool, Error> {
    let mut start = [0; SPARSE_VMDK.len()];
    raw::read(path, file, 0, &mut start)?;
    Ok(start == SPARSE_VMDK)
}
