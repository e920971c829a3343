//! Tests of the ELF reader.

#![expect(clippy::cast_possible_truncation, reason = "fixtures are small")]

use proptest::prelude::*;

use crate::fixture::{ADDRESS, CODE_BYTES, Elf, MEMORY_BYTES, Part, note};
use crate::{Architecture, Entry, Error, Kernel, Segment, Unbootable, elf};

const PVH: u64 = ADDRESS + 0x80;

fn open(file: &[u8]) -> Result<Kernel, Unbootable> {
    open_for(file, Architecture::X86_64)
}

fn open_for(file: &[u8], host: Architecture) -> Result<Kernel, Unbootable> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vmlinux");
    std::fs::write(&path, file).unwrap();
    let opened = elf::open_file(std::fs::File::open(&path).unwrap(), &path, Some(host));
    opened.map_err(|error| match error {
        Error::Unbootable {
            path: named,
            source,
        } => {
            assert_eq!(named, path);
            source
        }
        other => panic!("{other:?}"),
    })
}

fn refusal(elf: &Elf) -> String {
    open(&elf.bytes()).unwrap_err().to_string()
}

#[test]
fn kernel_with_note_starts_by_pvh_whatever_the_size_of_the_note() {
    for description in [&(PVH as u32).to_le_bytes()[..], &PVH.to_le_bytes()] {
        let kernel = open(&Elf::kernel(Some(description)).bytes()).unwrap();
        assert_eq!(kernel.entry, Entry::Pvh(PVH));
        assert_eq!(kernel.architecture, Architecture::X86_64);
        assert_eq!(kernel.end_address(), ADDRESS + MEMORY_BYTES);
        let segment = Segment {
            file_offset: 64 + 2 * 56,
            file_bytes: CODE_BYTES,
            guest_address: ADDRESS,
            memory_bytes: MEMORY_BYTES,
        };
        assert_eq!(kernel.segments, [segment]);
        let kernel = kernel.by_linux64_entry();
        assert_eq!(kernel.entry, Entry::Linux64(ADDRESS + 0x40));
    }
}

#[test]
fn kernel_without_note_starts_by_its_entry() {
    let kernel = open(&Elf::kernel(None).bytes()).unwrap();
    assert_eq!(kernel.entry, Entry::Linux64(ADDRESS + 0x40));
}

#[test]
fn segments_come_sorted_and_empty_ones_not_at_all() {
    let mut elf = Elf::kernel(None);
    let part = |address, memory_bytes| Part {
        kind: 1,
        address,
        bytes: Vec::new(),
        memory_bytes,
    };
    elf.parts.insert(0, part(ADDRESS + MEMORY_BYTES, 0x1000));
    elf.parts.push(part(ADDRESS + 1, 0));
    let kernel = open(&elf.bytes()).unwrap();
    let addresses: Vec<u64> = kernel
        .segments
        .iter()
        .map(|segment| segment.guest_address)
        .collect();
    assert_eq!(addresses, [ADDRESS, ADDRESS + MEMORY_BYTES]);
}

#[test]
fn headers_far_into_the_file_are_read() {
    let mut file = Elf::kernel(Some(&PVH.to_le_bytes())).bytes();
    let table = file[64..64 + 2 * 56].to_vec();
    file.resize(100_000, 0);
    let at = file.len() as u64;
    file.extend(table);
    file[32..40].copy_from_slice(&at.to_le_bytes());
    assert_eq!(open(&file).unwrap().entry, Entry::Pvh(PVH));
}

#[test]
fn i386_kernel_starts_by_its_note_or_by_the_32_bit_protocol() {
    let kernel = open(&Elf::kernel_i386(None).bytes()).unwrap();
    assert_eq!(kernel.entry, Entry::Linux32(ADDRESS + 0x40));
    assert_eq!(kernel.architecture, Architecture::I386);
    let segment = Segment {
        file_offset: 52 + 32,
        file_bytes: CODE_BYTES,
        guest_address: ADDRESS,
        memory_bytes: MEMORY_BYTES,
    };
    assert_eq!(kernel.segments, [segment]);
    // It has no 64-bit entry to be started by.
    assert_eq!(
        kernel.by_linux64_entry().entry,
        Entry::Linux32(ADDRESS + 0x40)
    );
    let kernel = open(&Elf::kernel_i386(Some(&(PVH as u32).to_le_bytes())).bytes()).unwrap();
    assert_eq!(kernel.entry, Entry::Pvh(PVH));
    let end_of_memory = Elf {
        parts: vec![Part {
            address: 0xffff_f000,
            ..Elf::kernel_i386(None).parts[0].clone()
        }],
        entry: 0xffff_f000,
        ..Elf::kernel_i386(None)
    };
    let kernel = open(&end_of_memory.bytes()).unwrap();
    assert_eq!(kernel.end_address(), 0xffff_f000 + MEMORY_BYTES);
}

#[test]
fn class_that_is_not_the_machines_is_refused() {
    for mut elf in [Elf::kernel(None), Elf::kernel_i386(None)] {
        elf.class = 3 - elf.class;
        assert!(refusal(&elf).contains("its class is not that of"));
    }
    let mut big_endian = Elf::kernel_i386(None).bytes();
    big_endian[5] = 2;
    big_endian[18..20].copy_from_slice(&[0, 3]);
    let error = open(&big_endian).unwrap_err().to_string();
    assert!(error.contains("its class is not that of i386"), "{error}");
}

