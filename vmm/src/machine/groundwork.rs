//! The part of a machine that depends on nothing but the host.
//!
//! KVM takes some 150 µs to create a VM and 300 µs to list what CPUID may say, on a host that is itself a
//! virtual machine. A launch that has other things to do first can have this done on another thread
//! meanwhile; one that has not, is better off without: waking the other processor costs as much.

use kvm_bindings::CpuId;
use kvm_ioctls::{Cap, Kvm, VmFd};

use super::Error;

/// Room for more CPUID entries than any KVM lists.
const CPUID_ENTRIES: usize = 256;

/// A VM without anything in it, and what the host's KVM can do for its guest.
#[derive(Debug)]
pub struct Groundwork {
    pub(super) vm: VmFd,
    pub(super) abilities: Abilities,
}

/// What the host's KVM can do for a guest.
#[derive(Debug)]
pub struct Abilities {
    pub cpuid: CpuId,
    /// The local APICs have the deadline timer.
    pub tsc_deadline: bool,
}

impl Groundwork {
    /// # Errors
    /// There is no KVM here, or not for this user, or it refuses.
    pub fn lay() -> Result<Self, Error> {
        let kvm = Kvm::new().map_err(Error::open_kvm)?;
        let vm = kvm
            .create_vm()
            .map_err(|source| Error::kvm("create a virtual machine", source))?;
        let cpuid = kvm
            .get_supported_cpuid(CPUID_ENTRIES)
            .map_err(|source| Error::kvm("list what cpuid may say", source))?;
        let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
        Ok(Self {
            vm,
            abilities: Abilities {
                cpuid,
                tsc_deadline,
            },
        })
    }
}
