//! What the guest does in aarch64's own way. `arch/x86_64` has the same names, which is all that the rest knows.
//!
//! Everything runs at exception level 1, and finds what there is by the flattened device tree.

pub mod boot_info;
pub mod button;
#[path = "../../../src/guest/calendar.rs"]
mod calendar;
pub mod clock;
#[path = "../../../src/guest/fdt.rs"]
mod fdt;
mod firmware;
mod gic;
pub mod interrupts;
mod its;
pub mod memory;
pub mod power;
mod processor;
pub mod processors;
mod psci;
pub mod uart;

use core::arch::global_asm;

pub use firmware::Firmware;
pub use processor::*;

global_asm!(include_str!("boot.s"));
