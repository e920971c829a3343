//! A keyboard controller (Intel 8042, IBM PS/2) without a keyboard: it resets the machine when
//! asked to, and answers a driver's probe at once, so that none waits for a time-out.
//!
//! Left out on purpose: keyboard, mouse, interrupts, A20 (it is always on). The device takes the ports
//! 0x60–0x64 and with them 0x61, the system control port: no NMI is pending there, and the output of
//! the absent timer 2 reads high, so that no calibration loop waits for it.

use std::fmt;
use std::sync::Mutex;

use crate::bus::BusDevice;
use crate::lock::lock;

/// First of the [`PORTS`] ports.
pub const BASE: u16 = 0x60;
pub const PORTS: u64 = 5;

const DATA: u64 = 0;
const SYSTEM_CONTROL: u64 = 1;
const COMMAND: u64 = 4;

/// Status: output buffer full, system flag (self-test passed), last write was a command, not locked.
const STATUS_OUTPUT: u8 = 1 << 0;
const STATUS_SYSTEM: u8 = 1 << 2;
const STATUS_COMMAND: u8 = 1 << 3;
const STATUS_UNLOCKED: u8 = 1 << 4;

const SYSTEM_CONTROL_TIMER_2: u8 = 1 << 5;

/// Configuration byte: both ports off, translation on, self-test passed.
const CONFIGURATION: u8 = 0b0111_0100;

const SELF_TEST_PASSED: u8 = 0x55;
const PORT_TEST_PASSED: u8 = 0x00;
/// Clock line stuck high: there is no port.
const PORT_TEST_FAILED: u8 = 0x02;

/// The controller.
pub struct I8042 {
    reset: Box<dyn Fn() + Send + Sync>,
    /// Contended by vCPUs.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    configuration: u8,
    /// The output buffer, one byte long.
    output: Option<u8>,
    /// The command whose parameter is the next byte of data.
    awaiting: Option<u8>,
    last_was_command: bool,
}

impl I8042 {
    /// `reset` is called on the vCPU's thread when the guest pulses the processor's reset line.
    pub fn new(reset: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            reset: Box::new(reset),
            state: Mutex::new(State {
                configuration: CONFIGURATION,
                output: None,
                awaiting: None,
                last_was_command: false,
            }),
        }
    }
}

impl State {
    fn read(&mut self, register: u64) -> u8 {
        match register {
            DATA => self.output.take().unwrap_or(0),
            SYSTEM_CONTROL => SYSTEM_CONTROL_TIMER_2,
            COMMAND => {
                let mut status = STATUS_SYSTEM | STATUS_UNLOCKED;
                if self.output.is_some() {
                    status |= STATUS_OUTPUT;
                }
                if self.last_was_command {
                    status |= STATUS_COMMAND;
                }
                status
            }
            _ => 0xff,
        }
    }

    /// Takes a command; returns whether it is the one that resets the machine.
    fn command(&mut self, command: u8) -> bool {
        self.last_was_command = true;
        self.awaiting = None;
        match command {
            0x20 => self.output = Some(self.configuration),
            // Write the configuration, the output port, the keyboard's or mouse's output, the mouse.
            0x60 | 0xd1..=0xd4 => self.awaiting = Some(command),
            0xa9 => self.output = Some(PORT_TEST_FAILED),
            0xaa => self.output = Some(SELF_TEST_PASSED),
            0xab => self.output = Some(PORT_TEST_PASSED),
            // Read the input and the output port: nothing there but the reset line, inactive.
            0xc0 => self.output = Some(0),
            0xd0 => self.output = Some(1),
            // Pulse output lines that are 0 in the lower nibble: the lowest one is reset.
            0xf0..=0xff => return command & 1 == 0,
            _ => {}
        }
        false
    }

    fn data(&mut self, value: u8) {
        self.last_was_command = false;
        match self.awaiting.take() {
            Some(0x60) => self.configuration = value,
            Some(0xd2) => self.output = Some(value),
            // The loop through the mouse port: an answer at once, and one that says that there is
            // none, as the byte does not come back.
            Some(0xd3) => self.output = Some(!value),
            _ => {}
        }
    }
}

impl BusDevice for I8042 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = lock(&self.state);
        for (register, byte) in (offset..).zip(data) {
            *byte = state.read(register);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (register, byte) in (offset..).zip(data) {
            let reset = match register {
                DATA => {
                    lock(&self.state).data(*byte);
                    false
                }
                COMMAND => lock(&self.state).command(*byte),
                _ => false,
            };
            if reset {
                (self.reset)();
            }
        }
    }
}

impl fmt::Debug for I8042 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("I8042").field(&lock(&self.state)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn controller() -> (I8042, Arc<AtomicUsize>) {
        let resets = Arc::new(AtomicUsize::new(0));
        let counter = resets.clone();
        let device = I8042::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        (device, resets)
    }

    fn read(device: &I8042, register: u64) -> u8 {
        let mut data = [0];
        device.read(register, &mut data);
        data[0]
    }

    /// Linux's `i8042_command()`: sends the command and its parameters, then expects an answer.
    fn command(device: &I8042, command: u8, parameters: &[u8]) -> Option<u8> {
        device.write(COMMAND, &[command]);
        for parameter in parameters {
            assert_eq!(read(device, COMMAND) & 2, 0, "the input buffer is free");
            device.write(DATA, &[*parameter]);
        }
        (read(device, COMMAND) & STATUS_OUTPUT != 0).then(|| read(device, DATA))
    }

    #[test]
    fn every_step_of_a_probe_is_answered_and_no_mouse_is_found() {
        let (device, resets) = controller();
        assert_eq!(read(&device, COMMAND) & STATUS_OUTPUT, 0);
        assert_eq!(command(&device, 0xaa, &[]), Some(0x55));
        assert_eq!(command(&device, 0x20, &[]), Some(CONFIGURATION));
        assert_eq!(command(&device, 0x60, &[0x65]), None);
        assert_eq!(command(&device, 0x20, &[]), Some(0x65));
        assert_eq!(command(&device, 0xd3, &[0x5a]), Some(0xa5));
        assert_eq!(command(&device, 0xa9, &[]), Some(0x02));
        assert_eq!(command(&device, 0xab, &[]), Some(0));
        assert_eq!(read(&device, SYSTEM_CONTROL) & 0xc0, 0, "no NMI reason");
        assert_eq!(resets.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn only_a_pulse_of_the_reset_line_resets() {
        let (device, resets) = controller();
        device.write(DATA, &[0xfe]);
        device.write(COMMAND, &[0xff]);
        assert_eq!(resets.load(Ordering::Relaxed), 0);
        device.write(COMMAND, &[0xfe]);
        assert_eq!(resets.load(Ordering::Relaxed), 1);
    }
}
