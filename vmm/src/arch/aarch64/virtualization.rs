//! What launching needs of an aarch64 host, for `kami doctor`.

use kvm_ioctls::{Cap, Kvm};

use super::{Abilities, create_vm};
use crate::arch::aarch64::fdt::Gic;
use crate::cli::chain;
use crate::doctor::Finding;

/// What launching needs of KVM (`Documentation/virt/kvm/api.rst`, "4.4 KVM_CHECK_EXTENSION").
pub const CAPABILITIES: [(Cap, &str); 7] = [
    (Cap::DeviceCtrl, "device control"),
    (Cap::ArmPsci02, "PSCI 0.2"),
    (Cap::OneReg, "one register"),
    (Cap::Irqfd, "irqfd"),
    (Cap::Ioeventfd, "ioeventfd"),
    (Cap::ImmediateExit, "immediate exit"),
    (Cap::UserMemory, "user memory"),
];

/// Whether KVM emulates the code of guest kernels: never, on this architecture.
pub fn emulates_kernels() -> bool {
    false
}

/// What to do on a host without a KVM device.
pub fn kvm_module_help() -> &'static str {
    "boot the host's kernel at EL2, which its firmware decides (its log then says \"kvm: … mode initialized\"); on a \
     virtual machine enable nested virtualization on its host; in a container pass the device in (--device /dev/kvm)"
}

/// What a guest gets of this host's processor.
pub fn finding() -> Finding {
    const SUBJECT: &str = "virtualization";
    let created = Kvm::new().map_err(crate::machine::Error::open_kvm);
    match created.and_then(|kvm| create_vm(&kvm)) {
        Ok((_, abilities)) => Finding::ok(SUBJECT, show(&abilities)),
        Err(error) => Finding::missing(
            SUBJECT,
            chain(&error),
            "see the kernel's log (dmesg) for what kvm says",
        ),
    }
}

fn show(abilities: &Abilities) -> String {
    let gic = match abilities.controller.kind {
        Gic::V2 => "GICv2, at most 8 vcpus",
        Gic::V3 => "GICv3 with ITS",
    };
    format!("{gic}, {} address bits", abilities.address_bits)
}
