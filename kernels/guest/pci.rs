//! PCI bus 0: finds its functions by ECAM, gives addresses to those that have none, walks their capabilities, sets
//! up MSI-X.
//!
//! Implements PCI Local Bus 3.0 chapter 6 (configuration space, MSI-X) and PCI Express 6.0 §7.2.2 (ECAM). Left out
//! on purpose: bridges, I/O BARs.

use core::cell::Cell;

use crate::arch::{Firmware, legacy_config, memory};
use crate::console::{Failure, failure};
use crate::hw::Window;

const VENDOR: u64 = 0x00;
const COMMAND: u64 = 0x04;
const HEADER_TYPE: u64 = 0x0e;
const BARS: u64 = 0x10;
const SUBSYSTEM: u64 = 0x2e;
const CAPABILITIES: u64 = 0x34;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_NO_INTX: u16 = 1 << 10;
const MULTI_FUNCTION: u8 = 1 << 7;

const CAPABILITY_MSIX: u8 = 0x11;
const MSIX_ENABLE: u16 = 1 << 15;

/// As many capabilities as fit into 256 bytes: a longer list is a loop.
const CAPABILITIES_LIMIT: u32 = 48;
const FUNCTIONS_LIMIT: usize = 64;

/// A range of addresses that PCI devices may be given.
#[derive(Clone, Copy, Default)]
pub struct PciWindow {
    pub start: u64,
    /// The address after the last one.
    pub end: u64,
}

/// What an MSI writes, and where.
#[derive(Clone, Copy)]
pub struct Message {
    pub address: u64,
    pub data: u32,
}

/// Bus 0.
pub struct Pci {
    ecam: Window,
    functions: [Function; FUNCTIONS_LIMIT],
    function_count: usize,
    /// Where the next BAR without an address goes.
    free: Cell<PciWindow>,
}

/// A function of a device on bus 0.
#[derive(Clone, Copy)]
pub struct Function {
    config: Window,
    /// Device number times 8 plus function number.
    pub number: u8,
}

impl Pci {
    pub fn find(firmware: &Firmware) -> Result<Self, Failure> {
        let Some(ecam) = firmware.ecam else {
            return Err(failure!("the firmware names no PCI configuration space"));
        };
        memory::map_device(ecam, 1 << 20)?;
        // SAFETY: the configuration space of bus 0.
        let ecam = unsafe { Window::new(ecam, 1 << 20) };
        let free = firmware
            .pci_windows()
            .iter()
            .find(|window| window.start >> 32 == 0);
        let mut this = Self {
            ecam,
            functions: [Function {
                config: ecam,
                number: 0,
            }; FUNCTIONS_LIMIT],
            function_count: 0,
            free: Cell::new(free.copied().unwrap_or_default()),
        };
        for device in 0..32 {
            let first = this.function(device * 8);
            let functions = match first.is_present() {
                false => 0,
                true if first.config.u8(HEADER_TYPE) & MULTI_FUNCTION != 0 => 8,
                true => 1,
            };
            for number in 0..functions {
                let function = this.function(device * 8 + number);
                if function.is_present() && this.function_count < FUNCTIONS_LIMIT {
                    this.functions[this.function_count] = function;
                    this.function_count += 1;
                }
            }
        }
        Ok(this)
    }

    fn function(&self, number: u8) -> Function {
        let config = self.ecam.part(u64::from(number) << 12, 4096);
        Function { config, number }
    }

    pub fn functions(&self) -> &[Function] {
        &self.functions[..self.function_count]
    }

