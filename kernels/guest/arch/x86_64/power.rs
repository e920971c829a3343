//! How the guest ends: powered off, reset, panicked.

use super::ports::out_u8;
use super::{Firmware, interrupts};
use crate::console::Failure;

/// QEMU `docs/specs/pvpanic.rst`.
const PVPANIC: u16 = 0x505;
const PVPANIC_PANICKED: u8 = 1;

const KEYBOARD_COMMAND: u16 = 0x64;
const KEYBOARD_PULSE_RESET: u8 = 0xfe;

/// Powers off. Halts where that has no effect: the machine then runs into whoever watches it.
pub fn off(firmware: &Firmware) -> ! {
    firmware.power_off();
    interrupts::stop()
}

/// The modes that reset, each in another way.
pub const RESETS: [&str; 2] = ["reset", "reset-i8042"];

/// Resets by the keyboard controller in the mode that is named for it, else by ACPI's register. Returns only
/// where there is no such way.
pub fn reset(firmware: &Firmware, mode: &str) -> Result<(), Failure> {
    match mode {
        "reset-i8042" => out_u8(KEYBOARD_COMMAND, KEYBOARD_PULSE_RESET),
        _ => firmware.reset(),
    }
    interrupts::stop()
}

/// Tells the host of a panic.
pub fn panic() -> ! {
    out_u8(PVPANIC, PVPANIC_PANICKED);
    interrupts::stop()
}
