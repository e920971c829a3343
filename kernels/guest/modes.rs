//! What the command line asks for with `kami.test=`.

use core::fmt::Write;

use crate::arch::button::Button;
use crate::arch::interrupts::{self, Interrupts};
use crate::arch::{self, Firmware, power, uart};
use crate::boot_info::BootInfo;
use crate::console::{Console, Failure, failure, report};
use crate::disk::{self, Disk};
use crate::pattern::Stamp;
use crate::self_test::{self, Machine};
use crate::{fail, fill, load, log, pass};

/// What the last sector of the first disk says between the two boots of a reset; "KamiBoot" in ASCII.
const RESET_STAMP: Stamp = Stamp {
    generation: 0x746f_6f42_696d_614b,
    disk_sectors: 0,
};
const SELF_TEST_STAMP: Stamp = Stamp {
    generation: 1,
    disk_sectors: 0,
};

/// Does what is asked for, then ends the machine.
pub fn run(console: &mut Console, info: &BootInfo) -> ! {
    let mode = info.option("kami.test").unwrap_or("self");
    match mode {
        "panic" => power::panic(),
        "panic-line" => panic_line(console),
        "triple-fault" => fail(console, &arch::triple_fault()),
        "hang" => interrupts::stop(),
        "spin" => loop {
            core::hint::spin_loop();
        },
        "flood" => flood(console),
        "fail" => fail(console, &failure!("asked to fail")),
        _ => {}
    }
    let firmware = match Firmware::read(info) {
        Ok(firmware) => firmware,
        Err(failure) => fail(console, &failure),
    };
    match run_with(console, info, &firmware, mode) {
        Ok(()) => pass(console),
        Err(failure) => fail(console, &failure),
    }
    power::off(&firmware)
}

/// The modes that need to know the machine.
fn run_with(
    console: &mut Console,
    info: &BootInfo,
    firmware: &Firmware,
    mode: &str,
) -> Result<(), Failure> {
    let interrupts = &Interrupts::new(firmware)?;
    match mode {
        "self" => self_test(console, info, firmware, interrupts),
        "echo" => echo(console, firmware, interrupts),
        "button" => button(console, firmware, interrupts),
        "count" => count(console, firmware, interrupts),
        "write" => write(console, firmware, interrupts),
        "load" => {
            // SAFETY: each mode makes one machine.
            let machine = unsafe { Machine::new(firmware, interrupts) }?;
            load::run(console, info, &machine)
        }
        "log" => {
            // SAFETY: each mode makes one machine.
            let machine = unsafe { Machine::new(firmware, interrupts) }?;
            log::run(console, info, &machine)
        }
        "fill" => {
            // SAFETY: each mode makes one machine.
            let machine = unsafe { Machine::new(firmware, interrupts) }?;
            fill::run(console, info, firmware, &machine)
        }
        "bad-instruction" => {
            arch::bad_instruction();
            Ok(())
        }
        _ if power::RESETS.contains(&mode) => reset(console, info, firmware, interrupts, mode),
        _ => Err(failure!("kami.test={mode} is not known")),
    }
}

fn self_test(
    console: &mut Console,
    info: &BootInfo,
    firmware: &Firmware,
    interrupts: &Interrupts,
) -> Result<(), Failure> {
    self_test::platform(console, info, firmware, interrupts)?;
    // SAFETY: each mode makes one machine.
    let machine = unsafe { Machine::new(firmware, interrupts) }?;
    self_test::devices(console, info, &machine)
}

/// Tests, resets, tests again: the second boot finds the mark that the first has left on the first disk.
fn reset(
    console: &mut Console,
    info: &BootInfo,
    firmware: &Firmware,
    interrupts: &Interrupts,
    mode: &str,
) -> Result<(), Failure> {
    // SAFETY: each mode makes one machine.
    let machine = unsafe { Machine::new(firmware, interrupts) }?;
    let mut disk = machine.first_disk()?;
    let is_second = disk.last_stamp()? == Some(RESET_STAMP);
    report!(console, "boot={}", if is_second { 2 } else { 1 });
    if is_second {
        // Before anything can fail, so that a third boot is a first one.
        disk.write(disk.last_sector(), 1, SELF_TEST_STAMP)?;
        disk.flush()?;
    }
    self_test::platform(console, info, firmware, interrupts)?;
    self_test::devices(console, info, &machine)?;
    if is_second {
        return Ok(());
    }
    let mut disk = machine.first_disk()?;
    disk.write(disk.last_sector(), 1, RESET_STAMP)?;
    disk.flush()?;
    report!(console, "reset=asked");
    power::reset(firmware, mode)
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
fn echo(
    console: &mut Console,
    firmware: &Firmware,
    interrupts: &Interrupts,
) -> Result<(), Failure> {
    let line = uart::listen(firmware, interrupts)?;
    report!(console, "echo=ready");
    loop {
        let seen = line.count();
        while let Some(byte) = console.receive() {
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

/// Counts its boots on every disk, in the last sector, then waits for the power button.
fn count(
    console: &mut Console,
    firmware: &Firmware,
    interrupts: &Interrupts,
) -> Result<(), Failure> {
    // SAFETY: each mode makes one machine.
    let machine = unsafe { Machine::new(firmware, interrupts) }?;
    for (number, function) in machine.devices(disk::DEVICE_TYPE).enumerate() {
        let mut disk = Disk::start(number, &machine, function)?;
        // The host's pattern, or none, counts as no boot.
        let before = disk.last_stamp()?.map_or(0, |stamp| stamp.generation);
        let stamp = Stamp {
            generation: before + 1,
            disk_sectors: 0,
        };
        disk.write(disk.last_sector(), 1, stamp)?;
        disk.flush()?;
        report!(console, "disk{number}.boots={}", stamp.generation);
    }
    button(console, firmware, interrupts)
}

/// Writes the last sector of the first disk, then that of the second, over and over, each time with a higher
/// generation, and flushes now and then.
fn write(
    console: &mut Console,
    firmware: &Firmware,
    interrupts: &Interrupts,
) -> Result<(), Failure> {
    const FLUSH_EVERY: u64 = 16;
    // SAFETY: each mode makes one machine.
    let machine = unsafe { Machine::new(firmware, interrupts) }?;
    let mut functions = machine.devices(disk::DEVICE_TYPE);
    let (Some(first), Some(second)) = (functions.next(), functions.next()) else {
        return Err(failure!("there are no two disks"));
    };
    let mut disks = [
        Disk::start(0, &machine, first)?,
        Disk::start(1, &machine, second)?,
    ];
    let before = disks[0].last_stamp()?.map_or(0, |stamp| stamp.generation);
    let mut generation = before;
    loop {
        generation += 1;
        let stamp = Stamp {
            generation,
            disk_sectors: 0,
        };
        for disk in &mut disks {
            disk.write(disk.last_sector(), 1, stamp)?;
            if generation % FLUSH_EVERY == 0 {
                disk.flush()?;
            }
        }
        if generation == before + FLUSH_EVERY {
            report!(console, "write=going");
        }
    }
}

/// Waits for the power button.
fn button(
    console: &mut Console,
    firmware: &Firmware,
    interrupts: &Interrupts,
) -> Result<(), Failure> {
    let button = Button::new(firmware, interrupts)?;
    report!(console, "button=waiting");
    loop {
        let seen = button.line.count();
        if button.was_pressed() {
            report!(console, "button=pressed");
            return Ok(());
        }
        interrupts.wait_for_ever(button.line, seen);
    }
}
