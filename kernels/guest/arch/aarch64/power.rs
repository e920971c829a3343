//! How the guest ends: powered off, reset, panicked.

use core::fmt::Write;

use super::{Firmware, interrupts};
use crate::console::{Console, Failure};

/// Powers off.
pub fn off(firmware: &Firmware) -> ! {
    firmware.psci.power_off()
}

/// The modes that reset, each in another way.
pub const RESETS: [&str; 2] = ["reset", "reset-warm"];

/// Resets, warm in the mode that is named for it. Returns only where there is no such way.
pub fn reset(firmware: &Firmware, mode: &str) -> Result<(), Failure> {
    match mode {
        "reset-warm" => firmware.psci.warm_reset(),
        _ => firmware.psci.reset(),
    }
}

/// Tells the host of a panic as Linux does where it has no device for it: on the console.
pub fn panic() -> ! {
    let mut console = Console::new();
    let _ = console.write_str("\nKernel panic - not syncing: test guest\n");
    let _ = console.write_str("---[ end Kernel panic - not syncing: test guest ]---\n");
    interrupts::stop()
}
