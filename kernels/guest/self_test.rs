//! The self-test: everything, in the order in which one thing needs the other, and a line of report for each.

use crate::arch::interrupts::Interrupts;
use crate::arch::{Firmware, processors};
use crate::boot_info::BootInfo;
use crate::checks;
use crate::console::{Console, Failure, failure, report};
use crate::disk::{self, Disk};
use crate::hw::Window;
use crate::memory::Arena;
use crate::pci::{Function, Pci};
use crate::virtio;

/// What the tests of devices work with.
pub struct Machine<'a> {
    pub interrupts: &'a Interrupts,
    pub pci: Pci,
    pub arena: Arena,
    /// For the data of requests, one device at a time.
    pub scratch: Window,
}

impl<'a> Machine<'a> {
    /// # Safety
    /// See [`Arena::new`].
    pub unsafe fn new(firmware: &Firmware, interrupts: &'a Interrupts) -> Result<Self, Failure> {
        let pci = Pci::find(firmware)?;
        // SAFETY: the caller's word.
        let arena = unsafe { Arena::new() };
        let scratch = arena.take(disk::SCRATCH_BYTES);
        Ok(Self {
            interrupts,
            pci,
            arena,
            scratch,
        })
    }

    /// The virtio devices of type `device_type`, by ascending function number.
    pub fn devices(&self, device_type: u16) -> impl Iterator<Item = Function> {
        let functions = self.pci.functions().iter().copied();
        functions.filter(move |&function| virtio::device_type(function) == Some(device_type))
    }

    /// Starts the first disk.
    pub fn first_disk(&self) -> Result<Disk<'_>, Failure> {
        let Some(function) = self.devices(disk::DEVICE_TYPE).next() else {
            return Err(failure!("there is no disk"));
        };
        Disk::start(0, self, function)
    }
}

/// What is there without devices: memory, the firmware's tables, processors, the timer, the clock.
pub fn platform(
    console: &mut Console,
    info: &BootInfo,
    firmware: &Firmware,
    interrupts: &Interrupts,
) -> Result<(), Failure> {
    report!(console, "protocol={}", info.protocol);
    report!(console, "memory_bytes={}", checks::memory(info)?);
    firmware.report(console)?;
    interrupts.start_timer()?;
    report!(console, "timer=ok");
    report!(console, "cpus={}", firmware.processors().len());
    let alive = processors::start_all(info, firmware, interrupts)?;
    report!(console, "cpus_started={alive}");
    let [year, month, day, hour, minute, second] = checks::clock(firmware)?;
    report!(
        console,
        "rtc={year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
    );
    Ok(())
}

/// The bus and what is on it.
pub fn devices(
    console: &mut Console,
    info: &BootInfo,
    machine: &Machine<'_>,
) -> Result<(), Failure> {
    machine.pci.compare_mechanisms()?;
    report!(console, "pci_functions={}", machine.pci.functions().len());
    for function in machine.devices(checks::ENTROPY_DEVICE_TYPE) {
        checks::entropy(machine, function)?;
        report!(console, "rng=ok");
    }
    let check_all = info.option("kami.check") == Some("all");
    for (number, function) in machine.devices(disk::DEVICE_TYPE).enumerate() {
        Disk::start(number, machine, function)?.test(console, check_all)?;
    }
    report!(
        console,
        "disks={}",
        machine.devices(disk::DEVICE_TYPE).count()
    );
    Ok(())
}
