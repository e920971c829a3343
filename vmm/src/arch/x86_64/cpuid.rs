//! What the guest's CPUID instruction answers: what KVM supports, less what this machine does not
//! offer, with the machine's own topology and timing.
//!
//! Documents: AMD64 APM vol. 3 appendix E, Intel SDM vol. 2A "CPUID", KVM's
//! `Documentation/virt/kvm/x86/cpuid.rst`. Pure functions over entries; left out on purpose: CPU
//! models, migration between hosts, nested virtualisation.
//!
//! The topology is one package of `cpus` cores without hyper-threads; the APIC id is the vCPU's index.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const VENDOR_LEAF: u32 = 0;
const FEATURE_LEAF: u32 = 1;
const INTEL_CACHE_LEAF: u32 = 4;
const EXTENDED_FEATURE_LEAF: u32 = 7;
const TOPOLOGY_LEAF: u32 = 0xb;
const SGX_LEAF: u32 = 0x12;
const INTEL_FREQUENCY_LEAF: u32 = 0x16;
const TOPOLOGY_V2_LEAF: u32 = 0x1f;
const HYPERVISOR_LEAF: u32 = 0x4000_0000;
const HYPERVISOR_TIMING_LEAF: u32 = 0x4000_0010;
const AMD_FEATURE_LEAF: u32 = 0x8000_0001;
const ADDRESS_SIZE_LEAF: u32 = 0x8000_0008;
const SVM_LEAF: u32 = 0x8000_000a;
const AMD_CACHE_LEAF: u32 = 0x8000_001d;
const AMD_TOPOLOGY_LEAF: u32 = 0x8000_001e;

/// Leaf 1, ECX.
const VMX: u32 = 1 << 5;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: "the package has more than one logical processor", whatever the name says.
const HTT: u32 = 1 << 28;
/// Leaf 7.0, EBX.
const SGX: u32 = 1 << 2;
/// Leaf 0x8000_0001, ECX.
const CMP_LEGACY: u32 = 1 << 1;
const SVM: u32 = 1 << 2;

/// The frequency of the local APICs' timers, in kHz: `APIC_BUS_CYCLE_NS` of KVM is 1.
const APIC_BUS_KHZ: u32 = 1_000_000;

/// What the CPUs of a machine have in common.
#[derive(Clone, Copy, Debug)]
pub struct Processors {
    /// 1 to 32.
    pub count: u32,
    /// Whether KVM's local APICs have the deadline timer.
    pub tsc_deadline: bool,
    /// The guest's TSC frequency, if KVM knows it.
    pub tsc_khz: Option<u32>,
}

impl Processors {
    /// How many bits of the APIC id tell the cores of the package apart.
    fn core_bits(self) -> u32 {
        self.count.next_power_of_two().trailing_zeros()
    }
}

/// The entries that all vCPUs share, from those that KVM supports. [`set_apic_id`] makes them a
/// vCPU's.
pub fn for_machine(
    supported: &[kvm_cpuid_entry2],
    processors: Processors,
) -> Vec<kvm_cpuid_entry2> {
    let intel = is_intel(supported);
    let max_basic = max_of(supported, VENDOR_LEAF);
    let max_extended = max_of(supported, 0x8000_0000);
    // KVM lists the host's topology, and leaves out the subleaves that the guest needs.
    let rebuilt = [
        TOPOLOGY_LEAF,
        TOPOLOGY_V2_LEAF,
        HYPERVISOR_TIMING_LEAF,
        AMD_TOPOLOGY_LEAF,
    ];
    let mut entries: Vec<_> = supported
        .iter()
        .filter(|entry| !rebuilt.contains(&entry.function))
        .copied()
        .collect();
    for entry in &mut entries {
        adapt(entry, processors, intel);
    }
    if max_basic >= TOPOLOGY_LEAF {
        entries.extend(topology(TOPOLOGY_LEAF, processors));
    }
    if max_basic >= TOPOLOGY_V2_LEAF {
        entries.extend(topology(TOPOLOGY_V2_LEAF, processors));
    }
    if max_extended >= AMD_TOPOLOGY_LEAF && !intel {
        entries.push(leaf(AMD_TOPOLOGY_LEAF));
    }
    if let Some(tsc_khz) = processors.tsc_khz {
        entries.push(kvm_cpuid_entry2 {
            eax: tsc_khz,
            ebx: APIC_BUS_KHZ,
            ..leaf(HYPERVISOR_TIMING_LEAF)
        });
    }
    entries
}

/// Gives the entries of [`for_machine`] to the vCPU whose APIC id is `id`.
pub fn set_apic_id(entries: &mut [kvm_cpuid_entry2], id: u32) {
    for entry in entries {
        match entry.function {
            FEATURE_LEAF => entry.ebx = (entry.ebx & 0x00ff_ffff) | (id << 24),
            TOPOLOGY_LEAF | TOPOLOGY_V2_LEAF => entry.edx = id,
            AMD_TOPOLOGY_LEAF => {
                entry.eax = id;
                // Core id; one thread a core.
                entry.ebx = id & 0xff;
            }
            _ => {}
        }
    }
}

