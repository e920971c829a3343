//! The device behind the registers: starting it with its queues, its doorbells, stopping it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::common::{Common, QueueRegisters};
use super::layout::{NOTIFY, NOTIFY_MULTIPLIER};
use crate::GuestMemory;
use crate::irq::Doorbells;
use crate::pci::msix::Msix;
use crate::rate::RateLimit;
use crate::virtio::device::{Activation, ActiveQueue, NeedsReset, QueueInterrupt, VirtioDevice};

/// ISR status bits (virtio 1.3 §4.1.4.5).
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// The guest decides how often an activation or a doorbell fails.
static WARNINGS: RateLimit = RateLimit::new();

/// How the device interrupts its driver: MSI-X, and the ISR status that can be polled without it.
#[derive(Clone, Debug)]
pub(super) struct Interrupts {
    pub msix: Arc<Msix>,
    pub isr: Arc<AtomicU8>,
}

/// A device, and while it runs the doorbells of its queues.
pub(super) struct Attachment {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemory,
    doorbells: Arc<dyn Doorbells>,
    /// Whether the device was started, and must be stopped.
    started: bool,
    /// By queue, while the device runs.
    active: Vec<Option<Doorbell>>,
}

struct Doorbell {
    event: EventFd,
    /// The address at which the hypervisor listens for us.
    registered: Option<u64>,
}

impl Interrupts {
    /// The interrupt of a queue, by the vector that the driver has given it.
    fn queue(&self, vector: &Arc<AtomicU16>) -> QueueInterrupt {
        let (interrupts, vector) = (self.clone(), Arc::clone(vector));
        QueueInterrupt::new(move || {
            if interrupts.msix.is_enabled() {
                return interrupts.msix.signal(vector.load(Ordering::Acquire));
            }
            // §4.1.4.5.1: the bit comes with notifications without MSI-X only.
            interrupts.isr.fetch_or(ISR_QUEUE, Ordering::AcqRel);
            Ok(())
        })
    }

    /// §2.1.2: the status bit first, then the notification of a configuration change.
    ///
    /// Takes none of the transport's locks: a worker may call it while a vCPU holds them and waits
    /// for that worker to stop.
    fn needs_reset(&self, common: &Common) -> NeedsReset {
        let interrupts = self.clone();
        let flag = Arc::clone(common.needs_reset());
        let vector = Arc::clone(common.config_vector());
        NeedsReset::new(move || {
            if flag.swap(true, Ordering::AcqRel) {
                return;
            }
            // §4.1.4.5.1: the bit is set before the notification, with MSI-X too.
            interrupts.isr.fetch_or(ISR_CONFIG, Ordering::AcqRel);
            if let Err(error) = interrupts.msix.signal(vector.load(Ordering::Acquire))
                && WARNINGS.allows()
            {
                tracing::warn!(%error, "cannot raise a virtio configuration interrupt");
            }
        })
    }
}

