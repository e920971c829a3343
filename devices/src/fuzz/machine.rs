//! A bus with one virtio function on it, and what stands for the hypervisor.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::GuestMemory;
use crate::bus::{Bus, BusBuilder};
use crate::irq::{Doorbells, Msi, MsixRoutes};
use crate::pci::root::{
    CONFIG_ADDRESS_PORT, CONFIG_PORTS, ConfigPorts, ECAM_BYTES, Ecam, MemoryWindow, Windows,
};
use crate::pci::{PciFunction, PciRoot};
use crate::virtio::device::{Activation, VirtioDevice};
use crate::virtio::pci::field::*;
use crate::virtio::pci::{BAR, VirtioPci};

pub(super) const ECAM: u64 = 0xe000_0000;
pub(super) const LOW: u64 = 0xc000_0000;
pub(super) const HIGH: u64 = 0x40_0000_0000;
const WINDOW_BYTES: u64 = 0x10_0000;
const MEMORY_BYTES: usize = 0x2_0000;
/// Where the function's configuration space begins in that of the bus.
pub(super) const FUNCTION: u64 = 1 << 15;
pub(super) const VECTORS: usize = 3;

pub(super) const QUEUE_SIZES: [u16; 2] = [128, 64];
const VERSION_1: u64 = 1 << 32;
const EVENT_IDX: u64 = 1 << 29;
pub(super) const FEATURES: u64 = VERSION_1 | EVENT_IDX | 1 << 9;

thread_local! {
    /// Made once: a system call costs more than all else here.
    static EVENTS: Arc<[EventFd; VECTORS]> =
        Arc::new(std::array::from_fn(|_| EventFd::new(EFD_NONBLOCK).unwrap()));
    static GUEST_MEMORY: GuestMemory =
        GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
}

/// A device of two queues that does nothing with them.
#[derive(Debug)]
struct Idle {
    seen: Arc<Mutex<Seen>>,
    config: [u8; 8],
}

/// Routes of a hypervisor that only remembers what it was told.
pub(super) struct Routes {
    events: Arc<[EventFd; VECTORS]>,
    routes: Mutex<[Option<Msi>; VECTORS]>,
    pub refuses: AtomicBool,
    has_refused: AtomicBool,
}

/// The addresses at which a hypervisor listens.
#[derive(Default)]
pub(super) struct Listeners {
    registered: Mutex<Vec<(u64, RawFd)>>,
    pub refuses: AtomicBool,
}

/// What became of the device.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub activation: Option<Activation>,
    /// It cannot start.
    pub fails: bool,
}

pub(super) struct Machine {
    pub bus: Bus,
    pub ports: Bus,
    pub function: Arc<VirtioPci>,
    pub routes: Arc<Routes>,
    pub doorbells: Arc<Listeners>,
    pub seen: Arc<Mutex<Seen>>,
}

impl Machine {
    pub fn new() -> Self {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let config = [0; 8];
        let device = Box::new(Idle {
            seen: seen.clone(),
            config,
        });
        let routes = Routes::new();
        let doorbells = Arc::new(Listeners::default());
        let memory = GUEST_MEMORY.with(GuestMemory::clone);
        let function = VirtioPci::new(device, memory, routes.clone(), doorbells.clone());
        let function = Arc::new(function.unwrap());
        let mut root = PciRoot::new(Windows {
            low: LOW..LOW + WINDOW_BYTES,
            high: HIGH..HIGH + WINDOW_BYTES,
        });
        root.add(function.clone()).unwrap();
        let root = Arc::new(root);
        let (mut bus, mut ports) = (BusBuilder::default(), BusBuilder::default());
        for start in [LOW, HIGH] {
            let window = Arc::new(MemoryWindow::new(root.clone(), start));
            bus.insert("window", start, WINDOW_BYTES, window).unwrap();
        }
        let ecam = Arc::new(Ecam::new(root.clone()));
        bus.insert("ecam", ECAM, ECAM_BYTES, ecam).unwrap();
        let mechanism = Arc::new(ConfigPorts::new(root));
        let (start, len) = (CONFIG_ADDRESS_PORT.into(), CONFIG_PORTS.into());
        ports.insert("config", start, len, mechanism).unwrap();
        Self {
            bus: bus.freeze(),
            ports: ports.freeze(),
            function,
            routes,
            doorbells,
            seen,
        }
    }

