//! How a vCPU that is in the guest is made to leave it: by a signal to its thread, and by `immediate_exit`,
//! which closes the gap between looking for a reason to stop and entering the guest
//! (`Documentation/virt/kvm/api.rst`, "The kvm_run structure").

#![expect(
    unsafe_code,
    reason = "a signal handler and its thread share a byte with the kernel"
)]

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_run;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use crate::machine::Error;

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

/// Makes this thread's vCPU reachable for [`kicked`], until it is dropped.
pub struct KickTarget(());

impl KickTarget {
    pub fn new(run: &mut kvm_run) -> Self {
        IMMEDIATE_EXIT.set(ptr::from_mut(&mut run.immediate_exit).cast::<AtomicU8>());
        Self(())
    }
}

impl Drop for KickTarget {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null());
    }
}

/// Lets [`super::Running::stop`] interrupt vCPU threads. Once per process, before the first one starts.
///
/// # Errors
/// The host refuses the signal handler.
pub fn prepare_kicks() -> Result<(), Error> {
    register_signal_handler(SIGRTMIN(), kicked).map_err(|source| Error::Kvm {
        what: "handle the signal that stops vcpus",
        source,
    })
}

/// Runs on the vCPU's own thread. If that is on its way into the guest, the flag makes KVM_RUN return at
/// once; if it is in there, the signal itself did.
extern "C" fn kicked(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let target = IMMEDIATE_EXIT.get();
    // SAFETY: null, or set by this thread's `KickTarget` to a byte of the kvm_run page, which outlives it;
    // a byte that the kernel reads too is accessed atomically.
    if let Some(immediate_exit) = unsafe { target.as_ref() } {
        immediate_exit.store(1, Ordering::Relaxed);
    }
}
