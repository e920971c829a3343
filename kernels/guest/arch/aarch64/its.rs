//! The interrupt translation service: messages of PCI devices become locality-specific peripheral interrupts.
//!
//! Implements Arm IHI 0069 §5 (the service, its tables and commands), §12.18–12.19 (its registers) and §6.1 (the
//! interrupts' configuration and pending tables). Left out on purpose: two-level tables, more than one collection,
//! virtual interrupts.

use core::cell::Cell;
use core::ptr::addr_of_mut;

use super::memory::fence;
use crate::console::{Failure, failure};
use crate::hw::{Deadline, Window};
use crate::pci::Message;

/// The service's registers.
const GITS_CTLR: u64 = 0x00;
const GITS_TYPER: u64 = 0x08;
const GITS_CBASER: u64 = 0x80;
const GITS_CWRITER: u64 = 0x88;
const GITS_CREADR: u64 = 0x90;
const GITS_BASER: u64 = 0x100;
const GITS_TRANSLATER: u64 = 0x10040;
const GITS_QUIESCENT: u32 = 1 << 31;
const VALID: u64 = 1 << 63;
/// Write-back, read- and write-allocate, inner shareable; and where the cacheability stands in the registers.
const CACHED: u64 = 7;
const SHAREABLE: u64 = 1 << 10;
const TABLE_PAGES_64K: u64 = 2 << 8;

/// The redistributor's registers for these interrupts.
const GICR_CTLR: u64 = 0x00;
const GICR_TYPER: u64 = 0x08;
const GICR_PROPBASER: u64 = 0x70;
const GICR_PENDBASER: u64 = 0x78;
const GICR_ENABLE: u32 = 1;

/// Commands.
const MAPD: u64 = 0x08;
const MAPC: u64 = 0x09;
const MAPTI: u64 = 0x0a;
const INV: u64 = 0x0c;
const SYNC: u64 = 0x05;
const COMMAND_BYTES: u64 = 32;

/// The first of these interrupts, and how many bits their numbers have: the fewest that there can be.
pub const FIRST: u32 = 8192;
const NUMBER_BITS: u64 = 14;
/// Priority 0xa0, bit 1, which is one, and on.
const CONFIGURATION: u8 = 0xa0 | 1 << 1 | 1;

/// As many interrupts as are used here.
pub const LIMIT: u32 = 256;
const EVENT_BITS: u64 = 5;
const DEVICES_LIMIT: u64 = 64;
const DEVICE_TABLE_BYTES: u64 = 512;

/// Where what the controller keeps in memory is within [`TABLES`]. All but the configurations and translations have to be
/// aligned to 64 KiB, the commands too: GITS_CBASER may take bits 12 to 15 of their address for zero.
const PENDING: (u64, u64) = (0x00000, 0x10000);
const DEVICES: (u64, u64) = (0x10000, 0x10000);
const COLLECTIONS: (u64, u64) = (0x20000, 0x10000);
const COMMANDS: (u64, u64) = (0x30000, 0x1000);
const CONFIGURATIONS: (u64, u64) = (0x31000, 0x2000);
const TRANSLATIONS: (u64, u64) = (0x34000, DEVICES_LIMIT * DEVICE_TABLE_BYTES);
const TABLES_BYTES: u64 = TRANSLATIONS.0 + TRANSLATIONS.1;

const _: () = assert!(CONFIGURATIONS.1 == (1 << NUMBER_BITS) - FIRST as u64);
const _: () = assert!((PENDING.0 | DEVICES.0 | COLLECTIONS.0 | COMMANDS.0) % (64 << 10) == 0);

#[repr(C, align(65536))]
struct Tables([u8; TABLES_BYTES as usize]);

// Not cleared at the start: what is used of it is.
#[unsafe(link_section = ".bss.unset.its")]
static mut TABLES: Tables = Tables([0; TABLES_BYTES as usize]);

pub struct Its {
    registers: Window,
    tables: Window,
    /// How commands name the redistributor.
    target: u64,
    first_device: u32,
    /// Functions whose devices are mapped, a bit for each.
    mapped: Cell<[u64; 4]>,
    mapped_count: Cell<u64>,
    interrupts: Cell<u32>,
}

impl Its {
    /// Turns the service on. Device `first_device` is PCI function 0.
    pub fn new(
        registers: Window,
        redistributor: Window,
        first_device: u32,
    ) -> Result<Self, Failure> {
        // SAFETY: only accessed through windows.
        let tables = unsafe { Window::new(addr_of_mut!(TABLES) as u64, TABLES_BYTES) };
        clear(tables);
        let kind = registers.u64(GITS_TYPER);
        // Bit 19: redistributors are named by address, else by number.
        let target = match kind >> 19 & 1 {
            0 => (redistributor.u64(GICR_TYPER) >> 8 & 0xffff) << 16,
            _ => redistributor.start(),
        };
        // Bits 4 to 7: the bytes of an entry, less one.
        if ((kind >> 4 & 0xf) + 1) << EVENT_BITS > DEVICE_TABLE_BYTES {
            return Err(failure!("the translation service's entries are too long"));
        }
        let this = Self {
            registers,
            tables,
            target,
            first_device,
            mapped: Cell::new([0; 4]),
            mapped_count: Cell::new(0),
            interrupts: Cell::new(0),
        };
        this.turn_redistributor_on(redistributor);
        this.turn_on()?;
        this.command([MAPC, 0, VALID | target, 0]);
        this.sync()?;
        Ok(this)
    }

