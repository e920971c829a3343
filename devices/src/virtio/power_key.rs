//! A virtio input device (virtio 1.3 §5.8) with one key, the power key: how a machine without ACPI presses the power
//! button of a kernel that has no driver for GPIO keys.
//!
//! A press is four events, for which the driver must have left buffers: one that finds none is lost, as it is where nobody
//! has opened the input device. Left out on purpose: the status queue (a key has no light), and a thread.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes};

use super::device::{Activation, ActiveQueue, VirtioDevice};
use super::notification;
use crate::GuestMemory;
use crate::lock::lock;
use crate::rate::RateLimit;

/// `VIRTIO_ID_INPUT`
const DEVICE_TYPE: u16 = 18;
/// Events, and status.
const QUEUE_SIZES: [u16; 2] = [64, 64];

/// The configuration (§5.8.4): what the driver selects, how long that is, and at 8 the thing itself.
const SELECT: usize = 0;
const SUBSELECT: usize = 1;
const SIZE: usize = 2;
const CONTENT: usize = 8;
const CONTENT_BYTES: usize = 128;
const SELECT_NAME: u8 = 0x01;
const SELECT_IDS: u8 = 0x03;
const SELECT_EVENTS: u8 = 0x11;

const NAME: &[u8] = b"Power Button";
/// Bus type `BUS_VIRTUAL` of Linux's input.h; no vendor, no product, version 1.
const IDS: [u8; 8] = [6, 0, 0, 0, 0, 0, 1, 0];

/// Of Linux's input-event-codes.h.
const EV_SYN: u16 = 0;
const EV_KEY: u16 = 1;
const SYN_REPORT: u16 = 0;
const KEY_POWER: u16 = 116;

/// The bitmap of keys.
const KEYS: [u8; 15] = [
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    1 << (KEY_POWER % 8),
];
const _: () = assert!(KEYS.len() == KEY_POWER as usize / 8 + 1);

/// A press and the release, each with its end: type, code, value (§5.8.6).
const PRESS: [(u16, u16, u32); 4] = [
    (EV_KEY, KEY_POWER, 1),
    (EV_SYN, SYN_REPORT, 0),
    (EV_KEY, KEY_POWER, 0),
    (EV_SYN, SYN_REPORT, 0),
];
const EVENT_BYTES: u32 = 8;

/// The guest decides whether a press fails.
static WARNINGS: RateLimit = RateLimit::new();

/// The device.
#[derive(Debug)]
pub struct PowerKey {
    select: [u8; 2],
    button: Arc<Button>,
}

/// The finger's side of it.
#[derive(Default)]
pub struct Button {
    /// Contended by vCPUs, as the driver starts and stops the device, and by whoever presses.
    events: Mutex<Option<Events>>,
}

struct Events {
    memory: GuestMemory,
    active: ActiveQueue,
}

impl PowerKey {
    pub fn new() -> Self {
        Self {
            select: [0; 2],
            button: Arc::default(),
        }
    }

    pub fn button(&self) -> Arc<Button> {
        self.button.clone()
    }

    fn configuration(&self) -> [u8; CONTENT + CONTENT_BYTES] {
        let [select, subselect] = self.select;
        let content: &[u8] = match (select, subselect) {
            (SELECT_NAME, 0) => NAME,
            (SELECT_IDS, 0) => &IDS,
            (SELECT_EVENTS, 1) => &KEYS,
            _ => &[],
        };
        let mut bytes = [0; CONTENT + CONTENT_BYTES];
        bytes[SELECT] = select;
        bytes[SUBSELECT] = subselect;
        bytes[SIZE] = u8::try_from(content.len()).unwrap_or_default();
        for (to, from) in bytes.iter_mut().skip(CONTENT).zip(content) {
            *to = *from;
        }
        bytes
    }
}

impl Default for PowerKey {
    fn default() -> Self {
        Self::new()
    }
}

impl VirtioDevice for PowerKey {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let configuration = self.configuration();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = configuration.get(start..).unwrap_or_default();
        data.fill(0);
        for (to, from) in data.iter_mut().zip(rest) {
            *to = *from;
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let selects = self.select.iter_mut().skip(start);
        for (to, from) in selects.zip(data) {
            *to = *from;
        }
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation { memory, queues, .. } = activation;
        let Some(active) = queues.into_iter().next().flatten() else {
            return Ok(());
        };
        if !active.queue.is_valid(&memory) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "virtqueue outside memory",
            ));
        }
        *lock(&self.button.events) = Some(Events { memory, active });
        Ok(())
    }

    fn reset(&mut self) {
        *lock(&self.button.events) = None;
        self.select = [0; 2];
    }
}

impl Button {
    /// Presses the key and lets it go.
    pub fn press(&self) {
        if let Some(events) = &mut *lock(&self.events)
            && let Err(error) = events.press()
            && WARNINGS.allows()
        {
            tracing::warn!(%error, "power key: the guest's driver does not take a press");
        }
    }
}

