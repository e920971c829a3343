//! The configuration space of a function with a type 0 header (PCI Local Bus 3.0 §6.1, §6.2):
//! identity, command register, BARs with the sizing protocol, and the list of capabilities.
//!
//! Left out on purpose: I/O space BARs, the expansion ROM, INTx (the interrupt pin reads 0) and the
//! error bits of the status register, which never become set. Bus mastering is a bit that can be
//! written and that nothing looks at: a device is told where it may write by its driver.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::lock::lock;

const REGISTERS: usize = 64;
const COMMAND: u8 = 1;
const FIRST_BAR: u8 = 4;
const BARS: u8 = 6;
const CAPABILITIES_POINTER: u8 = 13;
const INTERRUPT: u8 = 15;

const COMMAND_MEMORY: u32 = 1 << 1;
/// Memory space, bus master, parity error response, SERR# enable, interrupt disable.
const COMMAND_WRITABLE: u32 = COMMAND_MEMORY | 1 << 2 | 1 << 6 | 1 << 8 | 1 << 10;
const STATUS_CAPABILITIES: u32 = 1 << (16 + 4);
/// The cache line size may be written; nothing looks at it.
const CACHE_LINE_WRITABLE: u32 = 0xff;
/// The interrupt line is the operating system's scratch byte (§6.2.4).
const INTERRUPT_LINE_WRITABLE: u32 = 0xff;

const BAR_64_BIT: u32 = 0b100;
const BAR_FLAGS: u32 = 0xf;
/// Bytes of the header, where capabilities may begin.
const HEADER_BYTES: u8 = 0x40;

/// What a BAR's address atomic holds while the function does not decode it. No BAR can be there: a
/// BAR is aligned to its size, 16 bytes or more.
const NOT_DECODED: u64 = u64::MAX;

/// Who the function says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub vendor_id: u16,
    pub device_id: u16,
    pub revision: u8,
    /// Base class, subclass and programming interface, in the lower 24 bits.
    pub class: u32,
    pub subsystem_vendor_id: u16,
    pub subsystem_id: u16,
}

/// How far a memory BAR reaches. None is prefetchable: registers may have read side effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarWidth {
    Bits32,
    /// Takes the next BAR's register too.
    Bits64,
}

/// A capability that is to be put in the list: its bytes after the id and the next pointer.
#[derive(Clone, Debug)]
pub struct Capability {
    pub id: u8,
    pub body: Vec<u8>,
    /// Which bits of `body` the guest may write; as long as `body`, or shorter where the rest is
    /// read-only.
    pub writable: Vec<u8>,
}

/// What cannot be put into a configuration space.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("pci capability {id:#x} does not fit behind {offset:#x}")]
    CapabilitiesFull { id: u8, offset: usize },
    #[error("pci bar {bar} of {size:#x} bytes is not possible")]
    Bar { bar: u8, size: u64 },
}

#[derive(Clone, Copy, Debug, Default)]
struct Register {
    value: u32,
    writable: u32,
}

/// One BAR; the address is kept beside the registers so that dispatching an access takes no lock.
#[derive(Debug)]
struct Bar {
    index: u8,
    width: BarWidth,
    size: u64,
    address: AtomicU64,
}

/// A configuration space under construction.
#[derive(Debug)]
pub struct Builder {
    registers: [Register; REGISTERS],
    bars: Vec<Bar>,
    /// Where the next capability goes, and the byte that is to point at it.
    next_capability: u8,
    pointer_at: u8,
}

/// The configuration space of a function, 256 bytes.
pub struct ConfigSpace {
    /// Contended by vCPUs that configure the same function.
    registers: Mutex<[Register; REGISTERS]>,
    bars: Vec<Bar>,
}

