//! The virtio entropy device (virtio 1.3 §5.4): the host's random bytes for the guest's pool.
//!
//! A thread of its own fills what the driver offers, at most [`CHAIN_BYTES_MAX`] of a chain, and takes
//! no more than a queue's worth of chains before it looks whether it is to stop.

use std::io;
use std::os::fd::AsRawFd;
use std::thread::{self, JoinHandle};

use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{Activation, ActiveQueue, NeedsReset, VirtioDevice};
use super::notification;
use crate::GuestMemory;
use crate::rate::RateLimit;

/// `VIRTIO_ID_RNG`
const DEVICE_TYPE: u16 = 4;

const QUEUE_SIZES: [u16; 1] = [64];

/// The most random bytes for one chain. The device may fill less than it is offered (virtio 1.3
/// §5.4.6.2); Linux asks for 64 at a time.
const CHAIN_BYTES_MAX: u32 = 64 << 10;

/// Random bytes fetched at once.
const PIECE_BYTES: u32 = 256;

/// What the events are called in the worker's epoll set.
const DOORBELL: u64 = 0;
const STOP: u64 = 1;

/// The guest decides how often its queue makes no sense.
static WARNINGS: RateLimit = RateLimit::new();

/// An entropy device.
#[derive(Debug, Default)]
pub struct Rng {
    worker: Option<Worker>,
}

#[derive(Debug)]
struct Worker {
    stop: EventFd,
    thread: JoinHandle<()>,
}

impl Rng {
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation {
            memory,
            features,
            queues,
            needs_reset,
        } = activation;
        let Some(mut active) = queues.into_iter().next().flatten() else {
            return Ok(());
        };
        let event_idx = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        active.queue.set_event_idx(event_idx);
        if !active.queue.is_valid(&memory) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "virtqueue outside memory",
            ));
        }
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let events = Epoll::new()?;
        // Edge-triggered: nobody need read the doorbell.
        let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
        for (event, data, set) in [
            (&active.doorbell, DOORBELL, edge),
            (&stop, STOP, EventSet::IN),
        ] {
            let event_fd = event.as_raw_fd();
            events.ctl(ControlOperation::Add, event_fd, EpollEvent::new(set, data))?;
        }
        let server = Server {
            memory,
            active,
            events,
        };
        let work = move || server.run(&needs_reset);
        let thread = thread::Builder::new().name("rng".into()).spawn(work)?;
        self.worker = Some(Worker { stop, thread });
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(Worker { stop, thread }) = self.worker.take()
            && stop.write(1).is_ok()
        {
            // A panic there has been reported, and there is nothing to clean up.
            let _ = thread.join();
        }
    }
}

impl Drop for Rng {
    fn drop(&mut self) {
        self.reset();
    }
}

/// The worker's side.
struct Server {
    memory: GuestMemory,
    active: ActiveQueue,
    events: Epoll,
}

/// What a queue of a driver that breaks the rules, or a failing host, ends the worker with.
pub(crate) type Failure = Box<dyn std::error::Error>;

impl Server {
    fn run(mut self, needs_reset: &NeedsReset) {
        if let Err(error) = self.serve() {
            if WARNINGS.allows() {
                tracing::warn!(error = &*error, "entropy device: the driver must reset it");
            }
            needs_reset.signal();
        }
    }

    /// Serves the queue until the stop event.
    fn serve(&mut self) -> Result<(), Failure> {
        let mut more = true;
        while !self.stopped(!more)? {
            more = take(&self.memory, &mut self.active, random)?;
        }
        Ok(())
    }

