//! What launching needs of an x86_64 host, for `kami doctor`.

use std::fs;

use kvm_ioctls::Cap;

use crate::doctor::Finding;

/// What launching needs of KVM (`Documentation/virt/kvm/api.rst`, "4.4 KVM_CHECK_EXTENSION").
pub const CAPABILITIES: [(Cap, &str); 6] = [
    (Cap::SplitIrqchip, "split irqchip"),
    (Cap::SignalMsi, "signal MSI"),
    (Cap::Irqfd, "irqfd"),
    (Cap::Ioeventfd, "ioeventfd"),
    (Cap::ImmediateExit, "immediate exit"),
    (Cap::UserMemory, "user memory"),
];

/// How KVM runs guest code on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Virtualization {
    Vmx,
    Svm,
    /// KVM without either: guest kernels run de-privileged, and their instructions are emulated.
    PageTables,
}

impl Virtualization {
    /// What the processor's flags say.
    fn of_host() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let line = info.lines().find(|line| line.starts_with("flags"));
        Self::of_flags(line.unwrap_or_default())
    }

    fn of_flags(flags: &str) -> Self {
        let has = |flag| flags.split_ascii_whitespace().any(|f| f == flag);
        match (has("vmx"), has("svm")) {
            (true, _) => Self::Vmx,
            (_, true) => Self::Svm,
            _ => Self::PageTables,
        }
    }

    fn module_help(self) -> &'static str {
        match self {
            Self::Vmx => "load the module: sudo modprobe kvm_intel",
            Self::Svm => "load the module: sudo modprobe kvm_amd",
            Self::PageTables => {
                "enable virtualization (VT-x or SVM) in the firmware, or on a virtual machine nested \
                 virtualization on its host; in a container pass the device in (--device /dev/kvm)"
            }
        }
    }
}

/// Whether KVM emulates the code of guest kernels, and may not know all of their instructions.
pub fn emulates_kernels() -> bool {
    Virtualization::of_host() == Virtualization::PageTables
}

/// What to do on a host without a KVM device.
pub fn kvm_module_help() -> &'static str {
    Virtualization::of_host().module_help()
}

/// How KVM runs guest code on this host.
pub fn finding() -> Finding {
    const SUBJECT: &str = "virtualization";
    match Virtualization::of_host() {
        Virtualization::Vmx => Finding::ok(SUBJECT, "Intel VMX"),
        Virtualization::Svm => Finding::ok(SUBJECT, "AMD SVM"),
        Virtualization::PageTables => Finding::note(
            SUBJECT,
            "neither VMX nor SVM: this KVM works with page tables alone",
            "guest kernel code is emulated, and stock Linux kernels may not boot; run them on a host \
             with VMX or SVM",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_flags_tell_the_kind_of_virtualization() {
        for (flags, kind, module) in [
            (
                "flags : fpu vmx sse",
                Virtualization::Vmx,
                "modprobe kvm_intel",
            ),
            ("flags : fpu svm", Virtualization::Svm, "modprobe kvm_amd"),
            ("flags : fpu svm_lock", Virtualization::PageTables, "nested"),
        ] {
            assert_eq!(Virtualization::of_flags(flags), kind);
            assert!(kind.module_help().contains(module), "{module}");
        }
    }
}
