//! What the guest does in x86_64's own way. `arch/aarch64` has the same names, which is all that the rest knows.
//!
//! Everything but `boot.s` runs at privilege level 3, with port I/O allowed.

mod acpi;
pub mod boot_info;
pub mod button;
pub mod clock;
pub mod interrupts;
pub mod memory;
mod ports;
pub mod power;
mod processor;
pub mod processors;
pub mod uart;

use core::arch::global_asm;

pub use acpi::Acpi as Firmware;
pub use ports::legacy_config;
pub use processor::*;

global_asm!(include_str!("boot.s"));
