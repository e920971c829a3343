//! Why a machine cannot be built, or cannot go on.

use std::io;

use crate::arch::{host, load};
use crate::memory;

use super::MAX_CPUS;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} vcpus: a machine has 1 to {MAX_CPUS}")]
    Cpus(u32),
    #[error(transparent)]
    Memory(#[from] memory::Error),
    #[error("memory up to {ram_end:#x} is beyond the {bits} address bits of this host's processor")]
    AddressBits { ram_end: u64, bits: u8 },
    #[error(transparent)]
    Boot(#[from] load::Error),
    #[error(transparent)]
    Host(#[from] host::Error),
    #[error("cannot open /dev/kvm")]
    OpenKvm(#[source] io::Error),
    #[error("kvm cannot {what}")]
    Kvm {
        what: &'static str,
        source: kvm_ioctls::Error,
    },
    #[error("kvm cannot create vcpu {index}")]
    CreateVcpu {
        index: u32,
        source: kvm_ioctls::Error,
    },
    #[error("cannot place a device")]
    Bus(#[from] kami_devices::bus::Error),
    #[error("cannot place a device")]
    Pci(#[from] kami_devices::pci::root::Error),
    #[error("cannot make a pci function of a device")]
    VirtioPci(#[from] kami_devices::virtio::pci::Error),
    #[error("cannot start the thread of vcpu {index}")]
    Thread { index: u32, source: io::Error },
    #[error("kvm cannot run vcpu {vcpu} at {at:#x}, instruction bytes{}", hex(.bytes))]
    Run {
        vcpu: u32,
        at: u64,
        /// As in [`Error::InternalError`].
        bytes: Vec<u8>,
        source: kvm_ioctls::Error,
    },
    #[error(
        "kvm cannot go on with vcpu {vcpu}: internal error {suberror}{} at {at:#x}, instruction bytes{}",
        suberror_name(*.suberror), hex(.bytes)
    )]
    InternalError {
        vcpu: u32,
        /// `KVM_INTERNAL_ERROR_…`; 1 is an instruction that KVM does not emulate.
        suberror: u32,
        /// Where the vCPU was: its instruction pointer.
        at: u64,
        /// What is at `at`, at most one instruction; fewer bytes where memory ends.
        bytes: Vec<u8>,
    },
    #[error("the processor refuses to enter vcpu {vcpu} at {at:#x}: hardware reason {reason:#x}")]
    EntryFailed { vcpu: u32, reason: u64, at: u64 },
    #[error("kvm left vcpu {vcpu} at {at:#x} for a reason that kami does not know: {exit}")]
    UnknownExit { vcpu: u32, exit: String, at: u64 },
}

impl Error {
    pub(crate) fn kvm(what: &'static str, source: kvm_ioctls::Error) -> Self {
        Self::Kvm { what, source }
    }

    pub(crate) fn open_kvm(source: kvm_ioctls::Error) -> Self {
        Self::OpenKvm(io::Error::from_raw_os_error(source.errno()))
    }

    /// Whether a file that was given cannot be what it is to be.
    pub fn is_bad_file(&self) -> bool {
        use load::Error::{InitrdNotAFile, OpenInitrd};
        matches!(self, Self::Boot(OpenInitrd { .. } | InitrdNotAFile(_)))
    }

    /// Whether KVM gave up on a guest that it had begun to run.
    pub fn is_kvm_giving_up(&self) -> bool {
        matches!(
            self,
            Self::Run { .. }
                | Self::InternalError { .. }
                | Self::EntryFailed { .. }
                | Self::UnknownExit { .. }
        )
    }
}

fn suberror_name(suberror: u32) -> &'static str {
    match suberror {
        1 => " (cannot emulate)",
        2 => " (exception during an exception)",
        3 => " (exit while delivering an event)",
        4 => " (unexpected exit reason)",
        _ => "",
    }
}

fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return " unreadable".into();
    }
    bytes.iter().map(|byte| format!(" {byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_error_names_address_and_bytes() {
        let error = Error::InternalError {
            vcpu: 0,
            suberror: 1,
            at: 0x10_0004,
            bytes: vec![0xc5, 0xf8, 0x77],
        };
        assert_eq!(
            error.to_string(),
            "kvm cannot go on with vcpu 0: internal error 1 (cannot emulate) at 0x100004, \
             instruction bytes c5 f8 77"
        );
    }
}
