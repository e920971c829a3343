//! Puts a kernel, its initrd, its command line and what the boot protocol wants into guest memory, and
//! says with which registers the first vCPU starts.
//!
//! Three protocols: PVH (`pvh`) and Linux's entries of 64 and of 32 bits (`linux`). Left out on purpose: the real-mode
//! entry, device tree and other `setup_data`.

mod linux;
pub use linux::{CODE_SELECTOR, DATA_SELECTOR};
mod pvh;

use std::path::Path;

use kami_devices::GuestMemory;
use kami_kernels::{Architecture, Entry, Kernel};
use vm_memory::GuestAddress;

use super::layout::{CMDLINE, MIB, PAGE_BYTES, Range, kernel_ram};
use crate::arch::load::{self, Error, write};

/// The longest command line of a kernel that does not say itself, in bytes without the terminating
/// zero: x86 Linux's `COMMAND_LINE_SIZE` less one.
const DEFAULT_CMDLINE_MAX: usize = 2047;
/// The highest address of an initrd for a kernel that does not say itself (x86_64 Linux's).
const DEFAULT_INITRD_MAX: u64 = 0x7fff_ffff;
/// The same for i386: `boot.rst` has this for every kernel older than the field.
const DEFAULT_INITRD_MAX_I386: u64 = 0x37ff_ffff;

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
    /// 32-bit protected mode without paging, with descriptors there too; `rsi` has the parameters' address.
    Linux32,
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
    load::kernel(memory, boot.kernel, 0, kernel_ram(boot.memory_bytes))?;
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
            linux::write_parameters_64(memory, boot, initrd)?;
            Ok(Start {
                mode: Mode::Linux64,
                rip,
                parameters: super::layout::ZERO_PAGE.start,
            })
        }
        Entry::Linux32(rip) => {
            linux::write_parameters_32(memory, boot, initrd)?;
            Ok(Start {
                mode: Mode::Linux32,
                rip,
                parameters: super::layout::ZERO_PAGE.start,
            })
        }
        Entry::Arm64(_) => Err(Error::Entry {
            path: boot.kernel.path.clone(),
            architecture: boot.kernel.architecture,
        }),
    }
}

/// As high as the kernel allows (`boot.rst`, `initrd_addr_max`).
fn load_initrd(memory: &GuestMemory, boot: &Boot<'_>, path: &Path) -> Result<Range, Error> {
    let header = boot.kernel.setup_header.as_deref();
    let default = match boot.kernel.architecture {
        Architecture::I386 => DEFAULT_INITRD_MAX_I386,
        _ => DEFAULT_INITRD_MAX,
    };
    let highest = header.and_then(linux::initrd_addr_max).unwrap_or(default);
    let limit = kernel_ram(boot.memory_bytes)
        .end()
        .min(highest.saturating_add(1));
    let lowest = boot
        .kernel
        .end_address()
        .next_multiple_of(PAGE_BYTES)
        .max(MIB);
    let room = Range::new(lowest, limit.saturating_sub(lowest));
    load::initrd(memory, path, room)
}

fn write_cmdline(memory: &GuestMemory, boot: &Boot<'_>) -> Result<(), Error> {
    let header = boot.kernel.setup_header.as_deref();
    let max = header
        .and_then(linux::cmdline_size)
        .unwrap_or(DEFAULT_CMDLINE_MAX);
    let room = usize::try_from(CMDLINE.len - 1).unwrap_or(usize::MAX);
    let bytes = load::cmdline(boot.cmdline, max.min(room))?;
    write(memory, CMDLINE.start, bytes)
}

#[cfg(test)]
mod tests;
