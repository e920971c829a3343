//! An I/O APIC (Intel 82093AA, order number 290566) whose pins become messages to the local APICs.
//!
//! Edge-triggered pins only: our devices pulse. A pin that the guest programs as level-triggered is
//! delivered like an edge, its remote IRR stays clear, and no end of interrupt is waited for. Left
//! out on purpose: delivery modes SMI and ExtINT (no SMM, no 8259 here), APIC bus arbitration.

use std::fmt;
use std::sync::{Arc, Mutex};

use crate::bus::BusDevice;
use crate::irq::{Interrupt, Msi, MsiSink};
use crate::lock::lock;

/// Pins of the 82093AA.
pub const PINS: u8 = 24;
/// Bytes of its register window.
pub const WINDOW_BYTES: u64 = 0x1000;

const SELECT: u64 = 0x00;
const DATA: u64 = 0x10;

const REGISTER_ID: u8 = 0x00;
const REGISTER_VERSION: u8 = 0x01;
const REGISTER_ARBITRATION: u8 = 0x02;
const REGISTER_REDIRECTION: u8 = 0x10;

/// Version 0x11, and the number of the last redirection entry in bits 16–23 (§3.2.2).
const VERSION: u32 = 0x11 | (PINS as u32 - 1) << 16;
/// Bits 24–27 of the identification register (§3.2.1).
const ID_WRITABLE: u32 = 0x0f00_0000;

/// A redirection entry (§3.2.4): delivery status (12) and remote IRR (14) are read-only.
const ENTRY_WRITABLE: u64 = 0xff00_0000_0001_afff;
const ENTRY_MASKED: u64 = 1 << 16;
const ENTRY_LOGICAL: u64 = 1 << 11;

/// Delivery modes (§3.2.4) that are sent.
const FIXED: u64 = 0b000;
const LOWEST_PRIORITY: u64 = 0b001;
const NMI: u64 = 0b100;
const INIT: u64 = 0b101;

/// Where messages go (Intel SDM volume 3, §11.11.1).
const MSI_ADDRESS: u64 = 0xfee0_0000;
const MSI_ADDRESS_LOGICAL: u64 = 1 << 2;
/// Level "assert" (SDM volume 3, §11.11.2), which INIT needs.
const MSI_DATA_ASSERT: u64 = 1 << 14;

/// An I/O APIC with its registers at a window of [`WINDOW_BYTES`].
pub struct IoApic(Arc<Chip>);

struct Chip {
    sink: Arc<dyn MsiSink>,
    /// Contended by vCPUs and by whoever raises a pin.
    registers: Mutex<Registers>,
}

#[derive(Debug)]
struct Registers {
    select: u8,
    id: u32,
    entries: [u64; PINS as usize],
}

struct Pin {
    chip: Arc<Chip>,
    number: u8,
}

impl IoApic {
    /// An I/O APIC with all pins masked, as at power-on.
    pub fn new(sink: Arc<dyn MsiSink>) -> Self {
        Self(Arc::new(Chip {
            sink,
            registers: Mutex::new(Registers {
                select: 0,
                id: 0,
                entries: [ENTRY_MASKED; PINS as usize],
            }),
        }))
    }

    /// Pin `number`, 0 to 23; a trigger of any other does nothing.
    pub fn pin(&self, number: u8) -> Arc<dyn Interrupt> {
        Arc::new(Pin {
            chip: Arc::clone(&self.0),
            number,
        })
    }
}

impl Interrupt for Pin {
    /// Sends the pin's message. An edge on a masked pin is lost: "edge-sensitive interrupts
    /// signaled on a masked interrupt pin are ignored (i.e., not delivered or held pending)"
    /// (82093AA §3.2.4, interrupt mask).
    fn trigger(&self) {
        let entry = lock(&self.chip.registers).entry(self.number);
        if let Some(message) = entry.and_then(message) {
            self.chip.sink.send(message);
        }
    }
}

/// The message that an edge on a pin with this redirection entry sends, if it sends any.
fn message(entry: u64) -> Option<Msi> {
    let mode = entry >> 8 & 0b111;
    if entry & ENTRY_MASKED != 0 || !matches!(mode, FIXED | LOWEST_PRIORITY | NMI | INIT) {
        return None;
    }
    let destination = entry >> 56;
    // The destination mode bit alone says logical: a redirection hint would turn a fixed message to
    // several processors into one for the lowest-priority among them.
    let logical = if entry & ENTRY_LOGICAL != 0 {
        MSI_ADDRESS_LOGICAL
    } else {
        0
    };
    let [a, b, ..] = (entry & 0xff | mode << 8 | MSI_DATA_ASSERT).to_le_bytes();
    Some(Msi {
        address: MSI_ADDRESS | destination << 12 | logical,
        data: u32::from_le_bytes([a, b, 0, 0]),
    })
}

impl Registers {
    fn entry(&self, pin: u8) -> Option<u64> {
        self.entries.get(usize::from(pin)).copied()
    }

    /// The selected register.
    fn read(&self) -> u32 {
        match self.select {
            REGISTER_ID | REGISTER_ARBITRATION => self.id,
            REGISTER_VERSION => VERSION,
            _ => {
                let Some(entry) = redirection(self.select).and_then(|p| self.entry(p)) else {
                    return 0;
                };
                let [a, b, c, d, e, f, g, h] = entry.to_le_bytes();
                if self.select.is_multiple_of(2) {
                    u32::from_le_bytes([a, b, c, d])
                } else {
                    u32::from_le_bytes([e, f, g, h])
                }
            }
        }
    }

    fn write(&mut self, value: u32) {
        if self.select == REGISTER_ID {
            self.id = value & ID_WRITABLE;
            return;
        }
        let pin = redirection(self.select).map(usize::from);
        let Some(entry) = pin.and_then(|p| self.entries.get_mut(p)) else {
            return;
        };
        let shift = if self.select.is_multiple_of(2) { 0 } else { 32 };
        let written = 0xffff_ffff_u64 << shift;
        let value = u64::from(value) << shift;
        *entry = (*entry & !written | value) & ENTRY_WRITABLE;
    }
}

/// The pin whose redirection entry a register is half of.
fn redirection(register: u8) -> Option<u8> {
    register.checked_sub(REGISTER_REDIRECTION).map(|r| r / 2)
}

impl BusDevice for IoApic {
    /// §3.0: registers are accessed as 32 bits; any other read is zero.
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let registers = lock(&self.0.registers);
        let value = match offset {
            SELECT => u32::from(registers.select),
            DATA => registers.read(),
            _ => return,
        };
        if data.len() == 4 {
            data.copy_from_slice(&value.to_le_bytes());
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut registers = lock(&self.0.registers);
        match (offset, data) {
            (SELECT, &[select] | &[select, _, _, _]) => registers.select = select,
            (DATA, &[a, b, c, d]) => registers.write(u32::from_le_bytes([a, b, c, d])),
            _ => {}
        }
    }
}

impl fmt::Debug for IoApic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let registers = lock(&self.0.registers);
        f.debug_tuple("IoApic").field(&*registers).finish()
    }
}

#[cfg(test)]
mod tests;
