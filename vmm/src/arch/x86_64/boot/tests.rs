use std::io::Write;

use kami_kernels::{Architecture, Segment};
use tempfile::NamedTempFile;
use vm_memory::Bytes;

use super::*;
use crate::arch::x86_64::layout::{ACPI, GDT, GIB, PAGE_TABLES, START_INFO, ZERO_PAGE, ram};
use crate::memory;

/// A "kernel" of one segment at 1 MiB that fills `memory_bytes`, of which the file holds `b"kernel"`.
struct Fixture {
    kernel: Kernel,
    memory_bytes: u64,
    memory: GuestMemory,
    _file: NamedTempFile,
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn fixture(memory_bytes: u64, kernel_bytes: u64, entry: Entry) -> Fixture {
    let file = file(b"ELF kernel");
    Fixture {
        kernel: Kernel {
            file: file.reopen().unwrap(),
            path: file.path().to_path_buf(),
            segments: vec![Segment {
                file_offset: 4,
                file_bytes: 6,
                guest_address: MIB,
                memory_bytes: kernel_bytes,
            }],
            entry,
            linux64_entry: None,
            architecture: Architecture::X86_64,
            setup_header: None,
        },
        memory_bytes,
        memory: memory::map(&ram(memory_bytes)).unwrap(),
        _file: file,
    }
}

impl Fixture {
    fn load(&self, initrd: Option<&Path>, cmdline: &str) -> Result<Start, Error> {
        let boot = Boot {
            kernel: &self.kernel,
            initrd,
            cmdline,
            memory_bytes: self.memory_bytes,
            rsdp: ACPI.start,
        };
        load(&self.memory, &boot)
    }

    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = self.memory.read_slice(&mut bytes, GuestAddress(address));
        read.unwrap();
        bytes
    }
}

#[test]
fn kernel_initrd_and_command_line_are_where_the_parameters_say() {
    let initrd = file(b"initrd");
    for (entry, mode, parameters) in [
        (Entry::Pvh(MIB), Mode::Pvh, START_INFO),
        (Entry::Linux64(MIB), Mode::Linux64, ZERO_PAGE),
        (Entry::Linux32(MIB), Mode::Linux32, ZERO_PAGE),
    ] {
        let machine = fixture(128 * MIB, 4096, entry);
        let start = machine.load(Some(initrd.path()), "quiet").unwrap();
        assert_eq!((start.mode, start.rip), (mode, MIB));
        assert_eq!(start.parameters, parameters.start);
        assert_eq!(machine.bytes(MIB, 7), b"kernel\0");
        assert_eq!(machine.bytes(CMDLINE.start.0, 6), b"quiet\0");
        assert_eq!(machine.bytes(128 * MIB - 4096, 7), b"initrd\0");
    }
}

#[test]
fn initrd_stays_below_the_highest_address_that_the_kernel_allows() {
    let initrd = file(&[7; 5000]);
    let machine = fixture(3 * GIB, 4096, Entry::Pvh(MIB));
    machine.load(Some(initrd.path()), "").unwrap();
    assert_eq!(machine.bytes(2 * GIB - 8192, 5000), [7; 5000]);
}

#[test]
fn initrd_for_i386_stays_below_the_old_limit_unless_the_kernel_says_more() {
    let initrd = file(&[7; 5000]);
    let mut machine = fixture(3 * GIB, 4096, Entry::Linux32(MIB));
    machine.kernel.architecture = Architecture::I386;
    machine.load(Some(initrd.path()), "").unwrap();
    assert_eq!(machine.bytes(0x3800_0000 - 8192, 5000), [7; 5000]);
    let mut header = vec![0; 0x90];
    header[0x22c - 0x1f1..][..4].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    machine.kernel.setup_header = Some(header);
    machine.load(Some(initrd.path()), "").unwrap();
    assert_eq!(machine.bytes(2 * GIB - 8192, 5000), [7; 5000]);
}

