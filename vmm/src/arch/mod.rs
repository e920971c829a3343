//! What differs between the architectures of a guest, and what their machines share.
//!
//! The pure parts (memory maps, tables, what a boot protocol writes where) compile on every host and
//! are tested there; `host` is the part that talks to KVM and is the host's own architecture. An
//! architecture's `host` has the same functions with the same signatures; the call sites in
//! [`crate::machine`] hold them to that.

use std::sync::Arc;

use kami_devices::virtio::pci::VirtioPci;

use crate::vcpu::Buses;

pub mod aarch64;
pub mod load;
pub mod pci;
pub mod range;
pub mod x86_64;

#[cfg(target_arch = "x86_64")]
#[path = "x86_64/host.rs"]
pub mod host;
#[cfg(target_arch = "aarch64")]
#[path = "aarch64/host.rs"]
pub mod host;

/// What `host::attach` makes: the devices that the outside speaks to, the virtio functions, and the buses with all of
/// them.
#[derive(Debug)]
pub struct Fixed {
    pub buses: Buses,
    pub console: Arc<host::Console>,
    pub power: Arc<host::Power>,
    pub functions: Vec<Arc<VirtioPci>>,
}
