//! A driver's walk over a whole bus, as Linux's `virtio_pci_modern` does it, and hostile guests.

mod driver;
mod hostile;

use std::io;
use std::sync::Mutex;

use vm_memory::GuestAddress;

use super::*;
use crate::bus::{Bus, BusBuilder};
use crate::irq::fake::{FakeDoorbells, FakeRoutes};
use crate::pci::PciRoot;
use crate::pci::root::{ECAM_BYTES, Ecam, MemoryWindow, Windows};
use crate::virtio::device::Activation;

const ECAM: u64 = 0xe000_0000;
const LOW: u64 = 0xc000_0000;
const HIGH: u64 = 0x40_0000_0000;
const WINDOW_BYTES: u64 = 0x10_0000;
const MEMORY_BYTES: usize = 0x2_0000;

const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;

/// A device of two queues that does nothing with them.
#[derive(Debug, Default)]
struct Idle {
    seen: Arc<Mutex<Seen>>,
    config: [u8; 8],
}

#[derive(Debug, Default)]
struct Seen {
    activation: Option<Activation>,
    activations: u32,
    resets: u32,
    fails: bool,
}

impl VirtioDevice for Idle {
    fn device_type(&self) -> u16 {
        2
    }
    fn queue_sizes(&self) -> &[u16] {
        &[128, 64]
    }
    fn features(&self) -> u64 {
        VERSION_1 | EVENT_IDX | 1 << 9
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let offset = usize::try_from(offset).unwrap();
        for (at, byte) in (offset..).zip(data) {
            *byte = self.config.get(at).copied().unwrap_or(0);
        }
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let offset = usize::try_from(offset).unwrap();
        for (at, byte) in (offset..).zip(data) {
            if let Some(slot) = self.config.get_mut(at) {
                *slot = *byte;
            }
        }
    }
    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let mut seen = self.seen.lock().unwrap();
        assert!(seen.activation.is_none(), "activated twice");
        if seen.fails {
            return Err(io::Error::other("no"));
        }
        seen.activations += 1;
        seen.activation = Some(activation);
        Ok(())
    }
    fn reset(&mut self) {
        let mut seen = self.seen.lock().unwrap();
        seen.resets += 1;
        // As a worker may that fails while it is being stopped: this must not wait for the vCPU.
        if let Some(activation) = seen.activation.take() {
            activation.needs_reset.signal();
        }
    }
}

/// A bus with an idle device in slot 1, and what stands for the hypervisor.
struct Machine {
    bus: Bus,
    function: Arc<VirtioPci>,
    routes: Arc<FakeRoutes>,
    doorbells: Arc<FakeDoorbells>,
    seen: Arc<Mutex<Seen>>,
}

impl Machine {
    fn new(device: Box<dyn VirtioDevice>, seen: Arc<Mutex<Seen>>) -> Self {
        let routes = Arc::new(FakeRoutes::new(vectors(&*device).into()));
        let doorbells = Arc::new(FakeDoorbells::default());
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
        let function = VirtioPci::new(device, memory, routes.clone(), doorbells.clone()).unwrap();
        let function = Arc::new(function);
        let mut root = PciRoot::new(Windows {
            low: LOW..LOW + WINDOW_BYTES,
            high: HIGH..HIGH + WINDOW_BYTES,
        });
        root.add(function.clone()).unwrap();
        let root = Arc::new(root);
        let mut bus = BusBuilder::default();
        for start in [LOW, HIGH] {
            let window = Arc::new(MemoryWindow::new(root.clone(), start));
            bus.insert("window", start, WINDOW_BYTES, window).unwrap();
        }
        bus.insert("ecam", ECAM, ECAM_BYTES, Arc::new(Ecam::new(root)))
            .unwrap();
        Self {
            bus: bus.freeze(),
            function,
            routes,
            doorbells,
            seen,
        }
    }

    fn idle() -> Self {
        let device = Idle::default();
        let seen = device.seen.clone();
        Self::new(Box::new(device), seen)
    }

    fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut data = [0xee; N];
        self.bus.read(address, &mut data);
        data
    }

    /// A guest's write: to the hypervisor's doorbells first, then to us.
    fn write(&self, address: u64, data: &[u8]) {
        if data.len() != 2 || !self.doorbells.write(address) {
            self.bus.write(address, data);
        }
    }

    fn config_read(&self, offset: u64) -> u32 {
        u32::from_le_bytes(self.read(ECAM + (1 << 15) + offset))
    }

    fn config_write(&self, offset: u64, data: &[u8]) {
        self.write(ECAM + (1 << 15) + offset, data);
    }
}
