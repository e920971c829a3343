//! The memory map, from the bottom up, then the interrupt lines.
//!
//! Everything but RAM lies below 1 GiB, so that RAM is one piece whatever its size. Devices are 64 KiB apart at least: guests
//! with pages of that size protect them from each other.

use crate::arch::pci::window_64;
use crate::arch::range::{GIB, KIB, MIB, Range, ascending};
use crate::machine::MAX_CPUS;

// ---- below 1 GiB: the interrupt controller --------------------------------------------------------------

/// Of either version.
pub const GIC_DISTRIBUTOR: Range = Range::new(0x0800_0000, 64 * KIB);
/// What a GICv2 takes of it.
pub const GIC_V2_DISTRIBUTOR_BYTES: u64 = 4 * KIB;
/// GICv2: the processors' interface, at the same place for all.
pub const GIC_CPU_INTERFACE: Range = Range::new(0x0802_0000, 8 * KIB);
/// GICv2: the page for message-signalled interrupts.
pub const GIC_V2M: Range = Range::new(0x0803_0000, 4 * KIB);
/// GICv3: what translates message-signalled interrupts.
pub const GIC_ITS: Range = Range::new(0x0808_0000, 128 * KIB);
/// GICv3: each processor's own part, for [`MAX_CPUS`] of them.
pub const GIC_REDISTRIBUTORS: Range =
    Range::new(0x0810_0000, MAX_CPUS as u64 * GIC_REDISTRIBUTOR_BYTES);
const GIC_REDISTRIBUTOR_BYTES: u64 = 128 * KIB;

// ---- below 1 GiB: devices -------------------------------------------------------------------------------

pub const UART: Range = Range::new(0x0900_0000, 4 * KIB);
pub const RTC: Range = Range::new(0x0901_0000, 4 * KIB);
/// The power button's.
pub const GPIO: Range = Range::new(0x0902_0000, 4 * KIB);
/// The byte by which a guest says that it panicked.
pub const PVPANIC: Range = Range::new(0x0903_0000, 2);
/// The enhanced configuration space of PCI bus 0 (PCI Express 6.0 §7.2.2): 1 MiB a bus.
pub const ECAM: Range = Range::new(0x1000_0000, MIB);
/// BARs below 4 GiB.
pub const PCI_WINDOW_32: Range = Range::new(0x2000_0000, 512 * MIB);

// ---- from 1 GiB on: RAM, then the PCI window above 4 GiB ----------------------------------------------------

/// Where RAM and the kernel begin: 1 GiB, a multiple of 2 MiB as `Documentation/arch/arm64/booting.rst` has it.
pub const RAM_START: u64 = GIB;
/// The least memory of a machine, in bytes: below it there is no room for any kernel beside its device tree.
pub const MIN_MEMORY_BYTES: u64 = 2 * MIB;
/// The most memory of a machine: RAM then ends at 4 TiB.
pub const MAX_MEMORY_BYTES: u64 = 4096 * GIB - RAM_START;
/// Where what the kernel is given ends at the latest: 4 GiB. An initrd "must reside entirely within a 1 GB aligned
/// physical memory window of up to 32 GB in size that fully covers the kernel Image as well" (`booting.rst`).
const LOADED_END: u64 = 4 * GIB;
/// Room for the device tree at the end of that; `booting.rst` allows 2 MiB.
pub const FDT_BYTES: u64 = 64 * KIB;

const _: () = assert!(ascending(&[
    GIC_DISTRIBUTOR,
    GIC_CPU_INTERFACE,
    GIC_V2M,
    GIC_ITS,
    GIC_REDISTRIBUTORS,
    UART,
    RTC,
    GPIO,
    PVPANIC,
    ECAM,
    PCI_WINDOW_32,
    Range::new(RAM_START, LOADED_END - RAM_START),
]));

// ---- interrupts: shared peripheral ones, numbered as the GIC does, from 32 on ---------------------------------

pub const UART_IRQ: u16 = 33;
pub const GPIO_IRQ: u16 = 34;
/// GICv2: those that are messages.
pub const V2M_IRQS: std::ops::Range<u16> = 64..512;
/// Interrupts of either GIC, the first 32 included, which each processor has of its own.
pub const IRQS: u32 = 512;

/// Interrupts of each processor's own (PPIs): its timers, in the order of the device tree's binding: secure and
/// non-secure physical, virtual, hypervisor. KVM gives the guest the second and third at these numbers.
pub const TIMER_IRQS: [u16; 4] = [29, 30, 27, 26];

// ---- what depends on the machine's size -----------------------------------------------------------------------

/// What `cpus` processors take of [`GIC_REDISTRIBUTORS`].
pub fn gic_redistributors(cpus: usize) -> Range {
    Range::new(
        GIC_REDISTRIBUTORS.start.0,
        cpus as u64 * GIC_REDISTRIBUTOR_BYTES,
    )
}

/// The machine's RAM, one range per memory slot. `memory_bytes` is at most [`MAX_MEMORY_BYTES`].
pub fn ram(memory_bytes: u64) -> Vec<Range> {
    vec![Range::new(RAM_START, memory_bytes)]
}

/// Where a kernel and its initrd may lie, and the device tree behind them.
pub fn kernel_ram(memory_bytes: u64) -> (Range, Range) {
    let end = (RAM_START + memory_bytes).min(LOADED_END);
    let fdt = Range::new(end - FDT_BYTES, FDT_BYTES);
    (Range::new(RAM_START, fdt.start.0 - RAM_START), fdt)
}

/// The window for BARs above 4 GiB, or none where a guest with `address_bits` physical address bits has no room for
/// it above the RAM.
pub fn pci_window_64(memory_bytes: u64, address_bits: u8) -> Option<Range> {
    window_64(RAM_START + memory_bytes, address_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_tree_ends_the_ram_that_is_loaded() {
        for size in [MIN_MEMORY_BYTES, 128 * MIB, 3 * GIB, 300 * GIB] {
            let (kernel, fdt) = kernel_ram(size);
            assert_eq!((kernel.start.0, kernel.end()), (RAM_START, fdt.start.0));
            assert!(ram(size)[0].contains(fdt.start.0, fdt.len));
            assert!(fdt.end() <= 4 * GIB);
        }
    }

    #[test]
    fn high_window_lies_above_ram_and_within_the_address_bits() {
        let window = pci_window_64(300 * GIB, 44).unwrap();
        assert!(window.start.0 >= 301 * GIB && window.end() <= 1 << 44);
        assert!(pci_window_64(6 * GIB, 40).is_some());
        assert_eq!(pci_window_64(6 * GIB, 36), None);
    }
}
