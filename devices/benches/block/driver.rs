//! A driver that keeps a number of requests in flight and looks for their end without interrupts
//! (split virtqueues, virtio 1.3 §2.7).

use std::io;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use kami_devices::GuestMemory;
use kami_devices::virtio::block::{BlockConfig, BlockDevice};
use kami_devices::virtio::device::{
    Activation, ActiveQueue, NeedsReset, QueueInterrupt, VirtioDevice,
};
use kami_image::volume::Volume;
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{Job, Kind, Report, Result};

const QUEUE_SIZE: u16 = 256;
const DESCRIPTORS: u64 = 0;
const AVAIL: u64 = 0x4000;
const USED: u64 = 0x6000;
/// The room for a queue's rings, its headers and its status bytes.
const QUEUE_BYTES: u64 = 1 << 16;
const HEADERS: u64 = 0x8000;
const STATUSES: u64 = 0xc000;
const DATA: u64 = 1 << 20;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A queue, as its driver sees it. Its nth request always has the descriptors 3n, 3n + 1 and 3n + 2.
struct Side {
    base: u64,
    avail: u16,
    /// `avail` as the device was last told.
    told: u16,
    used: u16,
    doorbell: EventFd,
}

pub struct Driver {
    memory: GuestMemory,
    device: BlockDevice,
    sides: Vec<Side>,
    /// When each request was last put on its queue.
    began: Vec<Instant>,
    blocks: Blocks,
    doorbells: u64,
}

/// Which block comes next.
struct Blocks {
    kind: Kind,
    count: u64,
    next: u64,
    random: u64,
}

impl Driver {
    pub fn new(volume: Volume, job: &Job) -> Result<Self> {
        if job.depth.div_ceil(job.queues) > QUEUE_SIZE / 3 {
            return Err("a queue has room for 85 requests of three descriptors".into());
        }
        let data_bytes = u64::from(job.depth) * u64::from(job.block_bytes);
        let memory_bytes = usize::try_from(DATA + data_bytes)?.next_multiple_of(4096);
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), memory_bytes)])?;
        let config = BlockConfig {
            serial: *b"bench000000000000000",
            queues: job.queues,
            read_only: false,
            limits: None,
        };
        let mut device = BlockDevice::new(volume, config);
        let mut sides = Vec::new();
        let mut queues = Vec::new();
        for number in 0..u64::from(job.queues) {
            let base = number * QUEUE_BYTES;
            let doorbell = EventFd::new(EFD_NONBLOCK)?;
            queues.push(Some(active(base, doorbell.try_clone()?)?));
            sides.push(Side {
                base,
                avail: 0,
                told: 0,
                used: 0,
                doorbell,
            });
        }
        let pinned = std::env::var_os("PIN").is_some();
        if pinned {
            run_on(1)?;
        }
        device.activate(Activation {
            memory: memory.clone(),
            features: 1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_RING_F_EVENT_IDX,
            queues,
            needs_reset: NeedsReset::new(|| eprintln!("the device gave up")),
        })?;
        if pinned {
            run_on(0)?;
        }
        let now = Instant::now();
        Ok(Self {
            memory,
            device,
            sides,
            began: vec![now; job.depth.into()],
            blocks: Blocks {
                kind: job.kind,
                count: 0,
                next: 0,
                random: 0x2545_f491_4f6c_dd1d,
            },
            doorbells: 0,
        })
    }

    pub fn run(mut self, job: &Job, size_bytes: u64, time: Duration) -> Result<Report> {
        self.blocks.count = size_bytes / u64::from(job.block_bytes);
        // Pages of guest memory that were never touched are not what is measured.
        let data = vec![0x5a; usize::from(job.depth) * usize::try_from(job.block_bytes)?];
        self.memory.write_slice(&data, GuestAddress(DATA))?;
        for request in 0..job.depth {
            self.lay_out(job, request)?;
        }
        let (processor, start) = (other_threads(), Instant::now());
        let mut in_flight = 0;
        for request in 0..job.depth {
            in_flight += u64::from(self.start(job, request)?);
        }
        self.tell()?;
        let mut latencies = Vec::new();
        while in_flight > 0 {
            let mut now = None;
            for side in 0..self.sides.len() {
                while let Some(request) = self.ended(side)? {
                    let now = *now.get_or_insert_with(Instant::now);
                    let took = now - self.began[usize::from(request)];
                    latencies.push(u64::try_from(took.as_nanos())?);
                    in_flight -= 1;
                    if now - start < time {
                        in_flight += u64::from(self.start(job, request)?);
                    }
                }
            }
            match now {
                Some(_) => self.tell()?,
                None => std::hint::spin_loop(),
            }
        }
        let elapsed = start.elapsed();
        let processor = other_threads().saturating_sub(processor);
        self.device.reset();
        latencies.sort_unstable();
        Ok(Report {
            operations: latencies.len() as u64,
            elapsed,
            processor,
            latencies,
            doorbells: self.doorbells,
        })
    }

    /// Writes all of a request that never changes.
    fn lay_out(&self, job: &Job, request: u16) -> Result<()> {
        let (side, number) = self.place(request);
        let base = self.sides[side].base;
        let header = base + HEADERS + 16 * u64::from(number);
        let status = base + STATUSES + u64::from(number);
        let data = DATA + u64::from(request) * u64::from(job.block_bytes);
        let (kind, data_flags) = match job.kind.is_write() {
            true => (VIRTIO_BLK_T_OUT, 0),
            false => (VIRTIO_BLK_T_IN, WRITE),
        };
        self.memory.write_obj(kind, GuestAddress(header))?;
        let chain = [
            (header, 16, NEXT),
            (data, job.block_bytes, NEXT | data_flags),
            (status, 1, WRITE),
        ];
        for (index, (address, len, flags)) in (3 * number..).zip(chain) {
            let at = base + DESCRIPTORS + 16 * u64::from(index);
            self.memory.write_obj(address, GuestAddress(at))?;
            self.memory.write_obj(len, GuestAddress(at + 8))?;
            self.memory.write_obj(flags, GuestAddress(at + 12))?;
            self.memory.write_obj(index + 1, GuestAddress(at + 14))?;
        }
        Ok(())
    }

    /// The queue of a request, and which of that queue's it is.
    fn place(&self, request: u16) -> (usize, u16) {
        let queues = u16::try_from(self.sides.len()).unwrap_or(u16::MAX);
        (usize::from(request % queues), request / queues)
    }

    /// Puts the request on its queue for the next block, if there is one.
    fn start(&mut self, job: &Job, request: u16) -> Result<bool> {
        let Some(block) = self.blocks.next() else {
            return Ok(false);
        };
        let (index, number) = self.place(request);
        let side = &mut self.sides[index];
        let sector = block * u64::from(job.block_bytes) / 512;
        let header = side.base + HEADERS + 16 * u64::from(number);
        self.memory.write_obj(sector, GuestAddress(header + 8))?;
        self.began[usize::from(request)] = Instant::now();
        let slot = side.base + AVAIL + 4 + 2 * u64::from(side.avail % QUEUE_SIZE);
        self.memory.write_obj(3 * number, GuestAddress(slot))?;
        side.avail = side.avail.wrapping_add(1);
        let index = GuestAddress(side.base + AVAIL + 2);
        self.memory.store(side.avail, index, Ordering::Release)?;
        Ok(true)
    }

    /// Rings where the device asked for it (virtio 1.3 §2.7.7.2).
    fn tell(&mut self) -> Result<()> {
        fence(Ordering::SeqCst);
        for side in self.sides.iter_mut().filter(|it| it.told != it.avail) {
            let event = side.base + USED + 4 + 8 * u64::from(QUEUE_SIZE);
            let event: u16 = self.memory.load(GuestAddress(event), Ordering::Relaxed)?;
            let passed = side.avail.wrapping_sub(event).wrapping_sub(1);
            if passed < side.avail.wrapping_sub(side.told) {
                self.doorbells += 1;
                side.doorbell.write(1)?;
            }
            side.told = side.avail;
        }
        Ok(())
    }

    /// The next request that the device has given back.
    fn ended(&mut self, index: usize) -> Result<Option<u16>> {
        let queues = self.sides.len();
        let side = &mut self.sides[index];
        let place = GuestAddress(side.base + USED + 2);
        let end: u16 = self.memory.load(place, Ordering::Acquire)?;
        if end == side.used {
            return Ok(None);
        }
        let entry = side.base + USED + 4 + 8 * u64::from(side.used % QUEUE_SIZE);
        let head: u32 = self.memory.read_obj(GuestAddress(entry))?;
        side.used = side.used.wrapping_add(1);
        // No interrupt: the index that asks for one is always one that lies behind.
        let wanted = side.base + AVAIL + 4 + 2 * u64::from(QUEUE_SIZE);
        let behind = side.used.wrapping_sub(2);
        self.memory.write_obj(behind, GuestAddress(wanted))?;
        let number = head / 3;
        let status = side.base + STATUSES + u64::from(number);
        match self.memory.read_obj::<u8>(GuestAddress(status))? {
            0 => Ok(Some(u16::try_from(index + number as usize * queues)?)),
            status => Err(format!("a request ended with status {status}").into()),
        }
    }
}

