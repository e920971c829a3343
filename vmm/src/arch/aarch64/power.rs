//! The power button of an aarch64 machine: both of those that kernels know.
//!
//! Kernels made from Linux's own `defconfig`, and Debian's generic ones, have `gpio-keys` on a PL061; the cloud
//! kernels of Debian have no such driver, but virtio-input. A guest that has both hears one press of two keys: the
//! first shuts it down, and systemd-logind ignores the second while it does.

use std::sync::Arc;

use kami_devices::bus::BusDevice;
use kami_devices::platform::Pl061;
use kami_devices::virtio::power_key::Button;

/// The machine's power button; on the bus it is the GPIO.
#[derive(Debug)]
pub struct Power {
    pub(super) gpio: Pl061,
    pub(super) key: Arc<Button>,
}

impl BusDevice for Power {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.gpio.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.gpio.write(offset, data);
    }
}

impl Power {
    /// Presses the power button.
    pub fn press_button(&self) {
        self.gpio.press_button();
        self.key.press();
    }
}
