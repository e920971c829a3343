//! The driver's side of virtio over PCI: features, queues, requests, and interrupts that must come.
//!
//! Implements virtio 1.3 §3.1.1 (initialisation), §4.1 (PCI transport) and §2.7 (split virtqueues). Left out on
//! purpose: legacy devices, packed queues, and, of a [`Queue`], notification suppression, which `ring.rs` has.

use crate::arch::interrupts::{Interrupts, Line};
use crate::arch::memory::fence;
use crate::console::{Failure, failure};
use crate::hw::{Deadline, Window};
use crate::memory::Arena;
use crate::pci::{Bars, Function, Msix, Pci};

const VENDOR: u16 = 0x1af4;
const FIRST_MODERN: u16 = 0x1040;
const LAST_MODERN: u16 = 0x107f;

/// §4.1.4: the capabilities' `cfg_type`.
const CAPABILITY_VENDOR: u8 = 0x09;
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const INTERRUPT_STATUS: u8 = 3;
const DEVICE: u8 = 4;

/// §4.1.4.3: offsets in the common configuration.
const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIG_MSIX_VECTOR: u64 = 0x10;
const NUM_QUEUES: u64 = 0x12;
const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_MSIX_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFF: u64 = 0x1e;
const QUEUE_DESC: u64 = 0x20;
const QUEUE_DRIVER: u64 = 0x28;
const QUEUE_DEVICE: u64 = 0x30;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;

pub const F_INDIRECT_DESC: u64 = 1 << 28;
pub const F_EVENT_IDX: u64 = 1 << 29;
pub const F_VERSION_1: u64 = 1 << 32;

const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;
pub const DESC_INDIRECT: u16 = 4;

/// The largest [`Queue`] that is made here.
const QUEUE_LIMIT: u16 = 32;
/// More queues than this stay off.
pub const QUEUES_LIMIT: u16 = 4;

/// The virtio device type of `function` (§5), if it is a modern virtio device.
pub fn device_type(function: Function) -> Option<u16> {
    if function.vendor() != VENDOR {
        return None;
    }
    match function.device() {
        id @ FIRST_MODERN..=LAST_MODERN => Some(id - FIRST_MODERN),
        // A transitional device: its type is the subsystem's id (§4.1.2.1).
        id if id < FIRST_MODERN => Some(function.subsystem()),
        _ => None,
    }
}

/// A device whose features are agreed upon.
pub struct Device {
    pub features: u64,
    pub queues: u16,
    pub config: Window,
    common: Window,
    notify: Window,
    notify_multiplier: u32,
    msix: Msix,
    function: Function,
}

impl Device {
    /// Resets the device, takes those of its features that are in `wanted`, turns MSI-X on.
    pub fn new(pci: &Pci, function: Function, wanted: u64) -> Result<Self, Failure> {
        let mut bars = Bars::new(pci, function);
        function.enable();
        let mut windows = [None; 5];
        let mut notify_multiplier = 0;
        for (id, at) in function.capabilities() {
            let config = function.config();
            let kind = config.u8(at + 3);
            if id != CAPABILITY_VENDOR || !(COMMON..=DEVICE).contains(&kind) {
                continue;
            }
            let (offset, bytes) = (config.u32(at + 8), config.u32(at + 12));
            let bar = bars.memory(config.u8(at + 4))?;
            if kind == NOTIFY {
                notify_multiplier = config.u32(at + 16);
            }
            // §4.1.4: the first of a kind is to be used.
            windows[usize::from(kind)].get_or_insert(bar.part(u64::from(offset), u64::from(bytes)));
        }
        let window = |kind: u8| {
            windows[usize::from(kind)]
                .ok_or_else(|| failure!("function {:#x} lacks capability {kind}", function.number))
        };
        window(INTERRUPT_STATUS)?;
        let common = window(COMMON)?;
        let msix = Msix::enable(&mut bars)?;
        reset(common)?;
        let features = negotiate(common, wanted)?;
        Ok(Self {
            features,
            queues: common.u16(NUM_QUEUES),
            config: window(DEVICE)?,
            common,
            notify: window(NOTIFY)?,
            notify_multiplier,
            msix,
            function,
        })
    }

