//! ACPI's tables: which processors there are, where the interrupt controllers and PCI's configuration space are,
//! how to power off and reset.
//!
//! Implements ACPI 6.5 §5.2.5 (RSDP), §5.2.7–8 (RSDT, XSDT), §5.2.9 (FADT), §5.2.12 (MADT) and PCI Firmware 3.3
//! §4.1.2 (MCFG). Left out on purpose: an AML interpreter; the few things wanted of the DSDT are found by
//! their bytes.

use super::ports::{out_u8, out_u16};
use crate::boot_info::BootInfo;
use crate::console::{Console, Failure, failure, report};
use crate::hw::Window;
use crate::pci::PciWindow;

/// No table is larger, in bytes; bounds what a broken length makes the guest read.
const TABLE_LIMIT_BYTES: u32 = 1 << 20;
const PROCESSORS_LIMIT: usize = 64;
const WINDOWS_LIMIT: usize = 4;

const FADT_HARDWARE_REDUCED: u32 = 1 << 20;
const FADT_RESET_SUPPORTED: u32 = 1 << 10;
const SPACE_MEMORY: u8 = 0;
const SPACE_IO: u8 = 1;
const SLEEP_ENABLE: u8 = 1 << 5;

/// What Kami's DSDT says in `_S5`, for when the bytes of it are not found.
const S5_SLEEP_TYPE: u8 = 5;

/// A register as ACPI gives its place (§5.2.3.2 Generic Address Structure); bytes only.
#[derive(Clone, Copy)]
pub struct Register {
    space: u8,
    address: u64,
}

/// What the tables say, as far as the test asks.
pub struct Acpi {
    tables: u32,
    hardware_reduced: bool,
    pub ecam: Option<u64>,
    bridge_ecam: Option<u64>,
    processors: [u8; PROCESSORS_LIMIT],
    processor_count: usize,
    io_apic: Option<(u64, u32)>,
    overrides: [Option<(u32, u16)>; 16],
    sleep_control: Option<Register>,
    pm1_control: Option<u16>,
    s5_sleep_type: u8,
    reset: Option<(Register, u8)>,
    windows: [PciWindow; WINDOWS_LIMIT],
    window_count: usize,
}

impl Acpi {
    /// Reads the tables from the RSDP that was handed over, or where a BIOS would have put one if none was.
    pub fn read(info: &BootInfo) -> Result<Self, Failure> {
        let mut this = Self {
            tables: 0,
            hardware_reduced: false,
            ecam: None,
            bridge_ecam: None,
            processors: [0; PROCESSORS_LIMIT],
            processor_count: 0,
            io_apic: None,
            overrides: [None; 16],
            sleep_control: None,
            pm1_control: None,
            s5_sleep_type: S5_SLEEP_TYPE,
            reset: None,
            windows: [PciWindow::default(); WINDOWS_LIMIT],
            window_count: 0,
        };
        let rsdp = match info.firmware {
            0 => find_rsdp()?,
            address => address,
        };
        // SAFETY: tables of the firmware, which stay where they are.
        let rsdp = unsafe { Window::new(rsdp, 36) };
        check_rsdp(rsdp)?;
        let (root, entry_bytes) = match (rsdp.u8(15), rsdp.u64(24)) {
            (2.., xsdt) if xsdt != 0 => (table(xsdt, b"XSDT")?, 8),
            _ => (table(u64::from(rsdp.u32(16)), b"RSDT")?, 4),
        };
        for at in (36..root.bytes()).step_by(entry_bytes) {
            let address = match entry_bytes {
                8 => root.u64(at),
                _ => u64::from(root.u32(at)),
            };
            this.read_table(address)?;
        }
        this.ecam = this.ecam.or(this.bridge_ecam);
        if this.processor_count == 0 {
            return Err(failure!("the MADT has no processor"));
        }
        Ok(this)
    }

    /// Tells what was found, and fails if it does not suffice.
    pub fn report(&self, console: &mut Console) -> Result<(), Failure> {
        report!(console, "acpi_tables={}", self.tables);
        let hardware_reduced = if self.hardware_reduced { "yes" } else { "no" };
        report!(console, "hardware_reduced={hardware_reduced}");
        if self.sleep_control.is_none() && self.pm1_control.is_none() || self.reset.is_none() {
            return Err(failure!(
                "the FADT names no way to power off or none to reset"
            ));
        }
        Ok(())
    }

