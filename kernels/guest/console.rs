//! The report: lines on the serial console, and words for what went wrong.

use core::fmt::{self, Write};

use crate::arch::uart::Uart;

/// Writes to the serial port.
pub struct Console(Uart);

impl Console {
    pub fn new() -> Self {
        Self(Uart::new())
    }

    /// The next byte that was received.
    pub fn receive(&mut self) -> Option<u8> {
        self.0.receive()
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                self.0.send(b'\r');
            }
            self.0.send(byte);
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