impl Blocks {
    fn next(&mut self) -> Option<u64> {
        let number = self.next;
        self.next += 1;
        match self.kind {
            Kind::Read | Kind::Write => Some(number % self.count),
            Kind::RandRead | Kind::RandWrite => {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                Some(self.random % self.count)
            }
            // An odd number has no divisor in common with a power of two, so all come once.
            Kind::First => (number < self.count).then(|| number * 0x9e37_79b1 % self.count),
        }
    }
}

/// Has this thread, and those that it starts from now on, run on this processor only.
fn run_on(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor);
    Ok(sched_setaffinity(None, &set)?)
}

fn active(base: u64, doorbell: EventFd) -> Result<ActiveQueue> {
    let low = |address: u64| u32::try_from(address).ok();
    let mut queue = Queue::new(QUEUE_SIZE)?;
    queue.set_size(QUEUE_SIZE);
    queue.set_desc_table_address(low(base + DESCRIPTORS), Some(0));
    queue.set_avail_ring_address(low(base + AVAIL), Some(0));
    queue.set_used_ring_address(low(base + USED), Some(0));
    queue.set_ready(true);
    let interrupts = EventFd::new(EFD_NONBLOCK)?;
    Ok(ActiveQueue {
        queue,
        doorbell,
        interrupt: QueueInterrupt::new(move || -> io::Result<()> { interrupts.write(1) }),
    })
}

/// The processor time of this process without this thread's.
fn other_threads() -> Duration {
    let clock = |id| {
        let time = clock_gettime(id);
        Duration::try_from(time).unwrap_or_default()
    };
    clock(ClockId::ProcessCPUTime).saturating_sub(clock(ClockId::ThreadCPUTime))
}
