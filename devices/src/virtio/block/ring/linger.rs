//! Staying awake for a moment instead of going to sleep: a doorbell and a wake-up cost a driver that has one
//! request in flight several times what the request costs.
//!
//! It is done only where it pays: after a sleep so short that staying awake would have spared it. Each time that
//! nothing comes, such as where the driver waits for this very processor, twice as many short sleeps pass before it
//! is tried again. So a disk that is idle, or that waits for the host's, never does.

use std::time::{Duration, Instant};

/// How long to stay awake, and which sleeps are short.
const MOMENT: Duration = Duration::from_micros(20);

/// How often to look between two looks at the clock, which costs more.
const LOOKS: u32 = 8;

/// How many short sleeps pass, at most, before it is tried again.
const DOUBTS_MAX: u32 = 1 << 10;

#[derive(Debug)]
pub(super) struct Linger {
    /// The last sleep was short.
    pays: bool,
    /// How many short sleeps have to pass before it is tried again.
    doubts: u32,
    /// How many that will be when it fails again.
    next_doubts: u32,
    clock: fn() -> Instant,
}

/// When a sleep began.
#[derive(Debug)]
pub(super) struct Sleep(Instant);

impl Linger {
    pub fn new() -> Self {
        Self {
            pays: false,
            doubts: 0,
            next_doubts: 1,
            clock: Instant::now,
        }
    }

    /// Waits for a moment, if that pays, and returns whether `has_come` was true in it.
    pub fn until(&mut self, mut has_come: impl FnMut() -> bool) -> bool {
        if !self.pays || self.doubts > 0 {
            return false;
        }
        let end = (self.clock)() + MOMENT;
        loop {
            for _ in 0..LOOKS {
                if has_come() {
                    self.next_doubts = 1;
                    return true;
                }
                std::hint::spin_loop();
            }
            if (self.clock)() >= end {
                self.pays = false;
                self.doubts = self.next_doubts;
                self.next_doubts = DOUBTS_MAX.min(2 * self.next_doubts);
                return false;
            }
        }
    }

    pub fn fall_asleep(&self) -> Sleep {
        Sleep((self.clock)())
    }

    pub fn wake_up(&mut self, sleep: Sleep) {
        self.pays = (self.clock)() - sleep.0 < MOMENT;
        self.doubts -= u32::from(self.pays && self.doubts > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static START: Instant = Instant::now();
        static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    fn clock() -> Instant {
        START.with(|it| *it) + NOW.get()
    }

    fn sleep(linger: &mut Linger, time: Duration) {
        let sleep = linger.fall_asleep();
        NOW.set(NOW.get() + time);
        linger.wake_up(sleep);
    }

    /// How often it looked, where nothing came.
    fn looks(linger: &mut Linger) -> u32 {
        let mut looks = 0;
        let came = linger.until(|| {
            looks += 1;
            NOW.set(NOW.get() + MOMENT / 4 / LOOKS);
            false
        });
        assert!(!came);
        looks
    }

    #[test]
    fn stays_awake_only_after_a_short_sleep_and_gives_up_when_nothing_comes() {
        let mut linger = Linger {
            clock,
            ..Linger::new()
        };
        assert_eq!(looks(&mut linger), 0);
        sleep(&mut linger, MOMENT);
        assert_eq!(looks(&mut linger), 0);
        sleep(&mut linger, MOMENT / 2);
        assert!(linger.until(|| true) && linger.until(|| true));
        for doubts in [1, 2, 4, 8] {
            assert_eq!(looks(&mut linger), 4 * LOOKS);
            for _ in 0..doubts {
                assert_eq!(looks(&mut linger), 0);
                sleep(&mut linger, MOMENT);
                sleep(&mut linger, MOMENT / 2);
            }
        }
        assert!(linger.until(|| true));
        assert_eq!(looks(&mut linger), 4 * LOOKS);
        sleep(&mut linger, MOMENT / 2);
        assert_eq!(looks(&mut linger), 4 * LOOKS);
        sleep(&mut linger, MOMENT);
        assert_eq!(looks(&mut linger), 0);
    }
}