    fn address(&self, (at, bytes): (u64, u64)) -> u64 {
        self.tables.part(at, bytes).start()
    }

    fn turn_redistributor_on(&self, redistributor: Window) {
        let attributes = SHAREABLE | CACHED << 7;
        let configurations = self.address(CONFIGURATIONS) | attributes | (NUMBER_BITS - 1);
        redistributor.set_u64(GICR_PROPBASER, configurations);
        // Bit 62: the table is all zeroes.
        redistributor.set_u64(GICR_PENDBASER, self.address(PENDING) | attributes | 1 << 62);
        fence();
        let control = redistributor.u32(GICR_CTLR);
        redistributor.set_u32(GICR_CTLR, control | GICR_ENABLE);
    }

    fn turn_on(&self) -> Result<(), Failure> {
        let registers = self.registers;
        registers.set_u32(GITS_CTLR, 0);
        wait_until_quiescent(registers)?;
        for register in (0..8).map(|index| GITS_BASER + 8 * index) {
            let table = match registers.u64(register) >> 56 & 7 {
                1 => DEVICES,
                4 => COLLECTIONS,
                _ => continue,
            };
            // One page.
            let value = VALID | CACHED << 59 | SHAREABLE | TABLE_PAGES_64K;
            registers.set_u64(register, value | self.address(table));
            if registers.u64(register) & (VALID | 3 << 8) != VALID | TABLE_PAGES_64K {
                return Err(failure!("the translation service refuses a table"));
            }
        }
        registers.set_u64(
            GITS_CBASER,
            VALID | CACHED << 59 | SHAREABLE | self.address(COMMANDS),
        );
        registers.set_u64(GITS_CWRITER, 0);
        registers.set_u32(GITS_CTLR, 1);
        Ok(())
    }

    /// What makes `entry` of PCI function `number` interrupt, and the interrupt that it becomes: `known`, if it has
    /// one already.
    pub fn message(
        &self,
        number: u8,
        entry: u16,
        known: Option<u32>,
    ) -> Result<(Message, u32), Failure> {
        let event = u64::from(entry);
        if event >> EVENT_BITS != 0 {
            return Err(failure!("function {number:#x} has too many messages"));
        }
        let message = Message {
            address: self.registers.start() + GITS_TRANSLATER,
            data: u32::from(entry),
        };
        if let Some(id) = known {
            return Ok((message, id));
        }
        let id = FIRST + self.interrupts.get();
        if self.interrupts.get() >= LIMIT {
            return Err(failure!("more messages than {LIMIT}"));
        }
        self.interrupts.set(self.interrupts.get() + 1);
        let device = u64::from(self.first_device) + u64::from(number);
        self.map_device(number, device)?;
        self.tables
            .set_u8(CONFIGURATIONS.0 + u64::from(id - FIRST), CONFIGURATION);
        self.command([MAPTI | device << 32, event | u64::from(id) << 32, 0, 0]);
        self.command([INV | device << 32, event, 0, 0]);
        self.sync()?;
        Ok((message, id))
    }

    fn map_device(&self, number: u8, device: u64) -> Result<(), Failure> {
        let mut mapped = self.mapped.get();
        let (word, bit) = (&mut mapped[usize::from(number / 64)], 1 << (number % 64));
        if *word & bit != 0 {
            return Ok(());
        }
        *word |= bit;
        let count = self.mapped_count.get();
        if count == DEVICES_LIMIT {
            return Err(failure!("more devices with messages than {DEVICES_LIMIT}"));
        }
        let table = self.address(TRANSLATIONS) + count * DEVICE_TABLE_BYTES;
        self.mapped_count.set(count + 1);
        self.mapped.set(mapped);
        self.command([MAPD | device << 32, EVENT_BITS - 1, VALID | table, 0]);
        Ok(())
    }

    /// Adds a command to those that [`Its::sync`] lets the service perform. No batch is longer than the queue.
    fn command(&self, command: [u64; 4]) {
        let at = self.registers.u64(GITS_CWRITER);
        for (part, value) in (0..).step_by(8).zip(command) {
            self.tables.set_u64(COMMANDS.0 + at + part, value);
        }
        fence();
        self.registers
            .set_u64(GITS_CWRITER, (at + COMMAND_BYTES) % COMMANDS.1);
    }

    /// Waits until all commands are done.
    fn sync(&self) -> Result<(), Failure> {
        self.command([SYNC, 0, self.target, 0]);
        let deadline = Deadline::new();
        while self.registers.u64(GITS_CREADR) != self.registers.u64(GITS_CWRITER) {
            if deadline.has_passed() {
                let at = self.registers.u64(GITS_CREADR);
                return Err(failure!("the translation service stops at {at:#x}"));
            }
        }
        Ok(())
    }
}

/// GITS_CTLR.Quiescent is set once the service that was turned off has finished.
fn wait_until_quiescent(registers: Window) -> Result<(), Failure> {
    let deadline = Deadline::new();
    while registers.u32(GITS_CTLR) & GITS_QUIESCENT == 0 {
        if deadline.has_passed() {
            return Err(failure!("the translation service does not come to rest"));
        }
    }
    Ok(())
}

fn clear(tables: Window) {
    // SAFETY: the window's own memory.
    unsafe { core::ptr::write_bytes(tables.start() as *mut u8, 0, tables.bytes() as usize) };
}
