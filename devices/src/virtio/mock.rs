//! The driver's side of a device under test: guest memory, split virtqueues (virtio 1.3 §2.7), and
//! chains of any shape, right or wrong.

use std::os::fd::AsRawFd;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::device::{ActiveQueue, QueueInterrupt};
use crate::GuestMemory;

/// Longer than any test may take on a loaded machine; only a hang reaches it.
const PATIENCE_MS: i32 = 60_000;

/// Set where the chain goes on (`VIRTQ_DESC_F_NEXT`), and so forth.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// `struct virtq_desc`
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    pub address: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

/// A buffer that the device reads.
pub fn readable(address: u64, len: u32) -> Descriptor {
    let (flags, next) = (0, 0);
    Descriptor {
        address,
        len,
        flags,
        next,
    }
}

/// A buffer that the device writes.
pub fn writable(address: u64, len: u32) -> Descriptor {
    let flags = WRITE;
    Descriptor {
        flags,
        ..readable(address, len)
    }
}

/// 1 MiB of queues and 15 MiB for data, then a gap, then one more MiB.
pub const MEMORY: [(GuestAddress, usize); 2] = [
    (GuestAddress(0), 16 << 20),
    (GuestAddress(32 << 20), 1 << 20),
];

pub fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&MEMORY).unwrap()
}

/// A virtqueue as its driver sees it.
#[derive(Debug)]
pub struct DriverQueue {
    memory: GuestMemory,
    size: u16,
    base: u64,
    /// Next free descriptor; the table is used round and round.
    next: u16,
    avail: u16,
    used: u16,
    doorbell: EventFd,
    pub interrupts: EventFd,
}

impl DriverQueue {
    /// A queue whose rings and indirect tables take the 64 KiB from `base` on.
    pub fn new(memory: &GuestMemory, base: u64, size: u16) -> Self {
        Self {
            memory: memory.clone(),
            size,
            base,
            next: 0,
            avail: 0,
            used: 0,
            doorbell: EventFd::new(EFD_NONBLOCK).unwrap(),
            interrupts: EventFd::new(EFD_NONBLOCK).unwrap(),
        }
    }

    fn avail_ring(&self) -> u64 {
        self.base + 0x4000
    }

    fn used_ring(&self) -> u64 {
        self.base + 0x6000
    }

    /// What the device is given.
    pub fn activate(&self) -> ActiveQueue {
        let interrupts = self.interrupts.try_clone().unwrap();
        self.activate_with(QueueInterrupt::new(move || interrupts.write(1)))
    }

    pub fn activate_with(&self, interrupt: QueueInterrupt) -> ActiveQueue {
        let low = |address: u64| Some(u32::try_from(address).unwrap());
        let mut queue = Queue::new(256).unwrap();
        queue.set_size(self.size);
        queue.set_desc_table_address(low(self.base), None);
        queue.set_avail_ring_address(low(self.avail_ring()), None);
        queue.set_used_ring_address(low(self.used_ring()), None);
        queue.set_ready(true);
        ActiveQueue {
            queue,
            doorbell: self.doorbell.try_clone().unwrap(),
            interrupt,
        }
    }

    /// Writes a descriptor into the table at `index`, whatever it says.
    pub fn put(&self, index: u16, descriptor: Descriptor) {
        let address = self.base + 16 * u64::from(index);
        store(&self.memory, address, descriptor);
    }

    /// Puts `head` on the avail ring.
    pub fn offer(&mut self, head: u16) {
        let slot = self.avail_ring() + 4 + 2 * u64::from(self.avail % self.size);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.avail = self.avail.wrapping_add(1);
        self.set_avail_index(self.avail);
    }

    /// How many chains were offered, modulo 65536.
    pub fn offered(&self) -> u16 {
        self.avail
    }

    pub fn set_avail_index(&self, index: u16) {
        let address = GuestAddress(self.avail_ring() + 2);
        let release = std::sync::atomic::Ordering::Release;
        self.memory.store(index, address, release).unwrap();
    }