    /// Makes queue `index`, whose interrupts come to `line`.
    pub fn queue(
        &self,
        index: u16,
        arena: &Arena,
        interrupts: &Interrupts,
        line: Line,
    ) -> Result<Queue, Failure> {
        let rings = self.rings(index, QUEUE_LIMIT, arena, interrupts, line)?;
        Ok(Queue::new(rings, line))
    }

    /// Makes the rings of queue `index`, of `limit` entries at most, whose interrupts come to `line`.
    pub fn rings(
        &self,
        index: u16,
        limit: u16,
        arena: &Arena,
        interrupts: &Interrupts,
        line: Line,
    ) -> Result<Rings, Failure> {
        let entry = (index + 1).min(self.msix.entries - 1);
        self.route(entry, interrupts, line)?;
        self.common.set_u16(QUEUE_SELECT, index);
        let size = self.common.u16(QUEUE_SIZE).min(limit);
        if !size.is_power_of_two() {
            return Err(failure!("queue {index} has size {size}"));
        }
        let rings = Rings::new(size, arena, self.doorbell(index)?, index);
        self.common.set_u16(QUEUE_SIZE, size);
        self.common.set_u16(QUEUE_MSIX_VECTOR, entry);
        // §4.1.5.1.2.1: reading it back tells whether the device took the vector.
        if self.common.u16(QUEUE_MSIX_VECTOR) != entry {
            return Err(failure!("queue {index} does not take an interrupt"));
        }
        for (register, part) in [
            (QUEUE_DESC, &rings.table),
            (QUEUE_DRIVER, &rings.avail),
            (QUEUE_DEVICE, &rings.used),
        ] {
            self.common.set_u32(register, part.start() as u32);
            self.common
                .set_u32(register + 4, (part.start() >> 32) as u32);
        }
        self.common.set_u16(QUEUE_ENABLE, 1);
        Ok(rings)
    }

    /// Where to write to notify the selected queue (§4.1.4.4).
    fn doorbell(&self, index: u16) -> Result<Window, Failure> {
        let at = u64::from(self.common.u16(QUEUE_NOTIFY_OFF)) * u64::from(self.notify_multiplier);
        if at + 2 > self.notify.bytes() {
            return Err(failure!("queue {index} is notified outside the BAR"));
        }
        Ok(self.notify.part(at, 2))
    }

