//! A disk as those outside its guest reach it: to have it flushed, and to have the layers of its volume
//! switched while the guest runs.
//!
//! The worker takes commands from a channel when an event of its ring says that there are some, so
//! its data path knows no lock. Several disks are frozen at one moment: each stops taking requests
//! and lets what is under way end, and only when all have are their layers switched. What the
//! guest was told is done by then is in every frozen view, and what it asks for after that is in none,
//! so that an order that the guest keeps between its disks is kept.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use kami_image::id::SnapshotId;
use kami_image::volume::{self, Volume};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::State;
use crate::lock::lock;

/// How long requests may be held for those under way to end, attempt by attempt. A busy host disk
/// may be in the middle of something long the first times; the last attempt puts up with it.
const PATIENCE: [Duration; 9] = {
    let mut patience = [Duration::from_millis(40); 9];
    patience[8] = Duration::from_secs(5);
    patience
};

/// How long a rebase waits for the flush under way, which may have much to write.
const REBASE_PATIENCE: Duration = Duration::from_secs(300);

/// Why a disk could not do what was asked from outside.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("the machine has ended")]
    Gone,
    #[error("an earlier failure of the host lost the disk")]
    Lost,
    #[error("requests to the disk take too long to end")]
    Busy,
    #[error("the disk cannot be flushed")]
    Flush,
    #[error(transparent)]
    Volume(#[from] volume::Error),
}

/// Several disks, frozen at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The number of each disk's new top layer: what lies below it does not change any more.
    pub layers: Vec<u32>,
    /// How long the disks took no requests.
    pub pause: Duration,
}

/// Reaches a disk from outside, whether or not its guest uses it at the moment. Keeps nothing of it.
#[derive(Clone, Debug)]
pub struct DiskHandle(pub(super) Weak<Mutex<State>>);

/// What the worker is told.
#[derive(Debug)]
pub(super) enum Command {
    /// To flush; the answer says whether that worked.
    Flush(SyncSender<bool>),
    /// To take no requests, and to answer when none is under way; with `flushes`, no flush either.
    Hold { flushes: bool, held: SyncSender<()> },
    /// To begin a new layer, while it holds.
    Freeze(SyncSender<Result<u32, volume::Error>>),
    /// To have the volume stand on the snapshot below this layer, while it holds flushes too.
    Rebase(SnapshotId, u32, SyncSender<Result<(), volume::Error>>),
    /// To take requests again.
    Resume,
}

/// Where commands go in.
#[derive(Debug)]
pub(super) struct Inlet {
    wake: EventFd,
    commands: Sender<Command>,
}

/// Where the worker takes them.
#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) wake: EventFd,
    pub(super) commands: Receiver<Command>,
}

pub(super) fn commands() -> io::Result<(Inlet, Outlet)> {
    let wake = EventFd::new(EFD_NONBLOCK)?;
    let theirs = wake.try_clone()?;
    let (sender, receiver) = channel();
    let inlet = Inlet {
        wake,
        commands: sender,
    };
    let outlet = Outlet {
        wake: theirs,
        commands: receiver,
    };
    Ok((inlet, outlet))
}

impl Inlet {
    /// # Errors
    /// The worker is gone, by a failure of the host.
    pub(super) fn send(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).map_err(|_| Error::Lost)?;
        // It fails only at a count of 2^64 - 2.
        self.wake.write(1).map_err(|_| Error::Lost)
    }

    /// Sends the command that `make` makes of where its answer goes.
    pub(super) fn ask<T>(
        &self,
        make: impl FnOnce(SyncSender<T>) -> Command,
    ) -> Result<Receiver<T>, Error> {
        let (answer, answers) = sync_channel(1);
        self.send(make(answer))?;
        Ok(answers)
    }
}

impl Outlet {
    /// Lets go of all who wait for an answer or are about to.
    pub(super) fn close(&mut self) {
        self.commands = channel().1;
    }
}

impl DiskHandle {
    /// Flushes the disk.
    ///
    /// # Errors
    /// [`Error::Flush`] among others. Once a sync of the host has failed, no later flush succeeds either until the
    /// volume is opened again ([`volume::Error::LostWrites`]): some of what was written may be gone.
    pub fn flush(&self) -> Result<(), Error> {
        let state = self.state()?;
        loop {
            // The lock is not kept while the disk works: a guest that resets its disk takes it.
            let answer = match &mut *lock(&state) {
                State::Idle(volume) => return Ok(volume.sync()?),
                State::Running { inlet, .. } => inlet.ask(Command::Flush)?,
                State::Lost => return Err(Error::Lost),
            };
            match answer.recv() {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(Error::Flush),
                // Reset by the guest meanwhile, or lost, which the next round finds.
                Err(_) => {}
            }
        }
    }

