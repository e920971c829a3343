//! Virtio devices (virtio 1.3) and the transport that carries them.

pub mod device;
pub mod pci;
