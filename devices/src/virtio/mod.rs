//! Virtio devices (virtio 1.3) and the transport that carries them.

pub mod block;
pub mod device;
mod notification;
pub mod pci;

#[cfg(test)]
mod mock;