    /// Waits for an event, unless not to `block`; whether it is the stop event.
    fn stopped(&self, block: bool) -> io::Result<bool> {
        let mut events = [EpollEvent::default(); 2];
        let timeout = if block { -1 } else { 0 };
        match self.events.wait(timeout, &mut events) {
            Ok(count) => Ok(events.iter().take(count).any(|e| e.data() == STOP)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Where the bytes come from.
type Source = fn(&mut [u8]) -> io::Result<()>;

fn random(bytes: &mut [u8]) -> io::Result<()> {
    // Never short for so few bytes (`getrandom(2)`).
    getrandom(bytes, GetRandomFlags::empty())?;
    Ok(())
}

/// Fills what the driver has offered. Whether there may be more to do.
pub(crate) fn take(
    memory: &GuestMemory,
    active: &mut ActiveQueue,
    source: Source,
) -> Result<bool, Failure> {
    let queue = &mut active.queue;
    let mut more = true;
    let mut used = false;
    queue.disable_notification(memory)?;
    for _ in 0..queue.size() {
        let Some(chain) = queue.iter(memory)?.next() else {
            more = queue.enable_notification(memory)?;
            break;
        };
        let head = chain.head_index();
        let written = fill(chain, memory, source)?;
        queue.add_used(memory, head, written)?;
        used = true;
    }
    if used && notification::is_wanted(queue, memory)? {
        active.interrupt.signal()?;
    }
    Ok(more)
}

/// Writes random bytes to the chain's writable buffers, up to the first that is not in guest
/// memory. Returns how many.
fn fill(
    chain: DescriptorChain<&GuestMemory>,
    memory: &GuestMemory,
    source: Source,
) -> io::Result<u32> {
    let mut filled = 0;
    for buffer in chain.writable() {
        let mut address = buffer.addr();
        let mut left = buffer.len().min(CHAIN_BYTES_MAX - filled);
        while left > 0 {
            let mut bytes = [0; PIECE_BYTES as usize];
            let piece = left.min(PIECE_BYTES);
            let bytes = bytes.get_mut(..piece as usize).unwrap_or_default();
            source(bytes)?;
            if memory.write_slice(bytes, address).is_err() {
                return Ok(filled);
            }
            filled += piece;
            left -= piece;
            address = address.unchecked_add(piece.into());
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;
    use crate::virtio::mock::{self, Descriptor, DriverQueue, NEXT, readable, writable};

    const DATA: u64 = 0x20_0000;

    fn start(memory: &GuestMemory, queue: &DriverQueue, features: u64) -> Rng {
        let mut rng = Rng::new();
        let activation = Activation {
            memory: memory.clone(),
            features: rng.features() & features,
            queues: vec![Some(queue.activate())],
            needs_reset: NeedsReset::new(|| {}),
        };
        rng.activate(activation).unwrap();
        rng
    }

    fn bytes(memory: &GuestMemory, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    #[test]
    fn writable_buffers_are_filled_and_readable_ones_left_alone() {
        let memory = mock::memory();
        let mut queue = DriverQueue::new(&memory, 0, 64);
        let _rng = start(&memory, &queue, 0);
        let (a, b) = (DATA, DATA + 0x1000);
        queue.add(&[readable(0x30_0000, 64), writable(a, 64), writable(b, 32)]);
        queue.kick();
        assert_eq!(queue.wait_used(), (0, 96));
        assert_ne!(bytes(&memory, a, 32), bytes(&memory, b, 32));
        assert_ne!(bytes(&memory, a, 32), [0; 32]);
        assert_eq!(bytes(&memory, a + 64, 64), [0; 64]);
        assert_eq!(bytes(&memory, 0x30_0000, 64), [0; 64]);
    }

    #[test]
    fn one_chain_gets_no_more_than_the_limit() {
        let memory = mock::memory();
        let mut queue = DriverQueue::new(&memory, 0, 64);
        let _rng = start(&memory, &queue, u64::MAX);
        let chain = [
            writable(DATA, 60 << 10),
            writable(DATA + (64 << 10), 1 << 20),
        ];
        queue.add_indirect(0x10_0000, &chain);
        queue.kick();
        assert_eq!(queue.wait_used(), (0, CHAIN_BYTES_MAX));
        assert_eq!(bytes(&memory, DATA + (68 << 10), 64), [0; 64]);
    }

    #[test]
    fn broken_chains_come_back_with_what_could_be_written() {
        let memory = mock::memory();
        let mut queue = DriverQueue::new(&memory, 0, 64);
        let _rng = start(&memory, &queue, u64::MAX);
        queue.add(&[writable(DATA, 8), writable(64 << 20, 8)]);
        queue.add(&[readable(DATA, 8)]);
        queue.put(
            3,
            Descriptor {
                flags: NEXT,
                next: 3,
                ..readable(DATA, 8)
            },
        );
        queue.offer(3);
        queue.kick();
        assert_eq!(queue.wait_used(), (0, 8));
        assert_eq!(queue.wait_used(), (2, 0));
        assert_eq!(queue.wait_used(), (3, 0));
    }

    /// Each activation logged a line, and a guest may reset the device thousands of times a second.
    #[test]
    fn broken_queue_is_told_within_the_limit() {
        let memory = mock::memory();
        let queue = DriverQueue::new(&memory, 0, 64);
        queue.set_avail_index(1000);
        let (sender, broken) = std::sync::mpsc::channel();
        let mut rng = Rng::new();
        let activation = Activation {
            memory,
            features: rng.features(),
            queues: vec![Some(queue.activate())],
            needs_reset: NeedsReset::new(move || sender.send(()).unwrap()),
        };
        rng.activate(activation).unwrap();
        broken.recv().unwrap();
        assert!(WARNINGS.was_asked());
    }

    #[test]
    fn driver_that_refuses_interrupts_gets_none() {
        let memory = mock::memory();
        let mut queue = DriverQueue::new(&memory, 0, 64);
        queue.refuse_interrupts();
        let mut rng = start(&memory, &queue, 0);
        queue.add(&[writable(DATA, 8)]);
        queue.kick();
        while queue.poll_used().is_none() {
            std::thread::yield_now();
        }
        rng.reset();
        assert!(queue.interrupts.read().is_err());
    }
}
