//! What the boot protocols have in common: a kernel's segments and an initrd are read from their files straight
//! into guest memory, and a command line is checked.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use kami_devices::GuestMemory;
use kami_kernels::{Architecture, Kernel, Segment};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::range::{KIB, PAGE_BYTES, Range};

/// Why a kernel cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "kernel {}: its part at {:#x}+{:#x} is outside of the guest's memory at {:#x}+{:#x}",
        .path.display(), .segment.guest_address, .segment.memory_bytes, .ram.start.0, .ram.len
    )]
    KernelOutsideMemory {
        path: PathBuf,
        segment: Segment,
        ram: Range,
    },
    #[error("kernel {}: it starts as one for {} does, which a machine of this host cannot", .path.display(), .architecture)]
    Entry {
        path: PathBuf,
        architecture: Architecture,
    },
    #[error("cannot open initrd {}", .path.display())]
    OpenInitrd { path: PathBuf, source: io::Error },
    #[error(
        "initrd {} has {} KiB, but beside the kernel there is room for {} KiB below {:#x}",
        .path.display(), .bytes / KIB, .room_bytes / KIB, .limit
    )]
    InitrdTooLarge {
        path: PathBuf,
        bytes: u64,
        room_bytes: u64,
        limit: u64,
    },
    #[error("initrd {} is empty or not a regular file", .0.display())]
    InitrdNotAFile(PathBuf),
    #[error("cannot read {} bytes at offset {offset} of {}", .bytes, .path.display())]
    Read {
        path: PathBuf,
        offset: u64,
        bytes: u64,
        source: GuestMemoryError,
    },
    #[error("the kernel command line has {bytes} bytes, but the kernel takes at most {max}")]
    CmdlineTooLong { bytes: usize, max: usize },
    #[error("the kernel command line has a zero byte at {0}")]
    CmdlineZero(usize),
    #[error("cannot make the device tree")]
    DeviceTree(#[source] vm_fdt::Error),
    #[error("cannot write the boot parameters at {:#x}", .address.0)]
    Write {
        address: GuestAddress,
        source: GuestMemoryError,
    },
}

/// Reads the segments of `kernel` to their places, counted from `base` on, all of them in `ram`, which is all
/// zeroes.
///
/// # Errors
/// A segment does not fit, or cannot be read.
pub fn kernel(memory: &GuestMemory, kernel: &Kernel, base: u64, ram: Range) -> Result<(), Error> {
    for segment in &kernel.segments {
        let placed = Segment {
            guest_address: base.saturating_add(segment.guest_address),
            ..*segment
        };
        if !ram.contains(placed.guest_address, placed.memory_bytes) {
            return Err(Error::KernelOutsideMemory {
                path: kernel.path.clone(),
                segment: placed,
                ram,
            });
        }
        // What the file does not hold is zero, and so is fresh memory.
        read(
            memory,
            GuestAddress(placed.guest_address),
            &kernel.file,
            &kernel.path,
            placed.file_offset,
            placed.file_bytes,
        )?;
    }
    Ok(())
}

/// Reads the initrd at `path` as high as possible in `room`, so that it is in nobody's way.
///
/// # Errors
/// It does not fit, or cannot be read.
pub fn initrd(memory: &GuestMemory, path: &Path, room: Range) -> Result<Range, Error> {
    let open_failed = |source| Error::OpenInitrd {
        path: path.to_path_buf(),
        source,
    };
    let file = File::open(path).map_err(open_failed)?;
    let metadata = file.metadata().map_err(open_failed)?;
    let bytes = metadata.len();
    if !metadata.is_file() || bytes == 0 {
        return Err(Error::InitrdNotAFile(path.to_path_buf()));
    }
    let limit = room.end();
    let start = limit
        .checked_sub(bytes)
        .map(|start| start & !(PAGE_BYTES - 1));
    let Some(start) = start.filter(|start| *start >= room.start.0) else {
        return Err(Error::InitrdTooLarge {
            path: path.to_path_buf(),
            bytes,
            room_bytes: room.len,
            limit,
        });
    };
    read(memory, GuestAddress(start), &file, path, 0, bytes)?;
    Ok(Range::new(start, bytes))
}

/// The bytes of a command line of at most `max_bytes`, without a terminating zero.
///
/// # Errors
/// It is too long, or has a zero byte.
pub fn cmdline(cmdline: &str, max_bytes: usize) -> Result<&[u8], Error> {
    let bytes = cmdline.as_bytes();
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(Error::CmdlineZero(at));
    }
    if bytes.len() > max_bytes {
        return Err(Error::CmdlineTooLong {
            bytes: bytes.len(),
            max: max_bytes,
        });
    }
    Ok(bytes)
}

/// Writes what a boot protocol wants at `address`.
///
/// # Errors
/// There is no memory.
pub fn write(memory: &GuestMemory, address: GuestAddress, bytes: &[u8]) -> Result<(), Error> {
    memory
        .write_slice(bytes, address)
        .map_err(|source| Error::Write { address, source })
}

/// Reads from the file straight into guest memory.
fn read(
    memory: &GuestMemory,
    address: GuestAddress,
    mut file: &File,
    path: &Path,
    offset: u64,
    bytes: u64,
) -> Result<(), Error> {
    let failed = |source| Error::Read {
        path: path.to_path_buf(),
        offset,
        bytes,
        source,
    };
    file.seek(SeekFrom::Start(offset))
        .map_err(|source| failed(GuestMemoryError::IOError(source)))?;
    let count = usize::try_from(bytes).unwrap_or(usize::MAX);
    memory
        .read_exact_volatile_from(address, &mut file, count)
        .map_err(failed)
}
