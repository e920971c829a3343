//! What the command line asks for with `kami.test=`.

use core::fmt::Write;

use crate::acpi::Acpi;
use crate::boot_info::BootInfo;
use crate::console::{self, COM1, Console, Failure, failure, report};
use crate::hw::{in_u8, out_u8};
use crate::interrupts::{self, Interrupts};
use crate::pattern::Stamp;
use crate::self_test::{self, Machine};
use crate::{fail, pass, power};

/// What the last sector of the first disk says between the two boots of a reset; "KamiBoot" in ASCII.
const RESET_STAMP: Stamp = Stamp {
    generation: 0x746f_6f42_696d_614b,
    disk_sectors: 0,
};
const SELF_TEST_STAMP: Stamp = Stamp {
    generation: 1,
    disk_sectors: 0,
};

const SERIAL_IRQ: u8 = 4;
/// Of the generic event device.
const EVENT_IRQ: u8 = 9;
const EVENT_POWER_BUTTON: u8 = 1 << 0;

/// Does what is asked for, then ends the machine.
pub fn run(console: &mut Console, info: &BootInfo, interrupts: &Interrupts) -> ! {
    let mode = info.option("kami.test").unwrap_or("self");
    match mode {
        "panic" => power::panic(),
        "panic-line" => panic_line(console),
        "triple-fault" => interrupts::triple_fault(),
        "hang" => interrupts::stop(),
        "spin" => loop {
            core::hint::spin_loop();
        },
        "flood" => flood(console),
        "fail" => fail(console, &failure!("asked to fail")),
        _ => {}
    }
    let acpi = match Acpi::read(info.rsdp) {
        Ok(acpi) => acpi,
        Err(failure) => fail(console, &failure),
    };
    let result = match mode {
        "self" => self_test(console, info, &acpi, interrupts),
        "reset" | "reset-i8042" => reset(console, info, &acpi, interrupts, mode),
        "echo" => echo(console, &acpi, interrupts),
        "button" => button(console, &acpi, interrupts),
        "bad-instruction" => {
            interrupts::cmpxchg16b_at_level_0();
            Ok(())
        }
        _ => Err(failure!("kami.test={mode} is not known")),
    };
    match result {
        Ok(()) => pass(console),
        Err(failure) => fail(console, &failure),
    }
    power::off(&acpi)
}

fn self_test(
    console: &mut Console,
    info: &BootInfo,
    acpi: &Acpi,
    interrupts: &Interrupts,
) -> Result<(), Failure> {
    self_test::platform(console, info, acpi, interrupts)?;
    // SAFETY: each mode makes one machine.
    let machine = unsafe { Machine::new(acpi, interrupts) }?;
    self_test::devices(console, info, &machine)
}

/// Tests, resets, tests again: the second boot finds the mark that the first has left on the first disk.
fn reset(
    console: &mut Console,
    info: &BootInfo,
    acpi: &Acpi,
    interrupts: &Interrupts,
    mode: &str,
) -> Result<(), Failure> {
    // SAFETY: each mode makes one machine.
    let machine = unsafe { Machine::new(acpi, interrupts) }?;
    let mut disk = machine.first_disk()?;
    let is_second = disk.last_stamp()? == Some(RESET_STAMP);
    report!(console, "boot={}", if is_second { 2 } else { 1 });
    if is_second {
        // Before anything can fail, so that a third boot is a first one.
        disk.write(disk.last_sector(), 1, SELF_TEST_STAMP)?;
        disk.flush()?;
    }
    self_test::platform(console, info, acpi, interrupts)?;
    self_test::devices(console, info, &machine)?;
    if is_second {
        return Ok(());
    }
    let mut disk = machine.first_disk()?;
    disk.write(disk.last_sector(), 1, RESET_STAMP)?;
    disk.flush()?;
    report!(console, "reset=asked");
    match mode {
        "reset-i8042" => power::reset_by_keyboard(),
        _ => power::reset(acpi),
    }
}

/// What a Linux kernel without the pvpanic driver leaves on the console.
fn panic_line(console: &mut Console) -> ! {
    let _ = console.write_str("[    0.123456] Kernel panic - not syncing: test\n");
    let _ = console.write_str("[    0.123789] ---[ end Kernel panic - not syncing: test ]---\n");
    interrupts::stop()
}

fn flood(console: &mut Console) -> ! {
    let mut line: u64 = 0;
    loop {
        let _ = writeln!(console, "flood {line}");
        line += 1;
    }
}

/// Sends back what it receives, by the serial port's interrupt, until a `q`.
fn echo(console: &mut Console, acpi: &Acpi, interrupts: &Interrupts) -> Result<(), Failure> {
    let line = interrupts.new_line();
    interrupts::route(acpi, interrupts, SERIAL_IRQ, line)?;
    // PC16550D §8.6.5, and OUT2, which on a PC lets the interrupt through.
    out_u8(COM1 + console::MODEM_CONTROL, 1 << 3);
    out_u8(COM1 + console::INTERRUPT_ENABLE, 1);
    report!(console, "echo=ready");
    loop {
        let seen = line.count();
        while in_u8(COM1 + console::LINE_STATUS) & console::LINE_STATUS_DATA_READY != 0 {
            let byte = in_u8(COM1 + console::DATA);
            let _ = console.write_char(char::from(byte));
            if byte == b'q' {
                let _ = console.write_str("\n");
                report!(console, "serial_interrupts={}", line.count());
                return Ok(());
            }
        }
        interrupts.wait_for_ever(line, seen);
    }
}

/// Waits for the power button, as the generic event device tells it.
fn button(console: &mut Console, acpi: &Acpi, interrupts: &Interrupts) -> Result<(), Failure> {
    let Some(port) = acpi.event_port() else {
        return Err(failure!("no sleep control port, so no event port"));
    };
    let line = interrupts.new_line();
    interrupts::route(acpi, interrupts, EVENT_IRQ, line)?;
    report!(console, "button=waiting");
    loop {
        let seen = line.count();
        let events = in_u8(port);
        out_u8(port, events);
        if events & EVENT_POWER_BUTTON != 0 {
            report!(console, "button=pressed");
            return Ok(());
        }
        interrupts.wait_for_ever(line, seen);
    }
}
