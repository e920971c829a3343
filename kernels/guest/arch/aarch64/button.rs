//! The power button: a key on a line of a PL061.
//!
//! Implements Arm DDI 0190 §3.3 and Linux `Documentation/devicetree/bindings/input/gpio-keys.yaml`.

use super::Firmware;
use super::interrupts::{Interrupts, Line};
use super::memory;
use crate::console::{Failure, failure};
use crate::hw::Window;

/// Offsets of registers, each of a bit for a line.
const DIRECTION: u64 = 0x400;
const SENSE: u64 = 0x404;
const BOTH_EDGES: u64 = 0x408;
const EVENT: u64 = 0x40c;
const INTERRUPT_ENABLE: u64 = 0x410;
const RAW_STATUS: u64 = 0x414;
const CLEAR: u64 = 0x41c;
const BYTES: u64 = 0x1000;

pub struct Button {
    controller: Window,
    /// The bit of the key's line.
    bit: u32,
    /// Interrupts when the button is pressed.
    pub line: Line,
}

impl Button {
    pub fn new(firmware: &Firmware, interrupts: &Interrupts) -> Result<Self, Failure> {
        let Some(key) = firmware.power_key else {
            return Err(failure!("the device tree has no power key on a PL061"));
        };
        memory::map_device(key.controller, BYTES)?;
        // SAFETY: the controller's registers.
        let controller = unsafe { Window::new(key.controller, BYTES) };
        let bit = 1 << key.pin;
        let line = interrupts.new_line();
        interrupts.route(key.interrupt, line)?;
        let set = |register, is_set: bool| {
            let value = controller.u32(register) & !bit;
            controller.set_u32(register, if is_set { value | bit } else { value });
        };
        // An input, whose one edge, that of pressing, counts.
        set(DIRECTION, false);
        set(SENSE, false);
        set(BOTH_EDGES, false);
        set(EVENT, !key.is_active_low);
        controller.set_u32(CLEAR, bit);
        set(INTERRUPT_ENABLE, true);
        Ok(Self {
            controller,
            bit,
            line,
        })
    }

    /// Whether it was pressed since this was last asked.
    pub fn was_pressed(&self) -> bool {
        let pressed = self.controller.u32(RAW_STATUS) & self.bit;
        // What was seen and nothing else: a press that comes after the look is not to be lost.
        self.controller.set_u32(CLEAR, pressed);
        pressed != 0
    }
}
