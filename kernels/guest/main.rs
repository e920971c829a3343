//! A guest without an operating system that tests the machine it runs in. `src/guest/mod.rs` says what it does,
//! what its command line may ask for and what it reports.

#![no_std]
#![no_main]

mod acpi;
mod boot_info;
mod census;
mod checks;
mod console;
mod disk;
mod hw;
mod interrupts;
mod memory;
mod modes;
#[path = "../src/guest/pattern.rs"]
mod pattern;
mod pci;
mod power;
mod processors;
mod self_test;
mod virtio;

use core::arch::global_asm;
use core::fmt::Write;
use core::panic::PanicInfo;

use boot_info::BootInfo;
use console::{Console, failure, report};
use interrupts::Interrupts;

global_asm!(include_str!("boot.s"));

/// Called once by `boot.s`, at privilege level 3, with what the entry's protocol hands over.
#[unsafe(no_mangle)]
extern "C" fn main(protocol: u32, info: u64) -> ! {
    let mut console = Console::new();
    // boot.s has written the K.
    let _ = console.write_str("ami test guest\n");
    // SAFETY: once.
    let interrupts = unsafe { Interrupts::new() };
    match BootInfo::read(protocol, info) {
        Ok(info) => modes::run(&mut console, &info, &interrupts),
        Err(failure) => fail(&mut console, &failure),
    }
}

/// The report's last line.
fn pass(console: &mut Console) {
    report!(console, "result=pass");
}

fn fail(console: &mut Console, failure: &console::Failure) -> ! {
    report!(console, "result=fail reason={failure}");
    power::panic()
}

/// Called by `boot.s` after an exception, on a fresh stack.
#[unsafe(no_mangle)]
extern "C" fn report_exception() -> ! {
    let [vector, error, at, address] = interrupts::exception();
    let failure = failure!("exception {vector} (error {error:#x}) at {at:#x}, cr2 {address:#x}");
    fail(&mut Console::new(), &failure)
}

#[panic_handler]
fn panicked(info: &PanicInfo<'_>) -> ! {
    let line = info.location().map_or(0, |location| location.line());
    let file = info.location().map_or("", |location| location.file());
    let file = file.rsplit('/').next().unwrap_or(file);
    let failure = failure!("the guest panicked at {file}:{line}: {}", info.message());
    fail(&mut Console::new(), &failure)
}
