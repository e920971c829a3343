//! A guest without an operating system that tests the machine it runs in. `src/guest` says what it does and how
//! it is told.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

global_asm!(include_str!("boot.s"));

const COM1: u16 = 0x3f8;

/// Called by `boot.s` at privilege level 3.
#[unsafe(no_mangle)]
extern "C" fn main(_protocol: u32, _info: u64) -> ! {
    for byte in b"ami test guest\n" {
        // SAFETY: a port.
        unsafe { asm!("out dx, al", in("dx") COM1, in("al") *byte) };
    }
    stop()
}

#[unsafe(no_mangle)]
extern "C" fn report_exception() -> ! {
    stop()
}

#[panic_handler]
fn panicked(_info: &PanicInfo) -> ! {
    stop()
}

fn stop() -> ! {
    loop {
        // SAFETY: a port.
        unsafe { asm!("out dx, al", in("dx") 0x600u16, in("al") 0x34u8) };
    }
}
