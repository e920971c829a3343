//! How fast a disk may be: so many operations and so many bytes a second, by EBS's rules.
//!
//! A token bucket each, kept as the time at which it will have made up for all that was taken (the
//! generic cell rate algorithm, ITU-T I.371): nothing has to fill it. A request that comes too early
//! waits, and with it all that come after; a timer is set for the moment when it may go on, so a
//! disk without limits, or below them, has no timer at all. A request is never cut: one that takes
//! more than a bucket holds leaves it in debt.

use std::io;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::request::{Kind, Request};

/// What a disk may do at once when it has done nothing for a while: as much as in this time.
const BURST: Duration = Duration::from_millis(50);

/// What counts as one operation, at most.
const OPERATION_BYTES: u64 = 256 << 10;

const MIB: u64 = 1 << 20;

/// What a disk is limited to; `None` is no limit. Discarding and zeroing count as one operation
/// whatever their size, flushes as none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Reads and writes a second, each 256 KiB of one counted.
    pub iops: Option<NonZeroU32>,
    /// MiB read and written a second.
    pub throughput: Option<NonZeroU32>,
}

/// The request that waits, and when it may go on.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    slot: u32,
    operations: u64,
    bytes: u64,
}

#[derive(Debug)]
pub(super) struct Throttle {
    operations: Option<Bucket>,
    bytes: Option<Bucket>,
    waiting: Option<Waiting>,
    timer: OwnedFd,
    clock: fn() -> Instant,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Tokens a second.
    rate: NonZeroU32,
    /// In units of what a token is worth.
    token: u64,
    /// When all that was taken is made up for; none before the first.
    even: Option<Instant>,
}

impl Throttle {
    /// `None` where nothing is limited.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn new(limits: Limits, clock: fn() -> Instant) -> io::Result<Option<Self>> {
        let Limits { iops, throughput } = limits;
        if iops.is_none() && throughput.is_none() {
            return Ok(None);
        }
        let bucket = |token| {
            move |rate| Bucket {
                rate,
                token,
                even: None,
            }
        };
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Some(Self {
            operations: iops.map(bucket(1)),
            bytes: throughput.map(bucket(MIB)),
            waiting: None,
            timer: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            clock,
        }))
    }

    /// Readable when the request that waits may go on.
    pub fn timer(&self) -> &OwnedFd {
        &self.timer
    }

    /// Whether a request waits. None may be taken until it goes on.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether the request in `slot` may go on; else it waits.
    pub fn admit(&mut self, slot: u32, request: &Request) -> bool {
        let (operations, bytes) = cost(request);
        self.waiting = Some(Waiting {
            slot,
            operations,
            bytes,
        });
        self.release().is_some()
    }

    /// The request that waits, if it may go on by now; else the timer is set.
    pub fn release(&mut self) -> Option<u32> {
        let waiting = self.waiting?;
        let now = (self.clock)();
        let buckets = [
            (&mut self.operations, waiting.operations),
            (&mut self.bytes, waiting.bytes),
        ];
        let waits = buckets.iter().filter(|(_, tokens)| *tokens > 0);
        let waits = waits.filter_map(|(bucket, _)| bucket.as_ref().map(|it| it.wait(now)));
        let wait = waits.max().unwrap_or_default();
        if wait > Duration::ZERO {
            self.set_timer(wait);
            return None;
        }
        for (bucket, tokens) in buckets {
            if let Some(bucket) = bucket {
                bucket.take(tokens, now);
            }
        }
        self.waiting = None;
        Some(waiting.slot)
    }

    /// Takes back the request that waits.
    pub fn withdraw(&mut self) -> Option<u32> {
        self.waiting.take().map(|waiting| waiting.slot)
    }

    fn set_timer(&self, wait: Duration) {
        let zero = Duration::ZERO;
        let spec = |time: Duration| Timespec::try_from(time).ok();
        if let (Some(it_interval), Some(it_value)) = (spec(zero), spec(wait)) {
            let time = Itimerspec {
                it_interval,
                it_value,
            };
            // timerfd_settime(2) names no reason that could apply to a sound timer and time.
            let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &time);
        }
    }
}

/// Operations and bytes.
fn cost(request: &Request) -> (u64, u64) {
    let bytes = request.data_bytes;
    match request.kind {
        Kind::Read { .. } | Kind::Write { .. } => (bytes.div_ceil(OPERATION_BYTES).max(1), bytes),
        Kind::Discard(_) | Kind::WriteZeroes(_) => (1, 0),
        Kind::Flush | Kind::Identify => (0, 0),
    }
}