    /// Compares what both ways to configuration space say, where there are two: of each function the first 16
    /// bytes, and of one that is absent that it is.
    pub fn compare_mechanisms(&self) -> Result<(), Failure> {
        let absent = (0..32)
            .map(|device| self.function(device * 8))
            .rfind(|function| !function.is_present());
        for function in self.functions().iter().copied().chain(absent) {
            for at in (0..16).step_by(4) {
                let number = function.number;
                let ecam = function.config.u32(u64::from(at));
                let legacy = legacy_config(number, at).unwrap_or(ecam);
                if legacy != ecam {
                    return Err(failure!(
                        "function {number:#x} at {at:#x}: {legacy:#x} by CF8, {ecam:#x} by ECAM"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The memory of BAR `index`, at most 5, of `function`, given an address first where it has none.
    fn bar(&self, function: Function, index: u8) -> Result<Window, Failure> {
        let number = function.number;
        let register = BARS + 4 * u64::from(index);
        let low = function.config.u32(register);
        if low & 1 != 0 {
            return Err(failure!("BAR {index} of function {number:#x} is no memory"));
        }
        let is_long = low >> 1 & 3 == 2 && index < 5;
        let bytes = function.bar_bytes(register, is_long);
        if bytes == 0 {
            return Err(failure!("BAR {index} of function {number:#x} is not there"));
        }
        let high = if is_long {
            u64::from(function.config.u32(register + 4)) << 32
        } else {
            0
        };
        let mut address = high | u64::from(low & !0xf);
        if address == 0 {
            address = self.take(bytes)?;
            function.config.set_u32(register, address as u32);
        }
        memory::map_device(address, bytes)?;
        // SAFETY: a device's memory.
        Ok(unsafe { Window::new(address, bytes) })
    }

    /// Addresses for `bytes`, a power of two, aligned to their size.
    fn take(&self, bytes: u64) -> Result<u64, Failure> {
        let PciWindow { start, end } = self.free.get();
        let address = start.next_multiple_of(bytes);
        if start == 0 || address + bytes > end {
            return Err(failure!("no window for a BAR of {bytes:#x} bytes"));
        }
        self.free.set(PciWindow {
            start: address + bytes,
            end,
        });
        Ok(address)
    }
}

impl Function {
    fn is_present(self) -> bool {
        self.config.u16(VENDOR) != 0xffff
    }

    pub fn vendor(self) -> u16 {
        self.config.u16(VENDOR)
    }

    pub fn device(self) -> u16 {
        self.config.u16(VENDOR + 2)
    }

    pub fn subsystem(self) -> u16 {
        self.config.u16(SUBSYSTEM)
    }

    /// Lets the function answer to its BARs and read and write memory.
    pub fn enable(self) {
        let command = self.config.u16(COMMAND);
        let enable = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_NO_INTX;
        self.config.set_u16(COMMAND, command | enable);
    }

    /// §6.2.5.1: writes ones, reads back, restores; 0 where there is no BAR.
    fn bar_bytes(self, register: u64, is_long: bool) -> u64 {
        let command = self.config.u16(COMMAND);
        self.config.set_u16(COMMAND, command & !COMMAND_MEMORY);
        let low = self.config.u32(register);
        self.config.set_u32(register, !0);
        let mut mask = u64::from(self.config.u32(register) & !0xf) | !0 << 32;
        self.config.set_u32(register, low);
        if mask as u32 == 0 && !is_long {
            mask = 0;
        }
        if is_long {
            let high = self.config.u32(register + 4);
            self.config.set_u32(register + 4, !0);
            mask = mask & 0xffff_ffff | u64::from(self.config.u32(register + 4)) << 32;
            self.config.set_u32(register + 4, high);
        }
        self.config.set_u16(COMMAND, command);
        mask.wrapping_neg()
    }

    /// The capabilities: their ids and where they are in configuration space.
    pub fn capabilities(self) -> impl Iterator<Item = (u8, u64)> {
        let mut next = self.config.u8(CAPABILITIES);
        (0..CAPABILITIES_LIMIT).map_while(move |_| {
            let at = u64::from(next & !3);
            if at == 0 {
                return None;
            }
            next = self.config.u8(at + 1);
            Some((self.config.u8(at), at))
        })
    }

    pub fn config(self) -> Window {
        self.config
    }
}

/// The BARs of a function, each looked at once.
pub struct Bars<'a> {
    pci: &'a Pci,
    function: Function,
    known: [Option<Window>; 6],
}

impl<'a> Bars<'a> {
    pub fn new(pci: &'a Pci, function: Function) -> Self {
        Self {
            pci,
            function,
            known: [None; 6],
        }
    }

    /// The memory of BAR `index`.
    pub fn memory(&mut self, index: u8) -> Result<Window, Failure> {
        let Some(known) = self.known.get_mut(usize::from(index)) else {
            return Err(failure!(
                "function {:#x} names BAR {index}",
                self.function.number
            ));
        };
        match *known {
            Some(memory) => Ok(memory),
            None => Ok(*known.insert(self.pci.bar(self.function, index)?)),
        }
    }
}

/// The MSI-X table of a function, with MSI-X on.
pub struct Msix {
    table: Window,
    pub entries: u16,
}

impl Msix {
    pub fn enable(bars: &mut Bars<'_>) -> Result<Self, Failure> {
        let function = bars.function;
        let Some((_, at)) = function
            .capabilities()
            .find(|&(id, _)| id == CAPABILITY_MSIX)
        else {
            return Err(failure!("function {:#x} has no MSI-X", function.number));
        };
        let config = function.config;
        let control = config.u16(at + 2);
        let place = config.u32(at + 4);
        let entries = (control & 0x7ff) + 1;
        let bar = bars.memory((place & 7) as u8)?;
        let table = bar.part(u64::from(place & !7), 16 * u64::from(entries));
        config.set_u16(at + 2, control | MSIX_ENABLE);
        Ok(Self { table, entries })
    }

    /// Sends `message` for `entry`, which becomes unmasked.
    pub fn route(&self, entry: u16, message: Message) {
        let at = 16 * u64::from(entry);
        self.table.set_u32(at, message.address as u32);
        self.table.set_u32(at + 4, (message.address >> 32) as u32);
        self.table.set_u32(at + 8, message.data);
        self.table.set_u32(at + 12, 0);
    }
}
