//! bzImage: finds the compressed kernel within and unpacks it to its vmlinux, so that no launch pays for it.
//!
//! Implements `Documentation/arch/x86/boot.rst` "Details of Header Fields" from protocol 2.08 (the first with
//! `payload_offset`). Left out on purpose: the real-mode code and the decompressor that a bzImage brings; and
//! the relocations after the vmlinux, which only a kernel that moves itself needs: it boots where it was linked.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{Architecture, Compression, Error, Unbootable, head, kind};

/// An unpacked kernel larger than this is refused, in bytes. Distribution kernels stay below 100 MiB.
pub(crate) const UNPACKED_LIMIT_BYTES: u64 = 512 << 20;

/// Bytes moved at a time when unpacking.
const COPY_BYTES: usize = 256 << 10;

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
    read_u16(head, BOOT_FLAG) == Some(0xaa55) && head.get(HEADER_MAGIC..VERSION) == Some(b"HdrS")
}

/// Reads the header of a bzImage that begins with `head` and is `file_bytes` long.
pub(crate) fn parse(head: &[u8], file_bytes: u64) -> Result<Header, Unbootable> {
    if !is_bzimage(head) {
        return Err(Unbootable::of_kind(kind::of_head(head)));
    }
    let too_short = || Unbootable::Truncated {
        promised_bytes: SETUP_HEADER_LIMIT as u64,
        holds_bytes: file_bytes,
    };
    let version = read_u16(head, VERSION).ok_or_else(too_short)?;
    if version < 0x0208 {
        return Err(Unbootable::OldProtocol { version });
    }
    let loadflags = head.get(LOADFLAGS).ok_or_else(too_short)?;
    if loadflags & LOADFLAGS_LOADED_HIGH == 0 {
        return Err(Unbootable::BadSetupHeader("a zImage, loaded below 1 MiB"));
    }
    // The field appeared with 2.12; before that only the ELF within says which machine it is for.
    let xloadflags = read_u16(head, XLOADFLAGS).ok_or_else(too_short)?;
    if version >= 0x020c && xloadflags & XLF_KERNEL_64 == 0 {
        return Err(Unbootable::WrongMachine {
            found: "i386".to_owned(),
            host: Architecture::HOST,
        });
    }
    let payload_offset = u64::from(read_u32(head, PAYLOAD_OFFSET).ok_or_else(too_short)?)
        .saturating_add(protected_mode_offset(head).ok_or_else(too_short)?);
    let payload_bytes = u64::from(read_u32(head, PAYLOAD_LENGTH).ok_or_else(too_short)?);
    // A magic number and a size at least.
    if payload_bytes < 8 {
        return Err(Unbootable::BadSetupHeader("it holds no compressed kernel"));
    }
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

/// Reads the header of the bzImage in `file`.
pub(crate) fn read_header(file: &File, path: &Path) -> Result<Header, Error> {
    let read = |source| Error::read(path, source);
    let first = head(file, kind::HEAD_BYTES).map_err(read)?;
    let file_bytes = file.metadata().map_err(read)?.len();
    parse(&first, file_bytes).map_err(|source| Error::unbootable(path, source))
}

/// Unpacks the kernel within the bzImage at `path` to the file `to`, which is made or overwritten. Not synced.
///
/// # Errors
/// Where the bzImage cannot be read, is malformed, truncated or corrupt, or `to` cannot be written; `to` then
/// holds nothing of use.
pub fn unpack(path: &Path, to: &Path) -> Result<(), Error> {
    let file = crate::open(path)?;
    let header = read_header(&file, path)?;
    let mut out = File::create(to).map_err(|source| Error::write(to, source))?;
    unpack_payload(&file, path, &header, &mut out, to)?;
    Ok(())
}

/// Unpacks the payload of the bzImage `file` (at `path`) into `out` (at `to`); returns size and digest of what came.
pub(crate) fn unpack_payload(
    mut file: &File,
    path: &Path,
    header: &Header,
    out: &mut File,
    to: &Path,
) -> Result<(u64, blake3::Hash), Error> {
    let read = |source| Error::read(path, source);
    let unbootable = |source| Error::unbootable(path, source);
    let (first, promised_bytes) = payload_ends(file, header).map_err(read)?;
    let compression = Compression::detect(&first).ok_or_else(|| {
        let first_bytes = first.to_vec();
        unbootable(Unbootable::UnknownCompression { first_bytes })
    })?;
    if promised_bytes > UNPACKED_LIMIT_BYTES {
        return Err(unbootable(Unbootable::TooLarge {
            promised_bytes,
            limit_bytes: UNPACKED_LIMIT_BYTES,
        }));
    }
    let packed_bytes = match compression.size_is_appended() {
        true => header.payload_bytes - 4,
        false => header.payload_bytes,
    };
    let corrupt = |source| {
        unbootable(Unbootable::Corrupt {
            compression,
            source,
        })
    };
    file.seek(SeekFrom::Start(header.payload_offset))
        .map_err(read)?;
    let packed = BufReader::with_capacity(COPY_BYTES, file).take(packed_bytes);
    let unpacked = compression.reader(packed).map_err(corrupt)?;
    let unpacked =
        unpacked.ok_or_else(|| unbootable(Unbootable::UnsupportedCompression(compression)))?;
    // One byte more than promised shows that there is more.
    let mut unpacked = unpacked.take(promised_bytes + 1);
    let mut hasher = blake3::Hasher::new();
    let mut unpacked_bytes = 0;
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let count = match unpacked.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.map_err(corrupt)?,
        };
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        hasher.update(bytes);
        out.write_all(bytes)
            .map_err(|source| Error::write(to, source))?;
        unpacked_bytes += count as u64;
    }
    if unpacked_bytes != promised_bytes {
        return Err(unbootable(Unbootable::WrongSize {
            unpacked_bytes,
            promised_bytes,
        }));
    }
    Ok((unpacked_bytes, hasher.finalize()))
}

/// The first bytes of the payload, which tell how it is compressed, and what its last four say: the unpacked size
/// (`Documentation/arch/x86/boot.rst` `payload_length` covers what the build appends).
fn payload_ends(file: &File, header: &Header) -> io::Result<([u8; 8], u64)> {
    let mut first = [0; 8];
    file.read_exact_at(&mut first, header.payload_offset)?;
    let mut last = [0; 4];
    file.read_exact_at(&mut last, header.payload_offset + header.payload_bytes - 4)?;
    Ok((first, u64::from(u32::from_le_bytes(last))))
}

pub(crate) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests;
