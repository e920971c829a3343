//! Used buffer notifications, and when the driver can do without one (virtio 1.3 §2.7.7).

use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Error, Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::GuestMemory;

/// Whether the driver wants an interrupt for what was added to the used ring since this was last
/// asked.
///
/// # Errors
/// The avail ring lies outside guest memory.
pub(super) fn is_wanted(queue: &mut Queue, memory: &GuestMemory) -> Result<bool, Error> {
    if queue.event_idx_enabled() {
        return queue.needs_notification(memory);
    }
    // The driver writes the flag, then reads the used index; so here it is the other way round.
    fence(Ordering::SeqCst);
    let flags: u16 = memory
        .load(GuestAddress(queue.avail_ring()), Ordering::Relaxed)
        .map_err(Error::GuestMemory)?;
    Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
}
