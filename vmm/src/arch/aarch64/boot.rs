//! Puts a kernel, its initrd and the device tree into guest memory, and says how the first vCPU starts.
//!
//! Document: `Documentation/arch/arm64/booting.rst`. Left out on purpose: entry at EL2, as KVM's guests are at EL1.

use std::path::Path;

use kami_devices::GuestMemory;
use kami_kernels::{Entry, Kernel};
use vm_memory::GuestAddress;

use super::fdt::{self, Boot};
use super::layout::{RAM_START, kernel_ram};
use crate::arch::load::{self, Error, write};
use crate::arch::range::{PAGE_BYTES, Range};

/// The longest command line, in bytes without the terminating zero: arm64 Linux's `COMMAND_LINE_SIZE` less one.
const CMDLINE_MAX: usize = 2047;

/// What to start.
#[derive(Clone, Copy, Debug)]
pub struct Loading<'a> {
    pub kernel: &'a Kernel,
    pub initrd: Option<&'a Path>,
    pub cmdline: &'a str,
    pub machine: &'a fdt::Machine,
    /// Random bytes for the kernel.
    pub seed: &'a [u8; fdt::SEED_BYTES],
}

/// How the first vCPU starts: at EL1, with the MMU off and interrupts masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    pub pc: u64,
    /// The device tree, whose address `x0` has.
    pub fdt: GuestAddress,
}

/// Loads everything; guest memory is as it was mapped, all zeroes.
///
/// # Errors
/// The kernel, the initrd or the command line does not fit, or cannot be read.
pub fn load(memory: &GuestMemory, loading: &Loading<'_>) -> Result<Start, Error> {
    let Loading { kernel, .. } = *loading;
    let Entry::Arm64(entry) = kernel.entry else {
        return Err(Error::Entry {
            path: kernel.path.clone(),
            architecture: kernel.architecture,
        });
    };
    let (ram, fdt) = kernel_ram(loading.machine.memory_bytes);
    load::kernel(memory, kernel, RAM_START, ram)?;
    load::cmdline(loading.cmdline, CMDLINE_MAX)?;
    let initrd = loading.initrd.map(|path| {
        let end = RAM_START.saturating_add(kernel.end_address());
        let lowest = end.next_multiple_of(PAGE_BYTES).min(ram.end());
        load::initrd(memory, path, Range::new(lowest, ram.end() - lowest))
    });
    let boot = Boot {
        cmdline: loading.cmdline,
        initrd: initrd.transpose()?,
        seed: loading.seed,
    };
    let tree = fdt::tree(loading.machine, &boot).map_err(Error::DeviceTree)?;
    write(memory, fdt.start, &tree)?;
    Ok(Start {
        pc: RAM_START.saturating_add(entry),
        fdt: fdt.start,
    })
}

#[cfg(test)]
mod tests;
