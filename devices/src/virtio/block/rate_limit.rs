//! Keeps a guest from filling the log: so many messages a period, the rest only counted.

use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_secs(10);
const MESSAGES_PER_PERIOD: u32 = 5;

#[derive(Debug)]
pub(crate) struct RateLimit {
    period_start: Instant,
    messages: u32,
    suppressed: u64,
}

impl RateLimit {
    pub fn new(now: Instant) -> Self {
        Self {
            period_start: now,
            messages: 0,
            suppressed: 0,
        }
    }

    /// Whether a message may be written now; if so, how many were suppressed since the last one.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if now.duration_since(self.period_start) >= PERIOD {
            self.period_start = now;
            self.messages = 0;
        }
        if self.messages == MESSAGES_PER_PERIOD {
            self.suppressed += 1;
            return None;
        }
        self.messages += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_beyond_the_limit_are_counted_and_told_in_the_next_period() {
        let start = Instant::now();
        let mut limit = RateLimit::new(start);
        for _ in 0..MESSAGES_PER_PERIOD {
            assert_eq!(limit.admit(start), Some(0));
        }
        for _ in 0..3 {
            assert_eq!(limit.admit(start + PERIOD / 2), None);
        }
        assert_eq!(limit.admit(start + PERIOD), Some(3));
        assert_eq!(limit.admit(start + PERIOD), Some(0));
    }
}
