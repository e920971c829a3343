//! bzImage: finds the compressed kernel within, so that it is unpacked to its vmlinux once and no launch pays for it.
//!
//! Implements `Documentation/arch/x86/boot.rst` "Details of Header Fields" from protocol 2.08 (the first with
//! `payload_offset`). Left out on purpose: the real-mode code and the decompressor that a bzImage brings; and
//! the relocations after the vmlinux, which only a kernel that moves itself needs: it boots where it was linked.

use crate::input::{u16_at, u32_at};
use crate::{Architecture, Unbootable, kind};

/// Offsets in the file, which are those of the zero page too.
const SETUP_SECTS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const JUMP_LENGTH: usize = 0x201;
const HEADER_MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const LOADFLAGS: usize = 0x211;
const XLOADFLAGS: usize = 0x236;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

const LOADFLAGS_LOADED_HIGH: u8 = 1;
const XLF_KERNEL_64: u16 = 1;

/// The zero page's field after the setup header: `edd_mbr_sig_buffer` (`Documentation/arch/x86/zero-page.rst`).
const SETUP_HEADER_LIMIT: usize = 0x290;

/// What the setup header says of the kernel within.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Offset in the file of the compressed kernel.
    pub payload_offset: u64,
    /// Its length in bytes, with the unpacked size in its last four.
    pub payload_bytes: u64,
    /// The file's bytes from 0x1f1 to the end of the header.
    pub setup_header: Vec<u8>,
}

pub(crate) fn is_bzimage(head: &[u8]) -> bool {
    u16_at(head, BOOT_FLAG) == Some(0xaa55) && head.get(HEADER_MAGIC..VERSION) == Some(b"HdrS")
}

/// The machine that a bzImage beginning with `head` is for. The field appeared with protocol 2.12; before that only the
/// ELF file within tells.
pub(crate) fn architecture(head: &[u8]) -> Option<Architecture> {
    let xloadflags = u16_at(head, XLOADFLAGS)?;
    match u16_at(head, VERSION)? {
        ..0x020c => None,
        _ if xloadflags & XLF_KERNEL_64 == 0 => Some(Architecture::I386),
        _ => Some(Architecture::X86_64),
    }
}

/// Reads the header of a bzImage that begins with `head` and is `file_bytes` long. The payload lies within.
pub(crate) fn parse(head: &[u8], file_bytes: u64) -> Result<Header, Unbootable> {
    if !is_bzimage(head) {
        return Err(Unbootable::NotKernel(kind::of_head(head)));
    }
    let too_short = || Unbootable::Truncated {
        promised_bytes: SETUP_HEADER_LIMIT as u64,
        holds_bytes: file_bytes,
    };
    let version = u16_at(head, VERSION).ok_or_else(too_short)?;
    if version < 0x0208 {
        return Err(Unbootable::OldProtocol { version });
    }
    let loadflags = head.get(LOADFLAGS).ok_or_else(too_short)?;
    if loadflags & LOADFLAGS_LOADED_HIGH == 0 {
        return Err(Unbootable::BadSetupHeader("a zImage, loaded below 1 MiB"));
    }
    let payload_offset = u64::from(u32_at(head, PAYLOAD_OFFSET).ok_or_else(too_short)?)
        .saturating_add(protected_mode_offset(head).ok_or_else(too_short)?);
    let payload_bytes = u64::from(u32_at(head, PAYLOAD_LENGTH).ok_or_else(too_short)?);
    let promised_bytes = payload_offset.saturating_add(payload_bytes);
    if promised_bytes > file_bytes {
        return Err(Unbootable::Truncated {
            promised_bytes,
            holds_bytes: file_bytes,
        });
    }
    Ok(Header {
        payload_offset,
        payload_bytes,
        setup_header: setup_header(head).ok_or_else(too_short)?,
    })
}

/// Offset in the file of the 32-bit code, which `payload_offset` counts from. boot.rst: 0 sectors mean 4, and
/// the boot sector comes on top.
fn protected_mode_offset(head: &[u8]) -> Option<u64> {
    let sectors = match *head.get(SETUP_SECTS)? {
        0 => 4,
        sectors => u64::from(sectors),
    };
    Some((sectors + 1) * 512)
}

/// boot.rst "64-bit Boot Protocol": the header ends at 0x202 plus the byte at 0x201.
fn setup_header(head: &[u8]) -> Option<Vec<u8>> {
    let end = HEADER_MAGIC + usize::from(*head.get(JUMP_LENGTH)?);
    let header = head.get(SETUP_SECTS..end.clamp(PAYLOAD_LENGTH + 4, SETUP_HEADER_LIMIT))?;
    Some(header.to_vec())
}

#[cfg(test)]
mod tests;
