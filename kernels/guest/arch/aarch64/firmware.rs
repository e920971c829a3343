//! What the flattened device tree says of the machine, as plain data.
//!
//! Implements the bindings of Linux `Documentation/devicetree/bindings`: `interrupt-controller/arm,gic-v3.yaml` and
//! `arm,gic.yaml`, `timer/arm,arch_timer.yaml`, `arm/cpus.yaml`, `pci/host-generic-pci.yaml`, `pci/pci-msi.txt`,
//! `input/gpio-keys.yaml`. Left out on purpose: more than one host bridge, PCI devices with different MSI controllers.

use super::boot_info;
use super::fdt::{Fdt, Node};
use super::psci::Psci;
use crate::boot_info::BootInfo;
use crate::console::{Console, Failure, failure, report};
use crate::pci::PciWindow;

const PROCESSORS_LIMIT: usize = 128;
const WINDOWS_LIMIT: usize = 4;
pub const REGIONS_LIMIT: usize = 4;

/// `linux/input-event-codes.h`.
const KEY_POWER: u32 = 116;

/// An address and a size in bytes.
pub type Region = (u64, u64);

/// An interrupt as the generic interrupt controller numbers it.
#[derive(Clone, Copy)]
pub struct Interrupt {
    pub id: u32,
    pub is_edge: bool,
}

/// The interrupt controller.
#[derive(Clone, Copy)]
pub enum Controller {
    V3 {
        distributor: Region,
        redistributors: [Region; REGIONS_LIMIT],
        its: Option<Region>,
    },
    V2 {
        distributor: Region,
        cpu_interface: Region,
        frame: Option<Frame>,
    },
}

/// A GICv2m frame, and the interrupts that it makes of messages where the tree knows better than the frame.
#[derive(Clone, Copy)]
pub struct Frame {
    pub registers: Region,
    pub first: Option<u32>,
    pub count: Option<u32>,
}

/// A key on a line of a PL061.
#[derive(Clone, Copy)]
pub struct Key {
    pub controller: u64,
    pub pin: u32,
    pub is_active_low: bool,
    pub interrupt: Interrupt,
}

pub struct Firmware {
    pub psci: Psci,
    pub controller: Controller,
    /// The virtual timer's.
    pub timer: Interrupt,
    pub clock: Option<u64>,
    pub power_key: Option<Key>,
    pub ecam: Option<u64>,
    /// What the interrupt translation service adds to the number of a PCI function.
    pub first_device_id: u32,
    tree_bytes: usize,
    uart: Option<Interrupt>,
    processors: [u64; PROCESSORS_LIMIT],
    processor_count: usize,
    windows: [PciWindow; WINDOWS_LIMIT],
    window_count: usize,
}

impl Firmware {
    pub fn read(info: &BootInfo) -> Result<Self, Failure> {
        let fdt = &boot_info::open(info.firmware)?;
        let timer = fdt.compatible("arm,armv8-timer");
        // The third of the four: secure, physical, virtual, hypervisor's.
        let Some(timer) = timer.and_then(|node| interrupt(node, 2)) else {
            return Err(failure!("the device tree has no virtual timer"));
        };
        let clock = fdt.compatible("arm,pl031");
        let uart = fdt.compatible("arm,pl011");
        let mut this = Self {
            psci: Psci::read(fdt)?,
            controller: controller(fdt)?,
            timer,
            clock: clock.and_then(first_address),
            power_key: power_key(fdt),
            ecam: None,
            first_device_id: 0,
            tree_bytes: fdt.bytes(),
            uart: uart.and_then(|node| interrupt(node, 0)),
            processors: [0; PROCESSORS_LIMIT],
            processor_count: 0,
            windows: [PciWindow::default(); WINDOWS_LIMIT],
            window_count: 0,
        };
        this.read_processors(fdt)?;
        if let Some(bridge) = fdt.compatible("pci-host-ecam-generic") {
            this.read_bridge(fdt, bridge)?;
        }
        Ok(this)
    }

    /// Tells what was found.
    pub fn report(&self, console: &mut Console) -> Result<(), Failure> {
        report!(console, "fdt_bytes={}", self.tree_bytes);
        let (major, minor) = self.psci.version();
        report!(console, "psci={major}.{minor}");
        let controller = match self.controller {
            Controller::V3 { its: Some(_), .. } => "gicv3-its",
            Controller::V3 { its: None, .. } => "gicv3",
            Controller::V2 { frame: Some(_), .. } => "gicv2-v2m",
            Controller::V2 { frame: None, .. } => "gicv2",
        };
        report!(console, "interrupt_controller={controller}");
        Ok(())
    }

    fn read_processors(&mut self, fdt: &Fdt<'_>) -> Result<(), Failure> {
        let processors = fdt
            .nodes()
            .filter(|node| node.text("device_type") == Some("cpu"));
        for node in processors {
            let Some(mpidr) = first_address(node) else {
                return Err(failure!("{} has no reg", node.name));
            };
            let Some(place) = self.processors.get_mut(self.processor_count) else {
                return Err(failure!("more than {PROCESSORS_LIMIT} processors"));
            };
            *place = mpidr;
            self.processor_count += 1;
        }
        Ok(())
    }

