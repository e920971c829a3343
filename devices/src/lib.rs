//! The devices of a virtual machine: the bus, the platform's devices, PCI and virtio.
//!
//! No KVM here: what a device needs of the hypervisor (interrupts, doorbells) it asks of the
//! traits in [`irq`]; and no image formats: a disk is a [`kami_image::volume::Volume`].

#![cfg_attr(
    not(any(test, feature = "fuzz")),
    deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod bus;
mod dwords;
#[cfg(test)]
mod fake_console;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod ioapic;
pub mod irq;
mod lock;
pub mod pci;
pub mod pl011;
pub mod platform;
pub mod primecell;
mod rate;
pub mod serial;
pub mod virtio;

/// The machine's memory, as devices see it. Cloning is cheap and shares the mapping.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;
