//! A driver that may do anything: it writes descriptors, rings and headers wherever it likes, most often near where a
//! device looks.

use std::ops::Range;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::Input;
use crate::GuestMemory;

/// Entries of a queue: few, so that few bytes fill it.
pub(crate) const QUEUE_SIZE: u16 = 16;
pub(crate) const QUEUES: usize = 2;

/// Guest memory: two pieces and a gap between them.
pub(crate) const MEMORY: [Range<u64>; 2] = [0..0x1_0000, 0x2_0000..0x2_8000];

const RINGS: u64 = 0x1000;
const RINGS_BYTES: u64 = 0x1000;
const AVAIL: u64 = 0x400;
const USED: u64 = 0x600;
/// Indirect tables of 64 descriptors.
const TABLES: u64 = 0x4000;
const TABLE_BYTES: u64 = 0x400;
const TABLE_ENTRIES: u64 = 64;
/// Headers and lists of segments, 16 bytes each.
const HEADERS: u64 = 0x6000;
const STATUS: u64 = 0x7000;
const DATA: u64 = 0x8000;

const NEXT: u8 = 1;
const WRITE: u8 = 2;
const INDIRECT: u8 = 4;

const READ_REQUEST: u8 = 0;

static ZEROES: [u8; 0x1_0000] = [0; 0x1_0000];

thread_local! {
    static GUEST_MEMORY: GuestMemory = {
        let pieces = MEMORY.map(|it| (GuestAddress(it.start), usize::try_from(it.end - it.start).unwrap()));
        GuestMemory::from_ranges(&pieces).unwrap()
    };
}

/// A descriptor as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Descriptor {
    pub address: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

#[derive(Debug)]
pub(crate) struct Driver {
    pub memory: GuestMemory,
    avail: [u16; QUEUES],
    /// The descriptor that the next well-formed request takes.
    next: u8,
}

impl Driver {
    /// All of memory reads as zeroes.
    pub fn new() -> Self {
        let memory = GUEST_MEMORY.with(GuestMemory::clone);
        for piece in MEMORY {
            let len = usize::try_from(piece.end - piece.start).unwrap();
            memory
                .write_slice(&ZEROES[..len], GuestAddress(piece.start))
                .unwrap();
        }
        Self {
            memory,
            avail: [0; QUEUES],
            next: 0,
        }
    }

    pub fn queue(&self, index: usize, event_idx: bool) -> Queue {
        let low = |address: u64| Some(u32::try_from(address).unwrap());
        let mut queue = Queue::new(QUEUE_SIZE).unwrap();
        let base = rings(index);
        queue.set_size(QUEUE_SIZE);
        queue.set_desc_table_address(low(base), None);
        queue.set_avail_ring_address(low(base + AVAIL), None);
        queue.set_used_ring_address(low(base + USED), None);
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        assert!(queue.is_valid(&self.memory));
        queue
    }

    /// Does one of many things to guest memory.
    pub fn step(&mut self, what: u8, input: &mut Input<'_>) {
        match what % 8 {
            0 | 1 => self.put_descriptor(input),
            2 => self.put_header(input),
            3 => self.put_segment(input),
            4 => {
                let [queue, head] = input.array();
                self.offer(usize::from(queue) % QUEUES, head.into());
            }
            5 => self.request(input),
            6 => {
                let [queue, value, field] = input.array();
                let base = rings(usize::from(queue) % QUEUES);
                let at = match field % 4 {
                    0 => base + AVAIL,
                    1 => base + AVAIL + 2,
                    // The event index lies behind the ring.
                    2 => base + AVAIL + 4 + 2 * u64::from(QUEUE_SIZE),
                    _ => base + USED + 2,
                };
                self.store(at, &u16::from(value).to_le_bytes());
            }
            _ => {
                let [low, high, len] = input.array();
                let bytes = input.bytes(usize::from(len % 32));
                self.store(u16::from_le_bytes([low, high]).into(), bytes);
            }
        }
    }

    /// A well-formed request of the block device, but for what its numbers say.
    fn request(&mut self, input: &mut Input<'_>) {
        let [queue, kind, sector, sectors, slot, shape] = input.array();
        let header = HEADERS + 16 * u64::from(slot);
        let data = DATA + 512 * u64::from(slot);
        let status = STATUS + u64::from(slot);
        self.store(header, &[kind % 16, 0, 0, 0, 0, 0, 0, 0, sector]);
        self.store(status, &[0xee]);
        let direction = if kind % 16 == READ_REQUEST { WRITE } else { 0 };
        let parts = [
            (header, 16, 0),
            (data, 512 * u32::from(sectors), direction),
            (status, 1, WRITE),
        ];
        let indirect = shape & 1 != 0;
        let queue = usize::from(queue) % QUEUES;
        let (table, first) = match indirect {
            true => (TABLES + TABLE_BYTES * u64::from(slot % 4), 0),
            false => (rings(queue), self.next),
        };
        let skipped = usize::from(sectors == 0);
        let parts = parts.iter().filter(|it| it.1 > 0);
        for ((n, &(address, len, flags)), index) in parts.enumerate().zip(first..) {
            let is_last = n + skipped == 2;
            let flags = flags | if is_last { 0 } else { NEXT };
            let (flags, next) = (flags.into(), u16::from(index + 1) % QUEUE_SIZE);
            let index = u64::from(index) % u64::from(QUEUE_SIZE);
            let descriptor = Descriptor {
                address,
                len,
                flags,
                next,
            };
            self.put(table + 16 * index, descriptor);
        }
        let head = u16::from(self.next);
        if indirect {
            let len = 16 * (3 - u32::from(sectors == 0));
            let (flags, next) = (INDIRECT.into(), 0);
            let descriptor = Descriptor {
                address: table,
                len,
                flags,
                next,
            };
            self.put(rings(queue) + 16 * u64::from(head), descriptor);
        }
        let taken = if indirect { 1 } else { 3 };
        self.next = (self.next + taken) % 16;
        self.offer(queue, head);
    }

