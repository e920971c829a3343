//! A limit on what a guest can make us log.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::lock::lock;

const WINDOW: Duration = Duration::from_secs(10);
const MESSAGES: u32 = 10;

/// Ten messages in ten seconds; a `static` beside the place that logs.
pub(crate) struct RateLimit(Mutex<Option<(Instant, u32)>>);

impl RateLimit {
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether another message may be logged now.
    pub fn allows(&self) -> bool {
        self.allows_at(Instant::now())
    }

    fn allows_at(&self, now: Instant) -> bool {
        let mut state = lock(&self.0);
        let (start, used) = match *state {
            Some((start, used)) if now.saturating_duration_since(start) < WINDOW => (start, used),
            _ => (now, 0),
        };
        *state = Some((start, used.saturating_add(1)));
        used < MESSAGES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_messages_pass_in_each_window() {
        let limit = RateLimit::new();
        let start = Instant::now();
        for window in 0..3 {
            let now = start + window * WINDOW;
            let passed = (0..50).filter(|_| limit.allows_at(now)).count();
            assert_eq!(passed, 10);
            assert!(!limit.allows_at(now + WINDOW - Duration::from_nanos(1)));
        }
    }
}
