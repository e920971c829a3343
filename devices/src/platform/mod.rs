//! The few legacy and firmware devices that an x86 guest expects besides PCI.

pub mod i8042;
pub mod power;
pub mod pvpanic;
pub mod rtc;

pub use i8042::I8042;
pub use power::{AcpiPower, PowerEvent};
pub use pvpanic::{PanicEvent, Pvpanic};
pub use rtc::Rtc;
