//! The Linux boot protocols of 64 and of 32 bits: the zero page and the descriptor table of both, and the identity
//! mapping of the former.
//!
//! Documents: `Documentation/arch/x86/boot.rst` ("64-bit Boot Protocol", "32-bit Boot Protocol", "Details of Header
//! Fields") and `zero-page.rst`; Intel SDM vol. 3A chapter 4 for the page tables.

use std::iter;

use kami_devices::GuestMemory;

use super::{Boot, Error, write};
use crate::arch::x86_64::layout::{
    CMDLINE, GDT, GIB, PAGE_BYTES, PAGE_TABLES, Range, RangeKind, ZERO_PAGE, memory_map,
};

/// Offsets within the zero page.
const ACPI_RSDP_ADDR: usize = 0x070;
const E820_ENTRIES: usize = 0x1e8;
const SETUP_HEADER: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const JUMP_OFFSET: usize = 0x201;
const HEADER_MAGIC: usize = 0x202;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const CMD_LINE_PTR: usize = 0x228;
const INITRD_ADDR_MAX: usize = 0x22c;
const CMDLINE_SIZE: usize = 0x238;
/// Where the setup header ends at the latest: the zero page's next field.
const SETUP_HEADER_END: usize = 0x290;
const E820_TABLE: usize = 0x2d0;
const E820_ENTRY_BYTES: usize = 20;
const ZERO_PAGE_BYTES: usize = 4096;
const _: () = assert!(ZERO_PAGE_BYTES as u64 == ZERO_PAGE.len);

/// "Undefined": a boot loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
const LOADED_HIGH: u8 = 1 << 0;

/// The selectors that both protocols demand.
pub const CODE_SELECTOR: u16 = 0x10;
pub const DATA_SELECTOR: u16 = 0x18;
/// The descriptors at these: flat, execute/read and read/write, both marked as accessed so that the processor never
/// writes to them. The code is of 64 bits, or of 32.
const DESCRIPTORS_64: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, DATA_DESCRIPTOR];
const DESCRIPTORS_32: [u64; 4] = [0, 0, 0x00cf_9b00_0000_ffff, DATA_DESCRIPTOR];
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;

/// What the 64-bit protocol wants.
pub fn write_parameters_64(
    memory: &GuestMemory,
    boot: &Boot<'_>,
    initrd: Option<Range>,
) -> Result<(), Error> {
    write_common(memory, boot, initrd, DESCRIPTORS_64)?;
    let tables = page_tables(boot.kernel.end_address());
    write(memory, PAGE_TABLES.start, &tables)
}

/// What the 32-bit protocol wants: the same without paging.
pub fn write_parameters_32(
    memory: &GuestMemory,
    boot: &Boot<'_>,
    initrd: Option<Range>,
) -> Result<(), Error> {
    write_common(memory, boot, initrd, DESCRIPTORS_32)
}

fn write_common(
    memory: &GuestMemory,
    boot: &Boot<'_>,
    initrd: Option<Range>,
    descriptors: [u64; 4],
) -> Result<(), Error> {
    let map = memory_map(boot.memory_bytes);
    let header = boot.kernel.setup_header.as_deref();
    let page = zero_page(header, boot.rsdp.0, &map, initrd);
    write(memory, ZERO_PAGE.start, &page)?;
    let gdt: Vec<u8> = descriptors.iter().flat_map(|d| d.to_le_bytes()).collect();
    write(memory, GDT.start, &gdt)
}

/// The highest address that a byte of the initrd may have.
pub fn initrd_addr_max(header: &[u8]) -> Option<u64> {
    field(header, INITRD_ADDR_MAX).map(u64::from)
}

/// The longest command line, in bytes without the terminating zero.
pub fn cmdline_size(header: &[u8]) -> Option<usize> {
    usize::try_from(field(header, CMDLINE_SIZE)?).ok()
}

/// A 32-bit field of a setup header; none where an older protocol's header ends before, or has zero.
fn field(header: &[u8], at: usize) -> Option<u32> {
    let at = at - SETUP_HEADER;
    let bytes = header.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_le_bytes(bytes)).filter(|value| *value != 0)
}

