//! PCI bus 0: the host bridge, the functions behind it, and the three ways to reach them.
//!
//! Configuration space is reached by ECAM (PCI Express 3.0 §7.2.2) and by the ports 0xcf8 and 0xcfc
//! (PCI Local Bus 3.0 §3.2.2.3.2, configuration mechanism 1); BARs by the memory windows.
//! BARs get addresses when a function is added, as firmware would give them; the guest may move them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::PciFunction;
use super::config::{self, BarWidth, ConfigSpace, Identity};
use crate::bus::BusDevice;
use crate::dwords::{read_dwords, write_dwords};

/// Bytes of configuration space that ECAM has for one function.
const ECAM_FUNCTION_BYTES: u64 = 4096;
const FUNCTIONS_PER_SLOT: u64 = 8;
/// Slots of a bus, the host bridge's included.
const SLOTS: u8 = 32;
/// Registers, of 4 bytes, of a conventional configuration space.
const REGISTERS: u64 = 64;

/// Size of the ECAM range of bus 0: 1 MiB.
pub const ECAM_BYTES: u64 = 32 * FUNCTIONS_PER_SLOT * ECAM_FUNCTION_BYTES;
/// First of the [`CONFIG_PORTS`] ports of configuration mechanism 1.
pub const CONFIG_ADDRESS_PORT: u16 = 0xcf8;
pub const CONFIG_PORTS: u16 = 8;

/// The identity that QEMU gives its generic PCI Express host bridge; no driver binds to it.
const HOST_BRIDGE: Identity = Identity {
    vendor_id: 0x1b36,
    device_id: 0x0008,
    revision: 0,
    class: 0x06_0000,
    subsystem_vendor_id: 0x1af4,
    subsystem_id: 0x1100,
};

/// Where the machine's memory map leaves room for BARs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// Below 4 GiB.
    pub low: Range<u64>,
    /// Above 4 GiB; may be empty, 64-bit BARs then go to the low one.
    pub high: Range<u64>,
}

/// Why a function cannot be added.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("the pci bus has no free slot of its {SLOTS}")]
    NoSlot,
    #[error("the pci memory windows have no room for a bar of {size:#x} bytes")]
    NoRoom { size: u64 },
}

/// Bus 0. Complete once it is in an `Arc`; the functions guard their own registers.
pub struct PciRoot {
    slots: Vec<Arc<dyn PciFunction>>,
    /// What is left of the windows.
    free: Windows,
}

/// The ECAM range of bus 0, [`ECAM_BYTES`] long.
#[derive(Debug)]
pub struct Ecam(Arc<PciRoot>);

/// The ports 0xcf8–0xcff.
#[derive(Debug)]
pub struct ConfigPorts {
    root: Arc<PciRoot>,
    address: AtomicU32,
}

/// A memory window: an access goes to the BAR that is there at that moment.
#[derive(Debug)]
pub struct MemoryWindow {
    root: Arc<PciRoot>,
    start: u64,
}

struct HostBridge(ConfigSpace);

impl PciRoot {
    /// A bus with the host bridge in slot 0.
    pub fn new(windows: Windows) -> Self {
        let bridge = config::Builder::new(&HOST_BRIDGE).build();
        Self {
            slots: vec![Arc::new(HostBridge(bridge))],
            free: windows,
        }
    }

    /// The requester id of the function that [`PciRoot::add`] would add next: bus, device and function number
    /// (PCI Express 6.0 §2.2.6.2).
    ///
    /// # Errors
    /// The bus is full.
    pub fn next_requester(&self) -> Result<u16, Error> {
        Ok(u16::from(self.next_slot()?) << 3)
    }

    fn next_slot(&self) -> Result<u8, Error> {
        let slot = u8::try_from(self.slots.len()).ok();
        slot.filter(|s| *s < SLOTS).ok_or(Error::NoSlot)
    }

    /// Puts `function` into the next free slot, its BARs into the windows, and returns the slot.
    ///
    /// # Errors
    /// The bus or a window is full.
    pub fn add(&mut self, function: Arc<dyn PciFunction>) -> Result<u8, Error> {
        let slot = self.next_slot()?;
        for (bar, width, size) in function.config().bars() {
            let high = width == BarWidth::Bits64 && !self.free.high.is_empty();
            let window = if high {
                &mut self.free.high
            } else {
                &mut self.free.low
            };
            let address = allocate(window, size).ok_or(Error::NoRoom { size })?;
            function.config().place_bar(bar, address);
        }
        self.slots.push(function);
        Ok(slot)
    }

    fn function(&self, slot: u64, function: u64) -> Option<&dyn PciFunction> {
        let slot = usize::try_from(slot).ok()?;
        // Every device has a single function: the others do not answer.
        (function == 0).then(|| self.slots.get(slot).map(|f| &**f))?
    }