impl Builder {
    pub fn new(identity: &Identity) -> Self {
        let mut builder = Self {
            registers: [Register::default(); REGISTERS],
            bars: Vec::new(),
            next_capability: HEADER_BYTES,
            pointer_at: CAPABILITIES_POINTER * 4,
        };
        let id = |low: u16, high: u16| u32::from(high) << 16 | u32::from(low);
        builder.set(0, id(identity.vendor_id, identity.device_id), 0);
        builder.set(COMMAND, 0, COMMAND_WRITABLE);
        let class = identity.class << 8 | u32::from(identity.revision);
        builder.set(2, class, 0);
        builder.set(3, 0, CACHE_LINE_WRITABLE);
        let subsystem = id(identity.subsystem_vendor_id, identity.subsystem_id);
        builder.set(11, subsystem, 0);
        builder.set(INTERRUPT, 0, INTERRUPT_LINE_WRITABLE);
        builder
    }

    /// Adds memory BAR `index` of `size` bytes, a power of two of at least 16.
    ///
    /// # Errors
    /// The size is not possible, or the register is taken or does not exist.
    pub fn bar(&mut self, index: u8, width: BarWidth, size: u64) -> Result<(), Error> {
        let last = match width {
            BarWidth::Bits32 => index,
            BarWidth::Bits64 => index.saturating_add(1),
        };
        let fits = width == BarWidth::Bits64 || size <= 1 << 31;
        let taken = self
            .bars
            .iter()
            .any(|b| b.index <= last && index <= b.last());
        if !size.is_power_of_two() || size < 16 || !fits || last >= BARS || taken {
            return Err(Error::Bar { bar: index, size });
        }
        let (low, high) = halves(!(size - 1));
        let flags = match width {
            BarWidth::Bits32 => 0,
            BarWidth::Bits64 => BAR_64_BIT,
        };
        self.set(FIRST_BAR + index, flags, low & !BAR_FLAGS);
        if width == BarWidth::Bits64 {
            self.set(FIRST_BAR + last, 0, high);
        }
        self.bars.push(Bar {
            index,
            width,
            size,
            address: AtomicU64::new(NOT_DECODED),
        });
        Ok(())
    }

    /// Appends `capability` to the list (§6.7) and returns its offset in bytes.
    ///
    /// # Errors
    /// The 192 bytes behind the header are full.
    pub fn capability(&mut self, capability: &Capability) -> Result<u8, Error> {
        let offset = self.next_capability;
        let full = Error::CapabilitiesFull {
            id: capability.id,
            offset: offset.into(),
        };
        let end = usize::from(offset) + 2 + capability.body.len();
        if end > REGISTERS * 4 {
            return Err(full);
        }
        // §6.7: capabilities are aligned to 4 bytes; the one that ends at 256 leaves 0, the end.
        self.next_capability = u8::try_from(end.next_multiple_of(4)).unwrap_or(u8::MAX);
        self.set_byte(self.pointer_at, offset, 0);
        self.set_byte(offset, capability.id, 0);
        self.set_byte(offset + 1, 0, 0);
        self.pointer_at = offset + 1;
        let writable = capability
            .writable
            .iter()
            .copied()
            .chain(std::iter::repeat(0));
        for ((at, byte), writable) in (offset + 2..=u8::MAX).zip(&capability.body).zip(writable) {
            self.set_byte(at, *byte, writable);
        }
        if let Some(command) = self.registers.get_mut(usize::from(COMMAND)) {
            command.value |= STATUS_CAPABILITIES;
        }
        Ok(offset)
    }

    pub fn build(self) -> ConfigSpace {
        ConfigSpace {
            registers: Mutex::new(self.registers),
            bars: self.bars,
        }
    }

    fn set(&mut self, register: u8, value: u32, writable: u32) {
        if let Some(slot) = self.registers.get_mut(usize::from(register)) {
            *slot = Register { value, writable };
        }
    }

    fn set_byte(&mut self, offset: u8, value: u8, writable: u8) {
        let shift = u32::from(offset % 4) * 8;
        if let Some(slot) = self.registers.get_mut(usize::from(offset / 4)) {
            let keep = !(0xff << shift);
            slot.value = slot.value & keep | u32::from(value) << shift;
            slot.writable = slot.writable & keep | u32::from(writable) << shift;
        }
    }
}

