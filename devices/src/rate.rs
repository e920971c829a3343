//! A limit on what a guest can make us log.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::lock::lock;

const WINDOW: Duration = Duration::from_secs(10);
const MESSAGES: u32 = 10;

/// Ten messages in ten seconds, the rest only counted: a `static` beside the place that logs, or a
/// member of what does.
#[derive(Debug)]
pub(crate) struct RateLimit(Mutex<State>);

#[derive(Debug)]
struct State {
    /// When the window began; none before the first message.
    start: Option<Instant>,
    messages: u32,
    suppressed: u64,
}

impl RateLimit {
    pub const fn new() -> Self {
        Self(Mutex::new(State {
            start: None,
            messages: 0,
            suppressed: 0,
        }))
    }

    /// Whether another message may be logged now.
    pub fn allows(&self) -> bool {
        self.admit().is_some()
    }

    /// Whether another message may be logged now; if so, how many were not since the last one.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    /// Whether a message was ever to be logged.
    #[cfg(test)]
    pub fn was_asked(&self) -> bool {
        lock(&self.0).start.is_some()
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.0);
        let is_over = |start| now.saturating_duration_since(start) >= WINDOW;
        if state.start.is_none_or(is_over) {
            state.start = Some(now);
            state.messages = 0;
        }
        if state.messages == MESSAGES {
            state.suppressed += 1;
            return None;
        }
        state.messages += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_messages_pass_in_each_window_and_the_rest_is_told_in_the_next() {
        let limit = RateLimit::new();
        let start = Instant::now();
        let mut told = 0;
        for window in 0..3 {
            let now = start + window * WINDOW;
            let passed: Vec<u64> = (0..50).filter_map(|_| limit.admit_at(now)).collect();
            assert_eq!(passed.len(), 10);
            assert_eq!((passed[0], passed[1..].iter().sum()), (told, 0));
            assert_eq!(limit.admit_at(now + WINDOW - Duration::from_nanos(1)), None);
            told = 41;
        }
    }
}
