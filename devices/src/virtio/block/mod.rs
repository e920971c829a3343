//! The virtio block device (virtio 1.3 §5.2): a volume as a disk.
//!
//! Reading order: [`config`] is what the driver sees, [`request`] what it may ask, [`steps`] and
//! [`task`] how that is carried out against the volume, [`flush`] what makes it durable, [`engine`]
//! the thread that does it all, [`ring`] the kernel. [`outside`] is for those who do not ask
//! through the guest. Left out on purpose: geometry (no driver needs cylinders), a write cache that
//! can be switched off, lifetime, secure erase and zones.

mod bounce;
mod config;
mod disk;
mod engine;
mod flush;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod memory;
pub mod outside;
mod request;
mod ring;
mod steps;
mod task;
mod tasks;
mod throttle;
mod token;
mod transfer;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use kami_image::volume::Volume;
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::disk::Disk;
use self::engine::{Engine, Events};
use self::outside::{DiskHandle, Inlet};
use self::request::Bounds;
use self::ring::Uring;
use self::throttle::Throttle;
use super::device::{Activation, VirtioDevice};
use crate::lock::lock;
use crate::rate::RateLimit;

pub use self::throttle::Limits;

/// `VIRTIO_ID_BLOCK`
const DEVICE_TYPE: u16 = 2;

/// How a volume shows as a disk.
#[derive(Clone, Copy, Debug)]
pub struct BlockConfig {
    /// What the driver reads as the disk's id; shorter ones end with zero bytes.
    pub serial: [u8; 20],
    /// How many queues to offer, one a vCPU at best; at least 1, at most
    /// [`BlockDevice::QUEUES_MAX`].
    pub queues: u16,
    pub read_only: bool,
    /// How fast it may be; `None` is as fast as the host.
    pub limits: Option<Limits>,
}

/// A disk.
#[derive(Debug)]
pub struct BlockDevice {
    config: BlockConfig,
    size_bytes: u64,
    queue_sizes: Vec<u16>,
    /// The device and those outside contend for it, its worker does not.
    state: Arc<Mutex<State>>,
    /// The guest decides how often its requests or its queues fail.
    log: Arc<RateLimit>,
}

/// Who has the volume.
#[derive(Debug)]
enum State {
    Idle(Box<Volume>),
    Running {
        stop: EventFd,
        inlet: Inlet,
        worker: JoinHandle<Option<Box<Volume>>>,
    },
    /// The host failed in a way that leaves the volume's state unknown.
    Lost,
}

impl BlockDevice {
    /// More would cost memory and gain nothing: one thread serves them all.
    pub const QUEUES_MAX: u16 = 8;

    pub fn new(volume: Volume, config: BlockConfig) -> Self {
        let queues = config.queues.clamp(1, Self::QUEUES_MAX);
        Self {
            config,
            size_bytes: volume.size_bytes(),
            queue_sizes: vec![config::QUEUE_SIZE; queues.into()],
            state: Arc::new(Mutex::new(State::Idle(Box::new(volume)))),
            log: Arc::new(RateLimit::new()),
        }
    }

    /// Reaches the disk as long as it exists, over all resets of its guest.
    pub fn handle(&self) -> DiskHandle {
        DiskHandle(Arc::downgrade(&self.state))
    }

    /// The worker's name: "disk-" and the end of the serial, 15 bytes at most.
    fn thread_name(&self) -> String {
        let serial = String::from_utf8_lossy(&self.config.serial);
        let serial = serial.trim_matches(|c: char| !c.is_ascii_graphic());
        let tail = serial.len().saturating_sub(10);
        format!("disk-{}", serial.get(tail..).unwrap_or_default())
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            capacity_bytes: self.size_bytes - self.size_bytes % request::SECTOR_BYTES,
            read_only: self.config.read_only,
            chain_max: config::QUEUE_SIZE.into(),
        }
    }

    /// Starts the worker. The volume is handed over last, when nothing can fail any more; on an
    /// error it comes back.
    fn spawn(&self, activation: Activation, volume: Box<Volume>) -> (State, io::Result<()>) {
        let (hand_over, volumes) = mpsc::sync_channel(1);
        match self.start_worker(activation, volumes) {
            Ok(running) => match hand_over.send(volume) {
                Ok(()) => (running, Ok(())),
                Err(mpsc::SendError(volume)) => {
                    (State::Idle(volume), Err(io::ErrorKind::BrokenPipe.into()))
                }
            },
            Err(error) => (State::Idle(volume), Err(error)),
        }
    }

    fn start_worker(
        &self,
        activation: Activation,
        volumes: mpsc::Receiver<Box<Volume>>,
    ) -> io::Result<State> {
        let Activation {
            memory,
            features,
            mut queues,
            needs_reset,
        } = activation;
        for active in queues.iter_mut().flatten() {
            let event_idx = features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
            active.queue.set_event_idx(event_idx);
            if !active.queue.is_valid(&memory) {
                let what = "virtqueue outside guest memory";
                return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
            }
        }
        let (serial, bounds) = (self.config.serial, self.bounds());
        let log = self.log.clone();
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let (inlet, outlet) = outside::commands()?;
        let events = Events {
            stop: stop.try_clone()?,
            needs_reset,
        };
        let throttle = Throttle::new(self.config.limits.unwrap_or_default(), Instant::now)?;
        let (report, started) = mpsc::sync_channel(1);
        let work = move || {
            // Made here: closing a ring interrupts the system calls of every thread that ever used
            // it, and a vCPU's thread is not to be among them.
            let ring = match Uring::new() {
                Ok(ring) => report.send(Ok(())).is_ok().then_some(ring)?,
                Err(error) => {
                    let _ = report.send(Err(error));
                    return None;
                }
            };
            let mut disk = Disk::new(*volumes.recv().ok()?, memory, serial);
            disk.log = log;
            disk.write_through = features & 1 << VIRTIO_BLK_F_FLUSH == 0;
            let events = (events, outlet);
            let engine = Engine::new(ring, disk, bounds, queues, events, throttle);
            engine.run().map(Box::new)
        };
        let worker = thread::Builder::new()
            .name(self.thread_name())
            .spawn(work)?;
        let dead = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        started.recv().map_err(dead)??;
        Ok(State::Running {
            stop,
            inlet,
            worker,
        })
    }
}

impl VirtioDevice for BlockDevice {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        config::features(self.config.read_only)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let queues = u16::try_from(self.queue_sizes.len()).unwrap_or(Self::QUEUES_MAX);
        let space = config::space(self.size_bytes, queues);
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut bytes = space.iter().skip(offset);
        data.fill_with(|| bytes.next().copied().unwrap_or(0));
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let mut held = lock(&self.state);
        match std::mem::replace(&mut *held, State::Lost) {
            State::Idle(volume) => {
                let (state, result) = self.spawn(activation, volume);
                *held = state;
                result
            }
            state @ State::Running { .. } => {
                *held = state;
                Err(io::ErrorKind::AlreadyExists.into())
            }
            State::Lost => Err(io::Error::other(
                "an earlier failure of the host lost the disk",
            )),
        }
    }

    fn reset(&mut self) {
        let mut held = lock(&self.state);
        match std::mem::replace(&mut *held, State::Lost) {
            State::Running { stop, worker, .. } => {
                if let Err(error) = stop.write(1) {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot stop a disk"
                    );
                }
                if let Ok(Some(volume)) = worker.join() {
                    *held = State::Idle(volume);
                }
            }
            state => *held = state,
        }
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        self.reset();
        // Somebody outside may have the state in hand; the volume is closed now nevertheless.
        *lock(&self.state) = State::Lost;
    }
}
