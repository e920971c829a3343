//! The common configuration registers of a virtio PCI device, as a state machine on its own: no
//! device, no memory, no interrupt (virtio 1.3 §4.1.4.3 and, for the device status, §2.1).
//!
//! A driver must access each field in its own width (§4.1.3.1), 64-bit ones also in halves; any
//! other access reads zero and writes nothing. Not offered: packed queues, queue reset,
//! notification data, the administration virtqueue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use virtio_bindings::virtio_config::{
    VIRTIO_F_ADMIN_VQ, VIRTIO_F_NOTIF_CONFIG_DATA, VIRTIO_F_NOTIFICATION_DATA,
    VIRTIO_F_RING_PACKED, VIRTIO_F_RING_RESET, VIRTIO_F_SR_IOV, VIRTIO_F_VERSION_1,
};

/// Features that the transport or the queue implementation would have to carry and does not.
const UNSUPPORTED: u64 = 1 << VIRTIO_F_RING_PACKED
    | 1 << VIRTIO_F_SR_IOV
    | 1 << VIRTIO_F_NOTIFICATION_DATA
    | 1 << VIRTIO_F_NOTIF_CONFIG_DATA
    | 1 << VIRTIO_F_RING_RESET
    | 1 << VIRTIO_F_ADMIN_VQ;
const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;

/// Device status bits (§2.1).
pub(super) const ACKNOWLEDGE: u8 = 1;
pub(super) const DRIVER: u8 = 2;
pub(super) const DRIVER_OK: u8 = 4;
pub(super) const FEATURES_OK: u8 = 8;
pub(super) const NEEDS_RESET: u8 = 64;
pub(super) const FAILED: u8 = 128;

/// §4.1.4.3: a vector number that stands for no vector.
pub(super) const NO_VECTOR: u16 = 0xffff;

pub(crate) mod field {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const CONFIG_MSIX_VECTOR: u64 = 0x10;
    pub const NUM_QUEUES: u64 = 0x12;
    pub const DEVICE_STATUS: u64 = 0x14;
    pub const CONFIG_GENERATION: u64 = 0x15;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_MSIX_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_NOTIFY_OFF: u64 = 0x1e;
    pub const QUEUE_DESC: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
}

/// What a write asks of the device behind the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Effect {
    None,
    /// The driver wrote status 0: stop the device, then call [`Common::reset`].
    Reset,
    /// The driver set `DRIVER_OK` for the first time.
    Activate,
}

/// The registers of one queue.
#[derive(Debug)]
pub(super) struct QueueRegisters {
    pub max_size: u16,
    pub size: u16,
    pub enabled: bool,
    /// Read by the device's worker with each interrupt.
    pub vector: Arc<AtomicU16>,
    pub desc: u64,
    pub driver: u64,
    pub device: u64,
}

#[derive(Debug)]
pub(super) struct Common {
    offered: u64,
    accepted: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    status: u8,
    /// Set by the device's worker, a new one after each reset, so that a signal that comes too late
    /// marks nothing.
    needs_reset: Arc<AtomicBool>,
    generation: u8,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
    vectors: u16,
    config_vector: Arc<AtomicU16>,
}

impl QueueRegisters {
    fn new(max_size: u16) -> Self {
        Self {
            max_size,
            // §4.1.4.3: the size reads as the largest one until the driver reduces it.
            size: max_size,
            enabled: false,
            vector: Arc::new(AtomicU16::new(NO_VECTOR)),
            desc: 0,
            driver: 0,
            device: 0,
        }
    }
}

impl Common {
    pub fn new(features: u64, queue_sizes: &[u16], vectors: u16) -> Self {
        let queues = queue_sizes.iter().map(|size| QueueRegisters::new(*size));
        Self {
            offered: features & !UNSUPPORTED | VERSION_1,
            accepted: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            status: 0,
            needs_reset: Arc::new(AtomicBool::new(false)),
            generation: 0,
            queue_select: 0,
            queues: queues.collect(),
            vectors,
            config_vector: Arc::new(AtomicU16::new(NO_VECTOR)),
        }
    }

    /// Takes every vector away from the device that is about to be stopped: a driver that resets it
    /// expects no interrupt any more.
    pub fn silence(&self) {
        let queues = self.queues.iter().map(|q| &q.vector);
        for vector in queues.chain([&self.config_vector]) {
            vector.store(NO_VECTOR, Ordering::Release);
        }
    }