    pub fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut data = [0xee; N];
        self.bus.read(address, &mut data);
        data
    }

    /// A guest's write: to the hypervisor's doorbells first, then to us.
    pub fn write(&self, address: u64, data: &[u8]) {
        if data.len() != 2 || !self.doorbells.takes(address) {
            self.bus.write(address, data);
        }
    }

    /// Has the BAR decoded at [`HIGH`].
    pub fn place_bar(&self) {
        self.write(ECAM + FUNCTION + 0x10, &HIGH.to_le_bytes());
        self.write(ECAM + FUNCTION + 0x04, &[0b110, 0]);
    }

    /// Does as a driver does up to `DRIVER_OK`; `choice` says which vectors its queues get.
    pub fn start(&self, choice: u8) {
        for (offset, bytes) in [
            (DEVICE_STATUS, &[1][..]),
            (DEVICE_STATUS, &[3]),
            (DRIVER_FEATURE_SELECT, &[1, 0, 0, 0]),
            (DRIVER_FEATURE, &[1, 0, 0, 0]),
            (DEVICE_STATUS, &[11]),
            (CONFIG_MSIX_VECTOR, &[choice & 3, 0]),
        ] {
            self.write(HIGH + offset, bytes);
        }
        for queue in 0..2_u8 {
            self.write(HIGH + QUEUE_SELECT, &[queue, 0]);
            let vector = choice >> (2 + 2 * queue) & 3;
            self.write(HIGH + QUEUE_MSIX_VECTOR, &[vector, 0]);
            for (field, page) in [
                (QUEUE_DESC, 0x10),
                (QUEUE_DRIVER, 0x20),
                (QUEUE_DEVICE, 0x30),
            ] {
                self.write(HIGH + field, &[0, page, queue, 0]);
            }
            self.write(HIGH + QUEUE_ENABLE, &[1, 0]);
        }
        self.write(HIGH + DEVICE_STATUS, &[15]);
    }

    /// Where the MSI-X capability is, in bytes of the configuration space.
    pub fn msix(&self) -> u64 {
        let mut at = u64::from(self.read::<1>(ECAM + FUNCTION + 0x34)[0]);
        while self.read::<1>(ECAM + FUNCTION + at)[0] != 0x11 {
            at = u64::from(self.read::<1>(ECAM + FUNCTION + at + 1)[0]);
            assert_ne!(at, 0, "no MSI-X capability");
        }
        at
    }

    /// Raises the interrupt of a queue, as the device's worker does.
    pub fn interrupt(&self, queue: usize) {
        if let Some(activation) = &self.seen.lock().unwrap().activation
            && let Some(queue) = &activation.queues[queue]
        {
            queue.interrupt.signal().unwrap();
        }
    }

    /// The device gives up.
    pub fn give_up(&self) {
        if let Some(activation) = &self.seen.lock().unwrap().activation {
            activation.needs_reset.signal();
        }
    }

    /// What the hypervisor was asked for agrees with the state of the device.
    pub fn check(&self) {
        let seen = self.seen.lock().unwrap();
        let bar = self.function.config().bar_address(BAR);
        let registered = self.doorbells.registered.lock().unwrap();
        let mut registered = registered.iter().map(|it| it.0);
        if let (Some(activation), Some(bar)) = (&seen.activation, bar) {
            let enabled = activation.queues.iter().zip(0..);
            for (_, n) in enabled.filter(|(queue, _): &(_, u64)| queue.is_some()) {
                assert_eq!(registered.next(), Some(bar.wrapping_add(0x4000 + 4 * n)));
            }
        }
        assert_eq!(registered.next(), None);
        drop(seen);
        assert_eq!(self.read(ECAM + FUNCTION), [0xf4, 0x1a, 0x42, 0x10]);
        let enabled = self.read::<4>(ECAM + FUNCTION + self.msix())[3] >> 7 == 1;
        assert!(enabled || self.routes.are_gone());
    }

    /// The machine ends, whatever its guest is at.
    pub fn end(self) {
        self.function.take_device().unwrap();
        assert!(self.doorbells.registered.lock().unwrap().is_empty());
        assert!(self.routes.are_gone());
        assert!(self.seen.lock().unwrap().activation.is_none());
        self.write(HIGH + 0x4000, &[0, 0]);
    }
}

impl Routes {
    pub fn new() -> Arc<Self> {
        let events = EVENTS.with(Arc::clone);
        for event in &*events {
            let _ = event.read();
        }
        Arc::new(Self {
            events,
            routes: Mutex::default(),
            refuses: AtomicBool::new(false),
            has_refused: AtomicBool::new(false),
        })
    }

    /// How often `vector` was raised since the last look.
    pub fn raised(&self, vector: usize) -> u64 {
        self.events[vector].read().unwrap_or(0)
    }

    /// Whether none is left, but for what it refused to take away.
    fn are_gone(&self) -> bool {
        let refused = self.has_refused.load(Ordering::Relaxed);
        refused || self.routes.lock().unwrap().iter().all(Option::is_none)
    }
}

impl MsixRoutes for Routes {
    fn event(&self, vector: u16) -> Option<&EventFd> {
        self.events.get(usize::from(vector))
    }

    fn route(&self, vector: u16, message: Option<Msi>) -> io::Result<()> {
        if self.refuses.load(Ordering::Relaxed) {
            self.has_refused.store(true, Ordering::Relaxed);
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.routes.lock().unwrap()[usize::from(vector)] = message;
        Ok(())
    }
}

impl Listeners {
    /// Whether the hypervisor takes a guest's write.
    fn takes(&self, address: u64) -> bool {
        let registered = self.registered.lock().unwrap();
        registered.iter().any(|it| it.0 == address)
    }
}

impl Doorbells for Listeners {
    fn register(&self, address: u64, event: &EventFd) -> io::Result<()> {
        let mut registered = self.registered.lock().unwrap();
        if self.refuses.load(Ordering::Relaxed) || registered.iter().any(|it| it.0 == address) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        registered.push((address, event.as_raw_fd()));
        Ok(())
    }

    fn unregister(&self, address: u64, event: &EventFd) -> io::Result<()> {
        let mut registered = self.registered.lock().unwrap();
        let same = |it: &(u64, RawFd)| *it == (address, event.as_raw_fd());
        let index = registered.iter().position(same);
        // What the device takes back it has asked for.
        registered.remove(index.expect("a doorbell that was never registered"));
        Ok(())
    }
}

impl VirtioDevice for Idle {
    fn device_type(&self) -> u16 {
        2
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        FEATURES
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
        seen.activation = Some(activation);
        Ok(())
    }

    fn reset(&mut self) {
        // As a worker may that fails while it is being stopped: this must not wait for the vCPU.
        if let Some(activation) = self.seen.lock().unwrap().activation.take() {
            activation.needs_reset.signal();
        }
    }
}
