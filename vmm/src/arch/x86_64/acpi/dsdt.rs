//! The DSDT: the PCI host bridge, the few devices that cannot be enumerated, and what soft off is.
//!
//! ACPI 6.5 chapters 5, 6 and 19; PCI Firmware 3.3 §4. Left out on purpose: `_PRT`, since no function
//! has an INTx line, and `_OSC`, since there is nothing on the bus that firmware could hand over.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Device, EISAName, Equal, Field, FieldAccessType,
    FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Local, Memory32Fixed, Method,
    Name, Notify, OpRegion, OpRegionSpace, Package, Path, ResourceTemplate, Scope, Store, ZERO,
};
use kami_devices::platform::power;

use super::{Machine, table};
use crate::arch::x86_64::layout::{
    ACPI_REGISTERS, COM1, COM1_IRQ, ECAM, GED_IRQ, PCI_CONFIG, PCI_WINDOW_32, PVPANIC, Ports, RTC,
    Range,
};

/// Integers of AML are 64 bits wide from this revision on.
const REVISION: u8 = 2;
/// "The device is pressed" (§4.8.2.2.1.2).
const BUTTON_PRESSED: u8 = 0x80;

pub fn table_bytes(machine: &Machine) -> Vec<u8> {
    let mut body = Vec::new();
    host_bridge(machine.pci_window_64, &mut body);
    motherboard(&mut body);
    com1(&mut body);
    rtc(&mut body);
    pvpanic(&mut body);
    power_button(&mut body);
    for id in (0..=u8::MAX).take(machine.cpus as usize) {
        processor(id, &mut body);
    }
    let mut aml = Scope::raw(Path::new("\\_SB_"), body);
    soft_off(&mut aml);
    table(*b"DSDT", REVISION, &aml)
}

fn name(path: &str, value: &dyn Aml) -> Name {
    Name::new(Path::new(path), value)
}

fn ports(ports: Ports) -> IO {
    IO::new(ports.first, ports.first, 1, ports.count)
}

/// An edge-triggered, active-high line of the I/O APIC that no other device has.
fn line(irq: u8) -> Interrupt {
    Interrupt::new(true, true, false, false, irq.into())
}

/// Adds a device that has no more than an identity and resources.
fn device(path: &str, hid: &dyn Aml, uid: u8, resources: Vec<&dyn Aml>, out: &mut Vec<u8>) {
    let crs = ResourceTemplate::new(resources);
    let (hid, uid, crs) = (name("_HID", hid), name("_UID", &uid), name("_CRS", &crs));
    Device::new(Path::new(path), vec![&hid, &uid, &crs]).to_aml_bytes(out);
}

/// PCI Firmware 3.3 §4.1.3: bus 0 and what its windows pass on.
fn host_bridge(window_64: Option<Range>, out: &mut Vec<u8>) {
    let after_config = PCI_CONFIG.first + u16::from(PCI_CONFIG.count);
    let low = |address: u64| u32::try_from(address).unwrap_or(u32::MAX);
    let bus = AddressSpace::new_bus_number(0u16, 0);
    let config = ports(PCI_CONFIG);
    let io_low = AddressSpace::new_io(0, PCI_CONFIG.first - 1, None);
    let io_high = AddressSpace::new_io(after_config, u16::MAX, None);
    let memory = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        low(PCI_WINDOW_32.start.0),
        low(PCI_WINDOW_32.end() - 1),
        None,
    );
    let memory_64 = window_64.map(|window| {
        AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            window.start.0,
            window.end() - 1,
            None,
        )
    });
    let mut resources: Vec<&dyn Aml> = vec![&bus, &config, &io_low, &io_high, &memory];
    if let Some(memory) = &memory_64 {
        resources.push(memory);
    }
    let children: [Name; 6] = [
        name("_HID", &EISAName::new("PNP0A08")),
        name("_CID", &EISAName::new("PNP0A03")),
        name("_SEG", &ZERO),
        name("_BBN", &ZERO),
        name("_UID", &ZERO),
        name("_CRS", &ResourceTemplate::new(resources)),
    ];
    let children = children.iter().map(|child| child as &dyn Aml).collect();
    Device::new(Path::new("PCI0"), children).to_aml_bytes(out);
}

