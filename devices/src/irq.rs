//! What devices ask of the interrupt controller and of the hypervisor.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// An interrupt line with edge semantics.
pub trait Interrupt: Send + Sync {
    fn trigger(&self);
}

/// An interrupt line with level semantics: the controller asks for as long as it is asserted.
pub trait Line: Send + Sync {
    fn set(&self, asserted: bool);
}

/// A message-signalled interrupt: the write of `data` to `address` (PCI Local Bus 3.0 §6.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Msi {
    pub address: u64,
    pub data: u32,
}

/// Delivers one message at once.
pub trait MsiSink: Send + Sync {
    fn send(&self, message: Msi);
}

/// The interrupt routes of one PCI function's MSI-X vectors.
///
/// Masking is not seen here: [`crate::pci::msix`] keeps the pending bits, signals an event only while
/// its vector is unmasked and routed.
pub trait MsixRoutes: Send + Sync {
    /// The event that raises `vector`: signalled, it is delivered as the routed message.
    fn event(&self, vector: u16) -> Option<&EventFd>;

    /// Routes `vector` to `message` from the next signal on, or takes its route away. A message that
    /// replaces another one does so without a moment in which there is no route.
    fn route(&self, vector: u16, message: Option<Msi>) -> io::Result<()>;
}

/// Turns guest writes to an address into signals of an event, without an exit to this process.
pub trait Doorbells: Send + Sync {
    /// Signals `event` at each 2-byte write to the guest-physical `address`.
    fn register(&self, address: u64, event: &EventFd) -> io::Result<()>;
    fn unregister(&self, address: u64, event: &EventFd) -> io::Result<()>;
}

#[cfg(test)]
pub(crate) mod fake;
