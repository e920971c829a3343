use std::io::Write;

use kami_kernels::{Architecture, Segment};
use tempfile::NamedTempFile;
use vm_memory::Bytes;

use super::*;
use crate::arch::aarch64::layout::{FDT_BYTES, ram};
use crate::arch::range::{GIB, MIB};
use crate::memory;

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// A "kernel" of `kernel_bytes` that is entered 4 bytes after its start, 512 KiB into its room.
fn kernel(kernel_bytes: u64) -> Kernel {
    const TEXT_OFFSET: u64 = MIB / 2;
    let file = file(b"ARM kernel");
    Kernel {
        file: file.reopen().unwrap(),
        path: file.path().to_path_buf(),
        segments: vec![Segment {
            file_offset: 4,
            file_bytes: 6,
            guest_address: TEXT_OFFSET,
            memory_bytes: kernel_bytes,
        }],
        entry: Entry::Arm64(TEXT_OFFSET + 4),
        linux64_entry: None,
        architecture: Architecture::Aarch64,
        setup_header: None,
    }
}

fn load_into(
    memory_bytes: u64,
    kernel: &Kernel,
    initrd: Option<&Path>,
    cmdline: &str,
) -> Result<(GuestMemory, Start), Error> {
    let memory = memory::map(&ram(memory_bytes)).unwrap();
    let machine = fdt::Machine {
        cpus: vec![1 << 31],
        memory_bytes,
        gic: fdt::Gic::V3,
        pci_window_64: None,
    };
    let loading = Loading {
        kernel,
        initrd,
        cmdline,
        machine: &machine,
        seed: &[0; fdt::SEED_BYTES],
    };
    let start = load(&memory, &loading)?;
    Ok((memory, start))
}

fn bytes(memory: &GuestMemory, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let read = memory.read_slice(&mut bytes, GuestAddress(address));
    read.unwrap();
    bytes
}

#[test]
fn kernel_lies_at_its_offset_the_tree_at_the_end_and_the_initrd_before_it() {
    let initrd = file(b"initrd");
    for memory_bytes in [128 * MIB, 6 * GIB] {
        let loaded = load_into(memory_bytes, &kernel(4096), Some(initrd.path()), "quiet");
        let (memory, start) = loaded.unwrap();
        assert_eq!(start.pc, GIB + MIB / 2 + 4);
        assert_eq!(bytes(&memory, GIB + MIB / 2, 7), b"kernel\0");
        let end = (GIB + memory_bytes).min(4 * GIB);
        assert_eq!(start.fdt.0, end - FDT_BYTES);
        assert_eq!(bytes(&memory, start.fdt.0, 4), [0xd0, 0x0d, 0xfe, 0xed]);
        assert_eq!(bytes(&memory, start.fdt.0 - 4096, 7), b"initrd\0");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let initrd = file(&[1; 8192]);
    let room = 4 * MIB - FDT_BYTES - MIB / 2;
    let outside = load_into(4 * MIB, &kernel(room + 1), None, "");
    assert!(matches!(outside, Err(Error::KernelOutsideMemory { .. })));
    let tight = load_into(4 * MIB, &kernel(room - 4096), Some(initrd.path()), "");
    assert!(matches!(
        tight,
        Err(Error::InitrdTooLarge {
            room_bytes: 4096,
            ..
        })
    ));
    let long = load_into(4 * MIB, &kernel(1), None, &"x".repeat(2048));
    assert!(matches!(long, Err(Error::CmdlineTooLong { max: 2047, .. })));
    let zero = load_into(4 * MIB, &kernel(1), None, "a\0");
    assert!(matches!(zero, Err(Error::CmdlineZero(1))));
}

#[test]
fn kernel_of_another_architecture_is_refused() {
    let kernel = Kernel {
        entry: Entry::Pvh(MIB),
        architecture: Architecture::X86_64,
        ..kernel(1)
    };
    let refused = load_into(4 * MIB, &kernel, None, "").unwrap_err();
    assert!(refused.to_string().contains("x86_64"), "{refused}");
}