/// How many physical address bits the guest has.
pub fn physical_address_bits(entries: &[kvm_cpuid_entry2]) -> u8 {
    let sizes = entries.iter().find(|e| e.function == ADDRESS_SIZE_LEAF);
    let [bits, ..] = sizes.map_or(36, |entry| entry.eax).to_le_bytes();
    bits
}

fn adapt(entry: &mut kvm_cpuid_entry2, processors: Processors, intel: bool) {
    let cores = processors.count;
    let multi = cores > 1;
    // Intel's counts are of APIC ids set aside, less one; AMD's are of cores, less one.
    let ids_less_one = (1 << processors.core_bits()) - 1;
    match (entry.function, entry.index) {
        (FEATURE_LEAF, _) => {
            entry.ecx &= !VMX;
            entry.ecx |= HYPERVISOR;
            set(&mut entry.ecx, TSC_DEADLINE, processors.tsc_deadline);
            set(&mut entry.edx, HTT, multi);
            entry.ebx = (entry.ebx & 0x0000_ffff) | ((ids_less_one + 1) << 16);
        }
        (INTEL_CACHE_LEAF, _) if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 7;
            let sharers_less_one = if level >= 3 { ids_less_one } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | (sharers_less_one << 14) | (ids_less_one << 26);
        }
        (EXTENDED_FEATURE_LEAF, 0) => entry.ebx &= !SGX,
        (SGX_LEAF | SVM_LEAF, _) => {
            *entry = kvm_cpuid_entry2 {
                flags: entry.flags,
                index: entry.index,
                ..leaf(entry.function)
            }
        }
        // Leaf 0x15 stays as KVM has it, in practice empty: its crystal is both the local APIC's clock
        // (1 GHz under KVM) and the divisor of the TSC's, and Linux multiplies the two in 32 bits.
        (INTEL_FREQUENCY_LEAF, _) if intel => {
            let mhz = processors.tsc_khz.unwrap_or(0) / 1000;
            (entry.eax, entry.ebx) = (mhz, mhz);
        }
        (HYPERVISOR_LEAF, _) if processors.tsc_khz.is_some() => {
            entry.eax = entry.eax.max(HYPERVISOR_TIMING_LEAF);
        }
        (AMD_FEATURE_LEAF, _) => {
            entry.ecx &= !SVM;
            set(&mut entry.ecx, CMP_LEGACY, multi && !intel);
        }
        (ADDRESS_SIZE_LEAF, _) if !intel => {
            entry.ecx = (processors.core_bits() << 12) | (cores - 1);
        }
        (AMD_CACHE_LEAF, _) if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 7;
            let sharers_less_one = if level >= 3 { cores - 1 } else { 0 };
            entry.eax = (entry.eax & !(0xfff << 14)) | (sharers_less_one << 14);
        }
        _ => {}
    }
}

/// The levels of leaf 0xb or 0x1f: threads of a core, cores of the package, the end.
fn topology(function: u32, processors: Processors) -> [kvm_cpuid_entry2; 3] {
    const THREADS: u32 = 1;
    const CORES: u32 = 2;
    let level = |index, kind: u32, shift, count| kvm_cpuid_entry2 {
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: (kind << 8) | index,
        ..leaf(function)
    };
    [
        level(0, THREADS, 0, 1),
        level(1, CORES, processors.core_bits(), processors.count),
        level(2, 0, 0, 0),
    ]
}

fn leaf(function: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        ..Default::default()
    }
}

fn set(register: &mut u32, bits: u32, on: bool) {
    if on {
        *register |= bits;
    } else {
        *register &= !bits;
    }
}

fn max_of(entries: &[kvm_cpuid_entry2], function: u32) -> u32 {
    let entry = entries.iter().find(|entry| entry.function == function);
    entry.map_or(0, |entry| entry.eax)
}

