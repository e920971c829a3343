//! EFI zboot (`vmlinuz.efi`): where the compressed kernel lies within, so that it can be started without the EFI
//! program around it.
//!
//! Implements the header of Linux `drivers/firmware/efi/libstub/zboot-header.S`, and what `Makefile.zboot` there says
//! of the payload. Left out on purpose: the EFI program; and the name of the compression at offset 24, which has
//! changed ("xzkern", "zstd22" and "zstd"), while the payload's own magic number has not.

use crate::Unbootable;
use crate::input::u32_at;

/// Offsets in the file.
const IMAGE_TYPE: usize = 4;
const PAYLOAD_OFFSET: usize = 8;
const PAYLOAD_BYTES: usize = 12;
/// Where the header's words end.
const HEADER_BYTES: u64 = 64;

/// Where the compressed kernel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Offset in the file.
    pub payload_offset: u64,
    /// Length in bytes. The unpacked size is in its last four for gzip, and in the four after it for all others:
    /// `Makefile.zboot` appends it, and "disregards it when calculating the payload size in the zimage header".
    pub payload_bytes: u64,
}

/// Whether a PE file that begins with `head` is of this kind.
pub(crate) fn is_zboot(head: &[u8]) -> bool {
    head.get(IMAGE_TYPE..PAYLOAD_OFFSET) == Some(b"zimg")
}

/// Reads the header of a zboot file that begins with `head` and is `file_bytes` long. The payload lies within.
pub(crate) fn parse(head: &[u8], file_bytes: u64) -> Result<Header, Unbootable> {
    let field = |at| {
        u32_at(head, at)
            .map(u64::from)
            .ok_or(Unbootable::Truncated {
                promised_bytes: HEADER_BYTES,
                holds_bytes: file_bytes,
            })
    };
    let header = Header {
        payload_offset: field(PAYLOAD_OFFSET)?,
        payload_bytes: field(PAYLOAD_BYTES)?,
    };
    let promised_bytes = header.payload_offset.saturating_add(header.payload_bytes);
    if promised_bytes > file_bytes {
        return Err(Unbootable::Truncated {
            promised_bytes,
            holds_bytes: file_bytes,
        });
    }
    Ok(header)
}
