//! The event loop beside a running guest: its console, the keyboard, signals, the control socket
//! and the clock.
//!
//! One thread, `attend`, polls all of them; it starts in parallel with the first vCPU, so that
//! nothing here delays the guest. A first byte from the console is passed on at once, what follows
//! it every 2 ms: a guest that prints a lot costs few system calls, one that echoes a key no time.
//!
//! A signal that asks to end presses the power button; a second one, or 30 s, end the guest by force.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::stdio::stdin;

use super::guest::Guest;
use crate::console::Inbox;
use crate::console::output::{Output, PATIENCE};
use crate::console_log::ConsoleLog;
use crate::control::{Reply, Request, Response, Server};
use crate::machine::End;
use crate::signals::{Signal, Signals};
use crate::terminal::{self, Key, Keyboard, RawMode};

/// How long a guest has to react to its power button.
pub const GRACE: Duration = Duration::from_secs(30);

/// How long bytes from the console are gathered after the first.
const GATHER: Duration = Duration::from_millis(2);

/// When a guest that takes no more input is offered it again.
const OFFER_AGAIN: Duration = Duration::from_millis(10);

/// How much input waits for the guest at a terminal; of a pipe, nothing more is read meanwhile.
const UNSENT_BYTES: usize = 64 << 10;

/// What the loop is told once, before the guest starts.
#[derive(Debug)]
pub struct Setup {
    pub instance: String,
    /// Where the console's log goes.
    pub folder: PathBuf,
    pub inbox: Inbox,
    pub output: Output,
    /// Standard input is the guest's keyboard.
    pub keyboard: bool,
    pub signals: Signals,
    pub timeout: Option<Duration>,
    /// Called when the guest can be controlled.
    pub ready: Option<fn(&str)>,
}

/// The loop's state.
#[derive(Debug)]
struct Attend {
    setup: Setup,
    guest: Arc<Guest>,
    started: Instant,
    log: Option<ConsoleLog>,
    control: Option<Server>,
    raw: Option<RawMode>,
    keys: Keyboard,
    /// What the guest has not taken yet.
    unsent: VecDeque<u8>,
    /// The console was not empty when it was last taken: look again then.
    look_again: Option<Instant>,
    /// When patience with a guest that was asked to end is over.
    kill_at: Option<Instant>,
    /// When patience with a guest that was asked to reboot is over.
    reset_at: Option<Instant>,
}

/// What poll(2) found.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    keyboard: bool,
    signal: bool,
    output: bool,
    control: bool,
}

/// Attends to `guest` until it is over and its last words are told.
pub fn attend(setup: Setup, guest: Arc<Guest>) {
    let mut attend = Attend {
        guest,
        started: Instant::now(),
        log: None,
        control: None,
        raw: None,
        keys: Keyboard::default(),
        unsent: VecDeque::new(),
        look_again: None,
        kill_at: None,
        reset_at: None,
        setup,
    };
    attend.begin();
    while !attend.guest.is_over() {
        let found = attend.wait();
        attend.act(found);
    }
    attend.drain();
}

impl Attend {
    /// Sets everything up, what the guest or its user would wait for first.
    fn begin(&mut self) {
        self.take_terminal();
        self.log = warn(
            "open the console's log",
            ConsoleLog::open(&self.setup.folder),
        );
        self.pass_console(false);
        self.control = warn(
            "open the control socket",
            Server::bind(&self.setup.instance),
        );
        if let Some(ready) = self.setup.ready {
            ready(&self.setup.instance);
        }
    }

    fn take_terminal(&mut self) {
        if self.setup.keyboard {
            self.raw = warn("make the terminal raw", RawMode::enter()).flatten();
            if self.raw.is_some() {
                tell(&format!(
                    "kami: {}; Ctrl-] opens a menu",
                    self.setup.instance
                ));
            }
        }
    }