    /// Returns to the state of power-on (§4.1.4.3.1: the status reads 0 once that is done).
    pub fn reset(&mut self) {
        let sizes: Vec<u16> = self.queues.iter().map(|q| q.max_size).collect();
        let generation = self.generation;
        *self = Self::new(self.offered, &sizes, self.vectors);
        // §2.5.1: what a driver read before the reset must not look unchanged after it.
        self.generation = generation.wrapping_add(1);
    }

    pub fn status(&self) -> u8 {
        let needs_reset = self.needs_reset.load(Ordering::Acquire);
        self.status | if needs_reset { NEEDS_RESET } else { 0 }
    }

    /// The features that both sides agreed on.
    pub fn features(&self) -> u64 {
        self.accepted
    }

    pub fn queues(&self) -> &[QueueRegisters] {
        &self.queues
    }

    pub fn config_vector(&self) -> &Arc<AtomicU16> {
        &self.config_vector
    }

    pub fn needs_reset(&self) -> &Arc<AtomicBool> {
        &self.needs_reset
    }

    /// The device configuration may read differently from now on.
    pub fn bump_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    pub fn read(&self, offset: u64, data: &mut [u8]) {
        use field::*;
        data.fill(0);
        match (offset, data.len()) {
            (DEVICE_FEATURE_SELECT, 4) => put(data, self.device_feature_select.to_le_bytes()),
            (DEVICE_FEATURE, 4) => {
                put(
                    data,
                    word(self.offered, self.device_feature_select).to_le_bytes(),
                );
            }
            (DRIVER_FEATURE_SELECT, 4) => put(data, self.driver_feature_select.to_le_bytes()),
            (DRIVER_FEATURE, 4) => {
                put(
                    data,
                    word(self.accepted, self.driver_feature_select).to_le_bytes(),
                );
            }
            (CONFIG_MSIX_VECTOR, 2) => {
                put(
                    data,
                    self.config_vector.load(Ordering::Acquire).to_le_bytes(),
                );
            }
            (NUM_QUEUES, 2) => {
                let count = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
                put(data, count.to_le_bytes());
            }
            (DEVICE_STATUS, 1) => put(data, [self.status()]),
            (CONFIG_GENERATION, 1) => put(data, [self.generation]),
            (QUEUE_SELECT, 2) => put(data, self.queue_select.to_le_bytes()),
            _ => self.read_queue(offset, data),
        }
    }

