//! The port by which a guest says that it panicked (QEMU `docs/specs/pvpanic.rst`, ISA variant,
//! ACPI id QEMU0001).

use std::fmt;

use crate::bus::BusDevice;

/// The port, as the driver finds it in the DSDT's `_CRS`; one port long.
pub const PORT: u16 = 0x505;

const PANICKED: u8 = 1 << 0;
const CRASH_LOADED: u8 = 1 << 1;

/// What the guest has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicEvent {
    /// It panicked and stays so, or restarts if told to.
    Panicked,
    /// It panicked and now runs its crash kernel.
    CrashLoaded,
}

/// The pvpanic port.
pub struct Pvpanic(Box<dyn Fn(PanicEvent) + Send + Sync>);

impl Pvpanic {
    /// `event` is called on the vCPU's thread, once for each event that the guest writes.
    pub fn new(event: impl Fn(PanicEvent) + Send + Sync + 'static) -> Self {
        Self(Box::new(event))
    }
}

impl BusDevice for Pvpanic {
    /// Reads the events that the guest may write.
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(first) = data.first_mut() {
            *first = PANICKED | CRASH_LOADED;
        }
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        let events = data.first().copied().unwrap_or(0);
        if events & PANICKED != 0 {
            (self.0)(PanicEvent::Panicked);
        }
        if events & CRASH_LOADED != 0 {
            (self.0)(PanicEvent::CrashLoaded);
        }
    }
}

impl fmt::Debug for Pvpanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pvpanic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn each_known_event_is_told_once_and_unknown_ones_never() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let device = Pvpanic::new({
            let told = told.clone();
            move |event| told.lock().unwrap().push(event)
        });
        let mut supported = [0; 2];
        device.read(0, &mut supported);
        assert_eq!(supported, [3, 0]);

        for value in [0x00, 0xfc, 0x01, 0x02] {
            device.write(0, &[value]);
        }
        device.write(0, &[]);
        let told = told.lock().unwrap();
        assert_eq!(*told, [PanicEvent::Panicked, PanicEvent::CrashLoaded]);
    }
}