    fn read_table(&mut self, address: u64) -> Result<(), Failure> {
        // SAFETY: as above.
        let header = unsafe { Window::new(address, 36) };
        let mut signature = [0; 4];
        header.read(0, &mut signature);
        let table = table(address, &signature)?;
        self.tables += 1;
        match &signature {
            b"FACP" => self.read_fadt(table),
            b"APIC" => self.read_madt(table),
            b"MCFG" => {
                self.ecam = (table.bytes() >= 60).then(|| table.u64(44));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn read_fadt(&mut self, fadt: Window) -> Result<(), Failure> {
        let flags = fadt.u32(112);
        self.hardware_reduced = flags & FADT_HARDWARE_REDUCED != 0;
        if flags & FADT_RESET_SUPPORTED != 0 && fadt.bytes() > 128 {
            self.reset = register(fadt, 116).map(|register| (register, fadt.u8(128)));
        }
        if self.hardware_reduced && fadt.bytes() >= 268 {
            self.sleep_control = register(fadt, 244);
        } else {
            self.pm1_control = u16::try_from(fadt.u32(64)).ok().filter(|&port| port != 0);
        }
        let long = if fadt.bytes() >= 148 {
            fadt.u64(140)
        } else {
            0
        };
        let dsdt = match long {
            0 => u64::from(fadt.u32(40)),
            address => address,
        };
        let dsdt = table(dsdt, b"DSDT")?;
        self.tables += 1;
        self.read_dsdt(dsdt);
        Ok(())
    }

    /// Name (_S5_, Package () { SLP_TYP, … }): the type is a byte constant, Zero or One. And the host bridge's
    /// memory windows: §6.4.3.5.2 DWord and §6.4.3.5.1 QWord address space descriptors.
    fn read_dsdt(&mut self, dsdt: Window) {
        for at in 36..dsdt.bytes().saturating_sub(46) {
            if dsdt.u8(at) == 0x08
                && dsdt.u32(at + 1) == u32::from_le_bytes(*b"_S5_")
                && dsdt.u8(at + 5) == 0x12
            {
                self.s5_sleep_type = match dsdt.u8(at + 8) {
                    0x0a => dsdt.u8(at + 9),
                    byte => byte,
                };
            }
            // Method (_CBA) { Return (…) }, for a machine without MCFG, as QEMU's microvm is (PCI Firmware 3.3 §4.1.3).
            if dsdt.u32(at) == u32::from_le_bytes(*b"_CBA") && dsdt.u8(at + 5) == 0xa4 {
                self.bridge_ecam = match dsdt.u8(at + 6) {
                    0x0c => Some(u64::from(dsdt.u32(at + 7))),
                    0x0e => Some(dsdt.u64(at + 7)),
                    _ => None,
                };
            }
            // Descriptor, length, and 0 for memory.
            let window = match dsdt.u32(at) {
                0x0000_1787 => {
                    Some([dsdt.u32(at + 10), dsdt.u32(at + 14), dsdt.u32(at + 22)].map(u64::from))
                }
                0x0000_2b8a => Some([dsdt.u64(at + 14), dsdt.u64(at + 22), dsdt.u64(at + 38)]),
                _ => None,
            };
            let Some([first, last, bytes]) = window else {
                continue;
            };
            if bytes != 0
                && last.checked_sub(first) == Some(bytes - 1)
                && self.window_count < WINDOWS_LIMIT
            {
                self.windows[self.window_count] = PciWindow {
                    start: first,
                    end: last.saturating_add(1),
                };
                self.window_count += 1;
            }
        }
    }

    fn read_madt(&mut self, madt: Window) -> Result<(), Failure> {
        let mut at = 44;
        while at + 2 <= madt.bytes() {
            let (kind, bytes) = (madt.u8(at), u64::from(madt.u8(at + 1)));
            if bytes < 2 || at + bytes > madt.bytes() {
                return Err(failure!("the MADT's entry at {at} has {bytes} bytes"));
            }
            match (kind, bytes) {
                // Processors, if they are enabled: by their local APIC's 8-bit id, or by the longer one.
                (0, 8..) if madt.u8(at + 4) & 1 != 0 => self.add_processor(madt.u8(at + 3)),
                (9, 16..) if madt.u8(at + 8) & 1 != 0 => {
                    let id = u8::try_from(madt.u32(at + 4));
                    self.add_processor(id.map_err(|_| failure!("a processor needs x2APIC mode"))?);
                }
                (1, 12..) if self.io_apic.is_none() => {
                    self.io_apic = Some((u64::from(madt.u32(at + 4)), madt.u32(at + 8)));
                }
                (2, 10..) => {
                    if let Some(place) = self.overrides.get_mut(usize::from(madt.u8(at + 3))) {
                        *place = Some((madt.u32(at + 4), madt.u16(at + 8)));
                    }
                }
                _ => {}
            }
            at += bytes;
        }
        Ok(())
    }

    /// One that both kinds of entry name counts once.
    fn add_processor(&mut self, id: u8) {
        if self.processors().contains(&id) {
            return;
        }
        if let Some(place) = self.processors.get_mut(self.processor_count) {
            *place = id;
            self.processor_count += 1;
        }
    }

    /// The local APIC ids of the processors.
    pub fn processors(&self) -> &[u8] {
        &self.processors[..self.processor_count]
    }

    /// Address of the first I/O APIC and the number of its first interrupt.
    pub fn io_apic(&self) -> Option<(u64, u32)> {
        self.io_apic
    }

    /// Where ISA interrupt `irq` arrives, and the flags of it.
    pub fn interrupt_override(&self, irq: u8) -> (u32, u16) {
        let found = self.overrides.get(usize::from(irq)).copied().flatten();
        found.unwrap_or((u32::from(irq), 0))
    }

    pub fn pci_windows(&self) -> &[PciWindow] {
        &self.windows[..self.window_count]
    }

    /// Asks for S5, soft off (§4.8.3.7, or §16.1.6 on a machine with fixed hardware).
    pub fn power_off(&self) {
        match (self.sleep_control, self.pm1_control) {
            (Some(register), _) => register.write(self.s5_sleep_type << 2 | SLEEP_ENABLE),
            (None, Some(port)) => out_u16(port, u16::from(self.s5_sleep_type) << 10 | 1 << 13),
            (None, None) => {}
        }
    }

    /// The events of Kami's generic event device: `devices` has them in the byte that is third after the sleep
    /// control register.
    pub fn event_port(&self) -> Option<u16> {
        let register = self
            .sleep_control
            .filter(|register| register.space == SPACE_IO)?;
        u16::try_from(register.address + 3).ok()
    }

    /// Asks for a reset (§4.8.3.6).
    pub fn reset(&self) {
        if let Some((register, value)) = self.reset {
            register.write(value);
        }
    }
}

impl Register {
    fn write(self, value: u8) {
        match self.space {
            SPACE_IO => out_u8(self.address as u16, value),
            // SAFETY: a device's register.
            _ => unsafe { Window::new(self.address, 1) }.set_u8(0, value),
        }
    }
}

fn register(table: Window, at: u64) -> Option<Register> {
    let (space, address) = (table.u8(at), table.u64(at + 4));
    let known = space == SPACE_MEMORY || space == SPACE_IO && address <= 0xffff;
    (known && address != 0).then_some(Register { space, address })
}

/// A table of `bytes` whose bytes sum to 0, or why not.
fn table(address: u64, signature: &[u8; 4]) -> Result<Window, Failure> {
    let name = core::str::from_utf8(signature).unwrap_or("?");
    // SAFETY: tables of the firmware.
    let header = unsafe { Window::new(address, 36) };
    let mut found = [0; 4];
    header.read(0, &mut found);
    if found != *signature {
        return Err(failure!("no {name} at {address:#x}"));
    }
    let bytes = header.u32(4);
    if !(36..=TABLE_LIMIT_BYTES).contains(&bytes) {
        return Err(failure!("the {name} has {bytes} bytes"));
    }
    // SAFETY: as above.
    let table = unsafe { Window::new(address, u64::from(bytes)) };
    if sum(table) != 0 {
        return Err(failure!("the checksum of the {name} is wrong"));
    }
    Ok(table)
}

fn sum(table: Window) -> u8 {
    (0..table.bytes()).fold(0, |sum, at| sum.wrapping_add(table.u8(at)))
}

fn check_rsdp(rsdp: Window) -> Result<(), Failure> {
    if rsdp.u64(0) != u64::from_le_bytes(*b"RSD PTR ") {
        return Err(failure!("no RSDP at {:#x}", rsdp.start()));
    }
    if sum(rsdp.part(0, 20)) != 0 || rsdp.u8(15) >= 2 && sum(rsdp) != 0 {
        return Err(failure!("the checksum of the RSDP is wrong"));
    }
    Ok(())
}

/// §5.2.5.1: on a 16-byte boundary of the BIOS's read-only memory.
fn find_rsdp() -> Result<u64, Failure> {
    // SAFETY: the BIOS's memory.
    let bios = unsafe { Window::new(0xe_0000, 0x2_0000) };
    (0..bios.bytes())
        .step_by(16)
        .find(|&at| bios.u64(at) == u64::from_le_bytes(*b"RSD PTR "))
        .map(|at| bios.start() + at)
        .ok_or_else(|| failure!("no RSDP was given or found"))
}