impl Attachment {
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        doorbells: Arc<dyn Doorbells>,
    ) -> Self {
        Self {
            device,
            memory,
            doorbells,
            started: false,
            active: Vec::new(),
        }
    }

    pub fn device(&self) -> &dyn VirtioDevice {
        &*self.device
    }

    pub fn device_mut(&mut self) -> &mut dyn VirtioDevice {
        &mut *self.device
    }

    /// Starts the device with the queues that the driver has enabled. What cannot be started sets
    /// `DEVICE_NEEDS_RESET`.
    pub fn activate(&mut self, common: &Common, interrupts: &Interrupts) {
        let needs_reset = interrupts.needs_reset(common);
        if let Err(error) = self.start(common, interrupts, needs_reset.clone()) {
            if WARNINGS.allows() {
                let device = self.device.device_type();
                tracing::warn!(device, %error, "cannot activate a virtio device");
            }
            self.stop();
            needs_reset.signal();
        }
    }

    fn start(
        &mut self,
        common: &Common,
        interrupts: &Interrupts,
        needs_reset: NeedsReset,
    ) -> io::Result<()> {
        if !common.negotiated() {
            return Err(io::Error::other("DRIVER_OK came before FEATURES_OK"));
        }
        let mut queues = Vec::new();
        for registers in common.queues() {
            if !registers.enabled {
                queues.push(None);
                self.active.push(None);
                continue;
            }
            let queue = self.queue(registers, common.features())?;
            let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
            queues.push(Some(ActiveQueue {
                queue,
                doorbell: event.try_clone()?,
                interrupt: interrupts.queue(&registers.vector),
            }));
            self.active.push(Some(Doorbell {
                event,
                registered: None,
            }));
        }
        self.started = true;
        self.device.activate(Activation {
            memory: self.memory.clone(),
            features: common.features(),
            queues,
            needs_reset,
        })
    }

    /// A queue as the driver has laid it out, if all of it is guest memory (virtio 1.3 §2.7).
    fn queue(&self, registers: &QueueRegisters, features: u64) -> io::Result<Queue> {
        let build = || {
            let mut queue = Queue::new(registers.max_size)?;
            queue.try_set_size(registers.size)?;
            queue.try_set_desc_table_address(GuestAddress(registers.desc))?;
            queue.try_set_avail_ring_address(GuestAddress(registers.driver))?;
            queue.try_set_used_ring_address(GuestAddress(registers.device))?;
            queue.set_event_idx(features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
            queue.set_ready(true);
            Ok(queue)
        };
        let queue: Queue =
            build().map_err(|e: virtio_queue::Error| io::Error::other(e.to_string()))?;
        if queue.is_valid(&self.memory) {
            Ok(queue)
        } else {
            Err(io::Error::other("a virtqueue is outside of guest memory"))
        }
    }

    /// Stops the device; afterwards it touches neither guest memory nor its queues.
    pub fn stop(&mut self) {
        self.listen_at(None);
        if std::mem::take(&mut self.started) {
            self.device.reset();
        }
        self.active.clear();
    }

    pub fn into_device(self) -> Box<dyn VirtioDevice> {
        self.device
    }

    /// Has the hypervisor listen to the doorbells of a running device behind the BAR at
    /// `bar_address`, and nowhere else. A doorbell that it does not take is rung by the exit that the
    /// guest's write makes ([`Attachment::ring`]).
    pub fn listen_at(&mut self, bar_address: Option<u64>) {
        for (doorbell, index) in self.active.iter_mut().zip(0_u64..) {
            let Some(doorbell) = doorbell else { continue };
            let offset = u64::from(NOTIFY.start) + index * u64::from(NOTIFY_MULTIPLIER);
            let wanted = bar_address.map(|address| address.wrapping_add(offset));
            if doorbell.registered == wanted {
                continue;
            }
            if let Some(address) = doorbell.registered.take()
                && let Err(error) = self.doorbells.unregister(address, &doorbell.event)
                && WARNINGS.allows()
            {
                tracing::warn!(address, %error, "cannot unregister a virtio doorbell");
            }
            let Some(address) = wanted else { continue };
            match self.doorbells.register(address, &doorbell.event) {
                Ok(()) => doorbell.registered = Some(address),
                Err(error) if WARNINGS.allows() => {
                    tracing::warn!(address, %error, "cannot register a virtio doorbell");
                }
                Err(_) => {}
            }
        }
    }

    /// Rings the doorbell at `offset` of the notification area, for a write that no ioeventfd took.
    pub fn ring(&self, offset: u64) {
        let index = usize::try_from(offset / u64::from(NOTIFY_MULTIPLIER)).ok();
        let doorbell = index.and_then(|i| self.active.get(i));
        // Writing can fail only where 2^64 - 2 rings are not yet taken: one is pending then.
        if let Some(Some(doorbell)) = doorbell {
            let _ = doorbell.event.write(1);
        }
    }
}
