//! Writes that the page cache takes at once, carried out by `pwritev(2)` on the spot.
//!
//! io_uring hands a buffered write to a kernel thread where the file system cannot promise not to
//! wait (ext4 cannot), and for 4 KiB the way to that thread costs as much as the write. It is done here instead
//! as long as it does not wait. When it does, for the disk to make room or for a journal, writes go
//! through the ring for a while, so that reads and other queues do not wait with them.
//! A write of parts of pages goes through the ring too, for it may have to read the rest.

#![expect(
    unsafe_code,
    reason = "writes from raw memory and asks for the thread's usage"
)]

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use super::{Completion, Vectors};

/// The unit of the page cache, at the least.
const PAGE_BYTES: u64 = 4096;

/// The most bytes in a write that is done here. Larger ones do better on the kernel's thread, beside this one.
const WRITE_BYTES_MAX: u64 = 64 << 10;

/// After so many bytes the driver is told what has been done, and reads get their turn.
const TURN_BYTES: u64 = 64 << 10;

/// A write that takes longer, and sleeps, waits for the disk.
const SLOW: Duration = Duration::from_millis(1);

/// How long writes go through the ring then; twice as long each time that the first one after it
/// waits again, and at most [`DETOUR_MAX`].
const DETOUR: Duration = Duration::from_millis(50);
const DETOUR_MAX: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct CachedWrites {
    pending: VecDeque<(u64, Vectors)>,
    /// When writes may be tried here again.
    detour_until: Option<Instant>,
    /// How long the last detour was, if no write was carried out since.
    last_detour: Option<Duration>,
    clock: fn() -> Instant,
    /// How often this thread has gone to sleep.
    sleeps: fn() -> i64,
}

impl CachedWrites {
    pub fn new() -> Self {
        Self {
            pending: VecDeque::new(),
            detour_until: None,
            last_detour: None,
            clock: Instant::now,
            sleeps: voluntary_switches,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes the write, unless it is one for the ring.
    pub fn takes(&mut self, token: u64, vectors: Vectors) -> bool {
        let fits = vectors.is_cached
            && vectors.bytes <= WRITE_BYTES_MAX
            && vectors.bytes.is_multiple_of(PAGE_BYTES)
            && vectors.offset.is_multiple_of(PAGE_BYTES)
            && self.detour_until.is_none();
        if fits {
            self.pending.push_back((token, vectors));
        }
        fits
    }

    /// A write for the ring, where they have to take that way.
    pub fn divert(&mut self) -> Option<(u64, Vectors)> {
        self.detour_until?;
        self.pending.pop_front()
    }

    /// Carries out as much as is done in a turn.
    ///
    /// # Safety
    /// As [`super::Ring::push`] of all that was taken.
    pub unsafe fn carry_out(&mut self, completions: &mut Vec<Completion>) {
        if self.detour_until.is_some_and(|it| it <= (self.clock)()) {
            self.detour_until = None;
        }
        if self.pending.is_empty() {
            return;
        }
        let sleeps = (self.sleeps)();
        let mut before = (self.clock)();
        let mut written = 0;
        while written < TURN_BYTES
            && self.detour_until.is_none()
            && let Some((token, vectors)) = self.pending.pop_front()
        {
            // SAFETY: as this function's.
            let result = unsafe { write(vectors) };
            completions.push(Completion {
                token,
                result,
                more: false,
            });
            written += vectors.bytes;
            let now = (self.clock)();
            // A thread that only lost its processor to others did not sleep.
            let waited = now - before >= SLOW && (self.sleeps)() > sleeps;
            let last = self.last_detour.take();
            if waited {
                let detour = last.map_or(DETOUR, |it| DETOUR_MAX.min(2 * it));
                self.last_detour = Some(detour);
                self.detour_until = Some(now + detour);
            }
            before = now;
        }
    }
}

/// # Safety
/// The iovecs and their memory are there.
unsafe fn write(vectors: Vectors) -> i32 {
    let Vectors {
        file,
        offset,
        iovecs,
        count,
        ..
    } = vectors;
    let (Ok(count), Ok(offset)) = (i32::try_from(count), i64::try_from(offset)) else {
        return -libc::EINVAL;
    };
    // SAFETY: as this function's; the kernel checks the descriptor.
    let written = unsafe { libc::pwritev(file, iovecs, count, offset) };
    match i32::try_from(written) {
        Ok(written) if written >= 0 => written,
        _ => -io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    }
}

fn voluntary_switches() -> i64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` has room for what is written there.
    let done = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    if done != 0 {
        return 0;
    }
    // SAFETY: it was filled in, and zeroes are a valid value too.
    unsafe { usage.assume_init() }.ru_nvcsw
}

#[cfg(test)]
mod tests;
