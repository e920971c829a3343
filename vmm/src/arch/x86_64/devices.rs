//! The machine's devices on their buses.

use std::io::Write;
use std::sync::Arc;

use kami_devices::GuestMemory;
use kami_devices::bus::{BusBuilder, BusDevice};
use kami_devices::ioapic::IoApic;
use kami_devices::pci::root::ConfigPorts;
use kami_devices::platform::{AcpiPower, I8042, PowerEvent, Pvpanic, Rtc};
use kami_devices::serial::Serial;
use kami_devices::virtio::device::VirtioDevice;

use crate::arch::Fixed;
use crate::arch::pci::PciBus;
use crate::arch::x86_64::layout::{
    ACPI_REGISTERS, COM1, COM1_IRQ, ECAM, GED_IRQ, I8042 as I8042_PORTS, IO_APIC, PCI_CONFIG,
    PCI_WINDOW_32, PVPANIC, Ports, RTC,
};
use crate::irq::Interrupts;
use crate::machine::{End, Ending, Error};
use crate::vcpu::Buses;

use super::Model;

/// Builds the machine's devices around `devices`, which become PCI functions in that order, from slot 1
/// on. Their BARs have addresses then, as firmware would have given them.
///
/// # Errors
/// The bus has no place for so many devices.
pub fn attach(
    interrupts: &Arc<Interrupts>,
    memory: &GuestMemory,
    model: &Model,
    devices: Vec<Box<dyn VirtioDevice>>,
    console: Box<dyn Write + Send>,
    ending: &Arc<Ending>,
) -> Result<Fixed, Error> {
    let io_apic = IoApic::new(interrupts.clone());
    let console = Arc::new(Serial::new(io_apic.pin(COM1_IRQ), console));
    let power = Arc::new(AcpiPower::new(io_apic.pin(GED_IRQ), on_power(ending)));
    let mut pci = PciBus::new(PCI_WINDOW_32, interrupts, memory);
    let functions = pci.add_all(devices)?;

    let mut mmio = BusBuilder::default();
    mmio.insert("io apic", IO_APIC.start.0, IO_APIC.len, Arc::new(io_apic))?;
    let windows = [Some(PCI_WINDOW_32), model.pci_window_64];
    let root = pci.place(&mut mmio, ECAM, windows)?;

    let mut ports = BusBuilder::default();
    let mut add = |name, range: Ports, device: Arc<dyn BusDevice>| {
        ports.insert(name, range.first.into(), range.count.into(), device)
    };
    let reset = ending.clone();
    let panics = ending.clone();
    add(
        "i8042",
        I8042_PORTS,
        Arc::new(I8042::new(move || reset.end(End::Reset))),
    )?;
    add("rtc", RTC, Arc::new(Rtc::new()))?;
    add("com1", COM1, console.clone())?;
    add(
        "pvpanic",
        PVPANIC,
        Arc::new(Pvpanic::new(move |e| panics.panic_event(e))),
    )?;
    add("acpi registers", ACPI_REGISTERS, power.clone())?;
    add("pci config", PCI_CONFIG, Arc::new(ConfigPorts::new(root)))?;
    Ok(Fixed {
        buses: Buses {
            mmio: mmio.freeze(),
            ports: ports.freeze(),
        },
        console,
        power,
        functions,
    })
}

fn on_power(ending: &Arc<Ending>) -> impl Fn(PowerEvent) + Send + Sync + 'static {
    let ending = ending.clone();
    move |event| {
        ending.end(match event {
            PowerEvent::PoweredOff => End::PoweredOff,
            PowerEvent::Reset => End::Reset,
        });
    }
}
