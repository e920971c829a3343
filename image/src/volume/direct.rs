//! Direct I/O: an overlay's bytes pass the host's page cache by (`open(2)`, `O_DIRECT`).
//!
//! Only overlays do: bitmaps and tables are small and read again and again, and a snapshot's segments are shared
//! by all that stand on them. Left out on purpose: files that want more than whole sectors at sector
//! boundaries, for a guest may ask for a single one.
//!
//! Known limit: the host reads a guest's memory while it writes it out, and what the guest changes meanwhile may
//! be on the disk in part, as on any. btrfs, where it has checksums, may then have one that does not match, and
//! fail later reads of that block until it is written again.

use super::Error;
use super::plan::FileIndex;
use super::stack::Files;
use rustix::fs::{AtFlags, OFlags, StatxFlags};
use rustix::io::Errno;
use std::fs::File;

/// The unit of a guest's requests.
const SECTOR_BYTES: usize = 512;

/// Of memory, where the file system does not say what it wants, and at most: the block device's own buffers are
/// aligned to that. No system is known that wants more.
const MEMORY_BYTES: usize = 4096;

/// What I/O on a file must keep to. Offsets in the file, which are a guest's, need whole sectors only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// What the address of each piece of memory is a multiple of, in bytes: a power of two.
    pub memory: usize,
    /// What the length of each piece is a multiple of, in bytes: a power of two.
    pub len: usize,
}

/// Has all I/O on these files pass the page cache by.
pub(super) fn bypass_cache(
    files: &mut Files,
    overlay: impl Iterator<Item = FileIndex>,
) -> Result<(), Error> {
    for index in overlay {
        let alignment = switch(files.file(index))?;
        files.set_alignment(index, alignment);
    }
    Ok(())
}

fn switch(file: &File) -> Result<Alignment, Error> {
    let failed = |error: Errno| match error {
        Errno::INVAL | Errno::OPNOTSUPP => Error::NoDirectIo,
        error => Error::DirectIo(error.into()),
    };
    let flags = rustix::fs::fcntl_getfl(file).map_err(failed)?;
    rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT).map_err(failed)?;
    let alignment = told(file).unwrap_or(None);
    let (memory, offset) = match alignment {
        Some(told) => told,
        None => (MEMORY_BYTES, probe(file)),
    };
    checked(memory, offset)
}

/// What I/O keeps to on a file that wants these multiples.
fn checked(memory: usize, offset: usize) -> Result<Alignment, Error> {
    match (memory, offset) {
        (0, _) | (_, 0) => Err(Error::NoDirectIo),
        (_, offset) if !SECTOR_BYTES.is_multiple_of(offset) => Err(Error::DirectIoUnit { offset }),
        (memory, _) if memory > MEMORY_BYTES => Err(Error::DirectIoMemory { memory }),
        (memory, _) => Ok(Alignment {
            memory: memory.next_power_of_two(),
            len: SECTOR_BYTES,
        }),
    }
}

/// What the file system wants of memory and of offsets; zeroes where it has no direct I/O for this file. It says
/// nothing before Linux 6.1, and some never do.
fn told(file: &File) -> Result<Option<(usize, usize)>, Errno> {
    let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
    if stat.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return Ok(None);
    }
    let bytes = |value| usize::try_from(value).unwrap_or(0);
    Ok(Some((
        bytes(stat.stx_dio_mem_align),
        bytes(stat.stx_dio_offset_align),
    )))
}

/// The unit of offsets, by reading a sector that begins at no larger boundary.
fn probe(file: &File) -> usize {
    #[repr(align(4096))]
    struct Sector([u8; SECTOR_BYTES]);
    let mut sector = Sector([0; SECTOR_BYTES]);
    match rustix::io::pread(file, &mut sector.0, SECTOR_BYTES as u64) {
        Err(Errno::INVAL) => MEMORY_BYTES,
        _ => SECTOR_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Issue: what no buffer here is aligned to was taken for good, and every request failed.
    #[test]
    fn what_cannot_be_kept_to_is_refused() {
        for (memory, offset) in [(1, 1), (4, 512), (512, 512), (4096, 256)] {
            let alignment = checked(memory, offset).unwrap();
            assert!(alignment.memory == memory && alignment.len == SECTOR_BYTES);
        }
        for none in [(0, 512), (512, 0), (0, 0)] {
            let error = checked(none.0, none.1).unwrap_err();
            assert!(matches!(error, Error::NoDirectIo), "{error}");
        }
        let error = checked(512, 4096).unwrap_err();
        assert!(
            matches!(error, Error::DirectIoUnit { offset: 4096 }),
            "{error}"
        );
        let error = checked(8192, 512).unwrap_err();
        assert!(
            matches!(error, Error::DirectIoMemory { memory: 8192 }),
            "{error}"
        );
    }
}
