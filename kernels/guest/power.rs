//! How the guest ends: powered off, reset, panicked.

use crate::acpi::Acpi;
use crate::hw::out_u8;
use crate::interrupts;

/// QEMU `docs/specs/pvpanic.rst`.
const PVPANIC: u16 = 0x505;
const PVPANIC_PANICKED: u8 = 1;

const KEYBOARD_COMMAND: u16 = 0x64;
const KEYBOARD_PULSE_RESET: u8 = 0xfe;

/// Powers off. Halts where that has no effect: the machine then runs into whoever watches it.
pub fn off(acpi: &Acpi) -> ! {
    acpi.power_off();
    interrupts::stop()
}

/// Resets by ACPI's register.
pub fn reset(acpi: &Acpi) -> ! {
    acpi.reset();
    interrupts::stop()
}

/// Resets by the keyboard controller.
pub fn reset_by_keyboard() -> ! {
    out_u8(KEYBOARD_COMMAND, KEYBOARD_PULSE_RESET);
    interrupts::stop()
}

/// Tells the host of a panic.
pub fn panic() -> ! {
    out_u8(PVPANIC, PVPANIC_PANICKED);
    interrupts::stop()
}