impl ConfigSpace {
    /// Reads register `register`, counted in 4 bytes; beyond the 64th, zero.
    pub fn read(&self, register: u8) -> u32 {
        let registers = lock(&self.registers);
        registers.get(usize::from(register)).map_or(0, |r| r.value)
    }

    /// Writes those bits that `enabled` selects and the guest may write.
    pub fn write(&self, register: u8, value: u32, enabled: u32) {
        let mut registers = lock(&self.registers);
        let Some(slot) = registers.get_mut(usize::from(register)) else {
            return;
        };
        let bits = slot.writable & enabled;
        slot.value = slot.value & !bits | value & bits;
        if Self::decides_decoding(register) {
            self.decode_bars(&registers);
        }
    }

    /// Changes a register as the device itself does, read-only bits too.
    pub fn set(&self, register: u8, value: u32) {
        if let Some(slot) = lock(&self.registers).get_mut(usize::from(register)) {
            slot.value = value;
        }
    }

    /// Whether a write to `register` may move BARs or turn them on or off.
    pub fn decides_decoding(register: u8) -> bool {
        register == COMMAND || (FIRST_BAR..FIRST_BAR + BARS).contains(&register)
    }

    /// The BARs there are: index, width and size in bytes.
    pub fn bars(&self) -> impl Iterator<Item = (u8, BarWidth, u64)> + '_ {
        self.bars.iter().map(|b| (b.index, b.width, b.size))
    }

    /// The guest-physical address at which BAR `index` is decoded now, if it is.
    pub fn bar_address(&self, index: u8) -> Option<u64> {
        let bar = self.bars.iter().find(|b| b.index == index)?;
        let address = bar.address.load(Ordering::Acquire);
        (address != NOT_DECODED).then_some(address)
    }

    /// The BAR that holds all of the `len` bytes at `address`, and the offset in it.
    pub fn find_bar(&self, address: u64, len: u64) -> Option<(u8, u64)> {
        self.bars.iter().find_map(|bar| {
            let start = bar.address.load(Ordering::Acquire);
            let offset = address.checked_sub(start)?;
            let end = offset.checked_add(len)?;
            (start != NOT_DECODED && end <= bar.size).then_some((bar.index, offset))
        })
    }

    /// Puts BAR `index` at `address`, as firmware does at power-on. Decoding stays as it is: off,
    /// until the guest sets the memory bit of the command register.
    pub fn place_bar(&self, index: u8, address: u64) {
        let Some(bar) = self.bars.iter().find(|b| b.index == index) else {
            return;
        };
        let (low, high) = halves(address);
        self.write(FIRST_BAR + index, low, u32::MAX);
        if bar.width == BarWidth::Bits64 {
            self.write(FIRST_BAR + index + 1, high, u32::MAX);
        }
    }

    fn decode_bars(&self, registers: &[Register; REGISTERS]) {
        let value = |register: u8| {
            let register = registers.get(usize::from(register));
            register.map_or(0, |r| r.value)
        };
        let enabled = value(COMMAND) & COMMAND_MEMORY != 0;
        for bar in &self.bars {
            let low = u64::from(value(FIRST_BAR + bar.index) & !BAR_FLAGS);
            let address = match bar.width {
                BarWidth::Bits32 => low,
                BarWidth::Bits64 => low | u64::from(value(FIRST_BAR + bar.index + 1)) << 32,
            };
            // A BAR at zero was never placed.
            let decoded = enabled && address != 0;
            let address = if decoded { address } else { NOT_DECODED };
            bar.address.store(address, Ordering::Release);
        }
    }
}

impl Bar {
    /// The last of the registers that the BAR takes.
    fn last(&self) -> u8 {
        match self.width {
            BarWidth::Bits32 => self.index,
            BarWidth::Bits64 => self.index + 1,
        }
    }
}

fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

impl fmt::Debug for ConfigSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.read(0);
        f.debug_struct("ConfigSpace")
            .field("id", &format_args!("{:04x}:{:04x}", id & 0xffff, id >> 16))
            .field("bars", &self.bars)
            .finish()
    }
}

#[cfg(test)]
mod tests;
