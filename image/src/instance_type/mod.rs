//! Instance types: how many processors, how much memory and which ephemeral disks a name stands for.
//!
//! A built-in table of EC2's common families with EC2's own numbers (describe-instance-types: VCpuInfo,
//! MemoryInfo, InstanceStorageInfo). Left out on purpose: everything else that EC2 says of a type (network,
//! prices, accelerators), and bare metal. An architecture is no part of a type here: any image that runs on
//! this host runs on any of them.

mod table;

use crate::mapping::Ephemeral;

const MIB: u64 = 1 << 20;

/// As EC2 counts the disks of an instance store.
const GB: u64 = 1_000_000_000;

/// What an instance of a type gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceType {
    /// `m5d.large`, say.
    pub name: String,
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub ephemeral: Ephemeral,
}

/// Types that differ in size, under one or several names.
struct Family {
    /// What stands before the dot.
    names: &'static [&'static str],
    /// What stands behind the dot, and the number of processors.
    sizes: &'static [(&'static str, u32)],
    memory: Memory,
    /// Of each size the number of ephemeral disks and the GB of each. None have any where it is empty.
    disks: &'static [(u8, u64)],
}

enum Memory {
    /// For each processor.
    PerCpu { mib: u64 },
    /// In MiB, of each size.
    Each(&'static [u64]),
}

impl Family {
    fn types(&self) -> impl Iterator<Item = InstanceType> {
        let of_name =
            move |name| (0..self.sizes.len()).filter_map(move |at| self.instance_type(name, at));
        self.names.iter().copied().flat_map(of_name)
    }

    /// The family's type of that name and of the size at that index.
    fn instance_type(&self, name: &str, at: usize) -> Option<InstanceType> {
        let &(size, vcpus) = self.sizes.get(at)?;
        let memory_mib = match self.memory {
            Memory::PerCpu { mib } => mib * u64::from(vcpus),
            Memory::Each(sizes) => *sizes.get(at)?,
        };
        let (count, gb) = self.disks.get(at).copied().unwrap_or_default();
        Some(InstanceType {
            name: format!("{name}.{size}"),
            vcpus,
            memory_bytes: memory_mib * MIB,
            ephemeral: Ephemeral {
                count,
                // A guest's disk has whole blocks.
                size_bytes: (gb * GB).next_multiple_of(4096),
            },
        })
    }
}

/// The built-in type of that name.
pub fn find(name: &str) -> Option<InstanceType> {
    let (family_name, wanted) = name.split_once('.')?;
    let mut families = table::FAMILIES.iter();
    let family = families.find(|family| family.names.contains(&family_name))?;
    let at = family.sizes.iter().position(|(size, _)| *size == wanted)?;
    family.instance_type(family_name, at)
}

/// Every built-in type, family by family, from small to large.
pub fn all() -> impl Iterator<Item = InstanceType> {
    table::FAMILIES.iter().flat_map(Family::types)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &str) -> (u32, u64, u8, u64) {
        let found = find(name).unwrap();
        assert_eq!(found.name, name);
        let disk_gb = found.ephemeral.size_bytes / GB;
        (
            found.vcpus,
            found.memory_bytes / MIB,
            found.ephemeral.count,
            disk_gb,
        )
    }

    #[test]
    fn types_have_the_numbers_of_describe_instance_types() {
        assert_eq!(shown("t3.nano"), (2, 512, 0, 0));
        assert_eq!(shown("t2.2xlarge"), (8, 32_768, 0, 0));
        assert_eq!(shown("m1.small"), (1, 1740, 1, 160));
        assert_eq!(shown("m3.medium"), (1, 3840, 1, 4));
        assert_eq!(shown("m5d.large"), (2, 8192, 1, 75));
        assert_eq!(shown("m5d.24xlarge"), (96, 393_216, 4, 900));
        assert_eq!(shown("c5.18xlarge"), (72, 147_456, 0, 0));
        assert_eq!(shown("c6gd.medium"), (1, 2048, 1, 59));
        assert_eq!(shown("r6id.32xlarge"), (128, 1_048_576, 4, 1900));
        assert_eq!(shown("i3.16xlarge"), (64, 499_712, 8, 1900));
        assert_eq!(shown("d2.8xlarge"), (36, 249_856, 24, 2048));
        assert_eq!(find("m5.huge"), None);
        assert_eq!(find("m5"), None);
        assert_eq!(find(""), None);
    }

    #[test]
    fn every_type_is_found_once_and_can_be_an_instance() {
        let mut names = std::collections::BTreeSet::new();
        for listed in all() {
            assert_eq!(find(&listed.name).as_ref(), Some(&listed));
            assert!(
                listed.vcpus > 0 && listed.memory_bytes >= 512 * MIB,
                "{listed:?}"
            );
            // ephemeral0 to ephemeral23.
            assert!(listed.ephemeral.count <= 24);
            assert_eq!(
                listed.ephemeral.count == 0,
                listed.ephemeral.size_bytes == 0
            );
            assert!(names.insert(listed.name.clone()), "{} twice", listed.name);
        }
        assert!(names.len() > 300);
    }

    #[test]
    fn what_is_told_of_a_familys_sizes_is_told_of_each() {
        for family in table::FAMILIES {
            if let Memory::Each(sizes) = family.memory {
                assert_eq!(sizes.len(), family.sizes.len(), "{:?}", family.names);
                assert!(sizes.is_sorted());
            }
            let disks = family.disks.len();
            assert!(
                disks == 0 || disks == family.sizes.len(),
                "{:?}",
                family.names
            );
            assert!(
                family.sizes.is_sorted_by_key(|(_, vcpus)| *vcpus),
                "{:?}",
                family.names
            );
        }
    }
}