impl Bucket {
    /// How long until anything may be taken.
    fn wait(&self, now: Instant) -> Duration {
        let even = self.even.unwrap_or(now);
        even.saturating_duration_since(now).saturating_sub(BURST)
    }

    fn take(&mut self, amount: u64, now: Instant) {
        let even = self.even.unwrap_or(now).max(now);
        let per_second = u64::from(self.rate.get()) * self.token;
        // A request has 128 MiB at most: some minutes at the lowest rate.
        let nanoseconds = u128::from(amount) * 1_000_000_000 / u128::from(per_second);
        let time = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.even = Some(even.checked_add(time).unwrap_or(even));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static START: Instant = Instant::now();
        static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    fn clock() -> Instant {
        START.with(|start| *start) + PASSED.get()
    }

    fn throttle(iops: u32, throughput: u32) -> Throttle {
        PASSED.set(Duration::ZERO);
        let limits = Limits {
            iops: NonZeroU32::new(iops),
            throughput: NonZeroU32::new(throughput),
        };
        Throttle::new(limits, clock).unwrap().unwrap()
    }

    fn request(kind: Kind, data_bytes: u64) -> Request {
        Request {
            kind,
            data: Vec::new(),
            data_bytes,
            status: vm_memory::GuestAddress(0),
        }
    }

    /// How many requests pass in `seconds`, one after the other as soon as each may.
    fn passed(throttle: &mut Throttle, request: &Request, seconds: u64) -> u64 {
        let end = Duration::from_secs(seconds);
        let mut count = 0;
        while PASSED.get() < end {
            if !throttle.is_waiting() {
                count += u64::from(throttle.admit(7, request));
            } else if let Some(slot) = throttle.release() {
                assert_eq!(slot, 7);
                count += 1;
            }
            if throttle.is_waiting() {
                PASSED.set(PASSED.get() + Duration::from_millis(1));
            }
        }
        throttle.withdraw();
        count
    }

    #[test]
    fn nothing_is_limited_unless_it_is_asked_for() {
        assert!(Throttle::new(Limits::default(), clock).unwrap().is_none());
    }

    #[test]
    fn operations_pass_at_their_rate_with_a_short_burst() {
        let small = request(Kind::Read { offset: 0 }, 512);
        let count = passed(&mut throttle(1000, 0), &small, 10);
        // The first, 50 ms of burst, and what a clock of 1 ms adds.
        assert!((10_000..=10_053).contains(&count), "{count}");
        // A while without requests earns no more than a burst.
        let mut rested = throttle(1000, 0);
        passed(&mut rested, &small, 1);
        PASSED.set(Duration::from_secs(1000));
        let count = (0..).take_while(|_| rested.admit(7, &small)).count();
        assert_eq!(count, 51);
    }

    #[test]
    fn large_requests_count_as_several_operations() {
        let large = request(Kind::Write { offset: 0 }, (1 << 20) + 512);
        let count = passed(&mut throttle(1000, 0), &large, 10);
        assert!((2000..=2011).contains(&count), "{count}");
    }

    #[test]
    fn bytes_pass_at_their_rate_and_one_request_may_take_longer_than_a_second() {
        let count = passed(
            &mut throttle(0, 8),
            &request(Kind::Read { offset: 0 }, 64 << 10),
            10,
        );
        assert!((1280..=1288).contains(&count), "{count}");
        let huge = request(Kind::Write { offset: 0 }, 128 << 20);
        assert_eq!(passed(&mut throttle(0, 1), &huge, 127), 1);
        assert_eq!(passed(&mut throttle(0, 1), &huge, 129), 2);
    }

    #[test]
    fn the_tighter_limit_holds_and_flushes_are_free() {
        let count = passed(
            &mut throttle(100, 1),
            &request(Kind::Read { offset: 0 }, 4096),
            10,
        );
        assert!((1000..=1006).contains(&count), "{count}");
        let mut tight = throttle(1, 0);
        let read = request(Kind::Read { offset: 0 }, 4096);
        assert!(tight.admit(0, &read));
        assert!(!tight.admit(1, &read));
        tight.withdraw();
        for slot in 0..100 {
            assert!(tight.admit(slot, &request(Kind::Flush, 0)));
        }
    }
}
