//! A block device with many requests in flight: what the modes `load`, `log` and `fill` work with.
//!
//! Implements the driver's side of virtio 1.3 §5.2.6. Each slot has its request's header, status and buffer for good,
//! and the descriptors of them, so that a request costs a few stores. Indirect tables (§2.7.5.3) where the device has
//! them, as Linux does. Requests go to the queues in turns.

use crate::arch::interrupts::{Interrupts, Line};
use crate::arch::memory::fence;
use crate::console::{Failure, failure};
use crate::disk::{self, FLUSH, IN, NO_STATUS};
use crate::hw::{Deadline, Window};
use crate::memory::Arena;
use crate::ring::{Completion, Ring};
use crate::self_test::Machine;
use crate::virtio::{self, Buffer, Device};

/// The largest queue that is made: enough for the most requests in flight, with indirect tables and without.
const QUEUE_LIMIT: u16 = 256;
const DIRECT_QUEUE_LIMIT: u16 = 1024;
/// Requests in flight, a flush not counted.
pub const SLOTS_LIMIT: u16 = 255;

/// Of a slot's own memory: the indirect table, the header, the status.
const SLOT_BYTES: u64 = 128;
const TABLE: u64 = 0;
const HEADER: u64 = 64;
const STATUS: u64 = 96;
const DESCRIPTOR_BYTES: u64 = 16;

/// How a device is to be used.
#[derive(Clone, Copy)]
pub struct Shape {
    pub queues: u16,
    /// Requests in flight.
    pub slots: u16,
    /// The largest request's data.
    pub slot_bytes: u64,
    pub completion: Completion,
}

/// A started block device.
pub struct Flight<'a> {
    number: usize,
    device: Device,
    interrupts: &'a Interrupts,
    line: Line,
    rings: [Option<Ring>; virtio::QUEUES_LIMIT as usize],
    /// Those that are there.
    queues: u16,
    /// The queue that is looked at next.
    turn: u16,
    is_indirect: bool,
    /// Requests in flight, where the queues have no room for as many as were asked for: fewer.
    pub slots: u16,
    slot_bytes: u64,
    memory: Window,
    data: Window,
    pub sectors: u64,
}

impl<'a> Flight<'a> {
    /// Starts the disk `number`, with memory of `arena`.
    pub fn start(
        number: usize,
        machine: &'a Machine<'_>,
        arena: &Arena,
        shape: Shape,
    ) -> Result<Self, Failure> {
        let Shape {
            queues,
            slots,
            slot_bytes,
            completion,
        } = shape;
        let Some(function) = machine.devices(disk::DEVICE_TYPE).nth(number) else {
            return Err(failure!("there is no disk {number}"));
        };
        let interrupts = machine.interrupts;
        let device = Device::new(&machine.pci, function, disk::WANTED | virtio::F_EVENT_IDX)?;
        let line = interrupts.new_line();
        let offered = disk::queue_count(&device)?.min(virtio::QUEUES_LIMIT);
        if queues > offered {
            return Err(failure!("disk{number} has {offered} queues, not {queues}"));
        }
        let is_indirect = device.features & virtio::F_INDIRECT_DESC != 0;
        let has_event_index = device.features & virtio::F_EVENT_IDX != 0;
        let (limit, descriptors) = match is_indirect {
            true => (QUEUE_LIMIT, 1),
            false => (DIRECT_QUEUE_LIMIT, 3),
        };
        let mut rings = [const { None }; virtio::QUEUES_LIMIT as usize];
        let mut room = u16::MAX;
        for (index, place) in (0..queues).zip(&mut rings) {
            let rings = device.rings(index, limit, arena, interrupts, line)?;
            room = room.min(rings.size / descriptors);
            *place = Some(Ring::new(rings, has_event_index, completion));
        }
        // One is the flush's.
        let slots = slots.min(room.saturating_mul(queues) - 1).min(SLOTS_LIMIT);
        // What is taken begins at a page.
        let wanted = u64::from(slots + 1) * (SLOT_BYTES + slot_bytes) + 8192;
        if wanted > arena.free_bytes() {
            return Err(failure!(
                "{slots} requests of {slot_bytes} bytes need {wanted} bytes of {}",
                arena.free_bytes()
            ));
        }
        device.start(interrupts)?;
        Ok(Self {
            number,
            interrupts,
            line,
            rings,
            queues,
            turn: 0,
            is_indirect,
            slots,
            slot_bytes,
            memory: arena.take(u64::from(slots + 1) * SLOT_BYTES),
            data: arena.take(u64::from(slots) * slot_bytes),
            sectors: device.config.u64(0),
            device,
        })
    }