    fn read_bridge(&mut self, fdt: &Fdt<'_>, bridge: Node<'_>) -> Result<(), Failure> {
        self.ecam = first_address(bridge);
        // Child address of three cells, parent address of two, size of two: PCI Bus Binding to IEEE 1275 §2.2.1.
        let mut cells = bridge.cells("ranges");
        while let Some(range) = next_cells(&mut cells) {
            let [space, high, low, to_high, to_low, bytes_high, bytes_low] = range;
            let number = |high, low| u64::from(high) << 32 | u64::from(low);
            let (start, bytes) = (number(high, low), number(bytes_high, bytes_low));
            // Memory of 32 or 64 bits, at the same addresses on both sides.
            let is_memory = space >> 24 & 2 != 0;
            if is_memory && start == number(to_high, to_low) && self.window_count < WINDOWS_LIMIT {
                let end = start.saturating_add(bytes);
                self.windows[self.window_count] = PciWindow { start, end };
                self.window_count += 1;
            }
        }
        // First requester, controller, what the first one's is there, how many.
        let map = next_cells(&mut bridge.cells("msi-map"));
        let handle = map.map(|[_, handle, ..]: [u32; 4]| handle);
        if let Some([requester, _, first, _]) = map {
            self.first_device_id = first.wrapping_sub(requester);
        }
        let parent = handle.or_else(|| bridge.cell("msi-parent"));
        let parent = parent.and_then(|handle| fdt.by_handle(handle));
        let takes_messages = |node: Node<'_>| {
            node.is_compatible("arm,gic-v3-its") || node.is_compatible("arm,gic-v2m-frame")
        };
        match parent.is_some_and(takes_messages) {
            true => Ok(()),
            false => Err(failure!("the PCI host bridge names no MSI controller")),
        }
    }

    pub fn uart_interrupt(&self) -> Result<Interrupt, Failure> {
        self.uart
            .ok_or_else(|| failure!("the device tree gives the PL011 no interrupt"))
    }

    /// The affinities (MPIDR_EL1) of the processors.
    pub fn processors(&self) -> &[u64] {
        &self.processors[..self.processor_count]
    }

    pub fn pci_windows(&self) -> &[PciWindow] {
        &self.windows[..self.window_count]
    }
}

fn controller(fdt: &Fdt<'_>) -> Result<Controller, Failure> {
    if let Some(node) = fdt.compatible("arm,gic-v3") {
        let mut regions = node.reg();
        let distributor = regions.next().unwrap_or_default();
        let mut redistributors = [(0, 0); REGIONS_LIMIT];
        let count = node.cell("#redistributor-regions").unwrap_or(1) as usize;
        for (place, region) in redistributors.iter_mut().zip(regions.take(count)) {
            *place = region;
        }
        let its = fdt.compatible("arm,gic-v3-its");
        return Ok(Controller::V3 {
            distributor,
            redistributors,
            its: its.and_then(|node| node.reg().next()),
        });
    }
    let v2 = ["arm,cortex-a15-gic", "arm,gic-400"];
    let Some(node) = v2.iter().find_map(|name| fdt.compatible(name)) else {
        return Err(failure!("the device tree has no interrupt controller"));
    };
    let mut regions = node.reg();
    let frame = fdt.compatible("arm,gic-v2m-frame");
    Ok(Controller::V2 {
        distributor: regions.next().unwrap_or_default(),
        cpu_interface: regions.next().unwrap_or_default(),
        frame: frame.and_then(|node| {
            Some(Frame {
                registers: node.reg().next()?,
                first: node.cell("arm,msi-base-spi"),
                count: node.cell("arm,msi-num-spis"),
            })
        }),
    })
}

fn power_key(fdt: &Fdt<'_>) -> Option<Key> {
    let mut keys = fdt
        .nodes()
        .skip_while(|node| !node.is_compatible("gpio-keys"));
    let key = keys.find(|node| node.cell("linux,code") == Some(KEY_POWER))?;
    // Controller, line, flags, of which bit 0 says active low.
    let [handle, pin @ 0..8, flags] = next_cells(&mut key.cells("gpios"))? else {
        return None;
    };
    let controller = fdt.by_handle(handle)?;
    controller.is_compatible("arm,pl061").then_some(())?;
    Some(Key {
        controller: first_address(controller)?,
        pin,
        is_active_low: flags & 1 != 0,
        interrupt: interrupt(controller, 0)?,
    })
}

/// The interrupt of that place in a node's list. Three cells, as the generic interrupt controller has them: kind (shared
/// or a processor's own), number, flags, of which 1 and 2 are edges.
fn interrupt(node: Node<'_>, place: usize) -> Option<Interrupt> {
    let mut cells = node.cells("interrupts").skip(3 * place);
    let [kind, number @ 0..988, flags] = next_cells(&mut cells)? else {
        return None;
    };
    let first = match kind {
        0 => 32,
        1 if number < 16 => 16,
        _ => return None,
    };
    Some(Interrupt {
        id: first + number,
        is_edge: flags & 3 != 0,
    })
}

fn first_address(node: Node<'_>) -> Option<u64> {
    node.reg().next().map(|(address, _)| address)
}

fn next_cells<const COUNT: usize>(cells: &mut impl Iterator<Item = u32>) -> Option<[u32; COUNT]> {
    let mut taken = [0; COUNT];
    for place in &mut taken {
        *place = cells.next()?;
    }
    Some(taken)
}
