//! The x86_64 machine: a PC without its past. No BIOS, no PIC, no PIT, no VGA; ACPI in its
//! hardware-reduced form, one PCI bus, an I/O APIC and local APICs.

pub mod acpi;
pub mod boot;
pub mod firmware;
pub mod layout;