fn zero_page(
    header: Option<&[u8]>,
    rsdp: u64,
    map: &[(Range, RangeKind)],
    initrd: Option<Range>,
) -> Vec<u8> {
    let mut page = vec![0; ZERO_PAGE_BYTES];
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    match header {
        Some(header) => {
            // "Its end is 0x202 + the byte at 0x201."
            let jump = header.get(JUMP_OFFSET - SETUP_HEADER).copied().unwrap_or(0);
            let end = (HEADER_MAGIC + usize::from(jump)).min(SETUP_HEADER_END) - SETUP_HEADER;
            put(SETUP_HEADER, &header[..end.min(header.len())]);
        }
        // A vmlinux has none; its entry looks at these.
        None => {
            put(BOOT_FLAG, &[0x55, 0xaa]);
            put(HEADER_MAGIC, b"HdrS");
            put(LOADFLAGS, &[LOADED_HIGH]);
        }
    }
    // Everything here lies below 4 GiB, so that the fields' upper halves stay zero.
    let low = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    put(TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
    put(CMD_LINE_PTR, &low(CMDLINE.start.0));
    let (start, len) = initrd.map_or((0, 0), |range| (range.start.0, range.len));
    put(RAMDISK_IMAGE, &low(start));
    put(RAMDISK_SIZE, &low(len));
    put(ACPI_RSDP_ADDR, &rsdp.to_le_bytes());
    put(E820_ENTRIES, &[u8::try_from(map.len()).unwrap_or(u8::MAX)]);
    for (i, (range, kind)) in map.iter().enumerate() {
        let at = E820_TABLE + i * E820_ENTRY_BYTES;
        put(at, &range.start.0.to_le_bytes());
        put(at + 8, &range.len.to_le_bytes());
        put(at + 16, &(*kind as u32).to_le_bytes());
    }
    page
}

/// Maps the first `end` bytes, rounded up to GiB and at most 4 GiB, to themselves by pages of 2 MiB.
/// The protocol wants the kernel, the zero page and the command line mapped.
fn page_tables(end: u64) -> Vec<u8> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const HUGE: u64 = 1 << 7;
    const HUGE_BYTES: u64 = 2 << 20;
    const ENTRIES: u64 = 512;
    let directories = end.div_ceil(GIB).clamp(1, 4);
    let pdpt = PAGE_TABLES.start.0 + PAGE_BYTES;
    let first_directory = pdpt + PAGE_BYTES;
    let directory = |i| (first_directory + i * PAGE_BYTES) | PRESENT_WRITABLE;
    let page = |i| (i * HUGE_BYTES) | HUGE | PRESENT_WRITABLE;
    let absent = |count| (0..count).map(|_| 0);
    let pml4_entries = iter::once(pdpt | PRESENT_WRITABLE).chain(absent(ENTRIES - 1));
    let pdpt_entries = (0..directories).map(directory);
    let entries = pml4_entries
        .chain(pdpt_entries.chain(absent(ENTRIES - directories)))
        .chain((0..directories * ENTRIES).map(page));
    entries.flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::x86_64::layout::MIB;

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// A header whose fields all read 0xab, with the jump that ends it at 0x26c (protocol 2.15).
    fn header() -> Vec<u8> {
        let mut header = vec![0xab; SETUP_HEADER_END - SETUP_HEADER];
        header[JUMP_OFFSET - SETUP_HEADER] = 0x6a;
        header[INITRD_ADDR_MAX - SETUP_HEADER..][..4].copy_from_slice(&[0xff, 0xff, 0xff, 0x37]);
        header[CMDLINE_SIZE - SETUP_HEADER..][..4].copy_from_slice(&[0xff, 7, 0, 0]);
        header
    }

    #[test]
    fn zero_page_has_the_kernels_own_header_and_our_answers() {
        let map = memory_map(6 * GIB);
        let initrd = Range::new(0x7000_0000, 0x123);
        let page = zero_page(Some(&header()), 0xe_0000, &map, Some(initrd));
        assert_eq!(page.len(), 4096);
        assert_eq!(page[SETUP_HEADER], 0xab);
        assert_eq!(page[0x26b], 0xab);
        assert_eq!(page[0x26c], 0, "the header ends where it says");
        assert_eq!(page[TYPE_OF_LOADER], 0xff);
        assert_eq!(u32_at(&page, RAMDISK_IMAGE), 0x7000_0000);
        assert_eq!(u32_at(&page, RAMDISK_SIZE), 0x123);
        assert_eq!(u64::from(u32_at(&page, CMD_LINE_PTR)), CMDLINE.start.0);
        assert_eq!(u64_at(&page, ACPI_RSDP_ADDR), 0xe_0000);
        assert_eq!(page[0x1ef], 0, "the sentinel says that the rest was zeroed");
        assert_eq!(usize::from(page[E820_ENTRIES]), map.len());
        let last = E820_TABLE + 20 * (map.len() - 1);
        assert_eq!(
            (u64_at(&page, last), u64_at(&page, last + 8)),
            (4 * GIB, 3 * GIB)
        );
        assert_eq!(u32_at(&page, last + 16), 1);
    }

    #[test]
    fn header_that_claims_too_much_or_is_cut_off_is_bounded() {
        let mut long = vec![0xff; 4096];
        long[JUMP_OFFSET - SETUP_HEADER] = 0xff;
        let page = zero_page(Some(&long), 0, &[], None);
        assert_eq!(page[SETUP_HEADER_END], 0);
        zero_page(Some(&[1, 2, 3]), 0, &[], None);
        assert_eq!(cmdline_size(&[1, 2, 3]), None);
    }

    #[test]
    fn limits_come_from_the_header() {
        assert_eq!(initrd_addr_max(&header()), Some(0x37ff_ffff));
        assert_eq!(cmdline_size(&header()), Some(2047));
        assert_eq!(initrd_addr_max(&[0; 0x7b]), None);
    }

    #[test]
    fn kernel_without_header_gets_a_minimal_one() {
        let page = zero_page(None, 0, &[], None);
        assert_eq!(&page[HEADER_MAGIC..HEADER_MAGIC + 4], b"HdrS");
        assert_eq!(page[BOOT_FLAG..BOOT_FLAG + 2], [0x55, 0xaa]);
        assert_eq!(u32_at(&page, RAMDISK_SIZE), 0);
    }

    /// Walks the tables as the processor does.
    #[test]
    fn identity_mapping_maps_every_page_to_itself() {
        let base = PAGE_TABLES.start.0;
        for (end, mapped) in [(64 * MIB, GIB), (GIB + 1, 2 * GIB), (3 * GIB, 3 * GIB)] {
            let tables = page_tables(end);
            assert!(tables.len() as u64 <= PAGE_TABLES.len);
            let entry = |table: u64, index: u64| {
                u64_at(&tables, usize::try_from(table - base + index * 8).unwrap())
            };
            for address in (0..mapped).step_by(2 << 20) {
                let pdpt = entry(base, address >> 39) & !0xfff;
                let directory = entry(pdpt, address >> 30 & 511) & !0xfff;
                let page = entry(directory, address >> 21 & 511);
                assert_eq!(page, address | 0x83);
            }
        }
    }
}
