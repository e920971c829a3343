//! What the machine hands over at the entry: the memory map, the command line, where ACPI's tables are.
//!
//! Implements Xen `xen/include/public/arch-x86/hvm/start_info.h` and Linux
//! `Documentation/arch/x86/zero-page.rst`. Left out on purpose: modules and ramdisks.

use crate::console::{Failure, failure};
use crate::hw::Window;

const START_INFO_MAGIC: u32 = 0x336e_c578;
/// From this version on there is a memory map.
const START_INFO_VERSION: u32 = 1;

const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");

const COMMAND_LINE_LIMIT: usize = 1024;
const RANGES_LIMIT: usize = 32;

/// The kinds of memory, which PVH numbers as e820 does.
const KIND_RAM: u32 = 1;

/// A range of the memory map.
#[derive(Clone, Copy, Default)]
pub struct Range {
    pub start: u64,
    pub bytes: u64,
}

/// A copy of what was handed over.
pub struct BootInfo {
    pub protocol: &'static str,
    /// Address of ACPI's RSDP, 0 where none was given.
    pub rsdp: u64,
    command_line: [u8; COMMAND_LINE_LIMIT],
    command_line_length: usize,
    ram: [Range; RANGES_LIMIT],
    ram_ranges: usize,
}

impl BootInfo {
    /// `protocol` is 0 for PVH, 1 for Linux's 64-bit protocol; `info` is the address that it hands over.
    pub fn read(protocol: u32, info: u64) -> Result<Self, Failure> {
        // SAFETY: the machine puts it where the image is not.
        let info = unsafe { Window::new(info, 4096) };
        let mut this = Self {
            protocol: if protocol == 0 { "pvh" } else { "linux64" },
            rsdp: 0,
            command_line: [0; COMMAND_LINE_LIMIT],
            command_line_length: 0,
            ram: [Range::default(); RANGES_LIMIT],
            ram_ranges: 0,
        };
        match protocol {
            0 => this.read_start_info(info)?,
            _ => this.read_zero_page(info)?,
        }
        if this.ram_ranges == 0 {
            return Err(failure!("the memory map has no RAM"));
        }
        Ok(this)
    }

    fn read_start_info(&mut self, info: Window) -> Result<(), Failure> {
        let (magic, version) = (info.u32(0), info.u32(4));
        if magic != START_INFO_MAGIC || version < START_INFO_VERSION {
            return Err(failure!(
                "start_info has magic {magic:#x}, version {version}"
            ));
        }
        self.copy_command_line(info.u64(24));
        self.rsdp = info.u64(32);
        let entries = u64::from(info.u32(48));
        // SAFETY: as above.
        let map = unsafe { Window::new(info.u64(40), entries * 24) };
        for at in (0..entries).map(|entry| entry * 24) {
            self.add_range(map.u64(at), map.u64(at + 8), map.u32(at + 16))?;
        }
        Ok(())
    }

    fn read_zero_page(&mut self, info: Window) -> Result<(), Failure> {
        let (flag, magic) = (info.u16(0x1fe), info.u32(0x202));
        if flag != BOOT_FLAG || magic != HEADER_MAGIC {
            return Err(failure!(
                "the zero page has flag {flag:#x}, magic {magic:#x}"
            ));
        }
        self.copy_command_line(u64::from(info.u32(0xc8)) << 32 | u64::from(info.u32(0x228)));
        self.rsdp = info.u64(0x70);
        for at in (0..u64::from(info.u8(0x1e8))).map(|entry| 0x2d0 + entry * 20) {
            self.add_range(info.u64(at), info.u64(at + 8), info.u32(at + 16))?;
        }
        Ok(())
    }

    fn copy_command_line(&mut self, address: u64) {
        if address == 0 {
            return;
        }
        // SAFETY: as above.
        let text = unsafe { Window::new(address, COMMAND_LINE_LIMIT as u64) };
        while let Some(place) = self.command_line.get_mut(self.command_line_length) {
            *place = text.u8(self.command_line_length as u64);
            if *place == 0 {
                break;
            }
            self.command_line_length += 1;
        }
    }

    fn add_range(&mut self, start: u64, bytes: u64, kind: u32) -> Result<(), Failure> {
        if start.checked_add(bytes).is_none() {
            return Err(failure!(
                "a range of the memory map wraps: {start:#x} + {bytes:#x}"
            ));
        }
        if kind != KIND_RAM {
            return Ok(());
        }
        for other in self.ram() {
            if start < other.start + other.bytes && other.start < start + bytes {
                return Err(failure!(
                    "RAM at {start:#x} and {:#x} overlaps",
                    other.start
                ));
            }
        }
        let Some(place) = self.ram.get_mut(self.ram_ranges) else {
            return Err(failure!("more than {RANGES_LIMIT} ranges of RAM"));
        };
        *place = Range { start, bytes };
        self.ram_ranges += 1;
        Ok(())
    }

    /// The ranges of RAM, which do not overlap.
    pub fn ram(&self) -> &[Range] {
        self.ram.get(..self.ram_ranges).unwrap_or_default()
    }

    pub fn command_line(&self) -> &str {
        let bytes = self.command_line.get(..self.command_line_length);
        core::str::from_utf8(bytes.unwrap_or_default()).unwrap_or("")
    }

    /// The value of the last `name=value` on the command line.
    pub fn option(&self, name: &str) -> Option<&str> {
        let mut words = self.command_line().split_ascii_whitespace();
        words
            .rfind(|word| word.split('=').next() == Some(name))?
            .split_once('=')
            .map(|(_, value)| value)
    }
}
