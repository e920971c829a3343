//! The report: lines on COM1, and words for what went wrong.
//!
//! Implements the transmitter of the PC16550D data sheet, §8.4 and §8.6.3, by polling.

use core::fmt::{self, Write};

use crate::hw::{in_u8, out_u8};

pub const COM1: u16 = 0x3f8;
/// Offsets from [`COM1`].
pub const DATA: u16 = 0;
pub const INTERRUPT_ENABLE: u16 = 1;
pub const FIFO_CONTROL: u16 = 2;
pub const MODEM_CONTROL: u16 = 4;
pub const LINE_STATUS: u16 = 5;

pub const LINE_STATUS_DATA_READY: u8 = 1 << 0;
const LINE_STATUS_TRANSMITTER_EMPTY: u8 = 1 << 5;
const FIFO_BYTES: u8 = 16;

/// How often to ask for the transmitter before writing regardless: a machine without the register is no reason
/// to say nothing.
const TRANSMITTER_POLLS: u32 = 1_000_000;

/// Writes to COM1. Zero-sized: the transmitter's state is in [`Console::new`]'s one value.
pub struct Console {
    /// Bytes that the transmitter's FIFO surely takes.
    room: u8,
}

impl Console {
    /// Turns the FIFOs on.
    pub fn new() -> Self {
        out_u8(COM1 + FIFO_CONTROL, 1);
        Self { room: 0 }
    }

    fn byte(&mut self, byte: u8) {
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
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.byte(b'\r');
            }
            self.byte(byte);
        }
        Ok(())
    }
}

/// Writes one line of the report. The console never fails.
macro_rules! report {
    ($console:expr, $($line:tt)*) => {{
        let _ = core::fmt::Write::write_str($console, "kami-test: ");
        let _ = core::fmt::Write::write_fmt($console, core::format_args!($($line)*));
        let _ = core::fmt::Write::write_str($console, "\n");
    }};
}
pub(crate) use report;

/// Why a test failed. Words beyond 110 bytes are cut off.
#[derive(Clone, Copy)]
pub struct Failure {
    text: [u8; 110],
    length: usize,
}

impl Failure {
    pub fn new(arguments: fmt::Arguments<'_>) -> Self {
        let mut failure = Self {
            text: [0; 110],
            length: 0,
        };
        let _ = failure.write_fmt(arguments);
        failure
    }
}

impl Write for Failure {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if let Some(place) = self.text.get_mut(self.length) {
                *place = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text.get(..self.length).unwrap_or_default();
        f.write_str(core::str::from_utf8(text).unwrap_or("?"))
    }
}

/// Makes a [`Failure`] of words.
macro_rules! failure {
    ($($words:tt)*) => { crate::console::Failure::new(core::format_args!($($words)*)) };
}
pub(crate) use failure;
