//! The registers that a vCPU starts with, as plain data.
//!
//! Documents: Xen `docs/misc/pvh.pandoc` ("The state of the CPU when the domain starts"),
//! `Documentation/arch/x86/boot.rst` ("64-bit Boot Protocol", "32-bit Boot Protocol"), Intel SDM vol. 3A chapters 2, 3 and 12.
//! What is not named here is as KVM resets it, which is as a processor resets. Application processors
//! get no registers at all: they wait for INIT and SIPI, and those define theirs.

use kvm_bindings::{kvm_dtable, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};

use crate::arch::x86_64::boot::{CODE_SELECTOR, DATA_SELECTOR, Mode, Start};
use crate::arch::x86_64::layout::{GDT, GIB, LOCAL_APIC, LOW_RAM_END, PAGE_TABLES};

const CR0_PE: u64 = 1 << 0;
/// Hard-wired to one since the 486.
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of the flags is always set; interrupts are off.
const RFLAGS: u64 = 1 << 1;

const APIC_BASE_BSP: u64 = 1 << 8;
const APIC_BASE_ENABLED: u64 = 1 << 11;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRINGS: u64 = 1 << 0;
const MSR_MTRR_PHYS_BASE_0: u32 = 0x200;
const MSR_MTRR_PHYS_MASK_0: u32 = 0x201;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLED: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;
const MTRR_UNCACHEABLE: u64 = 0;

/// Segment types: present, accessed, so that the processor never writes to the descriptor.
const CODE: u8 = 0b1011;
const DATA: u8 = 0b0011;
const BUSY_TSS: u8 = 0b1011;

/// The first vCPU's segments, tables and control registers.
pub fn special(start: &Start) -> kvm_sregs {
    let common = kvm_sregs {
        tr: task_state(),
        ldt: kvm_segment {
            unusable: 1,
            ..Default::default()
        },
        cr0: CR0_PE | CR0_ET,
        apic_base: LOCAL_APIC.start.0 | APIC_BASE_ENABLED | APIC_BASE_BSP,
        ..Default::default()
    };
    let with_segments = |sregs: kvm_sregs, code: kvm_segment| {
        let data = flat(DATA_SELECTOR, DATA);
        kvm_sregs {
            cs: code,
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            ..sregs
        }
    };
    let gdt = kvm_dtable {
        base: GDT.start.0,
        limit: u16::try_from(GDT.len - 1).unwrap_or_default(),
        ..Default::default()
    };
    match start.mode {
        Mode::Pvh => with_segments(common, flat(CODE_SELECTOR, CODE)),
        Mode::Linux32 => {
            let described = kvm_sregs { gdt, ..common };
            with_segments(described, flat(CODE_SELECTOR, CODE))
        }
        Mode::Linux64 => {
            let long = kvm_sregs {
                gdt,
                cr0: common.cr0 | CR0_PG,
                cr3: PAGE_TABLES.start.0,
                cr4: CR4_PAE,
                efer: EFER_LME | EFER_LMA,
                ..common
            };
            let code = kvm_segment {
                l: 1,
                db: 0,
                ..flat(CODE_SELECTOR, CODE)
            };
            with_segments(long, code)
        }
    }
}

/// The first vCPU's general registers.
pub fn general(start: &Start) -> kvm_regs {
    let parameters = start.parameters.0;
    let regs = kvm_regs {
        rip: start.rip,
        rflags: RFLAGS,
        ..Default::default()
    };
    match start.mode {
        Mode::Pvh => kvm_regs {
            rbx: parameters,
            ..regs
        },
        Mode::Linux64 | Mode::Linux32 => kvm_regs {
            rsi: parameters,
            ..regs
        },
    }
}

/// What firmware would have set up on every processor: fast string operations, and memory types, write-back
/// but for the PCI hole. Without them Linux warns, and turns its page attribute table off.
pub fn model_specific(physical_address_bits: u8) -> [kvm_msr_entry; 4] {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let address_mask = (1u64 << physical_address_bits.min(52)) - 1;
    let hole_bytes = 4 * GIB - LOW_RAM_END;
    let mask = address_mask & !(hole_bytes - 1);
    [
        entry(MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRINGS),
        entry(MSR_MTRR_PHYS_BASE_0, LOW_RAM_END | MTRR_UNCACHEABLE),
        entry(MSR_MTRR_PHYS_MASK_0, mask | MTRR_ENABLED),
        entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLED | MTRR_WRITE_BACK),
    ]
}

