//! The memory map, from the bottom up, then the I/O ports and interrupt lines.
//!
//! RAM fills the space below the PCI hole (3 GiB) and goes on above 4 GiB. The ranges below 640 KiB
//! are where the boot protocols find their structures; they are RAM that the kernel may take for its
//! own once it has read them (`Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol"). Left out on
//! purpose: legacy video memory, option ROMs, a BIOS data area.

use crate::arch::pci::{WINDOW_64, window_64};
use crate::arch::range::ascending;
pub use crate::arch::range::{GIB, KIB, MIB, PAGE_BYTES, Range};

// ---- RAM below 1 MiB ----------------------------------------------------------------------------

/// The global descriptor table of the 64-bit and the 32-bit entry.
pub const GDT: Range = Range::new(0x0500, 0x20);
/// PVH: `hvm_start_info`, its module list and its memory map.
pub const START_INFO: Range = Range::new(0x6000, 4 * KIB);
/// Linux: `boot_params`, the "zero page".
pub const ZERO_PAGE: Range = Range::new(0x7000, 4 * KIB);
/// The page tables of the 64-bit entry: a PML4, a PDPT, four page directories.
pub const PAGE_TABLES: Range = Range::new(0x9000, 6 * PAGE_BYTES);
/// The kernel's command line and its terminating zero.
pub const CMDLINE: Range = Range::new(0x2_0000, 64 * KIB);
/// All of the RAM below the legacy video memory: 640 KiB.
pub const CONVENTIONAL: Range = Range::new(0, 640 * KIB);
/// The ACPI tables. The RSDP stands first: this is one of the places where ACPI 6.5 §5.2.5.1 has
/// those look for it whom the boot protocol told nothing.
pub const ACPI: Range = Range::new(0xe_0000, 124 * KIB);
/// Where a jump resets the machine: F000:FFF0.
pub const RESET_ENTRY: Range = Range::new(0xf_fff0, 16);
/// All that firmware keeps below 1 MiB.
const FIRMWARE: Range = Range::new(ACPI.start.0, KERNEL_START - ACPI.start.0);

// ---- RAM from 1 MiB up to the PCI hole ------------------------------------------------------------

/// Where kernels may begin: 1 MiB.
pub const KERNEL_START: u64 = MIB;
/// The least memory of a machine, in bytes: below it there is no room for any kernel.
pub const MIN_MEMORY_BYTES: u64 = 2 * MIB;
/// Where the RAM below 4 GiB ends at the latest: 3 GiB.
pub const LOW_RAM_END: u64 = 3 * GIB;

// ---- the hole, 3 GiB to 4 GiB -----------------------------------------------------------------------

/// BARs below 4 GiB.
pub const PCI_WINDOW_32: Range = Range::new(0xc000_0000, 512 * MIB);
/// The enhanced configuration space of PCI bus 0 (PCI Express 6.0 §7.2.2): 1 MiB a bus.
pub const ECAM: Range = Range::new(0xe000_0000, MIB);
pub const IO_APIC: Range = Range::new(0xfec0_0000, 4 * KIB);
/// The local APICs' registers, and where message-signalled interrupts are written.
pub const LOCAL_APIC: Range = Range::new(0xfee0_0000, MIB);
/// The page that KVM needs on Intel hosts without "unrestricted guest" to enter a guest without
/// paging; where KVM puts it unless told otherwise.
pub const KVM_IDENTITY_MAP: Range = Range::new(0xfffb_c000, 4 * KIB);
/// Three pages that KVM needs there for its own task state segment (`KVM_SET_TSS_ADDR`).
pub const KVM_TSS: Range = Range::new(0xfffb_d000, 12 * KIB);

// ---- above 4 GiB --------------------------------------------------------------------------------------

/// Where RAM goes on: 4 GiB.
pub const HIGH_RAM_START: u64 = 4 * GIB;
/// The most memory of a machine: RAM then ends at 4 TiB.
pub const MAX_MEMORY_BYTES: u64 = 4096 * GIB - (HIGH_RAM_START - LOW_RAM_END);

const _: () = assert!(ascending(&[
    GDT,
    START_INFO,
    ZERO_PAGE,
    PAGE_TABLES,
    CMDLINE,
    Range::new(CONVENTIONAL.end(), 0),
    ACPI,
    RESET_ENTRY,
    Range::new(KERNEL_START, LOW_RAM_END - KERNEL_START),
    PCI_WINDOW_32,
    ECAM,
    IO_APIC,
    LOCAL_APIC,
    KVM_IDENTITY_MAP,
    KVM_TSS,
    Range::new(HIGH_RAM_START, 0),
    WINDOW_64,
]));

// ---- I/O ports --------------------------------------------------------------------------------------

/// A range of I/O ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub first: u16,
    pub count: u8,
}

impl Ports {
    const fn new(first: u16, count: u8) -> Self {
        Self { first, count }
    }
}

