//! The aarch64 machine: described by a flattened device tree, started by Linux's own boot protocol, its other
//! processors and its end by PSCI. No firmware, no ACPI.

pub mod boot;
pub mod fdt;
pub mod layout;
pub mod registers;
