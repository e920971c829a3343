//! How and when the machine ends: the one place where vCPUs, devices, the console and the outside say
//! so, and where [`super::Machine::run`] waits.
//!
//! The first end counts. A guest that panics says so before it ends: from then on any end of its own is
//! that panic, and it gets [`AFTER_PANIC`] to finish its trace.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kami_devices::platform::PanicEvent;

use super::Error;

/// How long a guest may go on after its panic's first line: enough for a trace on a slow console.
pub const AFTER_PANIC: Duration = Duration::from_secs(2);

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest powered itself off.
    PoweredOff,
    /// The guest reset itself: it wants to run again, on a new machine with the same devices.
    Reset,
    /// The guest's kernel panicked.
    Panicked,
    /// The guest shut its processor down by a triple fault.
    TripleFault,
    /// Its time passed. Said from outside.
    TimedOut,
    /// It was ended by force. Said from outside.
    Killed,
}

/// Shared by everybody who may end the machine.
#[derive(Debug)]
pub struct Ending {
    /// How long a panicking guest may go on.
    after_panic: Duration,
    /// Looked at by vCPUs after each exit.
    ended: AtomicBool,
    /// Contended by whoever ends the machine and by the waiting [`super::Machine::run`].
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    outcome: Option<Result<End, Error>>,
    panic: Panic,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Panic {
    #[default]
    None,
    /// When the guest has to be done with it.
    Until(Instant),
    /// The crash kernel took over; its end is an end like any other.
    CrashKernel,
}

impl Ending {
    /// A machine that runs; a panic is given `after_panic` to finish.
    pub fn new(after_panic: Duration) -> Self {
        Self {
            after_panic,
            ended: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Ends the machine.
    pub fn end(&self, end: End) {
        let mut state = self.lock();
        let own = matches!(end, End::PoweredOff | End::Reset | End::TripleFault);
        let panicked = own && matches!(state.panic, Panic::Until(_));
        self.finish(&mut state, Ok(if panicked { End::Panicked } else { end }));
    }

    /// Ends the machine because KVM cannot go on with it.
    pub fn fail(&self, error: Error) {
        self.finish(&mut self.lock(), Err(error));
    }

    /// The console shows that the guest's kernel begins to panic.
    pub fn panic_begins(&self) {
        let mut state = self.lock();
        if state.panic == Panic::None {
            state.panic = Panic::Until(Instant::now() + self.after_panic);
            self.changed.notify_all();
        }
    }

    /// The console shows that the guest's kernel panicked and stays so.
    pub fn panic_ends(&self) {
        let mut state = self.lock();
        if matches!(state.panic, Panic::Until(_)) {
            self.finish(&mut state, Ok(End::Panicked));
        }
    }

    /// The guest's pvpanic driver speaks. Linux calls it between the first and the last line of a panic:
    /// a guest that prints is let finish.
    pub fn panic_event(&self, event: PanicEvent) {
        let mut state = self.lock();
        match (event, &state.panic) {
            (PanicEvent::CrashLoaded, _) => state.panic = Panic::CrashKernel,
            (PanicEvent::Panicked, Panic::None) => self.finish(&mut state, Ok(End::Panicked)),
            (PanicEvent::Panicked, _) => {}
        }
    }

    /// Whether the machine has ended, that is, whether vCPUs are to stop.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits for the end.
    pub fn wait(&self) -> Result<End, Error> {
        let mut state = self.lock();
        loop {
            if let Some(outcome) = state.outcome.take() {
                return outcome;
            }
            state = match state.panic {
                Panic::Until(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        self.finish(&mut state, Ok(End::Panicked));
                        continue;
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Panic::None | Panic::CrashKernel => {
                    let waited = self.changed.wait(state);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    fn finish(&self, state: &mut State, outcome: Result<End, Error>) {
        if !self.ended.swap(true, Ordering::AcqRel) {
            state.outcome = Some(outcome);
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No holder panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn after(steps: &[fn(&Ending)]) -> End {
        let ending = Ending::new(LONG);
        steps.iter().for_each(|step| step(&ending));
        ending.wait().unwrap()
    }

    #[test]
    fn first_end_counts() {
        assert_eq!(
            after(&[|e| e.end(End::Reset), |e| e.end(End::Killed)]),
            End::Reset
        );
    }

    #[test]
    fn what_a_panicking_guest_does_of_itself_is_its_panic() {
        for end in [End::Reset, End::PoweredOff, End::TripleFault] {
            let ending = Ending::new(LONG);
            ending.panic_begins();
            ending.end(end);
            assert_eq!(ending.wait().unwrap(), End::Panicked);
        }
        let killed = after(&[Ending::panic_begins, |e| e.end(End::Killed)]);
        assert_eq!(killed, End::Killed);
    }

    #[test]
    fn panic_ends_at_its_last_line_or_after_its_time() {
        assert_eq!(
            after(&[Ending::panic_begins, Ending::panic_ends]),
            End::Panicked
        );
        let hasty = Ending::new(Duration::from_millis(1));
        hasty.panic_begins();
        assert_eq!(hasty.wait().unwrap(), End::Panicked);
        let stray_last_line = after(&[Ending::panic_ends, |e| e.end(End::PoweredOff)]);
        assert_eq!(stray_last_line, End::PoweredOff);
    }

    #[test]
    fn pvpanic_ends_a_guest_that_prints_nothing_at_once() {
        let silent = after(&[|e| e.panic_event(PanicEvent::Panicked)]);
        assert_eq!(silent, End::Panicked);
        let ending = Ending::new(LONG);
        ending.panic_begins();
        ending.panic_event(PanicEvent::Panicked);
        assert!(!ending.is_ended());
    }

    #[test]
    fn crash_kernel_ends_as_it_likes() {
        let dumped = after(&[
            Ending::panic_begins,
            |e| e.panic_event(PanicEvent::CrashLoaded),
            |e| e.end(End::Reset),
        ]);
        assert_eq!(dumped, End::Reset);
    }
}
