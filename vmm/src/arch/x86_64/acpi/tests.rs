use super::*;
use crate::arch::x86_64::layout::GIB;

const MACHINE: Machine = Machine {
    cpus: 3,
    pci_window_64: Some(Range::new(256 * GIB, 256 * GIB)),
};

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The table at a guest-physical address, its length and checksum verified.
fn table_at(all: &[u8], address: u64) -> Vec<u8> {
    let start = usize::try_from(address - ACPI.start.0).unwrap();
    assert_eq!(start % ALIGNMENT, 0);
    let table = &all[start..start + u32_at(all, start + 4)];
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!(sum, 0, "checksum of {:?}", &table[..4]);
    table.to_vec()
}

fn all_tables(all: &[u8]) -> Vec<Vec<u8>> {
    assert_eq!(&all[..8], b"RSD PTR ");
    for len in [20, size_of::<Rsdp>()] {
        let sum = all[..len].iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
        assert_eq!(sum, 0);
    }
    let xsdt = table_at(all, u64_at(all, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    let entries = xsdt[36..].chunks(8);
    entries.map(|e| table_at(all, u64_at(e, 0))).collect()
}

#[test]
fn every_table_is_reached_from_the_rsdp_and_sums_to_zero() {
    let all = tables(&MACHINE);
    let tables = all_tables(&all);
    let signatures: Vec<&[u8]> = tables.iter().map(|table| &table[..4]).collect();
    assert_eq!(signatures, [b"FACP", b"APIC", b"MCFG"]);
    let dsdt = table_at(&all, u64_at(&tables[0], 140));
    assert_eq!(&dsdt[..4], b"DSDT");
}

#[test]
fn the_largest_machine_fits() {
    let largest = Machine {
        cpus: 32,
        ..MACHINE
    };
    assert!(tables(&largest).len() as u64 <= ACPI.len);
}

#[test]
fn fadt_gives_soft_off_and_reset_without_fixed_hardware() {
    let all = tables(&MACHINE);
    let fadt = &all_tables(&all)[0];
    let flags = u32_at(fadt, 112);
    assert_eq!(flags >> 20 & 1, 1, "hardware-reduced");
    assert_eq!(flags >> 10 & 1, 1, "reset register supported");
    assert_eq!(flags >> 4 & 1, 1, "power button is a device");
    let gas = |at: usize| (fadt[at], u64_at(fadt, at + 4));
    assert_eq!(gas(116), (1, 0x602), "reset register");
    assert_eq!(fadt[128], power::RESET_VALUE);
    assert_eq!(gas(244), (1, 0x600), "sleep control");
    assert_eq!(gas(256), (1, 0x601), "sleep status");
    // §5.2.9: no fixed hardware is described.
    assert!(fadt[46..108].iter().all(|byte| *byte == 0));
    assert_eq!(u64_at(fadt, 132), 0, "no FACS");
}

#[test]
fn madt_lists_each_cpu_and_the_io_apic() {
    let all = tables(&MACHINE);
    let madt = &all_tables(&all)[1];
    assert_eq!(u32_at(madt, 36), 0xfee0_0000);
    let mut entries = &madt[44..];
    let mut kinds = Vec::new();
    while !entries.is_empty() {
        let (entry, rest) = entries.split_at(entries[1].into());
        kinds.push(entry[0]);
        if entry[0] == 0 {
            let id = u8::try_from(kinds.len() - 1).unwrap();
            assert_eq!(entry[2..], [id, id, 1, 0, 0, 0]);
        }
        entries = rest;
    }
    assert_eq!(kinds, [0, 0, 0, 1, 4]);
}

#[test]
fn mcfg_covers_bus_0_at_the_ecam_range() {
    let all = tables(&MACHINE);
    let mcfg = &all_tables(&all)[2];
    assert_eq!(u64_at(mcfg, 44), ECAM.start.0);
    assert_eq!(mcfg[52..56], [0, 0, 0, 0]);
    assert_eq!(mcfg.len(), 60);
}

/// `_S5`'s first element is what the guest writes into the sleep control register.
#[test]
fn soft_off_is_sleep_type_5() {
    let all = tables(&MACHINE);
    let s5 = b"_S5_\x12\x07\x04\x0a\x05\x00\x00\x00";
    assert!(all.windows(s5.len()).any(|window| window == s5));
}
