//! Power of a hardware-reduced ACPI machine: the sleep control and status registers (ACPI 6.5
//! §4.8.3.7), the reset register (§4.8.3.6), and what the power button tells through a Generic Event
//! Device (§5.6.9).
//!
//! The four registers are one byte each, in one block of I/O ports. The FADT names the first three;
//! the event register is read by the GED's `_EVT` method in the DSDT, which then writes back the bits
//! that it has seen (they are cleared by writing one), and notifies the power button device
//! (PNP0C0C) with 0x80 where [`EVENT_POWER_BUTTON`] was set.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::bus::BusDevice;
use crate::irq::Interrupt;

/// Offsets from the first of the [`PORTS`] ports.
pub const SLEEP_CONTROL: u64 = 0;
pub const SLEEP_STATUS: u64 = 1;
pub const RESET: u64 = 2;
pub const EVENT_STATUS: u64 = 3;
/// Ports of the block.
pub const PORTS: u64 = 4;

/// The FADT's `RESET_VALUE`.
pub const RESET_VALUE: u8 = 0x01;
/// The sleep type of the DSDT's `_S5` package: soft off.
pub const S5_SLEEP_TYPE: u8 = 5;
/// The bit of the event register that stands for the power button.
pub const EVENT_POWER_BUTTON: u8 = 1 << 0;

/// Sleep control register: `SLP_TYPx` in bits 2–4, `SLP_EN` (ACPI 6.5 §4.8.3.7).
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111;
const SLEEP_ENABLE: u8 = 1 << 5;

/// How the guest ends itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    PoweredOff,
    Reset,
}

/// The block of registers.
pub struct AcpiPower {
    interrupt: Arc<dyn Interrupt>,
    ended: Box<dyn Fn(PowerEvent) + Send + Sync>,
    events: AtomicU8,
}

impl AcpiPower {
    /// `interrupt` is the GED's, edge-triggered; `ended` is called on the vCPU's thread.
    pub fn new(
        interrupt: Arc<dyn Interrupt>,
        ended: impl Fn(PowerEvent) + Send + Sync + 'static,
    ) -> Self {
        Self {
            interrupt,
            ended: Box::new(ended),
            events: AtomicU8::new(0),
        }
    }

    /// Presses the power button. The event stays until the guest has seen it, and each press
    /// interrupts again, so that one before the guest listens is not the last.
    pub fn press_button(&self) {
        self.events.fetch_or(EVENT_POWER_BUTTON, Ordering::AcqRel);
        self.interrupt.trigger();
    }
}

impl BusDevice for AcpiPower {
    fn read(&self, offset: u64, data: &mut [u8]) {
        for (register, byte) in (offset..).zip(data) {
            // Sleep status: no sleeping state but S5, so nothing ever wakes (WAK_STS stays clear).
            *byte = match register {
                EVENT_STATUS => self.events.load(Ordering::Acquire),
                _ => 0,
            };
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (register, byte) in (offset..).zip(data) {
            let sleep_type = byte >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK;
            match register {
                SLEEP_CONTROL if byte & SLEEP_ENABLE != 0 && sleep_type == S5_SLEEP_TYPE => {
                    (self.ended)(PowerEvent::PoweredOff);
                }
                RESET if *byte == RESET_VALUE => (self.ended)(PowerEvent::Reset),
                EVENT_STATUS => {
                    self.events.fetch_and(!byte, Ordering::AcqRel);
                }
                _ => {}
            }
        }
    }
}

impl fmt::Debug for AcpiPower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcpiPower")
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Edges(AtomicU8);

    impl Interrupt for Edges {
        fn trigger(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    type Ends = Arc<Mutex<Vec<PowerEvent>>>;

    fn power() -> (AcpiPower, Arc<Edges>, Ends) {
        let (edges, ends) = (Arc::new(Edges::default()), Ends::default());
        let ended = ends.clone();
        let power = AcpiPower::new(edges.clone(), move |event| {
            ended.lock().unwrap().push(event)
        });
        (power, edges, ends)
    }

    #[test]
    fn only_soft_off_and_the_reset_value_end_the_machine() {
        let (power, _, ends) = power();
        for (register, value) in [
            (SLEEP_CONTROL, S5_SLEEP_TYPE << 2),    // no SLP_EN
            (SLEEP_CONTROL, 1 << 2 | SLEEP_ENABLE), // S1
            (SLEEP_STATUS, 0x80),
            (RESET, 0x06),
            (PORTS, RESET_VALUE),
        ] {
            power.write(register, &[value]);
        }
        assert_eq!(*ends.lock().unwrap(), []);
        // What Linux writes: acpi_hw_extended_sleep() and acpi_reset().
        power.write(SLEEP_CONTROL, &[S5_SLEEP_TYPE << 2 | SLEEP_ENABLE]);
        power.write(RESET, &[RESET_VALUE]);
        let ends = ends.lock().unwrap();
        assert_eq!(*ends, [PowerEvent::PoweredOff, PowerEvent::Reset]);
    }

    #[test]
    fn button_stays_until_the_guest_acknowledges_it() {
        let (power, edges, _) = power();
        let status = || {
            let mut data = [0xaa];
            power.read(EVENT_STATUS, &mut data);
            data[0]
        };
        assert_eq!(status(), 0);
        power.press_button();
        power.press_button();
        assert_eq!((status(), status()), (1, 1), "reading does not clear it");
        assert_eq!(edges.0.load(Ordering::Relaxed), 2);
        power.write(EVENT_STATUS, &[0xfe]);
        assert_eq!(status(), 1);
        power.write(EVENT_STATUS, &[EVENT_POWER_BUTTON]);
        assert_eq!(status(), 0);
    }
}