#[test]
fn other_machines_are_named() {
    for (machine, class, name) in [
        (183, 2, "arm64"),
        (243, 2, "riscv"),
        (999, 2, "ELF machine 999"),
    ] {
        let mut elf = Elf::kernel(None);
        (elf.machine, elf.class) = (machine, class);
        let expected = format!("a kernel for {name}, this host is x86_64");
        assert_eq!(refusal(&elf), expected);
    }
    let error = open_for(&Elf::kernel_i386(None).bytes(), Architecture::Aarch64).unwrap_err();
    assert_eq!(error.to_string(), "a kernel for i386, this host is arm64");
    let mut elf = Elf::kernel(None);
    elf.machine = 183;
    let error = open_for(&elf.bytes(), Architecture::Aarch64).unwrap_err();
    assert!(matches!(error, Unbootable::Arm64Elf), "{error:?}");
}

#[test]
fn elf_files_that_are_no_kernels_are_named() {
    let mut elf = Elf::kernel(None);
    elf.file_type = 1;
    assert_eq!(
        refusal(&elf),
        "an ELF object file or kernel module, not a kernel"
    );
    elf.file_type = 4;
    assert_eq!(refusal(&elf), "an ELF core dump, not a kernel");
    elf.file_type = 3;
    elf.parts[0].kind = 3;
    assert_eq!(
        refusal(&elf),
        "an ELF program of an operating system, not a kernel"
    );
}

#[test]
fn truncated_file_says_what_is_missing() {
    let file = Elf::kernel(None).bytes();
    let needed = file.len() as u64;
    for holds in [40, 80, needed / 2, needed - 1] {
        match open(&file[..usize::try_from(holds).unwrap()]) {
            Err(Unbootable::Truncated {
                promised_bytes,
                holds_bytes,
            }) => {
                assert_eq!(holds_bytes, holds);
                assert!(promised_bytes > holds && promised_bytes <= needed);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn overlapping_segments_are_refused() {
    let mut elf = Elf::kernel(None);
    let mut other = elf.parts[0].clone();
    other.address = ADDRESS + MEMORY_BYTES - 1;
    elf.parts.push(other);
    let error = refusal(&elf);
    assert!(error.contains("segments overlap at 0x102fff"), "{error}");
}

#[test]
fn segments_beyond_the_address_space_or_larger_than_their_memory_are_refused() {
    let mut elf = Elf::kernel(None);
    elf.parts[0].address = u64::MAX - 10;
    assert!(refusal(&elf).contains("beyond the address space"));
    elf.parts[0].address = ADDRESS;
    elf.parts[0].memory_bytes = CODE_BYTES - 1;
    assert!(refusal(&elf).contains("larger in the file than in memory"));
}

#[test]
fn entry_outside_the_segments_is_refused() {
    let mut elf = Elf::kernel(None);
    elf.entry = ADDRESS + MEMORY_BYTES;
    assert!(refusal(&elf).contains("entry point"));
    // A PVH entry of no use does not hide a good 64-bit one.
    elf.entry = ADDRESS;
    elf.parts.push(note(&7u32.to_le_bytes()));
    assert_eq!(open(&elf.bytes()).unwrap().entry, Entry::Linux64(ADDRESS));
}

#[test]
fn malformed_notes_are_refused() {
    let mut elf = Elf::kernel(Some(&[1, 2, 3, 4, 5]));
    assert!(refusal(&elf).contains("neither 4 nor 8 bytes"));
    elf.parts[1].bytes[4] = 0xff;
    assert!(refusal(&elf).contains("its notes"));
}

#[test]
fn nothing_to_load_is_refused() {
    let mut elf = Elf::kernel(None);
    elf.parts[0].kind = 2;
    assert!(refusal(&elf).contains("nothing to load"));
    elf.parts.clear();
    assert!(refusal(&elf).contains("0 program headers"));
}

proptest! {
    #[test]
    fn hostile_headers_do_not_panic_and_what_is_accepted_holds(
        changes in prop::collection::vec((16usize..64 + 3 * 56 + 60, any::<u8>()), 1..24),
        cut in 0usize..7000,
        is_64 in any::<bool>(),
    ) {
        let mut elf = match is_64 {
            true => Elf::kernel(Some(&PVH.to_le_bytes())),
            false => Elf::kernel_i386(Some(&PVH.to_le_bytes())),
        };
        elf.parts.push(note(b"more"));
        let mut file = elf.bytes();
        for (at, byte) in changes {
            file[at] = byte;
        }
        file.truncate(file.len().saturating_sub(cut));
        let mut named = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut named, &file).unwrap();
        if let Ok(kernel) = elf::open_file(named, std::path::Path::new("test"), None) {
            let mut end = 0;
            for segment in &kernel.segments {
                prop_assert!(segment.file_bytes <= segment.memory_bytes);
                prop_assert!(segment.file_offset + segment.file_bytes <= file.len() as u64);
                prop_assert!(segment.guest_address >= end);
                end = segment.guest_address.checked_add(segment.memory_bytes).unwrap();
            }
        }
    }
}
