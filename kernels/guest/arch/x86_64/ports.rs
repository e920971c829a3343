//! Port I/O, and PCI's configuration space by it.
//!
//! Implements PCI Local Bus 3.0 §3.2.2.3.2 (configuration mechanism 1).

use core::arch::asm;

const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;

pub fn in_u8(port: u16) -> u8 {
    let value;
    // SAFETY: reading a port does not touch Rust's memory.
    unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack)) };
    value
}

fn in_u32(port: u16) -> u32 {
    let value;
    // SAFETY: as above.
    unsafe { asm!("in eax, dx", out("eax") value, in("dx") port, options(nomem, nostack)) };
    value
}

pub fn out_u8(port: u16, value: u8) {
    // SAFETY: no device here writes memory because of a port but the virtio ones, into rings that are its own.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack)) };
}

pub fn out_u16(port: u16, value: u16) {
    // SAFETY: as above.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack)) };
}

fn out_u32(port: u16, value: u32) {
    // SAFETY: as above.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)) };
}

/// What the other way to configuration space than ECAM says: 4 bytes at `at` of function `number` of bus 0.
pub fn legacy_config(number: u8, at: u8) -> Option<u32> {
    out_u32(
        CONFIG_ADDRESS,
        1 << 31 | u32::from(number) << 8 | u32::from(at),
    );
    Some(in_u32(CONFIG_DATA))
}
