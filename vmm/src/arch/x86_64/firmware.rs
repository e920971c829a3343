//! What a PC's firmware leaves in memory: the ACPI tables, and an entry that resets the machine.
//!
//! The entry at F000:FFF0 is the IBM PC's. Who cannot reset in another way, jumps there in real mode: so
//! does Linux, on a hardware-reduced machine without EFI even first of all (`arch/x86/kernel/reboot.c`, `BOOT_BIOS`;
//! `efi_reboot_required()`). Left out on purpose: everything else that a BIOS has.

use kami_devices::GuestMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::acpi;
use super::layout::{ACPI, I8042, RESET_ENTRY};

/// Pulses the processor's reset line by the keyboard controller, then halts. These are the same instructions
/// in every mode of the processor.
const RESET: [u8; 7] = [
    0xb0, 0xfe, // mov al, 0xfe
    0xe6, 0x64, // out 0x64, al
    0xf4, // hlt
    0xeb, 0xfd, // jmp to hlt
];

const _: () = assert!(RESET.len() as u64 <= RESET_ENTRY.len);
const _: () = assert!(I8042.first + 4 == 0x64);

/// Why the firmware's part of memory could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the firmware's tables at {:#x}", .address.0)]
pub struct Error {
    address: GuestAddress,
    source: GuestMemoryError,
}

/// Writes all of it for `machine`; the RSDP is then at [`ACPI`]'s start.
///
/// # Errors
/// Guest memory is too small to have these places.
pub fn write(memory: &GuestMemory, machine: &acpi::Machine) -> Result<(), Error> {
    let put = |bytes: &[u8], address| {
        memory
            .write_slice(bytes, address)
            .map_err(|source| Error { address, source })
    };
    put(&acpi::tables(machine), ACPI.start)?;
    put(&RESET, RESET_ENTRY.start)
}
