//! The power button of Arm machines as a GPIO: a PrimeCell GPIO, PL061 (ARM DDI 0190B), of whose eight lines one
//! is a button's, as the device tree's `gpio-keys` names it.
//!
//! Left out on purpose: output (nothing is connected to the other lines) and the mode control.

use std::fmt;
use std::sync::{Arc, Mutex};

use crate::bus::BusDevice;
use crate::dwords::{read_dwords, write_dwords};
use crate::irq::Line;
use crate::lock::lock;
use crate::primecell;

/// The button's line: high while it is pressed.
pub const BUTTON: u8 = 3;

/// Part 0x061 of Arm (§3.3.12).
const PERIPHERAL_ID: u32 = 0x0004_1061;

/// Registers (§3.2), by their offset in 4 bytes. The data register is 256 times there: address bits 2 to 9 select
/// the lines that an access sees (§2.3.1).
const DATA_END: u64 = 0x400 / 4;
const DIRECTION: u64 = 0x400 / 4;
const SENSE_LEVEL: u64 = 0x404 / 4;
const BOTH_EDGES: u64 = 0x408 / 4;
const RISING: u64 = 0x40c / 4;
const MASK: u64 = 0x410 / 4;
const RAW_INTERRUPTS: u64 = 0x414 / 4;
const MASKED_INTERRUPTS: u64 = 0x418 / 4;
const CLEAR: u64 = 0x41c / 4;

/// A PL061 with a button, [`primecell::BYTES`] long.
pub struct Pl061 {
    interrupt: Arc<dyn Line>,
    /// Contended by vCPUs and by whoever presses the button.
    state: Mutex<State>,
}

/// A bit a line in each.
#[derive(Debug, Default)]
struct State {
    inputs: u8,
    direction: u8,
    sense_level: u8,
    both_edges: u8,
    rising: u8,
    mask: u8,
    /// Edges that the guest has not cleared yet.
    edges: u8,
}

impl Pl061 {
    /// A GPIO that asserts `interrupt`; nobody presses the button yet.
    pub fn new(interrupt: Arc<dyn Line>) -> Self {
        Self {
            interrupt,
            state: Mutex::default(),
        }
    }

    /// Presses the button. It comes up when the guest has seen it down, so that a press before the guest looks is
    /// not lost, or when it is pressed again, so that each press is an edge, whatever became of the one before.
    pub fn press_button(&self) {
        let mut state = lock(&self.state);
        state.set_inputs(0);
        state.set_inputs(1 << BUTTON);
        self.tell(&state);
    }

    fn tell(&self, state: &State) {
        self.interrupt.set(state.raw() & state.mask != 0);
    }
}

impl State {
    /// §3.3.7: edges that came, and levels that are there.
    fn raw(&self) -> u8 {
        let levels = !(self.inputs ^ self.rising) & self.sense_level;
        self.edges & !self.sense_level | levels
    }

    fn set_inputs(&mut self, inputs: u8) {
        let changed = self.inputs ^ inputs;
        let watched = self.both_edges | !(inputs ^ self.rising);
        self.edges |= changed & watched & !self.sense_level;
        self.inputs = inputs;
    }

    fn read(&mut self, register: u64) -> u32 {
        let value = match register {
            selected if selected < DATA_END => {
                let [selected, ..] = selected.to_le_bytes();
                let seen = self.inputs & !self.direction & selected;
                self.set_inputs(self.inputs & !seen);
                seen
            }
            DIRECTION => self.direction,
            SENSE_LEVEL => self.sense_level,
            BOTH_EDGES => self.both_edges,
            RISING => self.rising,
            MASK => self.mask,
            RAW_INTERRUPTS => self.raw(),
            MASKED_INTERRUPTS => self.raw() & self.mask,
            other => return primecell::id_register(PERIPHERAL_ID, other).unwrap_or(0),
        };
        value.into()
    }

    fn write(&mut self, register: u64, value: u8) {
        match register {
            DIRECTION => self.direction = value,
            SENSE_LEVEL => self.sense_level = value,
            BOTH_EDGES => self.both_edges = value,
            RISING => self.rising = value,
            MASK => self.mask = value,
            CLEAR => self.edges &= !value,
            _ => {}
        }
    }
}

impl BusDevice for Pl061 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = lock(&self.state);
        read_dwords(offset, data, |register| state.read(register));
        self.tell(&state);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = lock(&self.state);
        write_dwords(offset, data, |register, value, enabled| {
            let [value, ..] = value.to_le_bytes();
            if enabled & 0xff != 0 {
                state.write(register, value);
            }
        });
        self.tell(&state);
    }
}

impl fmt::Debug for Pl061 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pl061").field(&lock(&self.state)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irq::fake::FakeLevel;

    const LINE: u8 = 1 << BUTTON;

    fn gpio() -> (Pl061, Arc<FakeLevel>) {
        let line = Arc::new(FakeLevel::default());
        (Pl061::new(line.clone()), line)
    }

    fn read(gpio: &Pl061, register: u64) -> u8 {
        let mut data = [0xee];
        gpio.read(register * 4, &mut data);
        data[0]
    }

    fn write(gpio: &Pl061, register: u64, value: u8) {
        gpio.write(register * 4, &[value]);
    }

    #[test]
    fn driver_of_both_edges_sees_the_press_and_the_release() {
        let (gpio, line) = gpio();
        // What gpio-keys asks of gpio-pl061.
        write(&gpio, BOTH_EDGES, LINE);
        write(&gpio, MASK, LINE);
        for _ in 0..2 {
            gpio.press_button();
            for seen in [LINE, 0] {
                assert!(line.is_asserted());
                assert_eq!(read(&gpio, MASKED_INTERRUPTS), LINE);
                write(&gpio, CLEAR, LINE);
                assert!(!line.is_asserted());
                assert_eq!(read(&gpio, (!LINE).into()), 0, "other lines");
                assert_eq!(read(&gpio, LINE.into()), seen);
            }
            assert!(!line.is_asserted());
        }
    }

    #[test]
    fn single_edges_and_levels_are_told_apart() {
        let (gpio, line) = gpio();
        write(&gpio, RISING, LINE);
        write(&gpio, MASK, LINE);
        gpio.press_button();
        assert_eq!(read(&gpio, RAW_INTERRUPTS), LINE);
        write(&gpio, CLEAR, LINE);
        read(&gpio, LINE.into());
        assert_eq!(read(&gpio, RAW_INTERRUPTS), 0, "a falling edge");
        write(&gpio, SENSE_LEVEL, LINE);
        gpio.press_button();
        write(&gpio, CLEAR, LINE);
        assert!(line.is_asserted(), "as long as it is pressed");
        read(&gpio, LINE.into());
        assert!(!line.is_asserted());
    }

    #[test]
    fn each_press_is_an_edge_to_a_driver_that_never_looks_at_the_line() {
        let (gpio, line) = gpio();
        write(&gpio, RISING, LINE);
        write(&gpio, MASK, LINE);
        for _ in 0..2 {
            gpio.press_button();
            assert!(line.is_asserted());
            write(&gpio, CLEAR, LINE);
            assert!(!line.is_asserted());
        }
    }

    #[test]
    fn press_before_anybody_listens_is_there_when_somebody_looks() {
        let (gpio, line) = gpio();
        gpio.press_button();
        assert!(!line.is_asserted());
        assert_eq!(read(&gpio, LINE.into()), LINE);
        assert_eq!(read(&gpio, LINE.into()), 0);
    }
}
