//! Virtio devices (virtio 1.3) and the transport that carries them.

pub mod block;
pub mod device;
mod notification;
pub mod pci;
pub mod power_key;
pub mod rng;

#[cfg(test)]
mod mock;
