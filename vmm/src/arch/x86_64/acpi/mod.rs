//! The machine's description in ACPI 6.5: RSDP, XSDT, FADT, MADT, MCFG and the DSDT (`dsdt`).
//!
//! Hardware-reduced (§4.1): no PM timer, no SCI, no fixed power button, hence no FACS either. Left out
//! on purpose: HPET, SRAT, SLIT, BGRT, and everything about sleep but S5.

mod dsdt;

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use kami_devices::platform::power;

use super::layout::{ACPI, ACPI_REGISTERS, ECAM, IO_APIC, LOCAL_APIC, Range};

const OEM_ID: [u8; 6] = *b"KAMI  ";
const OEM_TABLE_ID: [u8; 8] = *b"KAMIVM  ";
const OEM_REVISION: u32 = 1;
/// The header that all tables but the RSDP begin with, in bytes.
const HEADER_BYTES: u32 = 36;
/// Tables begin at multiples of this.
const ALIGNMENT: usize = 16;

/// What of the machine the tables depend on.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// vCPUs; the APIC id of each is its index. 1 to 32.
    pub cpus: u32,
    /// Where BARs above 4 GiB may lie.
    pub pci_window_64: Option<Range>,
}

/// All tables, to be put at [`ACPI`]'s start, the RSDP first.
pub fn tables(machine: &Machine) -> Vec<u8> {
    let mut tables = Placed::default();
    // Room for the RSDP, which is known last.
    tables.place(&[0; size_of::<Rsdp>()]);
    let dsdt = tables.place(&dsdt::table_bytes(machine));
    let fadt = tables.place(&bytes(&fadt(dsdt)));
    let madt = tables.place(&madt(machine));
    let mcfg = tables.place(&mcfg());
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for table in [fadt, madt, mcfg] {
        xsdt.add_entry(table);
    }
    let xsdt = tables.place(&bytes(&xsdt));
    let rsdp = bytes(&Rsdp::new(OEM_ID, xsdt));
    tables.0[..rsdp.len()].copy_from_slice(&rsdp);
    tables.0
}

/// The tables' bytes so far.
#[derive(Default)]
struct Placed(Vec<u8>);

impl Placed {
    /// Adds a table and returns its guest-physical address.
    fn place(&mut self, table: &[u8]) -> u64 {
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        let address = ACPI.start.0 + self.0.len() as u64;
        self.0.extend_from_slice(table);
        address
    }
}

fn bytes(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}

fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Sdt::new(
        signature,
        HEADER_BYTES,
        revision,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    table.append_slice(body);
    table.as_slice().to_vec()
}

/// One of the one-byte registers of [`power::AcpiPower`].
fn register(offset: u64) -> GAS {
    let address = u64::from(ACPI_REGISTERS.first) + offset;
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        address,
    )
}

/// §5.2.9. The power and sleep button bits mean "not a fixed feature"; the power button is a device of
/// the DSDT.
fn fadt(dsdt: u64) -> impl Aml {
    /// §5.2.9.3: devices on the ISA bus that a user may see (the UART), no VGA to probe for. The 8042
    /// is not announced: there is no keyboard, and its reset line works without.
    const LEGACY_DEVICES: u16 = 1 << 0;
    const VGA_NOT_PRESENT: u16 = 1 << 2;
    let flags = [
        Flags::Wbinvd,
        Flags::PwrButton,
        Flags::SlpButton,
        Flags::FixRtc,
        Flags::ResetRegSup,
        Flags::Headless,
        Flags::HwReducedAcpi,
    ];
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION).dsdt_64(dsdt);
    for flag in flags {
        fadt = fadt.flag(flag);
    }
    fadt.iapc_boot_arch = (LEGACY_DEVICES | VGA_NOT_PRESENT).into();
    fadt.reset_reg = register(power::RESET);
    fadt.reset_value = power::RESET_VALUE;
    fadt.sleep_control_reg = register(power::SLEEP_CONTROL);
    fadt.sleep_status_reg = register(power::SLEEP_STATUS);
    fadt.finalize()
}

/// §5.2.12. ISA interrupts are what they seem, so there are no source overrides; and no PIC.
fn madt(machine: &Machine) -> Vec<u8> {
    const REVISION: u8 = 5;
    const FLAGS: u32 = 0;
    let local_apic = u32::try_from(LOCAL_APIC.start.0).unwrap_or_default();
    let io_apic = u32::try_from(IO_APIC.start.0).unwrap_or_default();
    let mut body = Vec::new();
    body.extend_from_slice(&local_apic.to_le_bytes());
    body.extend_from_slice(&FLAGS.to_le_bytes());
    for id in (0..=u8::MAX).take(machine.cpus as usize) {
        ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).to_aml_bytes(&mut body);
    }
    IoApic::new(0, io_apic, 0).to_aml_bytes(&mut body);
    body.extend_from_slice(&LOCAL_APIC_NMI);
    table(*b"APIC", REVISION, &body)
}

/// §5.2.12.7: NMIs come in at LINT1 of every local APIC. LINT0 has nothing behind it, as there is no
/// PIC, and stays masked, as after reset.
const LOCAL_APIC_NMI: [u8; 6] = [4, 6, 0xff, 0, 0, 1];

/// PCI Firmware 3.3 §4.1.2.
fn mcfg() -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(ECAM.start.0, 0, 0, 0);
    bytes(&mcfg)
}

#[cfg(test)]
mod tests;
