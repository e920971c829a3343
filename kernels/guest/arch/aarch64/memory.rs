//! What the compiler and `core` expect of a C library, and the translation table.
//!
//! Implements Arm ARM (DDI 0487) D8.3 (descriptors of 1 GiB blocks).

use core::arch::{asm, global_asm};
use core::ptr::addr_of;

use crate::console::{Failure, failure};
use crate::hw::Window;

// The functions by which the compiler copies, fills and compares. Assembly, so that the compiler cannot
// make a call of `memcpy` out of `memcpy`'s own loop.
global_asm!(
    ".section .text.memory, \"ax\"",
    ".global memcpy, memmove, memset, memcmp, bcmp",
    "memmove:",
    "    sub x3, x0, x1",
    "    cmp x3, x2",
    "    b.hs memcpy",
    // The destination begins within the source: from the end down.
    "1:  cbz x2, 2f",
    "    sub x2, x2, #1",
    "    ldrb w3, [x1, x2]",
    "    strb w3, [x0, x2]",
    "    b 1b",
    "2:  ret",
    "memcpy:",
    "    mov x4, x0",
    "3:  cmp x2, #16",
    "    b.lo 4f",
    "    ldp x5, x6, [x1], #16",
    "    stp x5, x6, [x4], #16",
    "    sub x2, x2, #16",
    "    b 3b",
    "4:  cbz x2, 5f",
    "    ldrb w5, [x1], #1",
    "    strb w5, [x4], #1",
    "    sub x2, x2, #1",
    "    b 4b",
    "5:  ret",
    "memset:",
    "    mov x4, x0",
    "    and x1, x1, #0xff",
    "    orr x1, x1, x1, lsl #8",
    "    orr x1, x1, x1, lsl #16",
    "    orr x1, x1, x1, lsl #32",
    "6:  cmp x2, #16",
    "    b.lo 7f",
    "    stp x1, x1, [x4], #16",
    "    sub x2, x2, #16",
    "    b 6b",
    "7:  cbz x2, 8f",
    "    strb w1, [x4], #1",
    "    sub x2, x2, #1",
    "    b 7b",
    "8:  ret",
    "memcmp:",
    "bcmp:",
    "9:  cbz x2, 10f",
    "    ldrb w3, [x0], #1",
    "    ldrb w4, [x1], #1",
    "    sub x2, x2, #1",
    "    subs w3, w3, w4",
    "    b.eq 9b",
    "    mov w0, w3",
    "    ret",
    "10: mov w0, #0",
    "    ret",
);

/// Memory accesses before are done before those after, for devices and other processors too.
pub fn fence() {
    // SAFETY: orders memory, changes none.
    unsafe { asm!("dsb sy", options(nostack)) };
}

const BLOCK_BYTES: u64 = 1 << 30;
const BLOCKS: u64 = 512;
/// As in boot.s.
const BLOCK_DEVICE: u64 = 1 | 1 << 10 | 3 << 53;
const BLOCK_NORMAL: u64 = 1 | 1 << 2 | 3 << 8 | 1 << 10;
/// What the kinds differ in: the index of the memory's attributes.
const ATTRIBUTES: u64 = 7 << 2;

unsafe extern "C" {
    static translation_table: u8;
}

/// Maps `bytes` of RAM at physical address `start` to the same virtual one, for use through the caches.
pub fn map_ram(start: u64, bytes: u64) -> Result<(), Failure> {
    map(start, bytes, BLOCK_NORMAL)
}

/// Maps `bytes` of a device's memory: accesses go to the device as they are written, in their order.
pub fn map_device(start: u64, bytes: u64) -> Result<(), Failure> {
    map(start, bytes, BLOCK_DEVICE)
}

fn map(start: u64, bytes: u64, kind: u64) -> Result<(), Failure> {
    let last = start.saturating_add(bytes.saturating_sub(1)) / BLOCK_BYTES;
    if last >= BLOCKS {
        return Err(failure!(
            "{start:#x} is beyond the 512 GiB that can be mapped"
        ));
    }
    // SAFETY: boot.s's table, only accessed through such windows.
    let table = unsafe { Window::new(addr_of!(translation_table) as u64, 8 * BLOCKS) };
    for block in start / BLOCK_BYTES..=last {
        match table.u64(8 * block) {
            0 => table.set_u64(8 * block, block * BLOCK_BYTES | kind),
            found if (found ^ kind) & ATTRIBUTES == 0 => {}
            _ => {
                let address = block * BLOCK_BYTES;
                return Err(failure!(
                    "RAM and devices share the GiB from {address:#x} on"
                ));
            }
        }
    }
    // SAFETY: what was not mapped before is in no translation buffer: it suffices that the table is written.
    unsafe { asm!("dsb ishst", "isb", options(nostack)) };
    Ok(())
}
