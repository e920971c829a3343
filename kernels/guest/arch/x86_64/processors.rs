//! Starts the further processors and sees that they are alive.
//!
//! Implements Intel SDM volume 3 §9.4.4 (INIT and start-up interrupts) without its pauses, which are for the
//! hardware of the 1990s: a hypervisor has none to wait for.

use core::ptr::addr_of;

use super::Firmware;
use super::interrupts::Interrupts;
use crate::boot_info::BootInfo;
use crate::console::{Failure, failure};
use crate::hw::{Deadline, Window};

unsafe extern "C" {
    static ap_trampoline: u8;
    static ap_trampoline_end: u8;
    static ap_alive: u8;
}

const PAGE: u64 = 4096;
/// A start-up interrupt carries a page's number below 1 MiB in a byte; the page at 0 is left alone.
const LAST_PAGE: u64 = 0x9f;

const INIT: u32 = 5 << 8 | 1 << 14;
const START_UP: u32 = 6 << 8 | 1 << 14;

/// Starts every processor that the MADT lists, one after the other. Returns how many there are that run, with
/// this one.
pub fn start_all(
    info: &BootInfo,
    firmware: &Firmware,
    interrupts: &Interrupts,
) -> Result<usize, Failure> {
    let me = interrupts.apic_id();
    if !firmware.processors().contains(&me) {
        return Err(failure!("the MADT does not list this processor, {me}"));
    }
    let others = firmware.processors().iter().filter(|&&id| id != me);
    if others.clone().next().is_none() {
        return Ok(1);
    }
    let page = place_trampoline(info)?;
    for &id in others {
        start(id, page, interrupts)?;
    }
    Ok(firmware.processors().len())
}

/// Copies the code for real mode to a page of RAM below 640 KiB; returns the page's number. Whatever the machine
/// handed over there has been read.
fn place_trampoline(info: &BootInfo) -> Result<u8, Failure> {
    let is_ram = |page: &u64| {
        let start = page * PAGE;
        info.ram()
            .iter()
            .any(|range| range.start <= start && start + PAGE <= range.start + range.bytes)
    };
    let Some(page) = (1..=LAST_PAGE).rev().find(is_ram) else {
        return Err(failure!("no RAM below 640 KiB"));
    };
    let bytes = addr_of!(ap_trampoline_end) as u64 - addr_of!(ap_trampoline) as u64;
    // SAFETY: code of boot.s, never written.
    let code = unsafe { core::slice::from_raw_parts(addr_of!(ap_trampoline), bytes as usize) };
    // SAFETY: the image begins at 1 MiB.
    unsafe { Window::new(page * PAGE, PAGE) }.write(0, code);
    Ok(page as u8)
}

fn start(id: u8, page: u8, interrupts: &Interrupts) -> Result<(), Failure> {
    // SAFETY: written by boot.s's code for further processors, accessed through windows only.
    let alive = unsafe { Window::new(addr_of!(ap_alive) as u64 + u64::from(id), 1) };
    interrupts.send(id, INIT);
    interrupts.send(id, START_UP | u32::from(page));
    let deadline = Deadline::new();
    while alive.u8(0) == 0 {
        if deadline.has_passed() {
            return Err(failure!("processor {id} does not start"));
        }
        core::hint::spin_loop();
    }
    Ok(())
}
