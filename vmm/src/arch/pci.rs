//! The machine's PCI bus, the same on every architecture: a host bridge in slot 0, then the devices.

use std::sync::Arc;

use kami_devices::GuestMemory;
use kami_devices::bus::BusBuilder;
use kami_devices::pci::PciRoot;
use kami_devices::pci::root::{Ecam, MemoryWindow, Windows};
use kami_devices::virtio::device::VirtioDevice;
use kami_devices::virtio::pci::{self, VirtioPci};

use super::range::{GIB, Range};
use crate::irq::Interrupts;
use crate::machine::Error;

/// The lowest place and the size of the window for BARs above 4 GiB. 256 GiB to 512 GiB is within 39 address bits,
/// which is what small Intel processors have, and 40, which small Arm ones have.
pub const WINDOW_64: Range = Range::new(256 * GIB, 256 * GIB);

/// The window for BARs above 4 GiB, or none where `address_bits` physical address bits leave no room for it above
/// the RAM.
pub fn window_64(ram_end: u64, address_bits: u8) -> Option<Range> {
    let start = WINDOW_64.start.0.max(ram_end.next_power_of_two());
    let window = Range::new(start, WINDOW_64.len);
    let limit = 1u64.checked_shl(address_bits.into()).unwrap_or(u64::MAX);
    (window.end() <= limit).then_some(window)
}

/// A bus under construction.
#[derive(Debug)]
pub struct PciBus<'a> {
    root: PciRoot,
    interrupts: &'a Arc<Interrupts>,
    memory: &'a GuestMemory,
}

impl<'a> PciBus<'a> {
    /// A bus whose functions' BARs lie in `window`, below 4 GiB, as firmware puts small ones: a guest reaches
    /// them there before it has mapped anything above.
    pub fn new(window: Range, interrupts: &'a Arc<Interrupts>, memory: &'a GuestMemory) -> Self {
        let root = PciRoot::new(Windows {
            low: window.start.0..window.end(),
            high: 0..0,
        });
        Self {
            root,
            interrupts,
            memory,
        }
    }

    /// Makes `device` the function of the next free slot. Its BARs have addresses then.
    ///
    /// # Errors
    /// The bus has no room for it.
    pub fn add(&mut self, device: Box<dyn VirtioDevice>) -> Result<Arc<VirtioPci>, Error> {
        let requester = self.root.next_requester()?;
        let routes = self.interrupts.function(requester, pci::vectors(&*device));
        let doorbells = self.interrupts.clone();
        let function = VirtioPci::new(device, self.memory.clone(), routes, doorbells)?;
        let function = Arc::new(function);
        self.root.add(function.clone())?;
        Ok(function)
    }

    /// As [`PciBus::add`], of each.
    ///
    /// # Errors
    /// As there.
    pub fn add_all(
        &mut self,
        devices: Vec<Box<dyn VirtioDevice>>,
    ) -> Result<Vec<Arc<VirtioPci>>, Error> {
        devices.into_iter().map(|device| self.add(device)).collect()
    }

    /// Puts the bus, now complete, where processors reach it: its configuration space at `ecam`, and its functions'
    /// memory in `windows`.
    ///
    /// # Errors
    /// One of them is taken.
    pub fn place(
        self,
        mmio: &mut BusBuilder,
        ecam: Range,
        windows: [Option<Range>; 2],
    ) -> Result<Arc<PciRoot>, Error> {
        let root = Arc::new(self.root);
        let device = Arc::new(Ecam::new(root.clone()));
        mmio.insert("pci ecam", ecam.start.0, ecam.len, device)?;
        for window in windows.into_iter().flatten() {
            let device = Arc::new(MemoryWindow::new(root.clone(), window.start.0));
            mmio.insert("pci memory window", window.start.0, window.len, device)?;
        }
        Ok(root)
    }
}
