//! A driver of the block device: requests of every kind and shape, each in a slot of guest memory
//! of its own.

use std::collections::HashMap;

use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};
use vm_memory::{Bytes, GuestAddress};

use super::super::super::mock::{self, Descriptor, DriverQueue, readable, writable};
use crate::GuestMemory;

/// The room for one request's data.
pub const DATA_BYTES: usize = 128 << 10;
/// How many requests may be in flight.
pub const SLOTS: usize = 64;

const RING_BYTES: u64 = 0x1_0000;
const TABLES: u64 = 0x8_0000;
const HEADERS: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;
const STATUS_OFFSET: u64 = 0x800;

/// No status byte of the device's.
const UNTOUCHED: u8 = 0xee;

/// How a request is laid out in descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Plain,
    Indirect,
    /// Data in pieces of this many bytes, the last one joined with the status byte where it may be.
    Pieces(u32),
}

pub enum Data<'a> {
    None,
    /// The device writes this many bytes.
    In(usize),
    Out(&'a [u8]),
}

#[derive(Debug)]
pub struct Guest {
    pub memory: GuestMemory,
    pub queues: Vec<DriverQueue>,
    /// The slot of the request with this queue and head.
    heads: HashMap<(usize, u32), usize>,
}

impl Guest {
    pub fn new(queues: usize) -> Self {
        let memory = mock::memory();
        let queue = |n| DriverQueue::new(&memory, RING_BYTES * n, 256);
        let queues = (0..queues as u64).map(queue).collect();
        let heads = HashMap::new();
        Self {
            memory,
            queues,
            heads,
        }
    }

    /// Puts a request on a queue.
    pub fn add(
        &mut self,
        (queue, slot): (usize, usize),
        (request_type, sector): (u32, u64),
        data: Data<'_>,
        shape: Shape,
    ) {
        let header = HEADERS + 0x1000 * slot as u64;
        let status = header + STATUS_OFFSET;
        let at = DATA + (DATA_BYTES * slot) as u64;
        self.memory
            .write_obj(request_type, GuestAddress(header))
            .unwrap();
        self.memory
            .write_obj(sector, GuestAddress(header + 8))
            .unwrap();
        self.memory
            .write_obj(UNTOUCHED, GuestAddress(status))
            .unwrap();
        let mut chain = vec![readable(header, 16)];
        match data {
            Data::None => {}
            Data::In(len) => chain.extend(pieces(at, len, shape).map(|(a, l)| writable(a, l))),
            Data::Out(bytes) => {
                self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
                chain.extend(pieces(at, bytes.len(), shape).map(|(a, l)| readable(a, l)));
            }
        }
        chain.push(writable(status, 1));
        let head = self.offer(queue, slot, &chain, shape == Shape::Indirect);
        self.heads.insert((queue, head.into()), slot);
    }

    fn offer(&mut self, queue: usize, slot: usize, chain: &[Descriptor], indirect: bool) -> u16 {
        let queue = &mut self.queues[queue];
        match indirect {
            true => queue.add_indirect(TABLES + 0x1000 * slot as u64, chain),
            false => queue.add(chain),
        }
    }

    pub fn add_segments(
        &mut self,
        place: (usize, usize),
        request_type: u32,
        segments: &[(u64, u32, u32)],
    ) {
        let mut bytes = Vec::new();
        for (sector, sectors, flags) in segments {
            bytes.extend(sector.to_le_bytes());
            bytes.extend(sectors.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
        }
        self.add(place, (request_type, 0), Data::Out(&bytes), Shape::Plain);
    }

    /// The slot of a used ring's entry. Each request must come back once only.
    pub fn used(&mut self, queue: usize, (head, _): (u32, u32)) -> usize {
        let slot = self.heads.remove(&(queue, head));
        slot.expect("a chain came back that was not in flight")
    }

    pub fn status(&self, slot: usize) -> u8 {
        let status = HEADERS + 0x1000 * slot as u64 + STATUS_OFFSET;
        self.memory.read_obj(GuestAddress(status)).unwrap()
    }

    pub fn data(&self, slot: usize, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        let at = DATA + (DATA_BYTES * slot) as u64;
        self.memory.read_slice(&mut data, GuestAddress(at)).unwrap();
        data
    }

    /// Carries out one request on queue 0 and returns its status.
    pub fn run(&mut self, request: (u32, u64), data: Data<'_>) -> u8 {
        self.add((0, 0), request, data, Shape::Plain);
        self.finish_one()
    }

    pub fn finish_one(&mut self) -> u8 {
        self.queues[0].kick();
        let used = self.queues[0].wait_used();
        let slot = self.used(0, used);
        self.status(slot)
    }

    pub fn write(&mut self, sector: u64, bytes: &[u8]) -> u8 {
        self.run((VIRTIO_BLK_T_OUT, sector), Data::Out(bytes))
    }

    /// Reads and expects success.
    pub fn read(&mut self, sector: u64, len: usize) -> Vec<u8> {
        let status = self.run((VIRTIO_BLK_T_IN, sector), Data::In(len));
        assert_eq!(status, 0);
        self.data(0, len)
    }
}

/// Cuts the `len` bytes at `at`.
fn pieces(at: u64, len: usize, shape: Shape) -> impl Iterator<Item = (u64, u32)> {
    let step = match shape {
        Shape::Pieces(bytes) => bytes as usize,
        Shape::Plain | Shape::Indirect => len.max(1),
    };
    let piece = move |from: usize| {
        let bytes = step.min(len - from);
        (at + from as u64, u32::try_from(bytes).unwrap())
    };
    (0..len).step_by(step).map(piece)
}