/// What is taken but belongs to no device: the ECAM range, which Linux uses only when it is reserved
/// here or in the memory map, and the ACPI registers.
fn motherboard(out: &mut Vec<u8>) {
    let low = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let ecam = Memory32Fixed::new(true, low(ECAM.start.0), low(ECAM.len));
    let registers = ports(ACPI_REGISTERS);
    device(
        "MBRD",
        &EISAName::new("PNP0C02"),
        0,
        vec![&ecam, &registers],
        out,
    );
}

fn com1(out: &mut Vec<u8>) {
    let (ports, line) = (ports(COM1), line(COM1_IRQ));
    device(
        "COM1",
        &EISAName::new("PNP0501"),
        0,
        vec![&ports, &line],
        out,
    );
}

/// The clock without its alarm: there is no line.
fn rtc(out: &mut Vec<u8>) {
    device("RTC0", &EISAName::new("PNP0B00"), 0, vec![&ports(RTC)], out);
}

/// QEMU `docs/specs/pvpanic.rst`.
fn pvpanic(out: &mut Vec<u8>) {
    device("PEVT", &"QEMU0001", 0, vec![&ports(PVPANIC)], out);
}

/// §5.6.9: the generic event device, which tells of the power button (§4.8.2.2.1.2).
fn power_button(out: &mut Vec<u8>) {
    let button = name("_HID", &EISAName::new("PNP0C0C"));
    let button_uid = name("_UID", &ZERO);
    Device::new(Path::new("PWRB"), vec![&button, &button_uid]).to_aml_bytes(out);

    let status_port = u64::from(ACPI_REGISTERS.first) + power::EVENT_STATUS;
    let region = OpRegion::new(
        Path::new("EVTR"),
        OpRegionSpace::SystemIO,
        &status_port,
        &1u8,
    );
    let field = Field::new(
        Path::new("EVTR"),
        FieldAccessType::Byte,
        FieldLockRule::NoLock,
        FieldUpdateRule::WriteAsZeroes,
        vec![FieldEntry::Named(*b"EVTS", 8)],
    );
    // Reads what happened, acknowledges exactly that, and passes it on.
    let status = Path::new("EVTS");
    let read = Store::new(&Local(0), &status);
    let acknowledge = Store::new(&status, &Local(0));
    let masked = And::new(&Local(1), &Local(0), &power::EVENT_POWER_BUTTON);
    let pressed = Equal::new(&Local(1), &power::EVENT_POWER_BUTTON);
    let path = Path::new("\\_SB_.PWRB");
    let notify = Notify::new(&path, &BUTTON_PRESSED);
    let if_pressed = If::new(&pressed, vec![&notify]);
    let event = Method::new(
        Path::new("_EVT"),
        1,
        true,
        vec![&read, &acknowledge, &masked, &if_pressed],
    );
    let hid = name("_HID", &"ACPI0013");
    let uid = name("_UID", &ZERO);
    let line = line(GED_IRQ);
    let crs = name("_CRS", &ResourceTemplate::new(vec![&line]));
    let children: Vec<&dyn Aml> = vec![&hid, &uid, &crs, &region, &field, &event];
    Device::new(Path::new("GED0"), children).to_aml_bytes(out);
}

/// §8.4: the MADT says how the processor is reached, by the same `_UID`.
fn processor(id: u8, out: &mut Vec<u8>) {
    let hid = name("_HID", &"ACPI0007");
    let uid = name("_UID", &id);
    Device::new(Path::new(&format!("CP{id:02X}")), vec![&hid, &uid]).to_aml_bytes(out);
}

/// §7.4.2: the sleep type that the sleep control register takes for soft off.
fn soft_off(out: &mut Vec<u8>) {
    let package = Package::new(vec![&power::S5_SLEEP_TYPE, &ZERO, &ZERO, &ZERO]);
    name("_S5_", &package).to_aml_bytes(out);
}
