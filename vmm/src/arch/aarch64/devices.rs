//! The machine's devices on its bus.

use std::io::Write;
use std::sync::Arc;

use kami_devices::GuestMemory;
use kami_devices::bus::{BusBuilder, BusDevice};
use kami_devices::irq::{Line, Msi, MsiSink};
use kami_devices::pl011::Pl011;
use kami_devices::platform::{Gicv2m, Pl031, Pl061, Pvpanic, gicv2m};
use kami_devices::virtio::device::VirtioDevice;
use kami_devices::virtio::power_key::PowerKey;
use kvm_bindings::{KVM_ARM_IRQ_TYPE_SHIFT, KVM_ARM_IRQ_TYPE_SPI};

use super::{Model, Power};
use crate::arch::Fixed;
use crate::arch::aarch64::fdt::Gic;
use crate::arch::aarch64::layout::{
    ECAM, GIC_V2M, GPIO, GPIO_IRQ, PCI_WINDOW_32, PVPANIC, RTC, UART, UART_IRQ, V2M_IRQS,
};
use crate::arch::pci::PciBus;
use crate::arch::range::Range;
use crate::irq::Interrupts;
use crate::machine::{Ending, Error};
use crate::vcpu::Buses;

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
    let line = |irq| Shared::new(interrupts, irq);
    let console = Arc::new(Pl011::new(Arc::new(line(UART_IRQ)), console));
    let gpio = Pl061::new(Arc::new(line(GPIO_IRQ)));
    let panics = ending.clone();
    let pvpanic = Pvpanic::new(move |event| panics.panic_event(event));
    let mut pci = PciBus::new(PCI_WINDOW_32, interrupts, memory);
    let functions = pci.add_all(devices)?;
    // Behind the others, so that it changes no slot, and made anew with each machine.
    let key = PowerKey::new();
    let power = Arc::new(Power {
        gpio,
        key: key.button(),
    });
    pci.add(Box::new(key))?;

    let mut mmio = BusBuilder::default();
    let mut add = |name, range: Range, device: Arc<dyn BusDevice>| {
        mmio.insert(name, range.start.0, range.len, device)
    };
    if model.controller.kind == Gic::V2 {
        let doorbell = Arc::new(Doorbell(interrupts.clone()));
        let frame = Gicv2m::new(GIC_V2M.start.0, V2M_IRQS, doorbell);
        add("gicv2m", GIC_V2M, Arc::new(frame))?;
    }
    add("uart", UART, console.clone())?;
    add("rtc", RTC, Arc::new(Pl031::new()))?;
    add("gpio", GPIO, power.clone())?;
    add("pvpanic", PVPANIC, Arc::new(pvpanic))?;
    let windows = [Some(PCI_WINDOW_32), model.pci_window_64];
    pci.place(&mut mmio, ECAM, windows)?;
    Ok(Fixed {
        buses: Buses {
            mmio: mmio.freeze(),
            ports: BusBuilder::default().freeze(),
        },
        console,
        power,
        functions,
    })
}

/// A shared peripheral interrupt, by the number that `KVM_IRQ_LINE` has for it.
struct Shared {
    interrupts: Arc<Interrupts>,
    line: u32,
}

impl Shared {
    fn new(interrupts: &Arc<Interrupts>, irq: u16) -> Self {
        Self {
            interrupts: interrupts.clone(),
            line: KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | u32::from(irq),
        }
    }
}

impl Line for Shared {
    fn set(&self, asserted: bool) {
        self.interrupts.set_line(self.line, asserted);
    }
}

/// Where a processor's writes to the GICv2m frame go.
struct Doorbell(Arc<Interrupts>);

impl MsiSink for Doorbell {
    fn send(&self, message: Msi) {
        if let Some(irq) = gicv2m::interrupt(message, GIC_V2M.start.0, &V2M_IRQS) {
            let line = Shared::new(&self.0, irq);
            line.set(true);
            line.set(false);
        }
    }
}
