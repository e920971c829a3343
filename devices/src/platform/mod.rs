//! The few legacy and firmware devices that a guest expects besides PCI: of a PC the first four, of an Arm machine
//! the others.

pub mod i8042;
pub mod power;
pub mod pvpanic;
pub mod rtc;

pub mod gicv2m;
pub mod pl031;
pub mod pl061;

pub use gicv2m::Gicv2m;
pub use i8042::I8042;
pub use pl031::Pl031;
pub use pl061::Pl061;
pub use power::{AcpiPower, PowerEvent};
pub use pvpanic::{PanicEvent, Pvpanic};
pub use rtc::Rtc;
