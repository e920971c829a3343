//! Tests of what is neither disk nor bus: memory, clock, entropy.

use crate::boot_info::{BootInfo, Range};
use crate::console::{Failure, failure};
use crate::hw::{Deadline, Window, in_u8, out_u8};
use crate::memory;
use crate::pci::Function;
use crate::self_test::Machine;
use crate::virtio::{Buffer, Device};

/// virtio 1.3 §5.4.
pub const ENTROPY_DEVICE_TYPE: u16 = 4;

const PAGE: u64 = 4096;
const RTC_INDEX: u16 = 0x70;
const RTC_DATA: u16 = 0x71;
const RTC_STATUS_A: u8 = 0x0a;
const RTC_STATUS_B: u8 = 0x0b;
const RTC_UPDATE_IN_PROGRESS: u8 = 1 << 7;
const RTC_BINARY: u8 = 1 << 2;

/// Writes and reads the last word of each range of RAM, and puts back what was there. Returns the bytes of all RAM.
pub fn memory(info: &BootInfo) -> Result<u64, Failure> {
    for &Range { start, bytes } in info.ram() {
        let at = (start + bytes).saturating_sub(PAGE) & !(PAGE - 1);
        if at < start {
            continue;
        }
        memory::map(at, PAGE)?;
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

/// The date and time of the MC146818 clock: year, month, day, hour, minute, second.
pub fn clock() -> Result<[u16; 6], Failure> {
    let deadline = Deadline::new();
    let mut last = read_clock();
    // The same twice, and no update under way: whole.
    loop {
        let now = read_clock();
        if now == last && rtc(RTC_STATUS_A) & RTC_UPDATE_IN_PROGRESS == 0 {
            break;
        }
        if deadline.has_passed() {
            return Err(failure!("the clock does not hold still"));
        }
        last = now;
    }
    let is_binary = rtc(RTC_STATUS_B) & RTC_BINARY != 0;
    let value = |byte: u8| match is_binary {
        true => u16::from(byte),
        false => u16::from(byte >> 4) * 10 + u16::from(byte & 0xf),
    };
    let [year, month, day, hour, minute, second] = last.map(value);
    let time = [2000 + year, month, day, hour, minute, second];
    let is_sane = year < 100
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

fn read_clock() -> [u8; 6] {
    [9, 8, 7, 4, 2, 0].map(rtc)
}

fn rtc(register: u8) -> u8 {
    out_u8(RTC_INDEX, register);
    in_u8(RTC_DATA)
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
    device.start(interrupts);
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