    pub fn is_read_only(&self) -> bool {
        self.device.features & disk::F_RO != 0
    }

    /// The buffer of `slot`.
    pub fn data(&self, slot: u16) -> Window {
        self.data
            .part(u64::from(slot) * self.slot_bytes, self.slot_bytes)
    }

    /// Adds a request of `kind` for `bytes` from `sector` on, in a slot that is free.
    pub fn send(&mut self, slot: u16, kind: u32, sector: u64, bytes: u64) {
        let data = self.data(slot).part(0, bytes);
        let data = Buffer {
            memory: data,
            is_written: kind == IN,
        };
        self.add(slot, kind, sector, Some(data));
    }

    /// Adds a flush, which has a slot of its own: the one after the last. It covers what was done before.
    pub fn send_flush(&mut self) {
        self.add(self.slots, FLUSH, 0, None);
    }

    fn add(&mut self, slot: u16, kind: u32, sector: u64, data: Option<Buffer>) {
        let own = self.memory.part(u64::from(slot) * SLOT_BYTES, SLOT_BYTES);
        own.set_u32(HEADER, kind);
        own.set_u64(HEADER + 8, sector);
        own.set_u8(STATUS, NO_STATUS);
        let header = Buffer {
            memory: own.part(HEADER, 16),
            is_written: false,
        };
        let status = Buffer {
            memory: own.part(STATUS, 1),
            is_written: true,
        };
        let buffers = [header, data.unwrap_or(status), status];
        let buffers = &buffers[..if data.is_some() { 3 } else { 2 }];
        let (queue, place) = (slot % self.queues, slot / self.queues);
        let Some(Some(ring)) = self.rings.get_mut(usize::from(queue)) else {
            return;
        };
        let head = if self.is_indirect {
            let table = own.part(TABLE, DESCRIPTOR_BYTES * buffers.len() as u64);
            virtio::write_chain(&table, 0, buffers);
            virtio::write_descriptor(ring.table(), place, &table, virtio::DESC_INDIRECT, 0);
            place
        } else {
            virtio::write_chain(ring.table(), 3 * place, buffers);
            3 * place
        };
        ring.add(head);
    }

    /// Makes available to the device what was added.
    pub fn publish(&mut self) {
        for ring in self.rings.iter_mut().flatten() {
            ring.publish();
        }
    }

    /// A request that is done: its slot, and its status.
    pub fn take(&mut self) -> Result<Option<(u16, u8)>, Failure> {
        for _ in 0..self.queues {
            let queue = self.turn;
            self.turn = (queue + 1) % self.queues;
            let Some(Some(ring)) = self.rings.get_mut(usize::from(queue)) else {
                continue;
            };
            let Some(head) = ring.take()? else {
                continue;
            };
            let place = if self.is_indirect { head } else { head / 3 };
            let slot = place * self.queues + queue;
            if slot > self.slots {
                return Err(failure!("disk{}: no request {slot} is done", self.number));
            }
            let status = self.memory.u8(u64::from(slot) * SLOT_BYTES + STATUS);
            return Ok(Some((slot, status)));
        }
        Ok(None)
    }

    /// The same, not before there is one. With [`Completion::Interrupt`] it rests until then.
    pub fn wait(&mut self, completion: Completion) -> Result<(u16, u8), Failure> {
        let deadline = Deadline::of_disks();
        loop {
            let seen = self.line.count();
            if let Some(done) = self.take()? {
                return Ok(done);
            }
            match completion {
                Completion::Polled => core::hint::spin_loop(),
                Completion::Interrupt => {
                    let is_idle = self.rings.iter().flatten().all(Ring::ask);
                    if is_idle {
                        self.interrupts.wait(self.line, seen)?;
                    }
                }
            }
            if deadline.has_passed() {
                return Err(failure!("disk{} does not answer", self.number));
            }
        }
    }

    /// A flush while nothing else is in flight; returns its status.
    pub fn flush(&mut self, completion: Completion) -> Result<u8, Failure> {
        self.send_flush();
        self.publish();
        let (_, status) = self.wait(completion)?;
        Ok(status)
    }

    /// Fills the buffers with bytes that are not zero, `seed` telling one run's from another's. After that no page of
    /// them is new to the processor or the host either.
    pub fn fill_buffers(&self, seed: u64) {
        let mut word = seed | 1;
        for at in (0..self.data.bytes() & !7).step_by(8) {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(2);
            self.data.set_u64(at, word);
        }
        fence();
    }

    /// Ends the device's work: its memory is free for others.
    pub fn stop(self) -> Result<(), Failure> {
        self.device.stop()
    }
}