    /// Sets `VIRTQ_AVAIL_F_NO_INTERRUPT`.
    pub fn refuse_interrupts(&self) {
        let flags = GuestAddress(self.avail_ring());
        self.memory.write_obj(1u16, flags).unwrap();
    }

    /// Asks for an interrupt when the used index passes `index`.
    pub fn set_used_event(&self, index: u16) {
        let address = self.avail_ring() + 4 + 2 * u64::from(self.size);
        self.memory.write_obj(index, GuestAddress(address)).unwrap();
    }

    /// Links the descriptors into a chain and offers it. Returns its head.
    pub fn add(&mut self, chain: &[Descriptor]) -> u16 {
        let head = self.next;
        for (n, descriptor) in chain.iter().enumerate() {
            let mut descriptor = *descriptor;
            let index = self.next;
            self.next = (self.next + 1) % self.size;
            if n + 1 < chain.len() {
                descriptor.flags |= NEXT;
                descriptor.next = self.next;
            }
            self.put(index, descriptor);
        }
        self.offer(head);
        head
    }

    /// Links the descriptors into an indirect table, 4 KiB of memory at `table`, and offers that.
    pub fn add_indirect(&mut self, table: u64, chain: &[Descriptor]) -> u16 {
        for (n, descriptor) in chain.iter().enumerate() {
            let mut descriptor = *descriptor;
            let next = u16::try_from(n + 1).unwrap();
            if usize::from(next) < chain.len() {
                descriptor.flags |= NEXT;
                descriptor.next = next;
            }
            store(&self.memory, table + 16 * n as u64, descriptor);
        }
        let len = u32::try_from(16 * chain.len()).unwrap();
        let flags = INDIRECT;
        self.add(&[Descriptor {
            flags,
            ..readable(table, len)
        }])
    }

    /// Rings the doorbell.
    pub fn kick(&self) {
        self.doorbell.write(1).unwrap();
    }

    /// The next entry of the used ring, (head, written bytes), if there is one.
    pub fn poll_used(&mut self) -> Option<(u32, u32)> {
        let index = GuestAddress(self.used_ring() + 2);
        let acquire = std::sync::atomic::Ordering::Acquire;
        let end: u16 = self.memory.load(index, acquire).unwrap();
        if end == self.used {
            return None;
        }
        let entry = self.used_ring() + 4 + 8 * u64::from(self.used % self.size);
        self.used = self.used.wrapping_add(1);
        let [a, b, c, d, e, f, g, h]: [u8; 8] = self.memory.read_obj(GuestAddress(entry)).unwrap();
        let (head, len) = ([a, b, c, d], [e, f, g, h]);
        Some((u32::from_le_bytes(head), u32::from_le_bytes(len)))
    }

    /// Waits for the next entry of the used ring.
    pub fn wait_used(&mut self) -> (u32, u32) {
        loop {
            if let Some(used) = self.poll_used() {
                return used;
            }
            self.set_used_event(self.used);
            if let Some(used) = self.poll_used() {
                return used;
            }
            wait_readable(&self.interrupts);
            self.interrupts.read().unwrap();
        }
    }
}

fn store(memory: &GuestMemory, address: u64, descriptor: Descriptor) {
    let Descriptor {
        address: to,
        len,
        flags,
        next,
    } = descriptor;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&to.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    memory.write_slice(&bytes, GuestAddress(address)).unwrap();
}

/// Waits for a signal of the event, and fails the test if none comes.
pub fn wait_readable(event: &EventFd) {
    let epoll = Epoll::new().unwrap();
    let interest = EpollEvent::new(EventSet::IN, 0);
    epoll
        .ctl(ControlOperation::Add, event.as_raw_fd(), interest)
        .unwrap();
    // An interrupted wait fails the test on purpose: a device must not disturb the driver's threads.
    let ready = epoll
        .wait(PATIENCE_MS, &mut [EpollEvent::default()])
        .unwrap();
    assert_eq!(ready, 1, "the device never answered");
}
