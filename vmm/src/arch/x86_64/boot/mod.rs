//! Puts a kernel, its initrd, its command line and what the boot protocol wants into guest memory, and
//! says with which registers the first vCPU starts.
//!
//! Two protocols: PVH (`pvh`) and Linux's 64-bit entry (`linux64`). Left out on purpose: the real-mode
//! and the 32-bit entry, device tree and other `setup_data`.

mod linux64;
pub use linux64::{CODE_SELECTOR, DATA_SELECTOR};
mod pvh;

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use kami_devices::GuestMemory;
use kami_kernels::{Architecture, Entry, Kernel, Segment};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::layout::{CMDLINE, KIB, MIB, PAGE_BYTES, Range, kernel_ram};

/// The longest command line of a kernel that does not say itself, in bytes without the terminating
/// zero: x86 Linux's `COMMAND_LINE_SIZE` less one.
const DEFAULT_CMDLINE_MAX: usize = 2047;
/// The highest address of an initrd for a kernel that does not say itself (x86_64 Linux's).
const DEFAULT_INITRD_MAX: u64 = 0x7fff_ffff;

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
    #[error("cannot write the boot parameters at {:#x}", .address.0)]
    Write {
        address: GuestAddress,
        source: GuestMemoryError,
    },
}

/// What to start.
#[derive(Clone, Copy, Debug)]
pub struct Boot<'a> {
    pub kernel: &'a Kernel,
    pub initrd: Option<&'a Path>,
    pub cmdline: &'a str,
    pub memory_bytes: u64,
    /// Where the RSDP is.
    pub rsdp: GuestAddress,
}

/// In which mode the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 32-bit protected mode without paging; `rbx` has the parameters' address.
    Pvh,
    /// 64-bit mode with the identity mapping at [`super::layout::PAGE_TABLES`] and the descriptors at
    /// [`super::layout::GDT`]; `rsi` has the parameters' address.
    Linux64,
}

/// How the first vCPU starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub mode: Mode,
    pub rip: u64,
    /// Guest-physical address of the boot parameters.
    pub parameters: GuestAddress,
}

/// Loads everything; guest memory is as it was mapped, all zeroes.
///
/// # Errors
/// The kernel, the initrd or the command line does not fit, or cannot be read.
pub fn load(memory: &GuestMemory, boot: &Boot<'_>) -> Result<Start, Error> {
    load_kernel(memory, boot)?;
    write_cmdline(memory, boot)?;
    let initrd = boot
        .initrd
        .map(|path| load_initrd(memory, boot, path))
        .transpose()?;
    match boot.kernel.entry {
        Entry::Pvh(rip) => {
            pvh::write_parameters(memory, boot, initrd)?;
            Ok(Start {
                mode: Mode::Pvh,
                rip,
                parameters: super::layout::START_INFO.start,
            })
        }
        Entry::Linux64(rip) => {
            linux64::write_parameters(memory, boot, initrd)?;
            Ok(Start {
                mode: Mode::Linux64,
                rip,
                parameters: super::layout::ZERO_PAGE.start,
            })
        }
        Entry::Linux32(_) | Entry::Arm64(_) => Err(Error::Entry {
            path: boot.kernel.path.clone(),
            architecture: boot.kernel.architecture,
        }),
    }
}

fn load_kernel(memory: &GuestMemory, boot: &Boot<'_>) -> Result<(), Error> {
    let Kernel { file, path, .. } = boot.kernel;
    let ram = kernel_ram(boot.memory_bytes);
    for segment in &boot.kernel.segments {
        if !ram.contains(segment.guest_address, segment.memory_bytes) {
            return Err(Error::KernelOutsideMemory {
                path: path.clone(),
                segment: *segment,
                ram,
            });
        }
        // What the file does not hold is zero, and so is fresh memory.
        read(
            memory,
            GuestAddress(segment.guest_address),
            file,
            path,
            segment.file_offset,
            segment.file_bytes,
        )?;
    }
    Ok(())
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

/// As high as the kernel allows, so that it is in nobody's way (`boot.rst`, `initrd_addr_max`).
fn load_initrd(memory: &GuestMemory, boot: &Boot<'_>, path: &Path) -> Result<Range, Error> {
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
    let header = boot.kernel.setup_header.as_deref();
    let highest = header.map_or(DEFAULT_INITRD_MAX, |header| {
        linux64::initrd_addr_max(header).unwrap_or(DEFAULT_INITRD_MAX)
    });
    let limit = kernel_ram(boot.memory_bytes)
        .end()
        .min(highest.saturating_add(1));
    let lowest = boot
        .kernel
        .end_address()
        .next_multiple_of(PAGE_BYTES)
        .max(MIB);
    let start = limit
        .checked_sub(bytes)
        .map(|start| start & !(PAGE_BYTES - 1));
    let Some(start) = start.filter(|start| *start >= lowest) else {
        return Err(Error::InitrdTooLarge {
            path: path.to_path_buf(),
            bytes,
            room_bytes: limit.saturating_sub(lowest),
            limit,
        });
    };
    read(memory, GuestAddress(start), &file, path, 0, bytes)?;
    Ok(Range::new(start, bytes))
}

fn write_cmdline(memory: &GuestMemory, boot: &Boot<'_>) -> Result<(), Error> {
    let bytes = boot.cmdline.as_bytes();
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(Error::CmdlineZero(at));
    }
    let header = boot.kernel.setup_header.as_deref();
    let max = header
        .and_then(linux64::cmdline_size)
        .unwrap_or(DEFAULT_CMDLINE_MAX);
    let room = usize::try_from(CMDLINE.len - 1).unwrap_or(usize::MAX);
    let max = max.min(room);
    if bytes.len() > max {
        return Err(Error::CmdlineTooLong {
            bytes: bytes.len(),
            max,
        });
    }
    write(memory, CMDLINE.start, bytes)
}

fn write(memory: &GuestMemory, address: GuestAddress, bytes: &[u8]) -> Result<(), Error> {
    memory
        .write_slice(bytes, address)
        .map_err(|source| Error::Write { address, source })
}

#[cfg(test)]
mod tests;
