//! x86_64 on KVM: what a VM and its vCPUs are set up with, and the machine's fixed devices.

mod cpuid;
mod devices;
mod registers;

pub use super::x86_64::boot::Start;
pub use devices::{Fixed, attach};

use kami_devices::GuestMemory;
use kvm_bindings::{CpuId, KVM_CAP_SPLIT_IRQCHIP, Msrs, kvm_cpuid_entry2, kvm_enable_cap};
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress};

use super::x86_64::acpi;
use super::x86_64::boot::{self, Boot};
use super::x86_64::firmware;
use super::x86_64::layout::{ACPI, IO_APIC_PINS, KVM_TSS, Range, pci_window_64, ram};
use crate::machine::{Abilities, Error, MachineConfig};

/// The most bytes of an instruction.
const INSTRUCTION_BYTES: u64 = 15;

/// What all vCPUs of a machine have in common, and what else follows from it.
#[derive(Debug)]
pub struct Model {
    cpuid: Vec<kvm_cpuid_entry2>,
    physical_address_bits: u8,
    /// Where BARs above 4 GiB may lie.
    pub pci_window_64: Option<Range>,
}

/// The ranges of RAM of a machine.
pub fn memory_ranges(memory_bytes: u64) -> Vec<Range> {
    ram(memory_bytes)
}

/// Sets up the VM itself, memory slots excepted: KVM's private pages, and local APICs in KVM with the
/// I/O APIC here. There is no PIC and no PIT; besides being long gone from real machines, KVM's cost milliseconds
/// when memory slots or ioeventfds change and when the VM is closed.
///
/// # Errors
/// KVM refuses.
pub fn prepare_vm(vm: &VmFd) -> Result<(), Error> {
    let tss = usize::try_from(KVM_TSS.start.0).unwrap_or_default();
    vm.set_tss_address(tss)
        .map_err(|source| Error::kvm("place kvm's task state segment", source))?;
    let mut split = kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        ..Default::default()
    };
    split.args[0] = IO_APIC_PINS.into();
    vm.enable_cap(&split)
        .map_err(|source| Error::kvm("split the interrupt controller", source))
}

/// What the machine's vCPUs will be; `first` is one of them.
///
/// # Errors
/// KVM refuses, or the processor cannot address so much memory.
pub fn model(
    abilities: &Abilities,
    first: &VcpuFd,
    config: &MachineConfig,
) -> Result<Model, Error> {
    let processors = cpuid::Processors {
        count: config.cpus,
        tsc_deadline: abilities.tsc_deadline,
        // Where KVM cannot tell, the guest measures.
        tsc_khz: first.get_tsc_khz().ok().filter(|khz| *khz > 0),
    };
    let supported = &abilities.cpuid;
    let cpuid = cpuid::for_machine(supported.as_slice(), processors);
    let physical_address_bits = cpuid::physical_address_bits(&cpuid);
    let ram_end = ram(config.memory_bytes).last().map_or(0, Range::end);
    if ram_end > 1 << physical_address_bits.min(63) {
        return Err(Error::AddressBits {
            ram_end,
            bits: physical_address_bits,
        });
    }
    Ok(Model {
        cpuid,
        physical_address_bits,
        pci_window_64: pci_window_64(config.memory_bytes, physical_address_bits),
    })
}

/// Puts the kernel into guest memory, with all that its boot protocol wants.
///
/// # Errors
/// The kernel, the initrd or the command line does not fit, or cannot be read.
pub fn load(memory: &GuestMemory, config: &MachineConfig) -> Result<Start, Error> {
    let boot = Boot {
        kernel: &config.kernel,
        initrd: config.initrd.as_deref(),
        cmdline: &config.cmdline,
        memory_bytes: config.memory_bytes,
        rsdp: ACPI.start,
    };
    Ok(boot::load(memory, &boot)?)
}

/// Puts what firmware would leave into guest memory: the machine's description.
///
/// # Errors
/// Guest memory is too small to have the place.
pub fn describe(memory: &GuestMemory, config: &MachineConfig, model: &Model) -> Result<(), Error> {
    let machine = acpi::Machine {
        cpus: config.cpus,
        pci_window_64: model.pci_window_64,
    };
    Ok(firmware::write(memory, &machine)?)
}

/// Sets up the vCPU of index `index`: what it is, and what firmware would have left in it.
///
/// # Errors
/// KVM refuses.
pub fn configure(vcpu: &VcpuFd, index: u32, model: &Model) -> Result<(), Error> {
    let mut entries = model.cpuid.clone();
    cpuid::set_apic_id(&mut entries, index);
    let cpuid = CpuId::from_entries(&entries)
        .map_err(|error| Error::TooManyEntries(format!("cpuid: {error:?}")))?;
    vcpu.set_cpuid2(&cpuid)
        .map_err(|source| Error::kvm("set cpuid", source))?;
    let msrs = registers::model_specific(model.physical_address_bits);
    let list = Msrs::from_entries(&msrs)
        .map_err(|error| Error::TooManyEntries(format!("msrs: {error:?}")))?;
    let set = vcpu
        .set_msrs(&list)
        .map_err(|source| Error::kvm("set model-specific registers", source))?;
    msrs.get(set)
        .map_or(Ok(()), |refused| Err(Error::Msr(refused.index)))
}

/// Has the first vCPU begin at `start`. The others wait in KVM for INIT and SIPI, as after their creation.
///
/// # Errors
/// KVM refuses.
pub fn enter(vcpu: &VcpuFd, start: &Start) -> Result<(), Error> {
    vcpu.set_sregs(&registers::special(start))
        .map_err(|source| Error::kvm("set special registers", source))?;
    vcpu.set_regs(&registers::general(start))
        .map_err(|source| Error::kvm("set general registers", source))
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