    fn read_queue(&self, offset: u64, data: &mut [u8]) {
        use field::*;
        let Some(queue) = self.queues.get(usize::from(self.queue_select)) else {
            // §4.1.4.3.1: the size of a queue that there is not reads 0; a vector reads as none.
            if (offset, data.len()) == (QUEUE_MSIX_VECTOR, 2) {
                put(data, NO_VECTOR.to_le_bytes());
            }
            return;
        };
        match (offset, data.len()) {
            (QUEUE_SIZE, 2) => put(data, queue.size.to_le_bytes()),
            (QUEUE_MSIX_VECTOR, 2) => put(data, queue.vector.load(Ordering::Acquire).to_le_bytes()),
            (QUEUE_ENABLE, 2) => put(data, u16::from(queue.enabled).to_le_bytes()),
            (QUEUE_NOTIFY_OFF, 2) => put(data, self.queue_select.to_le_bytes()),
            (at, len) => {
                let (address, half) = match at & !7 {
                    QUEUE_DESC => (queue.desc, at & 7),
                    QUEUE_DRIVER => (queue.driver, at & 7),
                    QUEUE_DEVICE => (queue.device, at & 7),
                    _ => return,
                };
                match (half, len) {
                    (0, 8) => put(data, address.to_le_bytes()),
                    (0, 4) => put(data, word(address, 0).to_le_bytes()),
                    (4, 4) => put(data, word(address, 1).to_le_bytes()),
                    _ => {}
                }
            }
        }
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        use field::*;
        match (offset, data) {
            (DEVICE_FEATURE_SELECT, &[a, b, c, d]) => {
                self.device_feature_select = u32::from_le_bytes([a, b, c, d]);
            }
            (DRIVER_FEATURE_SELECT, &[a, b, c, d]) => {
                self.driver_feature_select = u32::from_le_bytes([a, b, c, d]);
            }
            (DRIVER_FEATURE, &[a, b, c, d]) => {
                self.accept_features(u32::from_le_bytes([a, b, c, d]));
            }
            (CONFIG_MSIX_VECTOR, &[a, b]) => {
                let vector = self.checked_vector(u16::from_le_bytes([a, b]));
                self.config_vector.store(vector, Ordering::Release);
            }
            (DEVICE_STATUS, &[status]) => return self.write_status(status),
            (QUEUE_SELECT, &[a, b]) => self.queue_select = u16::from_le_bytes([a, b]),
            (QUEUE_MSIX_VECTOR, &[a, b]) => {
                let vector = self.checked_vector(u16::from_le_bytes([a, b]));
                if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
                    queue.vector.store(vector, Ordering::Release);
                }
            }
            _ => self.write_queue(offset, data),
        }
        Effect::None
    }

    /// Writes what a queue is made of; once it is enabled, or the device runs, that stands
    /// (§4.1.4.3.2: the driver configures the other fields before it enables the queue).
    fn write_queue(&mut self, offset: u64, data: &[u8]) {
        use field::*;
        let running = self.status & DRIVER_OK != 0;
        let queue = self.queues.get_mut(usize::from(self.queue_select));
        let Some(queue) = queue.filter(|q| !q.enabled && !running) else {
            return;
        };
        match (offset, data) {
            (QUEUE_SIZE, &[a, b]) => {
                // §4.1.4.3.2: a power of two; and no more than the device has.
                let size = u16::from_le_bytes([a, b]);
                if size.is_power_of_two() && size <= queue.max_size {
                    queue.size = size;
                }
            }
            // §4.1.4.3.2: the driver does not write 0 to it.
            (QUEUE_ENABLE, &[1, 0]) => queue.enabled = true,
            _ => {
                let address = match offset & !7 {
                    QUEUE_DESC => &mut queue.desc,
                    QUEUE_DRIVER => &mut queue.driver,
                    QUEUE_DEVICE => &mut queue.device,
                    _ => return,
                };
                match (offset & 7, data) {
                    (0, &[a, b, c, d, e, f, g, h]) => {
                        *address = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                    }
                    (0, &[a, b, c, d]) => {
                        let low = u32::from_le_bytes([a, b, c, d]);
                        *address = *address & !0xffff_ffff | u64::from(low);
                    }
                    (4, &[a, b, c, d]) => {
                        let high = u32::from_le_bytes([a, b, c, d]);
                        *address = *address & 0xffff_ffff | u64::from(high) << 32;
                    }
                    _ => {}
                }
            }
        }
    }

    /// §3.1.1: features are settled once the driver has set `FEATURES_OK`. What was not offered is
    /// kept too, so that the check at `FEATURES_OK` sees it.
    fn accept_features(&mut self, value: u32) {
        if self.status & FEATURES_OK != 0 {
            return;
        }
        let shift = match self.driver_feature_select {
            0 => 0,
            1 => 32,
            _ => return,
        };
        self.accepted = self.accepted & !(0xffff_ffff << shift) | u64::from(value) << shift;
    }

    fn write_status(&mut self, status: u8) -> Effect {
        if status == 0 {
            return Effect::Reset;
        }
        // §2.1.1: the driver does not clear bits; those it may set are these.
        let allowed = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
        let mut new = status & allowed & !self.status;
        if new & FEATURES_OK != 0 && !self.features_agree() {
            // §2.2.2: the device does not set FEATURES_OK for a set that it cannot work with.
            new &= !FEATURES_OK;
        }
        self.status |= new;
        if new & DRIVER_OK != 0 && self.status & FAILED == 0 {
            return Effect::Activate;
        }
        Effect::None
    }

    /// §2.2.2, §6.1: only what was offered, and `VIRTIO_F_VERSION_1`, for there is no legacy interface.
    fn features_agree(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & VERSION_1 != 0
    }

    /// Whether the driver went through feature negotiation before `DRIVER_OK` (§3.1.1).
    pub fn negotiated(&self) -> bool {
        self.status & FEATURES_OK != 0
    }

    /// §4.1.5.1.2.1: a vector that there is not reads back as none.
    fn checked_vector(&self, vector: u16) -> u16 {
        if vector < self.vectors {
            vector
        } else {
            NO_VECTOR
        }
    }
}

/// Word `index` of 32 bits of `value`; beyond the second, zero.
fn word(value: u64, index: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    match index {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

fn put<const N: usize>(data: &mut [u8], value: [u8; N]) {
    if data.len() == N {
        data.copy_from_slice(&value);
    }
}

#[cfg(test)]
mod tests;
