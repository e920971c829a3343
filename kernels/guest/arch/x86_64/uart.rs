//! The serial port COM1.
//!
//! Implements the PC16550D data sheet, §8.4 and §8.6: the transmitter by polling, the receiver by interrupt.

use super::Firmware;
use super::interrupts::{self, Interrupts, Line};
use super::ports::{in_u8, out_u8};
use crate::console::Failure;

const COM1: u16 = 0x3f8;
const IRQ: u8 = 4;
/// Offsets from [`COM1`].
const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const FIFO_CONTROL: u16 = 2;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;

const RECEIVED_DATA: u8 = 1 << 0;
/// On a PC it lets the interrupt through.
const OUT2: u8 = 1 << 3;
const LINE_STATUS_DATA_READY: u8 = 1 << 0;
const LINE_STATUS_TRANSMITTER_EMPTY: u8 = 1 << 5;
const FIFO_BYTES: u8 = 16;

/// How often to ask for the transmitter before writing regardless: a machine without the register is no reason
/// to say nothing.
const TRANSMITTER_POLLS: u32 = 1_000_000;

pub struct Uart {
    /// Bytes that the transmitter's FIFO surely takes.
    room: u8,
}

impl Uart {
    /// Turns the FIFOs on.
    pub fn new() -> Self {
        out_u8(COM1 + FIFO_CONTROL, 1);
        Self { room: 0 }
    }

    pub fn send(&mut self, byte: u8) {
        if self.room == 0 {
            for _ in 0..TRANSMITTER_POLLS {
                if in_u8(COM1 + LINE_STATUS) & LINE_STATUS_TRANSMITTER_EMPTY != 0 {
                    break;
                }
                core::hint::spin_loop();
            }
            self.room = FIFO_BYTES;
        }
        self.room -= 1;
        out_u8(COM1 + DATA, byte);
    }

    pub fn receive(&mut self) -> Option<u8> {
        let is_there = in_u8(COM1 + LINE_STATUS) & LINE_STATUS_DATA_READY != 0;
        is_there.then(|| in_u8(COM1 + DATA))
    }
}

/// Lets the port interrupt, on the line returned, when it has received something.
pub fn listen(firmware: &Firmware, interrupts: &Interrupts) -> Result<Line, Failure> {
    let line = interrupts.new_line();
    interrupts::route(firmware, interrupts, IRQ, line)?;
    out_u8(COM1 + MODEM_CONTROL, OUT2);
    out_u8(COM1 + INTERRUPT_ENABLE, RECEIVED_DATA);
    Ok(line)
}
