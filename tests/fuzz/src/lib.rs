//! What every target runs in: memory that is counted, and a log that is, too. A guest may make a device take no more
//! memory than [`BYTES_MAX`] at once, whatever it says, and log no more than [`MESSAGES_MAX`] lines in a moment.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::{Debug, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Memory that one execution may hold at once, in bytes: what the targets themselves need, and room for a queue full
/// of the largest requests.
const BYTES_MAX: usize = 8 << 20;

/// Lines that one execution may log: some limits' worth.
const MESSAGES_MAX: usize = 40;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
static MESSAGES: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTED: Counted = Counted;

/// Runs `target` with what the fuzzer chose.
pub fn run(target: fn(&[u8]), data: &[u8]) {
    static LOG: Once = Once::new();
    LOG.call_once(|| tracing::subscriber::set_global_default(Log).expect("no other log is set"));
    let before = HELD.load(Relaxed);
    MOST.store(before, Relaxed);
    MESSAGES.store(0, Relaxed);
    target(data);
    let most = MOST.load(Relaxed) - before;
    assert!(most <= BYTES_MAX, "{most} bytes at once");
    let messages = MESSAGES.load(Relaxed);
    assert!(messages <= MESSAGES_MAX, "{messages} lines logged");
}

struct Counted;

fn take(bytes: usize) {
    let held = HELD.fetch_add(bytes, Relaxed) + bytes;
    if held > MOST.load(Relaxed) {
        MOST.store(held, Relaxed);
    }
}

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        take(size);
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Formats what is logged, which is code too, and counts it.
struct Log;

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        MESSAGES.fetch_add(1, Relaxed);
        event.record(&mut Formatted(String::new()));
    }
}

struct Formatted(String);

impl Visit for Formatted {
    fn record_debug(&mut self, _: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{value:?}");
    }
}
