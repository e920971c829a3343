//! The processor's instructions that Rust has no word for: plain accesses, the time-stamp counter, and what
//! nobody should execute.

use core::arch::asm;
use core::arch::x86_64::_rdtsc;
use core::ptr::addr_of;

use super::interrupts;
use crate::console::{Failure, failure};
use crate::hw::Window;

/// How long to wait before something counts as broken, in [`timestamp`]'s units: 10 to 20 s on processors of
/// today. Nothing that works comes near it.
pub fn patience() -> u64 {
    40_000_000_000
}

/// Cycles of the time-stamp counter.
pub fn timestamp() -> u64 {
    // SAFETY: every x86_64 processor has the counter, and nothing forbids it to level 3.
    unsafe { _rdtsc() }
}

/// Ticks of the counter in a millisecond: what the host has measured, for not every processor tells.
pub fn counter_khz(told: Option<u64>) -> Result<u64, Failure> {
    told.filter(|&khz| khz != 0)
        .ok_or_else(|| failure!("kami.tsc_khz does not tell how fast the counter is"))
}

macro_rules! accesses {
    ($($load:ident $store:ident $type:ty, $class:ident, $read:literal, $write:literal;)*) => {
        $(
            /// # Safety
            /// See [`Window::new`], whose accesses these are.
            pub unsafe fn $load(address: u64) -> $type {
                let value;
                // SAFETY: the caller's word.
                unsafe { asm!($read, out($class) value, in(reg) address, options(nostack)) };
                value
            }

            /// # Safety
            /// As for reading.
            pub unsafe fn $store(address: u64, value: $type) {
                // SAFETY: the caller's word.
                unsafe { asm!($write, in($class) value, in(reg) address, options(nostack)) };
            }
        )*
    };
}

// One plain `mov`, of any alignment: hosts that interpret accesses to devices know it for sure.
accesses! {
    load_u8 store_u8 u8, reg_byte, "mov {0}, byte ptr [{1}]", "mov byte ptr [{1}], {0}";
    load_u16 store_u16 u16, reg, "mov {0:x}, word ptr [{1}]", "mov word ptr [{1}], {0:x}";
    load_u32 store_u32 u32, reg, "mov {0:e}, dword ptr [{1}]", "mov dword ptr [{1}], {0:e}";
    load_u64 store_u64 u64, reg, "mov {0}, qword ptr [{1}]", "mov qword ptr [{1}], {0}";
}

/// Executes an instruction at level 0 that not every host can interpret: `cmpxchg16b`.
pub fn bad_instruction() {
    interrupts::cmpxchg16b_at_level_0();
}

/// Ends in a triple fault: an exception without handlers for it and for its consequences. Returns, with the
/// reason, where there is no such thing.
pub fn triple_fault() -> Failure {
    // SAFETY: the table is the processor's and stays where it is.
    let table = unsafe { Window::new(addr_of!(interrupts::idt) as u64, 4096) };
    for at in 0..512 {
        table.set_u64(at * 8, 0);
    }
    // SAFETY: does not return.
    unsafe { asm!("ud2", options(noreturn)) };
}
