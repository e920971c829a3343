//! The frequency of the host's time-stamp counter, which is the guest's too.

#![expect(unsafe_code, reason = "reading the counter has no safe face")]

use std::time::{Duration, Instant};
use std::{arch, thread};

/// kHz, over 100 ms, to some parts in a million.
pub fn khz() -> u64 {
    let now = || {
        // SAFETY: `rdtsc` touches no memory; every x86_64 processor has it.
        let ticks = unsafe { arch::x86_64::_rdtsc() };
        (Instant::now(), ticks)
    };
    let (start, first) = now();
    thread::sleep(Duration::from_millis(100));
    let (end, last) = now();
    (last - first) * 1_000_000 / u64::try_from((end - start).as_nanos()).unwrap_or(u64::MAX)
}