impl Events {
    fn press(&mut self) -> Result<(), virtio_queue::Error> {
        let Self { memory, active } = self;
        let queue = &mut active.queue;
        for (kind, code, value) in PRESS {
            let Some(chain) = queue.iter(&*memory)?.next() else {
                break;
            };
            let head = chain.head_index();
            let mut event = Vec::with_capacity(EVENT_BYTES as usize);
            event.extend(kind.to_le_bytes());
            event.extend(code.to_le_bytes());
            event.extend(value.to_le_bytes());
            // §5.8.6.2: a driver's buffer holds an event; a smaller one gets none.
            let buffer = chain.writable().find(|buffer| buffer.len() >= EVENT_BYTES);
            let written = buffer.is_some_and(|buffer| {
                let address = buffer.addr();
                address.checked_add(EVENT_BYTES.into()).is_some()
                    && memory.write_slice(&event, address).is_ok()
            });
            queue.add_used(memory, head, if written { EVENT_BYTES } else { 0 })?;
        }
        if notification::is_wanted(queue, memory)?
            && let Err(error) = active.interrupt.signal()
            && WARNINGS.allows()
        {
            tracing::warn!(%error, "power key: cannot interrupt the guest");
        }
        Ok(())
    }
}

impl fmt::Debug for Button {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_active = lock(&self.events).is_some();
        f.debug_struct("Button")
            .field("is_active", &is_active)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;
    use crate::virtio::device::NeedsReset;
    use crate::virtio::mock::{self, DriverQueue, writable};

    const DATA: u64 = 0x20_0000;

    fn start(memory: &GuestMemory, queue: &DriverQueue) -> PowerKey {
        let mut key = PowerKey::new();
        let activation = Activation {
            memory: memory.clone(),
            features: key.features(),
            queues: vec![Some(queue.activate()), None],
            needs_reset: NeedsReset::new(|| {}),
        };
        key.activate(activation).unwrap();
        key
    }

    fn configured(key: &mut PowerKey, select: u8, subselect: u8) -> Vec<u8> {
        key.write_config(0, &[select]);
        key.write_config(1, &[subselect]);
        let mut size = [0];
        key.read_config(2, &mut size);
        let mut content = vec![0; size[0].into()];
        key.read_config(8, &mut content);
        content
    }

    #[test]
    fn driver_finds_one_key_and_nothing_else() {
        let key = &mut PowerKey::new();
        assert_eq!(configured(key, SELECT_NAME, 0), b"Power Button");
        assert_eq!(configured(key, SELECT_IDS, 0).len(), 8);
        let keys = configured(key, SELECT_EVENTS, 1);
        let set: Vec<usize> = (0..keys.len() * 8)
            .filter(|bit| keys[bit / 8] >> (bit % 8) & 1 != 0)
            .collect();
        assert_eq!(set, [116]);
        for (select, subselect) in [
            (0, 0),
            (2, 0),
            (0x10, 0),
            (0x11, 0x14),
            (0x12, 0),
            (255, 255),
        ] {
            assert_eq!(configured(key, select, subselect), b"");
        }
        let mut beyond = [1; 9];
        key.read_config(u64::MAX - 3, &mut beyond);
        key.write_config(u64::MAX - 3, &beyond);
        assert_eq!(beyond, [0; 9]);
    }

    #[test]
    fn press_is_four_events_and_one_interrupt() {
        let memory = mock::memory();
        let mut queue = DriverQueue::new(&memory, 0, 64);
        for n in 0..5 {
            queue.add(&[writable(DATA + n * 8, 8)]);
        }
        let key = start(&memory, &queue);
        key.button().press();
        let heads: Vec<_> = std::iter::from_fn(|| queue.poll_used()).collect();
        assert_eq!(heads, [(0, 8), (1, 8), (2, 8), (3, 8)]);
        let mut events = [0; 40];
        memory.read_slice(&mut events, GuestAddress(DATA)).unwrap();
        assert_eq!(events[..8], [1, 0, 116, 0, 1, 0, 0, 0]);
        assert_eq!(events[8..16], [0; 8]);
        assert_eq!(events[16..24], [1, 0, 116, 0, 0, 0, 0, 0]);
        assert_eq!(events[24..], [0; 16]);
        assert_eq!(queue.interrupts.read().unwrap(), 1);
    }

    #[test]
    fn press_without_a_driver_buffers_or_good_ones_is_lost_and_harms_nobody() {
        PowerKey::new().button().press();
        let memory = mock::memory();
        let mut queue = DriverQueue::new(&memory, 0, 64);
        let mut key = start(&memory, &queue);
        key.button().press();
        assert_eq!(queue.poll_used(), None);
        queue.add(&[writable(DATA, 4)]);
        queue.add(&[writable(u64::MAX - 4, 8)]);
        queue.add(&[mock::readable(DATA, 8)]);
        key.button().press();
        let used: Vec<_> = std::iter::from_fn(|| queue.poll_used()).collect();
        assert_eq!(used, [(0, 0), (1, 0), (2, 0)]);
        key.reset();
        queue.add(&[writable(DATA, 8)]);
        key.button().press();
        assert_eq!(queue.poll_used(), None);
    }

    #[test]
    fn press_on_a_broken_queue_is_told_within_the_limit() {
        let memory = mock::memory();
        let queue = DriverQueue::new(&memory, 0, 64);
        let key = start(&memory, &queue);
        queue.set_avail_index(1000);
        key.button().press();
        assert!(WARNINGS.was_asked());
    }
}
