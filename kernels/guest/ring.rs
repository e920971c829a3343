//! A virtqueue that is kept busy: requests are added while others are in flight, and the two sides tell each other only
//! what the other has asked for.
//!
//! Implements the driver's side of virtio 1.3 §2.7.13 and §2.7.14 (adding and taking buffers) with the suppression of
//! notifications of §2.7.7 and §2.7.10, by the event index where the device has it.

use crate::arch::memory::fence;
use crate::console::{Failure, failure};
use crate::hw::Window;
use crate::virtio::Rings;

/// §2.7.6: the driver wants no interrupts.
const AVAIL_NO_INTERRUPT: u16 = 1;
/// §2.7.8: the device wants no notifications.
const USED_NO_NOTIFY: u16 = 1;

/// Whether the device shall interrupt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// Never: the used ring is looked at all the time.
    Polled,
    /// When something is used of which [`Ring::ask`] has not been told yet.
    Interrupt,
}

/// A split virtqueue.
pub struct Ring {
    rings: Rings,
    has_event_index: bool,
    completion: Completion,
    /// Requests added, made available, and taken back; they wrap.
    added: u16,
    published: u16,
    taken: u16,
}

impl Ring {
    pub fn new(rings: Rings, has_event_index: bool, completion: Completion) -> Self {
        let this = Self {
            rings,
            has_event_index,
            completion,
            added: 0,
            published: 0,
            taken: 0,
        };
        let no_interrupts = !has_event_index && completion == Completion::Polled;
        this.rings
            .avail
            .set_u16(0, if no_interrupts { AVAIL_NO_INTERRUPT } else { 0 });
        this.put_off();
        this
    }

    /// Adds the request whose first descriptor is `head`. There are never more in flight than the table has room for.
    pub fn add(&mut self, head: u16) {
        let slot = self.added & (self.rings.size - 1);
        self.rings.avail.set_u16(4 + 2 * u64::from(slot), head);
        self.added = self.added.wrapping_add(1);
    }

    /// Makes available what was added, and notifies the device if it wants that.
    pub fn publish(&mut self) {
        if self.added == self.published {
            return;
        }
        let before = self.published;
        self.published = self.added;
        fence();
        self.rings.avail.set_u16(2, self.published);
        fence();
        let is_wanted = if self.has_event_index {
            let event = self.rings.used.u16(4 + 8 * u64::from(self.rings.size));
            // §2.7.10: it lies within what has just become available.
            let behind = self.published.wrapping_sub(event).wrapping_sub(1);
            behind < self.published.wrapping_sub(before)
        } else {
            self.rings.used.u16(0) & USED_NO_NOTIFY == 0
        };
        if is_wanted {
            self.rings.doorbell.set_u16(0, self.rings.index);
        }
    }

    /// The first descriptor of a request that is done.
    pub fn take(&mut self) -> Result<Option<u16>, Failure> {
        let used = self.rings.used.u16(2);
        if used == self.taken {
            return Ok(None);
        }
        let Rings { size, index, .. } = self.rings;
        if used.wrapping_sub(self.taken) > self.published.wrapping_sub(self.taken) {
            return Err(failure!("queue {index} has used more than it was given"));
        }
        fence();
        let slot = u64::from(self.taken & (size - 1));
        let head = self.rings.used.u32(4 + 8 * slot);
        self.taken = self.taken.wrapping_add(1);
        if self.taken & 0x3fff == 0 {
            self.put_off();
        }
        match u16::try_from(head) {
            Ok(head) if head < size => Ok(Some(head)),
            _ => Err(failure!("queue {index} has used descriptor {head}")),
        }
    }

    /// Where interrupts are not wanted, moves the event index further ahead than requests come until the next time.
    fn put_off(&self) {
        if self.has_event_index && self.completion == Completion::Polled {
            self.set_event(self.taken.wrapping_add(0x8000));
        }
    }

    /// Asks for an interrupt when the next request is done. False where one is done already.
    pub fn ask(&self) -> bool {
        if self.has_event_index {
            self.set_event(self.taken);
        }
        fence();
        self.rings.used.u16(2) == self.taken
    }

    fn set_event(&self, event: u16) {
        self.rings
            .avail
            .set_u16(4 + 2 * u64::from(self.rings.size), event);
    }

    /// The descriptors.
    pub fn table(&self) -> &Window {
        &self.rings.table
    }
}
