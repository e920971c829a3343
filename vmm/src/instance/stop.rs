//! Ending an instance from another process: the power button, then force.
//!
//! The control socket asks; the process's own end, seen by a pidfd, is what is waited for. An
//! instance whose socket does not answer is asked by signals, which mean the same to it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use kami_image::store::{self, Instance, Store};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::control::{Client, Request, Response};

/// How long an instance may take to end once it was told to by force.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Why an instance cannot be ended.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} instance {instance}")]
pub struct Error {
    action: &'static str,
    instance: String,
    source: io::Error,
}

/// A running instance's process.
#[derive(Debug)]
struct Process {
    handle: OwnedFd,
    control: Option<Client>,
}

/// An instance that was asked to end, with its process if it has one.
#[derive(Debug)]
#[must_use = "it may not end by itself"]
pub struct Asked<'a> {
    instance: &'a Instance,
    process: Option<Process>,
}

/// Presses the power button. Of an instance that has ended already, does nothing.
///
/// # Errors
/// The instance cannot be reached.
pub fn press<'a>(store: &Store, instance: &'a Instance) -> Result<Asked<'a>, Error> {
    let mut process = Process::of(store, instance).map_err(failed("stop", instance))?;
    if let Some(process) = &mut process {
        process.ask(Request::PowerButton, &[Signal::TERM]);
    }
    Ok(Asked { instance, process })
}

impl Asked<'_> {
    /// Waits for the end, which comes by force when the instance has not ended at `deadline`.
    ///
    /// # Errors
    /// It does not end.
    pub fn ends_by(self, deadline: Instant) -> Result<(), Error> {
        let Some(mut process) = self.process else {
            return Ok(());
        };
        let grace = deadline.saturating_duration_since(Instant::now());
        let ended = match process.ends_within(grace) {
            Ok(false) => process.kill(),
            ended => ended.map(|_| ()),
        };
        ended.map_err(failed("stop", self.instance))
    }
}

/// Asks the guest to power off and boots it again; by force when it has not powered off after `grace`. Does
/// not wait for it, as EC2 does not.
///
/// # Errors
/// The instance has ended, or its control socket does not answer.
pub fn reboot(store: &Store, instance: &Instance, grace: Duration) -> Result<(), Error> {
    let asked = || -> io::Result<()> {
        let process = Process::of(store, instance)?;
        let control = process.and_then(|process| process.control);
        let mut control = control.ok_or(io::ErrorKind::ConnectionRefused)?;
        let grace_seconds = grace.as_secs().try_into().unwrap_or(u32::MAX);
        match control.ask(&Request::Reboot { grace_seconds })? {
            Response::Accepted => Ok(()),
            other => Err(io::Error::other(format!("it answered {other:?}"))),
        }
    };
    asked().map_err(failed("reboot", instance))
}

/// Ends the instance by force.
///
/// # Errors
/// It cannot be reached, or does not end.
pub fn kill(store: &Store, instance: &Instance) -> Result<(), Error> {
    let ended = || match Process::of(store, instance)? {
        Some(mut process) => process.kill(),
        None => Ok(()),
    };
    ended().map_err(failed("end", instance))
}

fn failed(action: &'static str, instance: &Instance) -> impl FnOnce(io::Error) -> Error {
    let instance = instance.id.to_string();
    move |source| Error {
        action,
        instance,
        source,
    }
}

impl Process {
    /// The process of `instance`; `None` when it has ended.
    fn of(store: &Store, instance: &Instance) -> io::Result<Option<Self>> {
        let pid = instance
            .pid
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let Some(pid) = pid.filter(|_| instance.state.is_live()) else {
            return Ok(None);
        };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Asked after the handle was made: while the lock is held its holder lives, so its number
        // was not given to another process.
        if !lives(store, instance)? {
            return Ok(None);
        }
        let control = Client::connect(&instance.id.to_string()).ok();
        Ok(Some(Self { handle, control }))
    }

    /// Asks by the control socket, or else by signals. Neither is answered by a process that is
    /// about to end, which is as good.
    fn ask(&mut self, request: Request, signals: &[Signal]) {
        let answer = self.control.as_mut().map(|control| control.ask(&request));
        if !matches!(answer, Some(Ok(Response::Accepted))) {
            for &signal in signals {
                let _ = pidfd_send_signal(&self.handle, signal);
            }
        }
    }

    fn kill(&mut self) -> io::Result<()> {
        // Two different signals, since two of a kind may arrive as one.
        self.ask(Request::Kill, &[Signal::TERM, Signal::INT]);
        if self.ends_within(KILL_PATIENCE)? {
            return Ok(());
        }
        pidfd_send_signal(&self.handle, Signal::KILL)?;
        match self.ends_within(KILL_PATIENCE)? {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn ends_within(&self, limit: Duration) -> io::Result<bool> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or(Timespec {
                tv_sec: i64::MAX,
                tv_nsec: 0,
            });
            // pidfd_open(2): readable when the process has ended.
            let mut fds = [PollFd::new(&self.handle, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether the instance's process holds its lock.
fn lives(store: &Store, instance: &Instance) -> io::Result<bool> {
    match store.instance(&instance.id.to_string()) {
        Ok(now) => Ok(now.state.is_live()),
        Err(store::Error::InstanceNotFound { .. }) => Ok(false),
        Err(error) => Err(io::Error::other(error)),
    }
}