    /// All queues are made: the device may work.
    pub fn start(&self, interrupts: &Interrupts) -> Result<(), Failure> {
        self.route(0, interrupts, interrupts.spare())?;
        self.common.set_u16(CONFIG_MSIX_VECTOR, 0);
        self.common
            .set_u8(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        Ok(())
    }

    /// Takes the queues' memory back.
    pub fn stop(&self) -> Result<(), Failure> {
        reset(self.common)
    }

    fn route(&self, entry: u16, interrupts: &Interrupts, line: Line) -> Result<(), Failure> {
        let message = interrupts.message(self.function.number, entry, line)?;
        self.msix.route(entry, message);
        Ok(())
    }
}

/// §4.1.4.3.2: the reset is done when the status reads 0.
fn reset(common: Window) -> Result<(), Failure> {
    common.set_u8(STATUS, 0);
    let deadline = Deadline::new();
    while common.u8(STATUS) != 0 {
        if deadline.has_passed() {
            return Err(failure!("a device does not finish its reset"));
        }
    }
    Ok(())
}

fn negotiate(common: Window, wanted: u64) -> Result<u64, Failure> {
    common.set_u8(STATUS, ACKNOWLEDGE);
    common.set_u8(STATUS, ACKNOWLEDGE | DRIVER);
    let mut offered = 0;
    for half in 0..2 {
        common.set_u32(DEVICE_FEATURE_SELECT, half);
        offered |= u64::from(common.u32(DEVICE_FEATURE)) << (32 * half);
    }
    if offered & F_VERSION_1 == 0 {
        return Err(failure!("a device is not modern: it offers {offered:#x}"));
    }
    let features = offered & wanted | F_VERSION_1;
    for half in 0..2 {
        common.set_u32(DRIVER_FEATURE_SELECT, half);
        common.set_u32(DRIVER_FEATURE, (features >> (32 * half)) as u32);
    }
    common.set_u8(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    if common.u8(STATUS) & FEATURES_OK == 0 {
        return Err(failure!("a device refuses features {features:#x}"));
    }
    Ok(features)
}

/// A buffer of a request.
#[derive(Clone, Copy)]
pub struct Buffer {
    pub memory: Window,
    /// The device writes it; else it reads it.
    pub is_written: bool,
}

/// The memory of a split virtqueue (§2.7), and where to notify the device of what is in it.
pub struct Rings {
    pub size: u16,
    pub index: u16,
    pub table: Window,
    pub avail: Window,
    pub used: Window,
    pub doorbell: Window,
}

impl Rings {
    fn new(size: u16, arena: &Arena, doorbell: Window, index: u16) -> Self {
        let entries = u64::from(size);
        Self {
            size,
            index,
            table: arena.take(16 * entries),
            avail: arena.take(6 + 2 * entries),
            used: arena.take(6 + 8 * entries),
            doorbell,
        }
    }
}

/// A split virtqueue. Requests are made in batches: all of a batch are done before the next begins.
pub struct Queue {
    rings: Rings,
    line: Line,
    /// Descriptors and requests of the current batch.
    descriptors: u16,
    requests: u16,
    /// Requests of all batches; wraps, as the rings' indices do.
    done: u16,
}

impl Queue {
    fn new(rings: Rings, line: Line) -> Self {
        Self {
            rings,
            line,
            descriptors: 0,
            requests: 0,
            done: 0,
        }
    }

    /// How many requests of `buffers` buffers a batch can have.
    pub fn batch_limit(&self, buffers: u16) -> u16 {
        self.rings.size / buffers
    }

    /// Adds a request to the batch.
    pub fn add(&mut self, buffers: &[Buffer]) {
        let head = self.descriptors;
        write_chain(&self.rings.table, head, buffers);
        self.descriptors += buffers.len() as u16;
        self.make_available(head);
    }

    /// Adds a request whose descriptors are in `table`, a table of its own (§2.7.5.3).
    pub fn add_indirect(&mut self, table: &Window, buffers: &[Buffer]) {
        write_chain(table, 0, buffers);
        let table = table.part(0, 16 * buffers.len() as u64);
        let head = self.descriptors;
        write_descriptor(&self.rings.table, head, &table, DESC_INDIRECT, 0);
        self.descriptors += 1;
        self.make_available(head);
    }

    pub fn has_requests(&self) -> bool {
        self.requests != 0
    }

    fn make_available(&mut self, head: u16) {
        let slot = (self.done.wrapping_add(self.requests)) % self.rings.size;
        self.rings.avail.set_u16(4 + 2 * u64::from(slot), head);
        self.requests += 1;
    }

    /// Notifies the device and waits until it has done the batch and has interrupted.
    pub fn run(&mut self, interrupts: &Interrupts) -> Result<(), Failure> {
        let last = self.done.wrapping_add(self.requests);
        let before = self.line.count();
        fence();
        self.rings.avail.set_u16(2, last);
        fence();
        self.rings.doorbell.set_u16(0, self.rings.index);
        let mut seen = before;
        loop {
            interrupts.wait(self.line, seen)?;
            seen = self.line.count();
            let used = self.rings.used.u16(2);
            if used == last {
                break;
            }
            if last.wrapping_sub(used) > self.requests {
                return Err(failure!(
                    "queue {} used {used} of {last} requests",
                    self.rings.index
                ));
            }
        }
        self.done = last;
        (self.descriptors, self.requests) = (0, 0);
        Ok(())
    }
}

pub fn write_chain(table: &Window, first: u16, buffers: &[Buffer]) {
    for (at, buffer) in (first..).zip(buffers) {
        let is_last = at == first + buffers.len() as u16 - 1;
        let next = if is_last { 0 } else { DESC_NEXT };
        let write = if buffer.is_written { DESC_WRITE } else { 0 };
        write_descriptor(table, at, &buffer.memory, next | write, at + 1);
    }
}

pub fn write_descriptor(table: &Window, index: u16, memory: &Window, flags: u16, next: u16) {
    let at = 16 * u64::from(index);
    table.set_u64(at, memory.start());
    table.set_u32(at + 8, memory.bytes() as u32);
    table.set_u16(at + 12, flags);
    table.set_u16(at + 14, next);
}
