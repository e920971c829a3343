//! The worker's side of what is asked from outside ([`super::super::outside`]).

use std::sync::mpsc::SyncSender;

use kami_image::volume;

use super::super::outside::Command;
use super::super::ring::Ring;
use super::Engine;

/// No requests are taken.
#[derive(Debug)]
pub(super) struct Hold {
    /// No flush may be under way either.
    flushes: bool,
    /// Told when nothing is under way any more.
    held: Option<SyncSender<()>>,
}

impl Hold {
    pub(super) fn holds_flushes(&self) -> bool {
        self.flushes
    }
}

impl<R: Ring> Engine<R> {
    pub(super) fn take_commands(&mut self) {
        while let Ok(command) = self.outlet.commands.try_recv() {
            match command {
                Command::Flush(answer) => self.flushes.join_outside(answer),
                Command::Hold { flushes, held } => {
                    let held = Some(held);
                    self.hold = Some(Hold { flushes, held });
                    self.settle_hold();
                }
                Command::Freeze(answer) => {
                    let frozen = match self.is_held(false) {
                        true => self.disk.volume.freeze(),
                        false => Err(volume::Error::NotHeld),
                    };
                    let _ = answer.send(frozen);
                }
                Command::Rebase(snapshot, layer, answer) => {
                    // Files are closed: an operation under way might reach others in their place.
                    let rebased = match self.is_held(true) {
                        true => self.disk.volume.rebase(&snapshot, layer),
                        false => Err(volume::Error::NotHeld),
                    };
                    let _ = answer.send(rebased);
                }
                Command::Resume => {
                    self.hold = None;
                    self.disk.holding = false;
                    // Those that stopped between two steps go on.
                    self.disk.write_ended = true;
                }
            }
        }
    }

    /// Whether nothing is under way, and nothing will be until the hold ends.
    fn is_held(&self, flushes: bool) -> bool {
        let waiting = self.busy.len() + self.flushes.requests() + usize::from(self.is_throttled());
        self.disk.holding
            && self.tasks.len() == waiting
            && (!flushes || self.flushes.is_idle())
            && self.hold.as_ref().is_some_and(|it| !flushes || it.flushes)
    }

    /// Begins to hold when the flush that is to end first has ended, and tells when it is done.
    pub(super) fn settle_hold(&mut self) {
        let Some(hold) = &self.hold else {
            return;
        };
        let flushes = hold.flushes;
        // A flush may take long, and the guest need not wait for it.
        self.disk.holding |= !flushes || self.flushes.is_idle();
        if self.is_held(flushes)
            && let Some(held) = self.hold.as_mut().and_then(|hold| hold.held.take())
        {
            let _ = held.send(());
        }
    }
}
