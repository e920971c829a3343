//! Starts the further processors and sees that they are alive.
//!
//! Implements the caller of PSCI's (DEN 0022) CPU_ON.

use core::arch::asm;
use core::ptr::addr_of;

use super::Firmware;
use super::interrupts::Interrupts;
use crate::boot_info::BootInfo;
use crate::console::{Failure, failure};
use crate::hw::{Deadline, Window};

unsafe extern "C" {
    static processor_entry: u8;
    static processors_alive: u8;
}

/// Starts every processor that the device tree lists, one after the other. Returns how many there are that run,
/// with this one.
pub fn start_all(
    _info: &BootInfo,
    firmware: &Firmware,
    _interrupts: &Interrupts,
) -> Result<usize, Failure> {
    let me = affinity();
    let processors = firmware.processors();
    if !processors.contains(&me) {
        return Err(failure!(
            "the device tree does not list this processor, {me:#x}"
        ));
    }
    for (place, &mpidr) in processors.iter().enumerate() {
        if mpidr != me {
            start(firmware, mpidr, place as u64)?;
        }
    }
    Ok(processors.len())
}

/// What MPIDR_EL1 says of where this processor is: the four affinities.
pub fn affinity() -> u64 {
    let mpidr: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) mpidr, options(nomem, nostack)) };
    mpidr & 0xff_00ff_ffff
}

fn start(firmware: &Firmware, mpidr: u64, place: u64) -> Result<(), Failure> {
    // SAFETY: written by boot.s's code for further processors, accessed through windows only.
    let alive = unsafe { Window::new(addr_of!(processors_alive) as u64 + place, 1) };
    let entry = addr_of!(processor_entry) as u64;
    let result = firmware.psci.start_processor(mpidr, entry, place);
    if result != 0 {
        return Err(failure!("CPU_ON of processor {mpidr:#x} says {result}"));
    }
    let deadline = Deadline::new();
    while alive.u8(0) == 0 {
        if deadline.has_passed() {
            return Err(failure!("processor {mpidr:#x} does not start"));
        }
        core::hint::spin_loop();
    }
    Ok(())
}
