//! x86_64 on KVM: what a VM and its vCPUs are set up with, and the machine's fixed devices.

mod cpuid;
mod devices;
mod registers;
mod virtualization;

pub use super::x86_64::boot::Start;
pub use super::x86_64::layout::{MAX_MEMORY_BYTES, MIN_MEMORY_BYTES, ram as memory_ranges};
pub use devices::attach;
pub use kami_devices::platform::AcpiPower as Power;
pub use kami_devices::serial::Serial as Console;
pub use virtualization::{
    CAPABILITIES, emulates_kernels, finding as virtualization_finding, kvm_module_help,
};

use std::io;

use kami_devices::GuestMemory;
use kami_devices::irq::Msi;
use kvm_bindings::{
    CpuId, KVM_CAP_SPLIT_IRQCHIP, Msrs, kvm_cpuid_entry2, kvm_enable_cap, kvm_irq_routing_entry,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress};

use super::x86_64::acpi;
use super::x86_64::boot::{self, Boot};
use super::x86_64::firmware;
use super::x86_64::layout::{ACPI, IO_APIC_PINS, KVM_TSS, Range, pci_window_64};
use crate::irq;
use crate::machine::{self, MachineConfig};
use crate::vcpu::Vcpu;

/// The terminal that the guest's kernel has its console on.
pub const CONSOLE: &str = "ttyS0";

/// The first GSI of messages; those below are the I/O APIC's, which lives in this process and sends messages,
/// so they have no routes.
pub const FIRST_MESSAGE_GSI: u32 = IO_APIC_PINS;

/// The most bytes of an instruction.
const INSTRUCTION_BYTES: u64 = 15;

/// Room for more CPUID entries than any KVM lists.
const CPUID_ENTRIES: usize = 256;

/// What only an x86_64 machine can fail at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Firmware(#[from] firmware::Error),
    #[error("kvm does not let model-specific register {0:#x} be set")]
    Msr(u32),
    #[error("too many entries for kvm: {0}")]
    TooManyEntries(String),
}

/// What the host's KVM can do for a guest.
#[derive(Debug)]
pub struct Abilities {
    cpuid: CpuId,
    /// The local APICs have the deadline timer.
    tsc_deadline: bool,
}

/// What all vCPUs of a machine have in common, and what else follows from it.
#[derive(Debug)]
pub struct Model {
    cpuid: Vec<kvm_cpuid_entry2>,
    physical_address_bits: u8,
    /// Where BARs above 4 GiB may lie.
    pub pci_window_64: Option<Range>,
}

/// Creates a VM, and asks what its vCPUs can be.
///
/// # Errors
/// KVM refuses.
pub fn create_vm(kvm: &Kvm) -> Result<(VmFd, Abilities), machine::Error> {
    let vm = kvm
        .create_vm()
        .map_err(|source| machine::Error::kvm("create a virtual machine", source))?;
    let cpuid = kvm
        .get_supported_cpuid(CPUID_ENTRIES)
        .map_err(|source| machine::Error::kvm("list what cpuid may say", source))?;
    let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    Ok((
        vm,
        Abilities {
            cpuid,
            tsc_deadline,
        },
    ))
}

/// How many bits a guest-physical address has.
pub fn address_bits(abilities: &Abilities) -> u8 {
    cpuid::physical_address_bits(abilities.cpuid.as_slice())
}

/// Sets up the VM itself, memory slots excepted: KVM's private pages, and local APICs in KVM with the
/// I/O APIC here. There is no PIC and no PIT; besides being long gone from real machines, KVM's cost milliseconds
/// when memory slots or ioeventfds change and when the VM is closed.
///
/// # Errors
/// KVM refuses.
pub fn prepare_vm(vm: &VmFd, _abilities: &Abilities, _cpus: u32) -> Result<(), machine::Error> {
    let tss = usize::try_from(KVM_TSS.start.0).unwrap_or_default();
    vm.set_tss_address(tss)
        .map_err(|source| machine::Error::kvm("place kvm's task state segment", source))?;
    let mut split = kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        ..Default::default()
    };
    split.args[0] = IO_APIC_PINS.into();
    vm.enable_cap(&split)
        .map_err(|source| machine::Error::kvm("split the interrupt controller", source))
}

