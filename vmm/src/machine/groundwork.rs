//! The part of a machine that depends on nothing but the host, made beside whatever else a launch does.
//!
//! KVM takes some 150 µs to create a VM and 300 µs to list what CPUID may say, on a host that is itself a
//! virtual machine; neither needs to know what will run.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use kvm_bindings::CpuId;
use kvm_ioctls::{Cap, Kvm, VmFd};

use super::Error;
use crate::arch::host;

/// A VM and the host's abilities, on their way.
#[derive(Debug)]
pub struct Groundwork {
    vm: mpsc::Receiver<VmFd>,
    /// Ends with the abilities, or with what failed, be it the VM.
    thread: JoinHandle<Result<Abilities, Error>>,
}

/// What the host's KVM can do for a guest.
#[derive(Debug)]
pub struct Abilities {
    pub cpuid: CpuId,
    /// The local APICs have the deadline timer.
    pub tsc_deadline: bool,
}

impl Groundwork {
    /// Begins, on a thread of its own.
    ///
    /// # Errors
    /// The host gives no thread. All else is told by [`super::Machine::on`].
    pub fn begin() -> Result<Self, Error> {
        let (sender, vm) = mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name("kvm".to_owned())
            .spawn(move || lay(&sender))
            .map_err(Error::SetupThread)?;
        Ok(Self { vm, thread })
    }

    /// The VM, as soon as it is there.
    pub(super) fn vm(&self) -> Option<VmFd> {
        self.vm.recv().ok()
    }

    /// Waits for all of it.
    pub(super) fn finish(self) -> Result<Abilities, Error> {
        self.thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn lay(vms: &mpsc::SyncSender<VmFd>) -> Result<Abilities, Error> {
    let kvm = Kvm::new().map_err(Error::open_kvm)?;
    let vm = kvm
        .create_vm()
        .map_err(|source| Error::kvm("create a virtual machine", source))?;
    // Nobody waits for it any more: then nobody waits for the rest either.
    let _unwanted = vms.send(vm);
    Ok(Abilities {
        cpuid: kvm
            .get_supported_cpuid(host::CPUID_ENTRIES)
            .map_err(|source| Error::kvm("list what cpuid may say", source))?,
        tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
    })
}
