//! aarch64 on KVM: what a VM and its vCPUs are set up with, and the machine's fixed devices.

mod devices;
mod gic;
mod power;
mod virtualization;

pub use super::aarch64::boot::Start;
pub use super::aarch64::layout::{MAX_MEMORY_BYTES, MIN_MEMORY_BYTES, ram as memory_ranges};
pub use devices::attach;
pub use kami_devices::pl011::Pl011 as Console;
pub use power::Power;
pub use virtualization::{
    CAPABILITIES, emulates_kernels, finding as virtualization_finding, kvm_module_help,
};

use std::io;

use kami_devices::GuestMemory;
use kami_devices::irq::Msi;
use kami_devices::platform::gicv2m;
use kvm_bindings::{
    KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, KVM_ARM_VCPU_PTRAUTH_ADDRESS,
    KVM_ARM_VCPU_PTRAUTH_GENERIC, KVM_ARM_VCPU_SVE, KVM_IRQ_ROUTING_IRQCHIP, KVM_MSI_VALID_DEVID,
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip,
    kvm_vcpu_init,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use rustix::rand::{GetRandomFlags, getrandom};
use vm_memory::{Bytes, GuestAddress};

use super::aarch64::boot::{self, Loading};
use super::aarch64::fdt::{self, Gic};
use super::aarch64::layout::{GIC_V2M, V2M_IRQS, pci_window_64};
use super::aarch64::registers;
use super::range::Range;
use crate::irq;
use crate::machine::{self, MachineConfig};
use crate::vcpu::Vcpu;
use gic::Controller;

/// The terminal that the guest's kernel has its console on.
pub const CONSOLE: &str = "ttyAMA0";

/// The first GSI of messages; no other interrupt is signalled by a GSI.
pub const FIRST_MESSAGE_GSI: u32 = 0;

/// Guest address bits of a KVM that cannot tell (`KVM_CAP_ARM_VM_IPA_SIZE`).
const ADDRESS_BITS_DEFAULT: u8 = 40;

/// The bytes of an instruction.
const INSTRUCTION_BYTES: u64 = 4;

/// What only an aarch64 machine can fail at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("kvm has no interrupt controller for guests, neither a gicv3 nor a gicv2")]
    NoGic(#[source] kvm_ioctls::Error),
    #[error("{cpus} vcpus: the gicv2 of this host's processor serves at most 8")]
    CpusOfGicV2 { cpus: u32 },
    #[error("cannot take random bytes for the guest's kernel")]
    Seed(#[source] io::Error),
}

/// What the host's KVM can do for a guest.
#[derive(Debug)]
pub struct Abilities {
    address_bits: u8,
    controller: Controller,
    /// Vector and pointer authentication instructions, as bits of `kvm_vcpu_init.features`.
    features: u32,
}

/// What all vCPUs of a machine have in common, and what else follows from it.
#[derive(Debug)]
pub struct Model {
    controller: Controller,
    has_sve: bool,
    mpidrs: Vec<u64>,
    /// Where BARs above 4 GiB may lie.
    pci_window_64: Option<Range>,
}

/// Creates a VM with as large an address space as the host's processor has, and asks what its vCPUs can be.
///
/// # Errors
/// KVM refuses.
pub fn create_vm(kvm: &Kvm) -> Result<(VmFd, Abilities), machine::Error> {
    let limit = kvm.get_host_ipa_limit();
    let (vm, address_bits) = match u8::try_from(limit) {
        Ok(bits) if bits > 0 => (kvm.create_vm_with_ipa_size(bits.into()), bits),
        _ => (kvm.create_vm(), ADDRESS_BITS_DEFAULT),
    };
    let vm = vm.map_err(|source| machine::Error::kvm("create a virtual machine", source))?;
    let controller = Controller::create(&vm)?;
    let features = features(&vm);
    Ok((
        vm,
        Abilities {
            address_bits,
            controller,
            features,
        },
    ))
}

/// SVE, and pointer authentication, which takes both of its halves.
fn features(vm: &VmFd) -> u32 {
    let has = |cap| vm.check_extension(cap);
    let mut features = 0;
    if has(Cap::ArmSve) {
        features |= 1 << KVM_ARM_VCPU_SVE;
    }
    if has(Cap::ArmPtrAuthAddress) && has(Cap::ArmPtrAuthGeneric) {
        features |= 1 << KVM_ARM_VCPU_PTRAUTH_ADDRESS | 1 << KVM_ARM_VCPU_PTRAUTH_GENERIC;
    }
    features
}

/// How many bits a guest-physical address has.
pub fn address_bits(abilities: &Abilities) -> u8 {
    abilities.address_bits
}

/// Sets up the VM itself, memory slots excepted: the interrupt controller has its place.
///
/// # Errors
/// KVM refuses, or there are too many `cpus` for the interrupt controller.
pub fn prepare_vm(_vm: &VmFd, abilities: &Abilities, cpus: u32) -> Result<(), machine::Error> {
    abilities.controller.place(cpus)
}

/// What the machine's `vcpus` will be. They are initialised here, since only then they tell their MPIDRs; the
/// interrupt controller is complete with them.
///
/// # Errors
/// KVM refuses.
pub fn model(
    vm: &VmFd,
    abilities: Abilities,
    vcpus: &[Vcpu],
    memory_bytes: u64,
) -> Result<Model, machine::Error> {
    let mut target = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut target)
        .map_err(|source| machine::Error::kvm("name the host's processor", source))?;
    target.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2 | abilities.features;
    let init = |vcpu: &Vcpu| {
        let mut target = target;
        if vcpu.index > 0 {
            target.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
        }
        vcpu.fd
            .vcpu_init(&target)
            .map_err(|source| machine::Error::kvm("initialise a vcpu", source))?;
        register(&vcpu.fd, registers::MPIDR)
            .map_err(|source| machine::Error::kvm("tell a vcpu's number", source))
    };
    let mpidrs = vcpus.iter().map(init).collect::<Result<_, _>>()?;
    abilities.controller.init()?;
    Ok(Model {
        controller: abilities.controller,
        has_sve: abilities.features & 1 << KVM_ARM_VCPU_SVE != 0,
        mpidrs,
        pci_window_64: pci_window_64(memory_bytes, abilities.address_bits),
    })
}

/// The entry of KVM's routing table that sends `message`, of the function `requester`, which an ITS tells senders
/// apart by; a GICv2's messages are interrupts like others.
///
/// # Errors
/// The GICv2 has no such interrupt.
pub fn route(
    model: &Model,
    gsi: u32,
    message: Msi,
    requester: u16,
) -> io::Result<kvm_irq_routing_entry> {
    match model.controller.kind {
        Gic::V3 => {
            let mut entry = irq::message_entry(gsi, message);
            entry.flags = KVM_MSI_VALID_DEVID;
            entry.u.msi.__bindgen_anon_1.devid = requester.into();
            Ok(entry)
        }
        Gic::V2 => {
            let number = gicv2m::interrupt(message, GIC_V2M.start.0, &V2M_IRQS);
            let number =
                number.ok_or_else(|| io::Error::other("no interrupt of the gicv2m frame"))?;
            // Counted from the first shared one.
            let pin = kvm_irq_routing_irqchip {
                irqchip: 0,
                pin: u32::from(number) - 32,
            };
            Ok(kvm_irq_routing_entry {
                gsi,
                type_: KVM_IRQ_ROUTING_IRQCHIP,
                u: kvm_irq_routing_entry__bindgen_ty_1 { irqchip: pin },
                ..Default::default()
            })
        }
    }
}

/// A message that the machine takes.
#[cfg(test)]
pub fn message(model: &Model) -> Msi {
    let (address, data) = match model.controller.kind {
        Gic::V2 => (GIC_V2M.start.0 + 0x40, V2M_IRQS.start.into()),
        Gic::V3 => (super::aarch64::layout::GIC_ITS.start.0 + 0x1_0040, 0),
    };
    Msi { address, data }
}

/// Puts the kernel into guest memory, with the device tree and all that its boot protocol wants.
///
/// # Errors
/// The kernel, the initrd or the command line does not fit, or cannot be read.
pub fn load(
    memory: &GuestMemory,
    config: &MachineConfig,
    model: &Model,
) -> Result<Start, machine::Error> {
    let machine = fdt::Machine {
        cpus: model.mpidrs.clone(),
        memory_bytes: config.memory_bytes,
        gic: model.controller.kind,
        pci_window_64: model.pci_window_64,
    };
    let mut seed = [0; fdt::SEED_BYTES];
    // Never short for so few bytes (`getrandom(2)`).
    getrandom(&mut seed, GetRandomFlags::empty()).map_err(|error| Error::Seed(error.into()))?;
    let loading = Loading {
        kernel: &config.kernel,
        initrd: config.initrd.as_deref(),
        cmdline: &config.cmdline,
        machine: &machine,
        seed: &seed,
    };
    Ok(boot::load(memory, &loading)?)
}

/// Completes the vCPU.
///
/// # Errors
/// KVM refuses.
pub fn configure(vcpu: &Vcpu, model: &Model) -> Result<(), machine::Error> {
    if !model.has_sve {
        return Ok(());
    }
    let sve = i32::try_from(KVM_ARM_VCPU_SVE).unwrap_or_default();
    vcpu.fd
        .vcpu_finalize(&sve)
        .map_err(|source| machine::Error::kvm("give a vcpu its vector registers", source))
}

/// Has the first vCPU begin at `start`. The others wait in KVM for PSCI's CPU_ON.
///
/// # Errors
/// KVM refuses.
pub fn enter(vcpu: &VcpuFd, start: &Start) -> Result<(), machine::Error> {
    for (register, value) in registers::entry(start) {
        vcpu.set_one_reg(register, &value.to_le_bytes())
            .map_err(|source| machine::Error::kvm("set registers", source))?;
    }
    Ok(())
}

/// Where the vCPU is: its program counter, and the bytes of the instruction, if that is a physical address: a
/// guest's page tables are not walked. For messages.
pub fn next_instruction(vcpu: &VcpuFd, memory: &GuestMemory) -> (u64, Vec<u8>) {
    let pc = register(vcpu, registers::PC).unwrap_or(0);
    let byte_at = |offset| {
        let address = GuestAddress(pc.wrapping_add(offset));
        memory.read_obj::<u8>(address).ok()
    };
    (pc, (0..INSTRUCTION_BYTES).map_while(byte_at).collect())
}

fn register(vcpu: &VcpuFd, id: u64) -> Result<u64, kvm_ioctls::Error> {
    let mut bytes = [0; 8];
    vcpu.get_one_reg(id, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