/// A segment over all 4 GiB, 32 bits wide.
fn flat(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

/// "tr: must be a 32-bit TSS (active) with a base of 0 and a limit of 0x67", which VMX demands too.
fn task_state() -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0x67,
        type_: BUSY_TSS,
        present: 1,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::x86_64::layout::{START_INFO, ZERO_PAGE};

    const PVH: Start = Start {
        mode: Mode::Pvh,
        rip: 0x100_0080,
        parameters: START_INFO.start,
    };
    const LINUX32: Start = Start {
        mode: Mode::Linux32,
        rip: 0x100_0000,
        parameters: ZERO_PAGE.start,
    };
    const LINUX64: Start = Start {
        mode: Mode::Linux64,
        rip: 0x100_0000,
        parameters: ZERO_PAGE.start,
    };

    #[test]
    fn pvh_starts_in_flat_protected_mode_without_paging() {
        let (sregs, regs) = (special(&PVH), general(&PVH));
        assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x11, 0, 0));
        for segment in [sregs.cs, sregs.ds, sregs.es, sregs.ss] {
            assert_eq!((segment.base, segment.limit), (0, u32::MAX));
            assert_eq!((segment.db, segment.l), (1, 0));
        }
        assert_eq!((sregs.tr.base, sregs.tr.limit), (0, 0x67));
        assert_eq!((regs.rip, regs.rbx, regs.rsi), (0x100_0080, 0x6000, 0));
        assert_eq!(regs.rflags, 2);
    }

    /// boot.rst: "%esi must hold the base address of the struct boot_params; %ebp, %edi and %ebx must be zero".
    #[test]
    fn linux32_starts_in_flat_protected_mode_with_the_protocols_selectors() {
        let (sregs, regs) = (special(&LINUX32), general(&LINUX32));
        assert_eq!((sregs.cr0, sregs.cr3), (0x11, 0));
        assert_eq!((sregs.cr4, sregs.efer), (0, 0));
        assert_eq!(sregs.cs.selector, 0x10);
        for segment in [sregs.ds, sregs.es, sregs.ss] {
            assert_eq!(segment.selector, 0x18);
        }
        for segment in [sregs.cs, sregs.ds, sregs.es, sregs.ss] {
            assert_eq!((segment.base, segment.limit), (0, u32::MAX));
            assert_eq!((segment.db, segment.l, segment.g), (1, 0, 1));
        }
        assert_eq!((sregs.gdt.base, sregs.gdt.limit), (0x500, 0x1f));
        assert_eq!((regs.rip, regs.rsi, regs.rflags), (0x100_0000, 0x7000, 2));
        assert_eq!((regs.rbp, regs.rdi, regs.rbx), (0, 0, 0));
    }

    #[test]
    fn linux64_starts_in_long_mode_with_the_protocols_selectors() {
        let (sregs, regs) = (special(&LINUX64), general(&LINUX64));
        assert_eq!((sregs.cr0, sregs.cr4), (0x8000_0011, 0x20));
        assert_eq!((sregs.cr3, sregs.efer), (0x9000, 0x500));
        assert_eq!((sregs.cs.selector, sregs.ds.selector), (0x10, 0x18));
        assert_eq!((sregs.cs.l, sregs.cs.db), (1, 0));
        assert_eq!((sregs.gdt.base, sregs.gdt.limit), (0x500, 0x1f));
        assert_eq!((regs.rip, regs.rsi, regs.rbx), (0x100_0000, 0x7000, 0));
    }

    #[test]
    fn memory_is_write_back_but_for_the_pci_hole() {
        let msrs = model_specific(48);
        let data = |index| msrs.iter().find(|m| m.index == index).unwrap().data;
        assert_eq!(data(MSR_MTRR_DEF_TYPE), 0x806);
        assert_eq!(data(MSR_MTRR_PHYS_BASE_0), 0xc000_0000);
        assert_eq!(data(MSR_MTRR_PHYS_MASK_0), 0xffff_c000_0800);
    }
}