    fn put_descriptor(&mut self, input: &mut Input<'_>) {
        let [table, index, place, offset, len, flags, next] = input.array();
        let at = match table % 6 {
            n @ 0..2 => rings(n.into()) + 16 * (u64::from(index) % u64::from(QUEUE_SIZE)),
            n => TABLES + TABLE_BYTES * u64::from(n - 2) + 16 * (u64::from(index) % TABLE_ENTRIES),
        };
        let (offset, len) = (u64::from(offset), u32::from(len));
        let address = match place % 8 {
            0 => HEADERS + 16 * offset,
            1 => DATA + 512 * offset,
            2 => DATA + 16 * offset,
            3 => MEMORY[1].start + 512 * offset,
            4 => TABLES + 16 * offset,
            5 => STATUS + offset,
            6 => MEMORY[0].end - offset,
            _ => u64::MAX - offset,
        };
        let len = match place / 8 % 4 {
            0 => len,
            1 => 16 * len,
            2 => 512 * len,
            _ => u32::MAX - (len << 16),
        };
        let next = if next == 0xff { u16::MAX } else { next.into() };
        let flags = flags.into();
        self.put(
            at,
            Descriptor {
                address,
                len,
                flags,
                next,
            },
        );
    }

    fn put_header(&mut self, input: &mut Input<'_>) {
        let [slot, kind, low, high] = input.array();
        let sector = match high {
            0xff => u64::MAX >> (low % 64),
            _ => u64::from(u16::from_le_bytes([low, high])),
        };
        let at = HEADERS + 16 * u64::from(slot);
        self.store(at, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        self.store(at + 8, &sector.to_le_bytes());
    }

    fn put_segment(&mut self, input: &mut Input<'_>) {
        let [slot, low, high, sectors, scale, flags] = input.array();
        let at = HEADERS + 16 * u64::from(slot);
        let sector = u64::from(u16::from_le_bytes([low, high]));
        let sectors = u32::from(sectors) << (scale % 32);
        self.store(at, &sector.to_le_bytes());
        self.store(at + 8, &sectors.to_le_bytes());
        self.store(at + 12, &u32::from(flags).to_le_bytes());
    }

    fn offer(&mut self, queue: usize, head: u16) {
        let avail = &mut self.avail[queue];
        let slot = u64::from(*avail % QUEUE_SIZE);
        *avail = avail.wrapping_add(1);
        let index = avail.to_le_bytes();
        let ring = rings(queue) + AVAIL;
        self.store(ring + 4 + 2 * slot, &head.to_le_bytes());
        self.store(ring + 2, &index);
    }

    /// Puts `descriptor` at an address.
    fn put(&mut self, at: u64, descriptor: Descriptor) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&descriptor.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&descriptor.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&descriptor.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&descriptor.next.to_le_bytes());
        self.store(at, &bytes);
    }

    /// Writes as much as there is memory for.
    fn store(&self, at: u64, bytes: &[u8]) {
        let _ = self.memory.write(bytes, GuestAddress(at));
    }

    /// The buffers of the chain that begins at `head`, by the letter of virtio 1.3 §2.7.5; `None` where it is malformed
    /// or has more than `max`.
    pub fn flatten(&self, queue: usize, head: u16, max: usize) -> Option<Vec<Descriptor>> {
        let (mut table, mut entries) = (rings(queue), u32::from(QUEUE_SIZE));
        let (mut index, mut left, mut is_indirect) = (u32::from(head), entries, false);
        let (mut buffers, mut total) = (Vec::new(), 0_u32);
        loop {
            if index >= entries || left == 0 {
                return None;
            }
            let descriptor = self.descriptor(table.checked_add(16 * u64::from(index))?)?;
            if descriptor.flags & u16::from(INDIRECT) != 0 {
                entries = descriptor.len / 16;
                if is_indirect || !descriptor.len.is_multiple_of(16) || entries > 0xffff {
                    return None;
                }
                (table, is_indirect, index, left) = (descriptor.address, true, 0, entries);
                continue;
            }
            total = total.checked_add(descriptor.len)?;
            buffers.push(descriptor);
            if buffers.len() > max {
                return None;
            }
            if descriptor.flags & u16::from(NEXT) == 0 {
                return Some(buffers);
            }
            (index, left) = (descriptor.next.into(), left - 1);
        }
    }

    fn descriptor(&self, at: u64) -> Option<Descriptor> {
        let bytes: [u8; 16] = self.memory.read_obj(GuestAddress(at)).ok()?;
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Some(Descriptor {
            address: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            len: u32::from_le_bytes([i, j, k, l]),
            flags: u16::from_le_bytes([m, n]),
            next: u16::from_le_bytes([o, p]),
        })
    }
}

impl Descriptor {
    pub fn is_writable(&self) -> bool {
        self.flags & u16::from(WRITE) != 0
    }

    /// Whether all of it is guest memory.
    pub fn is_present(&self) -> bool {
        is_memory(self.address, self.len.into())
    }
}

/// Whether these bytes are guest memory.
pub(crate) fn is_memory(address: u64, len: u64) -> bool {
    let end = address.checked_add(len);
    let holds =
        |piece: &Range<u64>| piece.start <= address && end.is_some_and(|end| end <= piece.end);
    MEMORY.iter().any(holds)
}

fn rings(queue: usize) -> u64 {
    RINGS + RINGS_BYTES * queue as u64
}
