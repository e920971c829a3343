//! The processor's instructions that Rust has no word for: plain accesses, the counter, and what nobody should
//! execute.

use core::arch::asm;

use super::uart;
use crate::console::{Failure, failure};

/// How long to wait before something counts as broken, in [`timestamp`]'s units: 20 s. Nothing that works comes
/// near it.
pub fn patience() -> u64 {
    20 * counter_hertz()
}

/// Ticks of the virtual counter.
pub fn timestamp() -> u64 {
    let value;
    // SAFETY: reads a register. Not before what comes before it.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) value, options(nomem, nostack)) };
    value
}

/// Ticks of the counter in a second.
pub fn counter_hertz() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) value, options(nomem, nostack)) };
    value
}

/// Ticks of the counter in a millisecond. The processor knows it: the host need not tell.
pub fn counter_khz(_told: Option<u64>) -> Result<u64, Failure> {
    match counter_hertz() / 1000 {
        0 => Err(failure!("the counter stands still")),
        khz => Ok(khz),
    }
}

macro_rules! accesses {
    ($($load:ident $store:ident $type:ty, $read:literal, $write:literal;)*) => {
        $(
            /// # Safety
            /// See [`crate::hw::Window::new`], whose accesses these are.
            pub unsafe fn $load(address: u64) -> $type {
                let value;
                // SAFETY: the caller's word.
                unsafe { asm!($read, out(reg) value, in(reg) address, options(nostack)) };
                value
            }

            /// # Safety
            /// As for reading.
            pub unsafe fn $store(address: u64, value: $type) {
                // SAFETY: the caller's word.
                unsafe { asm!($write, in(reg) value, in(reg) address, options(nostack)) };
            }
        )*
    };
}

// One register, no change of the address: what a processor describes to its hypervisor (ESR_EL2.ISS.ISV).
accesses! {
    load_u8 store_u8 u8, "ldrb {0:w}, [{1}]", "strb {0:w}, [{1}]";
    load_u16 store_u16 u16, "ldrh {0:w}, [{1}]", "strh {0:w}, [{1}]";
    load_u32 store_u32 u32, "ldr {0:w}, [{1}]", "str {0:w}, [{1}]";
    load_u64 store_u64 u64, "ldr {0:x}, [{1}]", "str {0:x}, [{1}]";
}

/// Where PCI has another way to configuration space than ECAM, what it says. There is none here.
pub fn legacy_config(_number: u8, _at: u8) -> Option<u32> {
    None
}

/// Reads a device's register by an instruction that a processor does not describe to its hypervisor, which
/// therefore cannot perform it: one that also changes the address.
pub fn bad_instruction() {
    let address = uart::base();
    // SAFETY: reads the serial port's data register.
    unsafe { asm!("ldr {0:w}, [{1}], #4", out(reg) _, inout(reg) address => _, options(nostack)) };
}

/// Why there is none: an exception whose handler faults is taken again, for ever.
pub fn triple_fault() -> Failure {
    failure!("an Arm processor knows no triple fault")
}
