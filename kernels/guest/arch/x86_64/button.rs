//! The power button, as the generic event device tells of it.

use super::Firmware;
use super::interrupts::{self, Interrupts, Line};
use super::ports::{in_u8, out_u8};
use crate::console::{Failure, failure};

/// Of the generic event device.
const IRQ: u8 = 9;
const POWER_BUTTON: u8 = 1 << 0;

pub struct Button {
    port: u16,
    /// Interrupts when the button is pressed.
    pub line: Line,
}

impl Button {
    pub fn new(firmware: &Firmware, interrupts: &Interrupts) -> Result<Self, Failure> {
        let Some(port) = firmware.event_port() else {
            return Err(failure!("no sleep control port, so no event port"));
        };
        let line = interrupts.new_line();
        interrupts::route(firmware, interrupts, IRQ, line)?;
        Ok(Self { port, line })
    }

    /// Whether it was pressed since this was last asked.
    pub fn was_pressed(&self) -> bool {
        let events = in_u8(self.port);
        out_u8(self.port, events);
        events & POWER_BUTTON != 0
    }
}