fn is_intel(entries: &[kvm_cpuid_entry2]) -> bool {
    let vendor = entries.iter().find(|entry| entry.function == VENDOR_LEAF);
    vendor.is_some_and(|v| [v.ebx, v.edx, v.ecx].map(u32::to_le_bytes).concat() == *b"GenuineIntel")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(vendor: &[u8; 12]) -> Vec<kvm_cpuid_entry2> {
        let word = |i: usize| u32::from_le_bytes(vendor[i..i + 4].try_into().unwrap());
        let entry = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            eax,
            ebx,
            ecx,
            edx,
            ..leaf(function)
        };
        vec![
            entry(VENDOR_LEAF, 0x1f, word(0), word(8), word(4)),
            entry(FEATURE_LEAF, 0, 0x0702_0800, VMX, HTT),
            entry(INTEL_CACHE_LEAF, 0xfc00_c143, 0, 0, 0),
            entry(EXTENDED_FEATURE_LEAF, 0, SGX | 2, 0, 0),
            entry(TOPOLOGY_LEAF, 5, 9, 0, 77),
            entry(HYPERVISOR_LEAF, 0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d),
            entry(0x8000_0000, 0x8000_0021, 0, 0, 0),
            entry(AMD_FEATURE_LEAF, 0, 0, SVM | CMP_LEGACY, 0),
            entry(ADDRESS_SIZE_LEAF, 0x3030, 0, 0x7001, 0),
            entry(AMD_CACHE_LEAF, 0x4163, 0, 0, 0),
        ]
    }

    fn machine(vendor: &[u8; 12], count: u32) -> Vec<kvm_cpuid_entry2> {
        let processors = Processors {
            count,
            tsc_deadline: true,
            tsc_khz: Some(2_600_000),
        };
        for_machine(&host(vendor), processors)
    }

    fn at(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
        let found: Vec<_> = entries
            .iter()
            .filter(|e| e.function == function && e.index == index)
            .collect();
        assert_eq!(found.len(), 1, "{function:#x}.{index}");
        *found[0]
    }

    /// The three ways to ask for the topology must tell one story, or Linux complains or drops CPUs.
    #[test]
    fn topology_leaves_agree_for_every_count() {
        for count in 1..=32 {
            let amd = machine(b"AuthenticAMD", count);
            let sizes = at(&amd, ADDRESS_SIZE_LEAF, 0).ecx;
            assert_eq!(sizes & 0xff, count - 1);
            let bits = sizes >> 12;
            assert!(1 << bits >= count && (bits == 0 || 1 << (bits - 1) < count));
            assert_eq!(at(&amd, TOPOLOGY_LEAF, 1).eax, bits);
            assert_eq!(at(&amd, TOPOLOGY_LEAF, 1).ebx, count);
            assert_eq!(at(&amd, TOPOLOGY_V2_LEAF, 0).ecx >> 8, 1);
            assert_eq!(at(&amd, FEATURE_LEAF, 0).ebx >> 16, 1 << bits);
            assert_eq!(at(&amd, FEATURE_LEAF, 0).edx & HTT != 0, count > 1);
            assert_eq!(
                at(&amd, AMD_FEATURE_LEAF, 0).ecx & CMP_LEGACY != 0,
                count > 1
            );
            assert_eq!(at(&amd, AMD_CACHE_LEAF, 0).eax >> 14 & 0xfff, count - 1);
            let intel = machine(b"GenuineIntel", count);
            assert_eq!(at(&intel, INTEL_CACHE_LEAF, 0).eax >> 26, (1 << bits) - 1);
            assert!(intel.iter().all(|e| e.function != AMD_TOPOLOGY_LEAF));
        }
    }

    #[test]
    fn apic_id_stands_in_every_leaf_that_has_it() {
        let mut entries = machine(b"AuthenticAMD", 4);
        set_apic_id(&mut entries, 3);
        assert_eq!(at(&entries, FEATURE_LEAF, 0).ebx, 0x0304_0800);
        for index in 0..3 {
            assert_eq!(at(&entries, TOPOLOGY_LEAF, index).edx, 3);
        }
        assert_eq!(at(&entries, AMD_TOPOLOGY_LEAF, 0).eax, 3);
    }

    #[test]
    fn what_the_machine_does_not_offer_is_masked() {
        let entries = machine(b"AuthenticAMD", 1);
        assert_eq!(at(&entries, FEATURE_LEAF, 0).ecx, HYPERVISOR | TSC_DEADLINE);
        assert_eq!(at(&entries, EXTENDED_FEATURE_LEAF, 0).ebx, 2);
        assert_eq!(at(&entries, AMD_FEATURE_LEAF, 0).ecx, 0);
    }

    #[test]
    fn timing_leaf_is_there_when_the_frequency_is_known() {
        let entries = machine(b"AuthenticAMD", 1);
        assert_eq!(at(&entries, HYPERVISOR_LEAF, 0).eax, HYPERVISOR_TIMING_LEAF);
        assert_eq!(at(&entries, HYPERVISOR_TIMING_LEAF, 0).eax, 2_600_000);
        let unknown = Processors {
            count: 1,
            tsc_deadline: false,
            tsc_khz: None,
        };
        let entries = for_machine(&host(b"GenuineIntel"), unknown);
        assert_eq!(at(&entries, HYPERVISOR_LEAF, 0).eax, 0x4000_0001);
        assert!(entries.iter().all(|e| e.function != HYPERVISOR_TIMING_LEAF));
    }

    #[test]
    fn address_bits_come_from_their_leaf() {
        assert_eq!(physical_address_bits(&machine(b"AuthenticAMD", 1)), 48);
        assert_eq!(physical_address_bits(&[]), 36);
    }
}
