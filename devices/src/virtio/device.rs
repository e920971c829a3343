//! What a virtio device is to its transport (virtio 1.3 §2).

use std::fmt;
use std::io;
use std::sync::Arc;

use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use crate::GuestMemory;

/// A virtqueue that the driver has set up, with its doorbell and its interrupt.
#[derive(Debug)]
pub struct ActiveQueue {
    /// Ready and within guest memory; it knows whether the driver accepted `VIRTIO_F_EVENT_IDX`.
    pub queue: Queue,
    /// Signalled when the driver has put buffers on the avail ring. Reading it does not block.
    pub doorbell: EventFd,
    pub interrupt: QueueInterrupt,
}

/// Tells the driver that buffers were used. Signals the queue's MSI-X vector, if it has one.
pub struct QueueInterrupt(Arc<dyn Fn() -> io::Result<()> + Send + Sync>);

impl QueueInterrupt {
    pub fn new(signal: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(signal))
    }

    pub fn signal(&self) -> io::Result<()> {
        (self.0)()
    }
}

/// Tells the driver that the device gave up: sets `DEVICE_NEEDS_RESET` and raises the configuration
/// interrupt (virtio 1.3 §2.1.2).
#[derive(Clone)]
pub struct NeedsReset(Arc<dyn Fn() + Send + Sync>);

impl NeedsReset {
    pub fn new(signal: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(signal))
    }

    pub fn signal(&self) {
        (self.0)();
    }
}

/// Everything that a device gets when the driver sets `DRIVER_OK`.
#[derive(Debug)]
pub struct Activation {
    pub memory: GuestMemory,
    /// The feature bits that the driver accepted.
    pub features: u64,
    /// One per queue of [`VirtioDevice::queue_sizes`]; `None` where the driver left it disabled.
    pub queues: Vec<Option<ActiveQueue>>,
    pub needs_reset: NeedsReset,
}

/// A virtio device, whatever carries it.
pub trait VirtioDevice: Send + fmt::Debug {
    /// The device id (virtio 1.3 §5), such as 2 for a block device.
    fn device_type(&self) -> u16;

    /// The largest size of each queue, in entries.
    fn queue_sizes(&self) -> &[u16];

    /// The feature bits that the device offers, `VIRTIO_F_VERSION_1` among them.
    fn features(&self) -> u64;

    /// Reads the device configuration from `offset` on; beyond its end, zeroes.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the device configuration; what is read-only ignores it.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// Starts to serve the queues.
    ///
    /// # Errors
    /// The host cannot give what the device needs; the transport then sets `DEVICE_NEEDS_RESET`.
    fn activate(&mut self, activation: Activation) -> io::Result<()>;

    /// Stops, and returns to the state before [`VirtioDevice::activate`]. When this returns, the
    /// device touches neither guest memory nor the queues any more.
    fn reset(&mut self);
}

impl fmt::Debug for QueueInterrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QueueInterrupt")
    }
}

impl fmt::Debug for NeedsReset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NeedsReset")
    }
}
