//! PCI (PCI Local Bus 3.0): configuration space, bus 0 and its windows, MSI-X.
//!
//! Left out on purpose: bridges and further buses, I/O space BARs, INTx lines, hot plug, and PCI
//! Express capabilities. A machine here has at most 31 functions, and all of them speak MSI-X.

pub mod config;
pub mod msix;
pub mod root;

pub use config::ConfigSpace;
pub use root::PciRoot;

/// A single-function PCI device. Every method may be called from several vCPU threads at once.
pub trait PciFunction: Send + Sync {
    fn config(&self) -> &ConfigSpace;

    /// Reads configuration register `register`, counted in 4 bytes.
    fn read_config(&self, register: u8) -> u32 {
        self.config().read(register)
    }

    /// Writes the bits of `value` that `enabled` selects, whole bytes of them, as the byte enables
    /// of the bus do.
    fn write_config(&self, register: u8, value: u32, enabled: u32) {
        self.config().write(register, value, enabled);
    }

    /// Reads memory of BAR `bar`; the access lies within the BAR.
    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]);

    /// Writes memory of BAR `bar`; the access lies within the BAR.
    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]);
}
