//! Tests of what is neither disk nor bus: memory, clock, entropy.

use crate::arch::{Firmware, clock, memory};
use crate::boot_info::{BootInfo, Range};
use crate::console::{Failure, failure};
use crate::hw::Window;
use crate::pci::Function;
use crate::self_test::Machine;
use crate::virtio::{Buffer, Device};

/// virtio 1.3 §5.4.
pub const ENTROPY_DEVICE_TYPE: u16 = 4;

const PAGE: u64 = 4096;

/// Writes and reads the last word of each range of RAM, and puts back what was there. Returns the bytes of all RAM.
pub fn memory(info: &BootInfo) -> Result<u64, Failure> {
    for &Range { start, bytes } in info.ram() {
        let at = (start + bytes).saturating_sub(PAGE) & !(PAGE - 1);
        if at < start {
            continue;
        }
        memory::map_ram(at, PAGE)?;
        // SAFETY: RAM beyond the image, which is at the beginning of its range.
        let word = unsafe { Window::new(at, 8) };
        let kept = word.u64(0);
        word.set_u64(0, !at);
        let found = word.u64(0);
        word.set_u64(0, kept);
        if found != !at {
            return Err(failure!("RAM at {at:#x} does not keep what is written"));
        }
    }
    Ok(info.ram().iter().map(|range| range.bytes).sum())
}

/// The clock's year, month, day, hour, minute, second, which have to be possible ones.
pub fn clock(firmware: &Firmware) -> Result<[u32; 6], Failure> {
    let time = clock::read(firmware)?;
    let [year, month, day, hour, minute, second] = time;
    let is_sane = year < 2100
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (hour, minute, second) <= (23, 59, 60)
        && minute < 60
        && second <= 60;
    match is_sane {
        true => Ok(time),
        false => Err(failure!("the clock says {time:?}")),
    }
}

/// Asks the entropy device twice for bytes: they come, they are not zero, and they differ.
pub fn entropy(machine: &Machine<'_>, function: Function) -> Result<(), Failure> {
    let Machine {
        interrupts,
        pci,
        arena,
        ..
    } = machine;
    let device = Device::new(pci, function, 0)?;
    let mut queue = device.queue(0, arena, interrupts, interrupts.new_line())?;
    device.start(interrupts)?;
    let memory = arena.take(64);
    let mut words = [[0; 4]; 2];
    for words in &mut words {
        memory.write(0, &[0; 64]);
        queue.add(&[Buffer {
            memory,
            is_written: true,
        }]);
        queue.run(interrupts)?;
        *words = [memory.u64(0), memory.u64(8), memory.u64(16), memory.u64(24)];
    }
    if words[0] == words[1] || words.contains(&[0; 4]) {
        return Err(failure!("the entropy device gives {:x?}", words[0]));
    }
    Ok(())
}