    /// Register `index` of a function, whose configuration space ends after 256 bytes: an extended
    /// register reads zero, and that of an absent function all ones (§6.1).
    fn read_register(&self, slot: u64, function: u64, index: u64) -> u32 {
        match (self.function(slot, function), register(index)) {
            (None, _) => u32::MAX,
            (Some(_), None) => 0,
            (Some(f), Some(register)) => f.read_config(register),
        }
    }

    fn write_register(&self, slot: u64, function: u64, index: u64, value: u32, enabled: u32) {
        if let (Some(f), Some(register)) = (self.function(slot, function), register(index)) {
            f.write_config(register, value, enabled);
        }
    }

    /// The function and BAR that hold all of an access; of BARs that overlap, the lowest slot's.
    fn find_bar(&self, address: u64, len: usize) -> Option<(&dyn PciFunction, u8, u64)> {
        let len = u64::try_from(len).ok()?;
        self.slots.iter().find_map(|f| {
            let (bar, offset) = f.config().find_bar(address, len)?;
            Some((&**f, bar, offset))
        })
    }
}

fn register(index: u64) -> Option<u8> {
    u8::try_from(index)
        .ok()
        .filter(|i| u64::from(*i) < REGISTERS)
}

/// Takes `size` bytes, aligned to their size, from the front of `window`.
fn allocate(window: &mut Range<u64>, size: u64) -> Option<u64> {
    let start = window.start.checked_next_multiple_of(size)?;
    let end = start.checked_add(size).filter(|end| *end <= window.end)?;
    window.start = end;
    Some(start)
}

impl Ecam {
    pub fn new(root: Arc<PciRoot>) -> Self {
        Self(root)
    }
}

/// Slot, function and register of an ECAM dword.
fn ecam_target(dword: u64) -> (u64, u64, u64) {
    let function = dword / (ECAM_FUNCTION_BYTES / 4);
    (
        function / FUNCTIONS_PER_SLOT,
        function % FUNCTIONS_PER_SLOT,
        dword % (ECAM_FUNCTION_BYTES / 4),
    )
}

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        read_dwords(offset, data, |dword| {
            let (slot, function, register) = ecam_target(dword);
            self.0.read_register(slot, function, register)
        });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        write_dwords(offset, data, |dword, value, enabled| {
            let (slot, function, register) = ecam_target(dword);
            self.0
                .write_register(slot, function, register, value, enabled);
        });
    }
}

impl ConfigPorts {
    pub fn new(root: Arc<PciRoot>) -> Self {
        Self {
            root,
            address: AtomicU32::new(0),
        }
    }

    /// Slot, function and register that the address register selects; `None` while it is off
    /// (bit 31) or names another bus than 0.
    fn target(&self) -> Option<(u64, u64, u64)> {
        let address = u64::from(self.address.load(Ordering::Acquire));
        let selected = address >> 31 == 1 && address >> 16 & 0xff == 0;
        selected.then_some((
            address >> 11 & 0x1f,
            address >> 8 & 0x7,
            address >> 2 & 0x3f,
        ))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        read_dwords(offset, data, |dword| match (dword, self.target()) {
            (0, _) => self.address.load(Ordering::Acquire),
            (1, Some((slot, function, register))) => {
                self.root.read_register(slot, function, register)
            }
            _ => u32::MAX,
        });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        write_dwords(offset, data, |dword, value, enabled| {
            match (dword, self.target()) {
                // §3.2.2.3.2: only a write of the whole double word reaches the address register.
                (0, _) if enabled == u32::MAX => {
                    self.address.store(value & 0x80ff_fffc, Ordering::Release);
                }
                (1, Some((slot, function, register))) => {
                    let root = &self.root;
                    root.write_register(slot, function, register, value, enabled);
                }
                _ => {}
            }
        });
    }
}

impl MemoryWindow {
    /// The window that begins at the guest-physical address `start`.
    pub fn new(root: Arc<PciRoot>, start: u64) -> Self {
        Self { root, start }
    }
}

impl BusDevice for MemoryWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let address = self.start.saturating_add(offset);
        match self.root.find_bar(address, data.len()) {
            Some((function, bar, offset)) => function.read_bar(bar, offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let address = self.start.saturating_add(offset);
        if let Some((function, bar, offset)) = self.root.find_bar(address, data.len()) {
            function.write_bar(bar, offset, data);
        }
    }
}

impl PciFunction for HostBridge {
    fn config(&self) -> &ConfigSpace {
        &self.0
    }

    fn read_bar(&self, _bar: u8, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write_bar(&self, _bar: u8, _offset: u64, _data: &[u8]) {}
}

impl fmt::Debug for PciRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = self.slots.iter().map(|s| s.config());
        f.debug_list().entries(slots).finish()
    }
}

#[cfg(test)]
mod tests;
