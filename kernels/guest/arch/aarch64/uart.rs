//! The serial port: a PL011, wherever the device tree says.
//!
//! Implements Arm DDI 0183 §3.3: the transmitter by polling, the receiver by interrupt. Left out on purpose: the
//! baud rate, which no virtual machine has.

use core::sync::atomic::{AtomicU64, Ordering};

use super::Firmware;
use super::fdt::Fdt;
use super::interrupts::{Interrupts, Line};
use super::memory;
use crate::console::{Failure, failure};
use crate::hw::Window;

/// Offsets of registers.
const DATA: u64 = 0x00;
const FLAGS: u64 = 0x18;
const LINE_CONTROL: u64 = 0x2c;
const CONTROL: u64 = 0x30;
const INTERRUPT_MASK: u64 = 0x38;

const FLAGS_RECEIVER_EMPTY: u32 = 1 << 4;
const FLAGS_TRANSMITTER_EMPTY: u32 = 1 << 7;
const LINE_8_BITS_FIFO: u32 = 3 << 5 | 1 << 4;
/// The port, its transmitter and its receiver.
const CONTROL_ENABLE: u32 = 1 << 0 | 1 << 8 | 1 << 9;
/// The receiver has some bytes, or has had one for a while.
const INTERRUPT_RECEIVED: u32 = 1 << 4 | 1 << 6;
/// The smallest of all revisions'.
const FIFO_BYTES: u8 = 16;
const BYTES: u64 = 0x1000;

/// As on x86_64: then it is written to regardless.
const TRANSMITTER_POLLS: u32 = 1_000_000;

/// 0 until the port is found: what fails before that fails silently.
static BASE: AtomicU64 = AtomicU64::new(0);

pub fn base() -> u64 {
    BASE.load(Ordering::Relaxed)
}

/// Finds the port, and sees that it is the one that the machine calls its console.
pub fn find(fdt: &Fdt<'_>) -> Result<(), Failure> {
    let node = fdt.compatible("arm,pl011");
    let Some((node, (base, _))) = node.and_then(|node| Some((node, node.reg().next()?))) else {
        return Err(failure!("the device tree has no PL011"));
    };
    memory::map_device(base, BYTES)?;
    BASE.store(base, Ordering::Relaxed);
    let named = |name| {
        let node = fdt
            .nodes()
            .find(|node| (node.depth, node.name) == (1, name));
        move |property| node.and_then(|node| node.text(property))
    };
    let path = named("chosen")("stdout-path").unwrap_or_default();
    // Devicetree Specification 0.4 §3.6: options may follow a colon; §3.3: an alias begins with no slash.
    let path = path.split(':').next().unwrap_or_default();
    let path = named("aliases")(path).unwrap_or(path);
    match path.rsplit('/').next() == Some(node.name) {
        true => Ok(()),
        false => Err(failure!("stdout-path is {path:?}, not the PL011")),
    }
}

pub struct Uart {
    /// Zero bytes long until the port is found.
    registers: Window,
    /// Bytes that the transmitter's FIFO surely takes.
    room: u8,
}

impl Uart {
    /// Turns the port and its FIFOs on.
    pub fn new() -> Self {
        let bytes = if base() == 0 { 0 } else { BYTES };
        // SAFETY: the port's registers.
        let registers = unsafe { Window::new(base(), bytes) };
        if bytes != 0 {
            registers.set_u32(LINE_CONTROL, LINE_8_BITS_FIFO);
            registers.set_u32(CONTROL, CONTROL_ENABLE);
        }
        Self { registers, room: 0 }
    }

    pub fn send(&mut self, byte: u8) {
        if self.registers.bytes() == 0 {
            return;
        }
        if self.room == 0 {
            for _ in 0..TRANSMITTER_POLLS {
                if self.registers.u32(FLAGS) & FLAGS_TRANSMITTER_EMPTY != 0 {
                    break;
                }
                core::hint::spin_loop();
            }
            self.room = FIFO_BYTES;
        }
        self.room -= 1;
        self.registers.set_u32(DATA, u32::from(byte));
    }

    pub fn receive(&mut self) -> Option<u8> {
        let is_there = self.registers.u32(FLAGS) & FLAGS_RECEIVER_EMPTY == 0;
        is_there.then(|| self.registers.u32(DATA) as u8)
    }
}

/// Lets the port interrupt, on the line returned, when it has received something.
pub fn listen(firmware: &Firmware, interrupts: &Interrupts) -> Result<Line, Failure> {
    let line = interrupts.new_line();
    interrupts.route(firmware.uart_interrupt()?, line)?;
    // SAFETY: the port's registers.
    unsafe { Window::new(base(), BYTES) }.set_u32(INTERRUPT_MASK, INTERRUPT_RECEIVED);
    Ok(line)
}