/// What the machine's `vcpus` will be.
///
/// # Errors
/// KVM refuses.
pub fn model(
    _vm: &VmFd,
    abilities: Abilities,
    vcpus: &[Vcpu],
    memory_bytes: u64,
) -> Result<Model, machine::Error> {
    let processors = cpuid::Processors {
        count: u32::try_from(vcpus.len()).unwrap_or(u32::MAX),
        tsc_deadline: abilities.tsc_deadline,
        // Where KVM cannot tell, the guest measures.
        tsc_khz: vcpus
            .first()
            .and_then(|vcpu| vcpu.fd.get_tsc_khz().ok())
            .filter(|khz| *khz > 0),
    };
    let supported = &abilities.cpuid;
    let cpuid = cpuid::for_machine(supported.as_slice(), processors);
    let physical_address_bits = cpuid::physical_address_bits(&cpuid);
    Ok(Model {
        cpuid,
        physical_address_bits,
        pci_window_64: pci_window_64(memory_bytes, physical_address_bits),
    })
}

/// The entry of KVM's routing table that sends `message`.
pub fn route(
    _model: &Model,
    gsi: u32,
    message: Msi,
    _requester: u16,
) -> io::Result<kvm_irq_routing_entry> {
    Ok(irq::message_entry(gsi, message))
}

/// A message that the machine takes.
#[cfg(test)]
pub fn message(_model: &Model) -> Msi {
    Msi {
        address: 0xfee0_0000,
        data: 0x41,
    }
}

/// Puts what firmware would leave into guest memory, then the kernel with all that its boot protocol wants.
///
/// # Errors
/// The kernel, the initrd or the command line does not fit, or cannot be read.
pub fn load(
    memory: &GuestMemory,
    config: &MachineConfig,
    model: &Model,
) -> Result<Start, machine::Error> {
    describe(memory, config.cpus, model)?;
    let boot = Boot {
        kernel: &config.kernel,
        initrd: config.initrd.as_deref(),
        cmdline: &config.cmdline,
        memory_bytes: config.memory_bytes,
        rsdp: ACPI.start,
    };
    Ok(boot::load(memory, &boot)?)
}

/// What firmware would leave: the machine's description.
fn describe(memory: &GuestMemory, cpus: u32, model: &Model) -> Result<(), Error> {
    let machine = acpi::Machine {
        cpus,
        pci_window_64: model.pci_window_64,
    };
    Ok(firmware::write(memory, &machine)?)
}

/// Sets up the vCPU of index `index`: what it is, and what firmware would have left in it.
///
/// # Errors
/// KVM refuses.
pub fn configure(vcpu: &Vcpu, model: &Model) -> Result<(), machine::Error> {
    let Vcpu { index, fd } = vcpu;
    let mut entries = model.cpuid.clone();
    cpuid::set_apic_id(&mut entries, *index);
    let cpuid = CpuId::from_entries(&entries)
        .map_err(|error| Error::TooManyEntries(format!("cpuid: {error:?}")))?;
    fd.set_cpuid2(&cpuid)
        .map_err(|source| machine::Error::kvm("set cpuid", source))?;
    let msrs = registers::model_specific(model.physical_address_bits);
    let list = Msrs::from_entries(&msrs)
        .map_err(|error| Error::TooManyEntries(format!("msrs: {error:?}")))?;
    let set = fd
        .set_msrs(&list)
        .map_err(|source| machine::Error::kvm("set model-specific registers", source))?;
    msrs.get(set)
        .map_or(Ok(()), |refused| Err(Error::Msr(refused.index).into()))
}

/// Has the first vCPU begin at `start`. The others wait in KVM for INIT and SIPI, as after their creation.
///
/// # Errors
/// KVM refuses.
pub fn enter(vcpu: &VcpuFd, start: &Start) -> Result<(), machine::Error> {
    vcpu.set_sregs(&registers::special(start))
        .map_err(|source| machine::Error::kvm("set special registers", source))?;
    vcpu.set_regs(&registers::general(start))
        .map_err(|source| machine::Error::kvm("set general registers", source))
}

/// Where the vCPU is: its instruction pointer, and the bytes of the instruction as far as memory has
/// them. For messages.
pub fn next_instruction(vcpu: &VcpuFd, memory: &GuestMemory) -> (u64, Vec<u8>) {
    let rip = vcpu.get_regs().map_or(0, |regs| regs.rip);
    let base = vcpu.get_sregs().map_or(0, |sregs| sregs.cs.base);
    let linear = base.wrapping_add(rip);
    let byte_at = |offset| {
        let translation = vcpu.translate_gva(linear.wrapping_add(offset)).ok()?;
        let address = GuestAddress(translation.physical_address);
        let byte = memory.read_obj::<u8>(address).ok()?;
        (translation.valid != 0).then_some(byte)
    };
    (rip, (0..INSTRUCTION_BYTES).map_while(byte_at).collect())
}