#[test]
fn linux_entries_get_descriptors_of_their_width_and_only_the_wide_one_page_tables() {
    for (entry, code, tables) in [
        (Entry::Linux64(MIB), 0x00af_9b00_0000_ffffu64, true),
        (Entry::Linux32(MIB), 0x00cf_9b00_0000_ffff, false),
    ] {
        let machine = fixture(128 * MIB, 4096, entry);
        machine.load(None, "").unwrap();
        let gdt = machine.bytes(GDT.start.0, 32);
        assert_eq!(gdt[..16], [0; 16]);
        assert_eq!(gdt[16..24], code.to_le_bytes());
        assert_eq!(gdt[24..32], 0x00cf_9300_0000_ffffu64.to_le_bytes());
        let table = machine.bytes(PAGE_TABLES.start.0, 4096);
        assert_eq!(table.iter().any(|byte| *byte != 0), tables);
        assert_eq!(machine.bytes(ZERO_PAGE.start.0 + 0x1fe, 2), [0x55, 0xaa]);
    }
}

#[test]
fn kernel_for_another_machine_is_refused() {
    let mut machine = fixture(4 * MIB, 4096, Entry::Arm64(0));
    machine.kernel.architecture = Architecture::Aarch64;
    let error = machine.load(None, "").unwrap_err().to_string();
    assert!(error.contains("one for arm64"), "{error}");
}

#[test]
fn kernel_outside_of_memory_is_refused() {
    let machine = fixture(4 * MIB, 3 * MIB + 1, Entry::Pvh(MIB));
    let error = machine.load(None, "").unwrap_err();
    assert!(matches!(error, Error::KernelOutsideMemory { .. }));
    let mut low = fixture(4 * MIB, 4096, Entry::Pvh(MIB));
    low.kernel.segments[0].guest_address = 0x8000;
    assert!(matches!(
        low.load(None, ""),
        Err(Error::KernelOutsideMemory { .. })
    ));
}

#[test]
fn truncated_kernel_file_is_named() {
    let mut machine = fixture(4 * MIB, 4096, Entry::Pvh(MIB));
    machine.kernel.segments[0].file_bytes = 7;
    let error = machine.load(None, "").unwrap_err();
    assert!(
        matches!(
            error,
            Error::Read {
                offset: 4,
                bytes: 7,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn initrd_that_does_not_fit_beside_the_kernel_is_refused() {
    let initrd = file(&[1; 8192]);
    let machine = fixture(4 * MIB, 3 * MIB - 4096, Entry::Pvh(MIB));
    let error = machine.load(Some(initrd.path()), "").unwrap_err();
    assert!(error.to_string().contains("has 8 KiB"), "{error}");
    assert!(error.to_string().contains("room for 4 KiB"), "{error}");
}

#[test]
fn initrd_that_is_missing_empty_or_no_file_is_refused() {
    let machine = fixture(4 * MIB, 4096, Entry::Pvh(MIB));
    let folder = tempfile::tempdir().unwrap();
    let missing = machine.load(Some(&folder.path().join("none")), "");
    assert!(matches!(missing, Err(Error::OpenInitrd { .. })));
    for path in [folder.path(), file(b"").path()] {
        let refused = machine.load(Some(path), "");
        assert!(matches!(
            refused,
            Err(Error::InitrdNotAFile(_) | Error::OpenInitrd { .. })
        ));
    }
}

#[test]
fn command_line_is_bounded_by_the_kernels_limit() {
    let mut machine = fixture(4 * MIB, 4096, Entry::Pvh(MIB));
    machine.load(None, &"x".repeat(2047)).unwrap();
    let error = machine.load(None, &"x".repeat(2048)).unwrap_err();
    assert!(error.to_string().contains("2048 bytes"), "{error}");
    let mut header = vec![0; 0x90];
    header[0x238 - 0x1f1] = 9;
    machine.kernel.setup_header = Some(header);
    assert!(matches!(
        machine.load(None, "0123456789"),
        Err(Error::CmdlineTooLong { bytes: 10, max: 9 })
    ));
    assert!(matches!(
        machine.load(None, "a\0b"),
        Err(Error::CmdlineZero(1))
    ));
}
