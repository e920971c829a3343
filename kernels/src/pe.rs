//! The PE headers of EFI programs, as far as kernels need them: the machine, and how long the file must be.
//!
//! Implements Microsoft's "PE Format". Left out on purpose: all that it takes to run one.

use crate::input::{u16_at, u32_at};
use crate::{Architecture, Machine};

/// Offset of the offset of the PE header.
const PE_OFFSET: usize = 0x3c;
/// Offsets in the PE header.
const MACHINE: usize = 4;
const SECTIONS: usize = 6;
const OPTIONAL_HEADER_BYTES: usize = 20;
const OPTIONAL_HEADER: usize = 24;
/// An entry of the section table, and offsets within.
const SECTION_BYTES: usize = 40;
const RAW_BYTES: usize = 16;
const RAW_OFFSET: usize = 20;

/// The PE header of a file that begins with `head`; nothing where it has none.
fn header(head: &[u8]) -> Option<&[u8]> {
    if !head.starts_with(b"MZ") {
        return None;
    }
    let at = usize::try_from(u32_at(head, PE_OFFSET)?).ok()?;
    head.get(at..)
        .filter(|header| header.starts_with(b"PE\0\0"))
}

/// The machine of a PE file that begins with `head`; nothing where it is none.
pub(crate) fn machine_of(head: &[u8]) -> Option<Machine> {
    let other = |name: &str| Machine::Other(name.to_owned());
    Some(match u16_at(header(head)?, MACHINE)? {
        0x014c => Architecture::I386.into(),
        0x8664 => Architecture::X86_64.into(),
        0xaa64 => Architecture::Aarch64.into(),
        0x01c2 => other("arm"),
        0x5064 => other("riscv64"),
        0x6264 => other("loongarch64"),
        number => Machine::Other(format!("machine type {number:#x}")),
    })
}

/// Offset after the last byte of the last section that a PE file beginning with `head` has; nothing where it is
/// none, or where `head` ends within its section table.
pub(crate) fn end_of_sections(head: &[u8]) -> Option<u64> {
    let header = header(head)?;
    let count = usize::from(u16_at(header, SECTIONS)?);
    let start = OPTIONAL_HEADER + usize::from(u16_at(header, OPTIONAL_HEADER_BYTES)?);
    let table = header.get(start..start + count * SECTION_BYTES)?;
    let ends = table.chunks_exact(SECTION_BYTES).map(|section| {
        let bytes = u64::from(u32_at(section, RAW_BYTES)?);
        Some(u64::from(u32_at(section, RAW_OFFSET)?) + bytes)
    });
    ends.flatten().max()
}