pub const I8042: Ports = Ports::new(0x60, 5);
pub const RTC: Ports = Ports::new(0x70, 2);
pub const COM1: Ports = Ports::new(0x3f8, 8);
pub const PVPANIC: Ports = Ports::new(0x505, 1);
/// The ACPI registers: sleep control, sleep status, reset and the events of the GED.
pub const ACPI_REGISTERS: Ports = Ports::new(0x600, 4);
/// PCI configuration mechanism #1 (PCI Local Bus 3.0 §3.2.2.3.2).
pub const PCI_CONFIG: Ports = Ports::new(0xcf8, 8);

// ---- interrupt lines: inputs of the I/O APIC ----------------------------------------------------------

pub const COM1_IRQ: u8 = 4;
/// The generic event device's line.
pub const GED_IRQ: u8 = 9;
/// Inputs of the I/O APIC; also the GSIs that KVM leaves to it.
pub const IO_APIC_PINS: u32 = 24;

// ---- what depends on the memory's size ------------------------------------------------------------------

/// The machine's RAM, one range per memory slot: below the hole, then, if need be, above it.
/// `memory_bytes` is at most [`MAX_MEMORY_BYTES`].
pub fn ram(memory_bytes: u64) -> Vec<Range> {
    let low = memory_bytes.min(LOW_RAM_END);
    let mut ranges = vec![Range::new(0, low)];
    if memory_bytes > low {
        ranges.push(Range::new(HIGH_RAM_START, memory_bytes - low));
    }
    ranges
}

/// Where a kernel and its initrd may lie.
pub fn kernel_ram(memory_bytes: u64) -> Range {
    let end = memory_bytes.min(LOW_RAM_END);
    Range::new(KERNEL_START, end.saturating_sub(KERNEL_START))
}

/// The window for BARs above 4 GiB, or none where `address_bits` physical address bits leave no room
/// for it above the RAM.
pub fn pci_window_64(memory_bytes: u64, address_bits: u8) -> Option<Range> {
    let ram_end = ram(memory_bytes).last().map_or(0, Range::end);
    window_64(ram_end, address_bits)
}

/// What a range of the memory map is, by the number that e820 has for it (ACPI 6.5 §15.1); the PVH
/// memory map has the same numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeKind {
    Ram = 1,
    Reserved = 2,
}

/// The memory map as the kernel is told it: ascending, without overlap.
pub fn memory_map(memory_bytes: u64) -> Vec<(Range, RangeKind)> {
    let mut map = vec![
        (CONVENTIONAL, RangeKind::Ram),
        (FIRMWARE, RangeKind::Reserved),
        (kernel_ram(memory_bytes), RangeKind::Ram),
        // PCI Firmware 3.3 §4.1.2: the operating system takes the MCFG's word for the range only when
        // the map or the motherboard resources reserve it.
        (ECAM, RangeKind::Reserved),
        (KVM_IDENTITY_MAP, RangeKind::Reserved),
        (KVM_TSS, RangeKind::Reserved),
    ];
    map.extend(
        ram(memory_bytes)
            .into_iter()
            .skip(1)
            .map(|range| (range, RangeKind::Ram)),
    );
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [u64; 5] = [MIN_MEMORY_BYTES, 128 * MIB, 3 * GIB, 6 * GIB, 300 * GIB];

    #[test]
    fn ram_adds_up_and_stays_out_of_the_hole() {
        for size in SIZES {
            let ram = ram(size);
            assert_eq!(ram.iter().map(|r| r.len).sum::<u64>(), size);
            assert!(ram[0].end() <= PCI_WINDOW_32.start.0);
            assert!(ram[1..].iter().all(|r| r.start.0 == HIGH_RAM_START));
        }
        assert_eq!(ram(3 * GIB).len(), 1);
        assert_eq!(ram(6 * GIB)[1], Range::new(4 * GIB, 3 * GIB));
    }

    #[test]
    fn memory_map_ascends_without_overlap() {
        for size in SIZES {
            let ranges: Vec<Range> = memory_map(size).into_iter().map(|(r, _)| r).collect();
            assert!(ascending(&ranges), "{size:#x}: {ranges:x?}");
        }
    }

    #[test]
    fn map_holds_all_ram_but_the_legacy_hole() {
        for size in SIZES {
            let ram: u64 = memory_map(size)
                .iter()
                .filter(|(_, kind)| *kind == RangeKind::Ram)
                .map(|(range, _)| range.len)
                .sum();
            assert_eq!(ram, size - (KERNEL_START - CONVENTIONAL.end()));
        }
    }

    #[test]
    fn high_window_lies_above_ram_and_within_the_address_bits() {
        for size in SIZES {
            let window = pci_window_64(size, 48).unwrap();
            assert!(window.start.0 >= ram(size).last().unwrap().end());
        }
        assert!(pci_window_64(6 * GIB, 39).is_some());
        assert_eq!(pci_window_64(6 * GIB, 36), None);
        assert_eq!(pci_window_64(300 * GIB, 39), None);
    }
}
