//! What the machine hands over at the entry, as every architecture's protocol has it in some form: the command
//! line, the ranges of RAM, where the firmware's tables are.

use crate::console::{Failure, failure};

const RANGES_LIMIT: usize = 32;

/// A range of the memory map.
#[derive(Clone, Copy, Default)]
pub struct Range {
    pub start: u64,
    pub bytes: u64,
}

/// A copy of what was handed over.
pub struct BootInfo {
    /// The report's word for the protocol.
    pub protocol: &'static str,
    /// Address of ACPI's RSDP (0 where none was given) or of the flattened device tree.
    pub firmware: u64,
    command_line: [u8; Self::COMMAND_LINE_LIMIT],
    command_line_length: usize,
    ram: [Range; RANGES_LIMIT],
    ram_ranges: usize,
}

impl BootInfo {
    /// In bytes; more is cut off.
    pub const COMMAND_LINE_LIMIT: usize = 2048;

    /// Without command line or memory.
    pub fn new(protocol: &'static str, firmware: u64) -> Self {
        Self {
            protocol,
            firmware,
            command_line: [0; Self::COMMAND_LINE_LIMIT],
            command_line_length: 0,
            ram: [Range::default(); RANGES_LIMIT],
            ram_ranges: 0,
        }
    }

    /// Takes the command line, up to its zero byte.
    pub fn set_command_line(&mut self, bytes: impl Iterator<Item = u8>) {
        self.command_line_length = 0;
        let bytes = bytes.take_while(|&byte| byte != 0);
        for (place, byte) in self.command_line.iter_mut().zip(bytes) {
            *place = byte;
            self.command_line_length += 1;
        }
    }

    /// Takes a range of the memory map.
    pub fn add_range(&mut self, start: u64, bytes: u64, is_ram: bool) -> Result<(), Failure> {
        if start.checked_add(bytes).is_none() {
            return Err(failure!(
                "a range of the memory map wraps: {start:#x} + {bytes:#x}"
            ));
        }
        if !is_ram {
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

    /// The same as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.option(name)?.parse().ok()
    }
}
