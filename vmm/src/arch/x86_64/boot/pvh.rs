//! The PVH entry: `hvm_start_info` version 1, its module list and its memory map.
//!
//! Documents: Xen `docs/misc/pvh.pandoc` and `include/public/arch-x86/hvm/start_info.h`.

use kami_devices::GuestMemory;

use super::{Boot, Error, write};
use crate::arch::x86_64::layout::{CMDLINE, Range, RangeKind, START_INFO, memory_map};

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
/// Offsets within the page and sizes, in bytes.
const START_INFO_BYTES: u64 = 56;
const MODULE_BYTES: u64 = 32;
const MEMORY_MAP_AT: u64 = START_INFO_BYTES + MODULE_BYTES;

pub fn write_parameters(
    memory: &GuestMemory,
    boot: &Boot<'_>,
    initrd: Option<Range>,
) -> Result<(), Error> {
    let map = memory_map(boot.memory_bytes);
    let bytes = parameters(boot.rsdp.0, &map, initrd);
    write(memory, START_INFO.start, &bytes)
}

fn parameters(rsdp: u64, map: &[(Range, RangeKind)], initrd: Option<Range>) -> Vec<u8> {
    let at = START_INFO.start.0;
    let mut bytes = Vec::new();
    let u32 = |bytes: &mut Vec<u8>, value: u32| bytes.extend_from_slice(&value.to_le_bytes());
    let u64 = |bytes: &mut Vec<u8>, value: u64| bytes.extend_from_slice(&value.to_le_bytes());
    u32(&mut bytes, MAGIC);
    u32(&mut bytes, VERSION);
    u32(&mut bytes, 0); // flags
    u32(&mut bytes, u32::from(initrd.is_some()));
    u64(&mut bytes, at + START_INFO_BYTES);
    u64(&mut bytes, CMDLINE.start.0);
    u64(&mut bytes, rsdp);
    u64(&mut bytes, at + MEMORY_MAP_AT);
    u32(&mut bytes, u32::try_from(map.len()).unwrap_or_default());
    u32(&mut bytes, 0); // reserved
    let (start, len) = initrd.map_or((0, 0), |range| (range.start.0, range.len));
    // A module: address, size, command line, reserved.
    for value in [start, len, 0, 0] {
        u64(&mut bytes, value);
    }
    for (range, kind) in map {
        u64(&mut bytes, range.start.0);
        u64(&mut bytes, range.len);
        u32(&mut bytes, *kind as u32);
        u32(&mut bytes, 0); // reserved
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::x86_64::layout::GIB;

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn start_info_points_at_module_and_memory_map() {
        let map = memory_map(6 * GIB);
        let bytes = parameters(0xe_0000, &map, Some(Range::new(0x700_0000, 0x1234)));
        assert_eq!(
            bytes[..16],
            [0x78, 0xc5, 0x6e, 0x33, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]
        );
        assert_eq!(u64_at(&bytes, 24), CMDLINE.start.0);
        assert_eq!(u64_at(&bytes, 32), 0xe_0000);
        let offset = |address: u64| usize::try_from(address - START_INFO.start.0).unwrap();
        let module = offset(u64_at(&bytes, 16));
        assert_eq!(u64_at(&bytes, module), 0x700_0000);
        assert_eq!(u64_at(&bytes, module + 8), 0x1234);
        let table = offset(u64_at(&bytes, 40));
        assert_eq!(u64_at(&bytes, 48), map.len() as u64);
        assert_eq!(bytes.len(), table + 24 * map.len());
        let last = table + 24 * (map.len() - 1);
        assert_eq!(u64_at(&bytes, last), 4 * GIB);
        assert_eq!(u64_at(&bytes, last + 8), 3 * GIB);
        assert_eq!(u64_at(&bytes, last + 16), 1);
        assert!(bytes.len() as u64 <= START_INFO.len);
    }

    #[test]
    fn without_an_initrd_there_is_no_module() {
        let bytes = parameters(0, &[], None);
        assert_eq!(bytes[12..16], [0; 4]);
    }
}
