//! The queues of the entropy device and of the power key.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_queue::QueueT;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Input;
use super::guest::{Driver, QUEUE_SIZE};
use crate::virtio::device::{Activation, ActiveQueue, NeedsReset, QueueInterrupt, VirtioDevice};
use crate::virtio::power_key::PowerKey;
use crate::virtio::rng;

thread_local! {
    static DOORBELL: EventFd = EventFd::new(EFD_NONBLOCK).unwrap();
}

/// Drives the queues of the two small devices.
pub fn queues(data: &[u8]) {
    let mut input = Input::new(data);
    let mut driver = Driver::new();
    let features = input.byte();
    let interrupts = Arc::new(AtomicU32::new(0));
    let activate = |index| {
        let interrupts = interrupts.clone();
        ActiveQueue {
            queue: driver.queue(index, features >> index & 1 != 0),
            doorbell: DOORBELL.with(|it| it.try_clone().unwrap()),
            interrupt: QueueInterrupt::new(move || {
                interrupts.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }),
        }
    };
    let mut entropy = activate(0);
    let mut key = PowerKey::new();
    key.activate(Activation {
        memory: driver.memory.clone(),
        features: 1 << VIRTIO_F_VERSION_1,
        queues: vec![Some(activate(1)), None],
        needs_reset: NeedsReset::new(|| {}),
    })
    .unwrap();
    while !input.is_empty() {
        let before = interrupts.load(Ordering::Relaxed);
        match input.byte() {
            0xff => {
                let used = entropy.queue.next_used();
                // What comes of a queue that makes no sense is the worker's to tell.
                let _ = rng::take(&driver.memory, &mut entropy, pattern);
                let used = entropy.queue.next_used().wrapping_sub(used);
                assert!(used <= QUEUE_SIZE, "{used} chains at once");
            }
            0xfe => key.button().press(),
            what => driver.step(what, &mut input),
        }
        assert!(interrupts.load(Ordering::Relaxed) <= before + 1);
    }
}

fn pattern(bytes: &mut [u8]) -> std::io::Result<()> {
    bytes.fill(0xa5);
    Ok(())
}
