//! The part of a machine that depends on nothing but the host.
//!
//! KVM takes some 150 µs to create a VM, and on x86_64 300 µs to list what CPUID may say, on a host that is
//! itself a virtual machine. A launch that has other things to do first can have this done on another thread
//! meanwhile; one that has not, is better off without: waking the other processor costs as much.

use kvm_ioctls::{Kvm, VmFd};

use super::Error;
use crate::arch::host::{self, Abilities};

/// A VM without anything in it, and what the host's KVM can do for its guest.
#[derive(Debug)]
pub struct Groundwork {
    pub(crate) vm: VmFd,
    pub(crate) abilities: Abilities,
}

impl Groundwork {
    /// # Errors
    /// There is no KVM here, or not for this user, or it refuses.
    pub fn lay() -> Result<Self, Error> {
        let kvm = Kvm::new().map_err(Error::open_kvm)?;
        let (vm, abilities) = host::create_vm(&kvm)?;
        Ok(Self { vm, abilities })
    }
}
