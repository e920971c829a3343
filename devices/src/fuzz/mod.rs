//! What the fuzz targets of `tests/fuzz` run: each takes bytes that a fuzzer chose and does with a device what they
//! say, as a guest could, and checks what must hold whatever a guest does.
//!
//! No threads, no clock, nothing that outlives a call but memory that is cleared by the next: the same bytes take the
//! same way. A panic is a finding; so are too long a time and too much memory, which `tests/fuzz` watches.
//! Left out on purpose: what runs on threads of its own and needs the kernel (`activate` of the block and entropy
//! devices); their workers' parts are called instead.

pub(crate) mod guest;
mod input;
mod machine;
mod msix;
mod pci;
mod queues;
mod registers;
#[cfg(test)]
mod tests;

pub(crate) use input::Input;

pub use crate::virtio::block::fuzz::{block, chains};
pub use msix::msix;
pub use pci::pci;
pub use queues::queues;
pub use registers::registers;
