//! The progress of a registration or an import: a bar on a terminal, a plain line elsewhere.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use kami_image::snapshot::{Phase, Progress};

use super::value::show_size;
use crate::signals::{Signal, Signals};

const TEMPLATE: &str =
    "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";

/// The progress of one snapshot at a time, on standard error; a signal that asks to end stops the
/// work at its next report.
#[derive(Debug)]
pub struct Meter {
    is_terminal: bool,
    signals: Signals,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    what: String,
    bar: ProgressBar,
    total_bytes: u64,
    started: Instant,
}

impl Meter {
    /// A display on standard error, as suits it. From now on signals only end the work.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn on_stderr() -> io::Result<Self> {
        Ok(Self {
            is_terminal: io::stderr().is_terminal(),
            signals: Signals::block()?,
            current: None,
        })
    }

    /// Shows how far the work on `snapshot` has come, and says whether to go on.
    pub fn show(&mut self, snapshot: &str, progress: Progress) -> ControlFlow<()> {
        let verb = match progress.phase {
            Phase::Wait => return self.go_on(),
            Phase::Store => "store",
            Phase::Verify => "verify",
            Phase::Export => "export",
            Phase::Check => "check",
        };
        let what = format!("{verb} {snapshot}");
        if self
            .current
            .as_ref()
            .is_none_or(|current| current.what != what)
        {
            self.finish();
            self.current = Some(Current {
                bar: self.bar(&what, progress.total_bytes),
                what,
                total_bytes: progress.total_bytes,
                started: Instant::now(),
            });
        }
        if let Some(current) = &self.current {
            current.bar.set_position(progress.done_bytes);
        }
        self.go_on()
    }

    /// Whether no signal asked to end.
    fn go_on(&mut self) -> ControlFlow<()> {
        match self.signals.next() {
            Some(Signal::End) => ControlFlow::Break(()),
            Some(Signal::Continued) | None => ControlFlow::Continue(()),
        }
    }

    /// The current file is done: tells how long it took.
    pub fn finish(&mut self) {
        if let Some(current) = self.current.take() {
            current.bar.finish_and_clear();
            // A snapshot in which nothing has changed has nothing to tell.
            if current.total_bytes == 0 {
                return;
            }
            let line = summary(
                &current.what,
                current.total_bytes,
                current.started.elapsed(),
            );
            let _ = writeln!(io::stderr(), "{line}");
        }
    }

    fn bar(&self, what: &str, total_bytes: u64) -> ProgressBar {
        let target = match self.is_terminal {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(total_bytes), target);
        let style = ProgressStyle::with_template(TEMPLATE);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what.to_owned());
        bar
    }
}

impl Drop for Meter {
    /// What was not finished failed: the bar goes, so that the error stands alone.
    fn drop(&mut self) {
        if let Some(current) = self.current.take() {
            current.bar.finish_and_clear();
        }
    }
}

fn summary(what: &str, bytes: u64, took: Duration) -> String {
    let ms = took.as_millis().max(1);
    let per_second = u64::try_from(u128::from(bytes) * 1000 / ms).unwrap_or(u64::MAX);
    format!(
        "{what}: {} in {}.{:01} s, {}/s",
        show_size(bytes),
        ms / 1000,
        ms % 1000 / 100,
        show_size(per_second)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_tells_size_time_and_throughput() {
        let line = summary("store snap-1", 3 << 30, Duration::from_millis(1500));
        assert_eq!(line, "store snap-1: 3 GiB in 1.5 s, 2 GiB/s");
        assert_eq!(
            summary("verify", 0, Duration::ZERO),
            "verify: 0 B in 0.0 s, 0 B/s"
        );
    }
}