    /// Has the disk's volume stand on `snapshot` below `layer` ([`Volume::rebase`]). Requests are held
    /// for a moment.
    ///
    /// # Errors
    /// All is as before then.
    pub fn rebase(&self, snapshot: &SnapshotId, layer: u32) -> Result<(), Error> {
        let state = self.state()?;
        let mut state = lock(&state);
        let mut hold = Hold::begin(&mut state, true)?;
        hold.wait(Instant::now() + REBASE_PATIENCE)?;
        let make = |answer| Command::Rebase(*snapshot, layer, answer);
        hold.carry_out(make, |volume| volume.rebase(snapshot, layer))?()
    }

    fn state(&self) -> Result<Arc<Mutex<State>>, Error> {
        self.0.upgrade().ok_or(Error::Gone)
    }
}

/// Freezes `disks`, no two of which are the same, all at one moment, and then flushes them: what
/// was written before is on the disk when this returns, and so are the new layers.
///
/// # Errors
/// Some disks may have a new layer then, which does no harm.
pub fn freeze(disks: &[DiskHandle]) -> Result<Frozen, Error> {
    let states: Vec<_> = disks
        .iter()
        .map(DiskHandle::state)
        .collect::<Result<_, _>>()?;
    let mut attempts = PATIENCE.iter().peekable();
    let frozen = loop {
        let Some(patience) = attempts.next() else {
            return Err(Error::Busy);
        };
        match try_freeze(&states, *patience) {
            Err(Error::Busy) if attempts.peek().is_some() => {}
            result => break result?,
        }
    };
    disks.iter().try_for_each(DiskHandle::flush)?;
    Ok(frozen)
}

fn try_freeze(states: &[Arc<Mutex<State>>], patience: Duration) -> Result<Frozen, Error> {
    // One freeze of a machine is under way at a time, and a vCPU takes only the lock of the one
    // disk that it resets, so any order will do.
    let mut locked: Vec<_> = states.iter().map(|state| lock(state)).collect();
    let began = Instant::now();
    let mut holds = Vec::with_capacity(locked.len());
    for state in &mut locked {
        holds.push(Hold::begin(state, false)?);
    }
    for hold in &mut holds {
        hold.wait(began + patience)?;
    }
    // All are asked before the first answer is waited for.
    let asked = holds.iter_mut();
    let asked = asked.map(|hold| hold.carry_out(Command::Freeze, Volume::freeze));
    let asked: Vec<_> = asked.collect::<Result<_, _>>()?;
    let layers = asked.into_iter().map(|answer| answer());
    let layers = layers.collect::<Result<_, _>>()?;
    drop(holds);
    let pause = began.elapsed();
    Ok(Frozen { layers, pause })
}

/// A disk that takes no requests until this is dropped. One that its guest does not use is held by
/// its lock.
struct Hold<'a> {
    state: &'a mut State,
    held: Option<Receiver<()>>,
}

impl<'a> Hold<'a> {
    fn begin(state: &'a mut MutexGuard<'_, State>, flushes: bool) -> Result<Self, Error> {
        let state = &mut **state;
        let held = match state {
            State::Idle(_) => None,
            State::Running { inlet, .. } => {
                let make = |held| Command::Hold { flushes, held };
                Some(inlet.ask(make)?)
            }
            State::Lost => return Err(Error::Lost),
        };
        Ok(Self { state, held })
    }

    /// Waits until nothing is under way.
    fn wait(&mut self, until: Instant) -> Result<(), Error> {
        let Some(held) = &self.held else {
            return Ok(());
        };
        let left = until.saturating_duration_since(Instant::now());
        held.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => Error::Busy,
            RecvTimeoutError::Disconnected => Error::Lost,
        })
    }

    /// Has the volume's owner do something: this thread does it where that is the device. Returns how
    /// to wait for the result.
    fn carry_out<T: 'static>(
        &mut self,
        make: impl FnOnce(SyncSender<Result<T, volume::Error>>) -> Command,
        here: impl FnOnce(&mut Volume) -> Result<T, volume::Error>,
    ) -> Result<Box<dyn FnOnce() -> Result<T, Error>>, Error> {
        match self.state {
            State::Idle(volume) => {
                let done = here(volume);
                Ok(Box::new(|| Ok(done?)))
            }
            State::Running { inlet, .. } => {
                let answer = inlet.ask(make)?;
                Ok(Box::new(move || {
                    let done = answer.recv().map_err(|_| Error::Lost)?;
                    Ok(done?)
                }))
            }
            State::Lost => Err(Error::Lost),
        }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if let State::Running { inlet, .. } = &*self.state {
            let _ = inlet.send(Command::Resume);
        }
    }
}
