//! Guest memory: anonymous mappings, one per range of RAM, and their KVM memory slots.
//!
//! Nothing here costs in proportion to the memory's size: a page exists once the guest touches it.
//! Left out on purpose: huge pages and shared or file-backed memory.

#![expect(unsafe_code, reason = "KVM takes host addresses for its memory slots")]

use std::io;

use kami_devices::GuestMemory;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use crate::arch::host::{MAX_MEMORY_BYTES, MIN_MEMORY_BYTES};
use crate::arch::range::{MIB, PAGE_BYTES, Range};

/// Why there is no memory for the guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{} MiB of memory for the guest, but this host has {} MiB",
        .asked_bytes / MIB, .host_bytes / MIB
    )]
    MoreThanHost { asked_bytes: u64, host_bytes: u64 },
    #[error(
        "{bytes} bytes of memory for the guest: it takes whole pages of 4 KiB, at least {} MiB and at most {} MiB",
        MIN_MEMORY_BYTES / MIB, MAX_MEMORY_BYTES / MIB
    )]
    Size { bytes: u64 },
    #[error("cannot map {} MiB of memory for the guest", .len_bytes / MIB)]
    Map {
        len_bytes: u64,
        source: vm_memory::mmap::MmapRegionError,
    },
    #[error("KVM refused the memory at {address:#x}+{len_bytes:#x}")]
    Slot {
        address: u64,
        len_bytes: u64,
        source: kvm_ioctls::Error,
    },
}

/// Refuses a size that no machine can have, or that this host cannot back even when it does nothing
/// else: more than its RAM and swap together. What is merely more than what is free now is let
/// through, since a guest seldom touches all of its memory.
///
/// # Errors
/// [`Error::Size`], [`Error::MoreThanHost`].
pub fn check_size(memory_bytes: u64) -> Result<(), Error> {
    let sizes = MIN_MEMORY_BYTES..=MAX_MEMORY_BYTES;
    if !sizes.contains(&memory_bytes) || !memory_bytes.is_multiple_of(PAGE_BYTES) {
        return Err(Error::Size {
            bytes: memory_bytes,
        });
    }
    let host = rustix::system::sysinfo();
    let host_bytes = (host.totalram + host.totalswap) * u64::from(host.mem_unit);
    if memory_bytes > host_bytes {
        return Err(Error::MoreThanHost {
            asked_bytes: memory_bytes,
            host_bytes,
        });
    }
    Ok(())
}

/// Maps `ranges`, which ascend and do not overlap.
///
/// # Errors
/// [`Error::Map`]: the host refuses so large a mapping.
pub fn map(ranges: &[Range]) -> Result<GuestMemory, Error> {
    let regions = ranges.iter().map(map_range).collect::<Result<_, _>>()?;
    GuestMemory::from_regions(regions).map_err(|error| Error::Map {
        len_bytes: ranges.iter().map(|range| range.len).sum(),
        source: vm_memory::mmap::MmapRegionError::Mmap(io::Error::other(error)),
    })
}

fn map_range(range: &Range) -> Result<GuestRegionMmap, Error> {
    let refused = |source| Error::Map {
        len_bytes: range.len,
        source,
    };
    let too_large = || vm_memory::mmap::MmapRegionError::InvalidOffsetLength;
    let len = usize::try_from(range.len).map_err(|_| refused(too_large()))?;
    let mapping = MmapRegionBuilder::new(len)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
        .build()
        .map_err(refused)?;
    GuestRegionMmap::new(mapping, range.start).ok_or_else(|| refused(too_large()))
}

/// Gives every region of `memory` to `vm` as a memory slot. To be done before anything else with the
/// VM: a slot that is changed after an irqchip or an ioeventfd is there waits for milliseconds.
///
/// # Errors
/// [`Error::Slot`].
///
/// The caller keeps `memory` mapped for as long as a vCPU of `vm` runs.
pub fn add_slots(vm: &VmFd, memory: &GuestMemory) -> Result<(), Error> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the host range is exactly one mapping that we own, and `GuestMemory` keeps it; KVM
        // itself survives a mapping that goes away (its accesses then fault).
        let added = unsafe { vm.set_user_memory_region(slot) };
        added.map_err(|source| Error::Slot {
            address: slot.guest_phys_addr,
            len_bytes: slot.memory_size,
            source,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::host::memory_ranges;
    use crate::arch::range::GIB;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn more_than_the_host_has_is_refused_and_named() {
        let error = check_size(MAX_MEMORY_BYTES).unwrap_err();
        assert!(matches!(error, Error::MoreThanHost { .. }));
        assert!(error.to_string().contains("but this host has"), "{error}");
    }

    #[test]
    fn sizes_that_no_machine_has_are_refused() {
        for size in [0, MIN_MEMORY_BYTES - PAGE_BYTES, 128 * MIB + 1, u64::MAX] {
            assert!(
                matches!(check_size(size), Err(Error::Size { .. })),
                "{size}"
            );
        }
        check_size(128 * MIB).unwrap();
    }

    #[test]
    fn memory_lies_where_the_map_says_and_nowhere_else() {
        for size in [128 * MIB, 6 * GIB] {
            let ranges = memory_ranges(size);
            let memory = map(&ranges).unwrap();
            assert_eq!(ranges.iter().map(|range| range.len).sum::<u64>(), size);
            for range in ranges {
                for address in [range.start.0, range.end() - 8] {
                    memory.write_obj(address, GuestAddress(address)).unwrap();
                    let read = memory.read_obj::<u64>(GuestAddress(address));
                    assert_eq!(read.unwrap(), address);
                }
                let straddling = GuestAddress(range.end() - 4);
                assert!(memory.write_obj(0u64, straddling).is_err());
            }
        }
    }
}
