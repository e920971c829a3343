//! How the guest ends: powered off, reset, panicked.

use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};

use super::fdt::Fdt;
use super::{Firmware, interrupts, memory};
use crate::console::{Console, Failure};
use crate::hw::Window;

/// QEMU `docs/specs/pvpanic.rst`.
const PVPANIC_PANICKED: u8 = 1;

/// Where panics are told; 0 where there is no such device.
static PVPANIC: AtomicU64 = AtomicU64::new(0);

/// Finds the device for panics, if there is one.
pub fn find(fdt: &Fdt<'_>) {
    let node = fdt.compatible("qemu,pvpanic-mmio");
    if let Some((address, _)) = node.and_then(|node| node.reg().next())
        && memory::map_device(address, 1).is_ok()
    {
        PVPANIC.store(address, Ordering::Relaxed);
    }
}

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

/// Tells the host of a panic: by the device for it, or else on the console, as Linux does.
pub fn panic() -> ! {
    let address = PVPANIC.load(Ordering::Relaxed);
    if address != 0 {
        // SAFETY: the device's register.
        unsafe { Window::new(address, 1) }.set_u8(0, PVPANIC_PANICKED);
        interrupts::stop()
    }
    let mut console = Console::new();
    let _ = console.write_str("\nKernel panic - not syncing: test guest\n");
    let _ = console.write_str("---[ end Kernel panic - not syncing: test guest ]---\n");
    interrupts::stop()
}
