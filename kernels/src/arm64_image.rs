//! The arm64 `Image`: a flat kernel whose 64-byte header says where it goes.
//!
//! Implements Linux `Documentation/arch/arm64/booting.rst` section 4, "Call the kernel image". Left out on purpose: the
//! EFI program that such a file is as well; and the flags for the page size, which the kernel checks itself,
//! and for the placement, since a base at the start of RAM suits both of its values.

use std::fs::File;
use std::path::Path;

use crate::input::{Input, u64_at};
use crate::{Architecture, Entry, Error, Kernel, Segment, Unbootable, kind, pe};

/// Offsets in the file.
const TEXT_OFFSET: usize = 8;
const IMAGE_SIZE: usize = 16;
const FLAGS: usize = 24;
const MAGIC: usize = 56;
const HEADER_BYTES: u64 = 64;

const FLAG_BIG_ENDIAN: u64 = 1 << 0;

/// "Where image_size is zero, text_offset can be assumed to be 0x80000": Linux before 3.17.
const OLD_TEXT_OFFSET: u64 = 0x8_0000;
/// What such a kernel's bss may take beyond the file: "a bootloader should attempt to keep as much memory as
/// possible free"; those kernels' took less than 1 MiB, and the swapper's page tables 20 KiB.
const OLD_BSS_BYTES: u64 = 16 << 20;

/// What the header says of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes from the base, which is a multiple of 2 MiB, to the kernel's first byte, where it is entered too.
    pub text_offset: u64,
    /// Bytes that the kernel takes in memory, bss included; `text_offset` and this do not overflow together.
    pub memory_bytes: u64,
}

/// booting.rst: the magic stands after code0/code1, whether or not these spell "MZ" for EFI.
pub(crate) fn is_image(head: &[u8]) -> bool {
    head.get(MAGIC..MAGIC + 4) == Some(b"ARM\x64")
}

/// Reads the header of an Image that begins with `head` and is `file_bytes` long.
pub(crate) fn parse(head: &[u8], file_bytes: u64) -> Result<Header, Unbootable> {
    if !is_image(head) {
        return Err(Unbootable::NotKernel(kind::of_head(head)));
    }
    let truncated = |promised_bytes| Unbootable::Truncated {
        promised_bytes,
        holds_bytes: file_bytes,
    };
    let field = |at| u64_at(head, at).ok_or_else(|| truncated(HEADER_BYTES));
    let (text_offset, image_size, flags) = (field(TEXT_OFFSET)?, field(IMAGE_SIZE)?, field(FLAGS)?);
    let header = match image_size {
        // Neither the endianness nor the flags of these mean anything.
        0 => Header {
            text_offset: OLD_TEXT_OFFSET,
            memory_bytes: file_bytes.saturating_add(OLD_BSS_BYTES),
        },
        _ if flags & FLAG_BIG_ENDIAN != 0 => return Err(Unbootable::BigEndian),
        memory_bytes => Header {
            text_offset,
            memory_bytes,
        },
    };
    if header
        .text_offset
        .checked_add(header.memory_bytes)
        .is_none()
    {
        let beyond = "it ends beyond the address space";
        return Err(Unbootable::BadImageHeader(beyond));
    }
    // Only the PE header says where the file is to end, for a kernel that is an EFI program too.
    match pe::end_of_sections(head) {
        Some(end) if end > file_bytes => Err(truncated(end)),
        _ => Ok(header),
    }
}

/// Opens the Image in `file` for `host`, or for any; `path` is what errors call it.
pub(crate) fn open_file(
    file: File,
    path: &Path,
    host: Option<Architecture>,
) -> Result<Kernel, Error> {
    let input = Input { file: &file, path };
    let unbootable = |source| input.unbootable(source);
    let architecture = Unbootable::check_machine(&Architecture::Aarch64.into(), host);
    let architecture = architecture.map_err(unbootable)?;
    let file_bytes = input.bytes()?;
    let header = parse(&input.head()?, file_bytes).map_err(unbootable)?;
    let segment = Segment {
        file_offset: 0,
        // A signature for secure boot comes after the kernel, and may reach beyond its bss.
        file_bytes: file_bytes.min(header.memory_bytes),
        guest_address: header.text_offset,
        memory_bytes: header.memory_bytes,
    };
    Ok(Kernel {
        file,
        path: path.to_owned(),
        segments: vec![segment],
        entry: Entry::Arm64(header.text_offset),
        linux64_entry: None,
        architecture,
        setup_header: None,
    })
}

#[cfg(test)]
mod tests;
