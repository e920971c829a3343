//! A guest without an operating system that tests the machine it runs in. `src/guest/mod.rs` says what it does,
//! what its command line may ask for and what it reports.

#![no_std]
#![no_main]

#[cfg(target_arch = "aarch64")]
#[path = "arch/aarch64/mod.rs"]
mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "arch/x86_64/mod.rs"]
mod arch;
mod boot_info;
mod census;
mod checks;
mod console;
mod disk;
mod fill;
mod flight;
#[path = "../src/guest/histogram.rs"]
mod histogram;
mod hw;
#[path = "../src/guest/job.rs"]
mod job;
mod load;
mod log;
mod memory;
mod modes;
#[path = "../src/guest/pattern.rs"]
mod pattern;
mod pci;
mod ring;
mod self_test;
mod virtio;

use core::fmt::Write;
use core::panic::PanicInfo;

use arch::{interrupts, power};
use console::{Console, failure, report};

/// Called once by `boot.s` with what the entry's protocol hands over.
#[unsafe(no_mangle)]
extern "C" fn main(protocol: u32, info: u64) -> ! {
    interrupts::catch_exceptions();
    let info = arch::boot_info::read(protocol, info);
    let mut console = Console::new();
    // The K has been written.
    let _ = console.write_str("ami test guest\n");
    match info {
        Ok(info) => modes::run(&mut console, &info),
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
    fail(&mut Console::new(), &interrupts::exception())
}

#[panic_handler]
fn panicked(info: &PanicInfo<'_>) -> ! {
    let line = info.location().map_or(0, |location| location.line());
    let file = info.location().map_or("", |location| location.file());
    let file = file.rsplit('/').next().unwrap_or(file);
    let failure = failure!("the guest panicked at {file}:{line}: {}", info.message());
    fail(&mut Console::new(), &failure)
}