    fn wait(&self) -> Found {
        let timeout = self.next_deadline().map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            // A deadline that poll's clock rounds down would be polled for in a busy loop.
            Timespec::try_from(left + Duration::from_micros(50)).unwrap_or(Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            })
        });
        let mut fds = vec![
            PollFd::new(&self.setup.inbox, PollFlags::IN),
            PollFd::new(&self.setup.signals, PollFlags::IN),
        ];
        let reads_keys = self.setup.keyboard && (self.raw.is_some() || self.unsent.is_empty());
        let keyboard = reads_keys.then_some(fds.len());
        if reads_keys {
            fds.push(PollFd::from_borrowed_fd(stdin(), PollFlags::IN));
        }
        let output = self.setup.output.waits_for().map(|fd| {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
            fds.len() - 1
        });
        let control = fds.len();
        let peers = self.control.iter().flat_map(Server::fds);
        fds.extend(peers.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        if poll(&mut fds, timeout.as_ref()).is_err() {
            return Found::default();
        }
        let is_ready = |index: usize| !fds[index].revents().is_empty();
        Found {
            signal: is_ready(1),
            keyboard: keyboard.is_some_and(is_ready),
            output: output.is_some_and(is_ready),
            control: (control..fds.len()).any(is_ready),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let timeout = self.setup.timeout.map(|timeout| self.started + timeout);
        let stalled = self
            .setup
            .output
            .holds_up()
            .then(|| Instant::now() + PATIENCE / 4);
        let unsent = (!self.unsent.is_empty()).then(|| Instant::now() + OFFER_AGAIN);
        let force = [self.kill_at, self.reset_at];
        [self.look_again, timeout, stalled, unsent]
            .into_iter()
            .chain(force)
            .flatten()
            .min()
    }

    fn act(&mut self, found: Found) {
        if found.signal {
            self.take_signals();
        }
        if found.keyboard {
            self.take_keys();
        }
        self.send_input();
        if found.control {
            self.answer();
        }
        self.pass_console(found.output);
        let now = Instant::now();
        if self
            .setup
            .timeout
            .is_some_and(|timeout| now >= self.started + timeout)
        {
            self.guest.end(End::TimedOut);
            self.setup.timeout = None;
        }
        if self.kill_at.is_some_and(|at| now >= at) {
            self.guest.end(End::Killed);
            self.kill_at = None;
        }
        if self.reset_at.is_some_and(|at| now >= at) {
            self.guest.reset_if_reboots();
            self.reset_at = None;
        }
    }

    /// Passes on what the guest printed, unless its listener holds it up.
    fn pass_console(&mut self, writable: bool) {
        self.setup.inbox.woken();
        self.setup.output.pump(writable);
        if !self.setup.output.holds_up() {
            let mut bytes = Vec::new();
            self.setup.inbox.take(&mut bytes);
            self.look_again = (!bytes.is_empty()).then(|| Instant::now() + GATHER);
            self.pass(&bytes);
        } else {
            self.look_again = None;
        }
    }

    fn pass(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.setup.output.push(bytes);
        self.setup.output.pump(false);
        if let Some(log) = &mut self.log
            && let Err(error) = log.append(bytes)
        {
            // Tried again with the next bytes: a full disk may have room by then.
            tracing::warn!(%error, "cannot write the console's log");
        }
    }

    fn take_signals(&mut self) {
        while let Some(signal) = self.setup.signals.next() {
            match (signal, &self.raw) {
                (Signal::Continued, Some(raw)) => raw.renew(),
                (Signal::Continued, None) => {}
                (Signal::End, _) => self.ask_to_end(),
            }
        }
    }

    /// The power button the first time, force the second.
    fn ask_to_end(&mut self) {
        if self.kill_at.is_some() {
            self.guest.end(End::Killed);
        } else {
            self.guest.power_button();
            self.kill_at = Some(Instant::now() + GRACE);
        }
    }

    fn take_keys(&mut self) {
        let mut buffer = [0; 1024];
        let typed = match rustix::io::read(stdin(), &mut buffer) {
            Ok(len) => &buffer[..len],
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return,
            Err(_) => &[],
        };
        if typed.is_empty() {
            // The end of a pipe or file: the guest goes on without a keyboard.
            self.setup.keyboard = false;
        } else if self.raw.is_none() {
            self.unsent.extend(typed);
        } else {
            let (guest, unsent) = (&self.guest, &mut self.unsent);
            self.keys.typed(typed, |key| press(guest, unsent, key));
        }
    }

    fn send_input(&mut self) {
        if !self.unsent.is_empty() {
            let sent = self.guest.console_input(self.unsent.make_contiguous());
            self.unsent.drain(..sent);
        }
    }

    fn answer(&mut self) {
        let Some(control) = &mut self.control else {
            return;
        };
        control.serve(|request| {
            match request {
                Request::Status => {
                    return Reply::Now(Response::Status {
                        instance: self.setup.instance.clone(),
                        pid: std::process::id(),
                        uptime_seconds: self.started.elapsed().as_secs(),
                    });
                }
                Request::Freeze { volumes } => {
                    let guest = Arc::clone(&self.guest);
                    return Reply::Apart(Box::new(move || guest.freeze(&volumes)));
                }
                Request::Rebase {
                    volume,
                    snapshot,
                    layer,
                } => {
                    let guest = Arc::clone(&self.guest);
                    let work = move || guest.rebase(&volume, &snapshot, layer);
                    return Reply::Apart(Box::new(work));
                }
                Request::PowerButton => self.guest.power_button(),
                Request::Reboot { grace_seconds } => {
                    self.guest.reboot();
                    let grace = Duration::from_secs(grace_seconds.into());
                    self.reset_at = Some(Instant::now() + grace);
                }
                Request::Reset => self.guest.end(End::Reset),
                Request::Kill => self.guest.end(End::Killed),
            }
            Reply::Now(Response::Accepted)
        });
    }

    /// Tells the guest's last words, to a listener that still takes them.
    fn drain(&mut self) {
        let mut bytes = Vec::new();
        self.setup.inbox.take(&mut bytes);
        self.pass(&bytes);
        while let Some(fd) = self.setup.output.waits_for()
            && !self.setup.output.is_done()
        {
            let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
            let timeout = Timespec::try_from(PATIENCE).ok();
            let writable = poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0);
            self.setup.output.pump(writable);
        }
    }
}

fn press(guest: &Guest, unsent: &mut VecDeque<u8>, key: Key<'_>) {
    match key {
        Key::Input(bytes) if unsent.len() < UNSENT_BYTES => unsent.extend(bytes),
        // Nobody types that fast: a paste into a guest that does not read.
        Key::Input(_) => {}
        Key::OpenMenu => tell(terminal::MENU),
        Key::CloseMenu => {}
        Key::PowerButton => guest.power_button(),
        Key::Reset => guest.end(End::Reset),
        Key::Quit => guest.end(End::Killed),
    }
}

/// A line to whoever sits at the terminal.
fn tell(line: &str) {
    let end = terminal::line_end();
    let _ = write!(io::stderr(), "{end}{line}{end}");
}

/// The value, or a warning: an instance runs without a log or a control socket too.
fn warn<T>(what: &str, result: io::Result<T>) -> Option<T> {
    result
        .inspect_err(|error| tracing::warn!(%error, "cannot {what}"))
        .ok()
}
