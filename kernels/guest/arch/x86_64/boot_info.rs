//! What the machine hands over at the entry: the memory map, the command line, where ACPI's tables are.
//!
//! Implements Xen `xen/include/public/arch-x86/hvm/start_info.h` and Linux
//! `Documentation/arch/x86/zero-page.rst`. Left out on purpose: modules and ramdisks.

use crate::boot_info::BootInfo;
use crate::console::{Failure, failure};
use crate::hw::Window;

const START_INFO_MAGIC: u32 = 0x336e_c578;
/// From this version on there is a memory map.
const START_INFO_VERSION: u32 = 1;

const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");

/// The kinds of memory, which PVH numbers as e820 does.
const KIND_RAM: u32 = 1;

/// `protocol` is 0 for PVH, 1 for Linux's 64-bit protocol; `info` is the address that it hands over.
pub fn read(protocol: u32, info: u64) -> Result<BootInfo, Failure> {
    // SAFETY: the machine puts it where the image is not.
    let info = unsafe { Window::new(info, 4096) };
    match protocol {
        0 => read_start_info(info),
        _ => read_zero_page(info),
    }
}

fn read_start_info(info: Window) -> Result<BootInfo, Failure> {
    let (magic, version) = (info.u32(0), info.u32(4));
    if magic != START_INFO_MAGIC || version < START_INFO_VERSION {
        return Err(failure!(
            "start_info has magic {magic:#x}, version {version}"
        ));
    }
    let mut boot = BootInfo::new("pvh", info.u64(32));
    copy_command_line(&mut boot, info.u64(24));
    let entries = u64::from(info.u32(48));
    // SAFETY: as above.
    let map = unsafe { Window::new(info.u64(40), entries * 24) };
    for at in (0..entries).map(|entry| entry * 24) {
        boot.add_range(map.u64(at), map.u64(at + 8), map.u32(at + 16) == KIND_RAM)?;
    }
    Ok(boot)
}

fn read_zero_page(info: Window) -> Result<BootInfo, Failure> {
    let (flag, magic) = (info.u16(0x1fe), info.u32(0x202));
    if flag != BOOT_FLAG || magic != HEADER_MAGIC {
        return Err(failure!(
            "the zero page has flag {flag:#x}, magic {magic:#x}"
        ));
    }
    let mut boot = BootInfo::new("linux64", info.u64(0x70));
    copy_command_line(
        &mut boot,
        u64::from(info.u32(0xc8)) << 32 | u64::from(info.u32(0x228)),
    );
    for at in (0..u64::from(info.u8(0x1e8))).map(|entry| 0x2d0 + entry * 20) {
        boot.add_range(
            info.u64(at),
            info.u64(at + 8),
            info.u32(at + 16) == KIND_RAM,
        )?;
    }
    Ok(boot)
}

fn copy_command_line(boot: &mut BootInfo, address: u64) {
    if address != 0 {
        // SAFETY: as above.
        let text = unsafe { Window::new(address, BootInfo::COMMAND_LINE_LIMIT as u64) };
        boot.set_command_line((0..text.bytes()).map(|at| text.u8(at)));
    }
}
