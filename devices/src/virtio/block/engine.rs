//! The block device's worker: takes requests off the queues, has them carried out, gives them back.
//!
//! One thread owns everything here, so nothing locks. It sleeps in the ring alone: doorbells and the
//! stop event are watched through it like the I/O. What may be in flight is bounded by the queues'
//! sizes, and a turn takes no more from a queue than its size, so that a driver that never ceases to
//! add cannot keep the others waiting.
//!
//! Memory safety of the I/O: operations name guest memory, which `disk.memory` keeps mapped; iovecs
//! and bounce buffers, which `tasks` and `flushes` keep; and files, which `disk.volume` keeps open.
//! A task or a flush is dropped only when nothing of it is under way, and [`Engine::run`] gives the
//! volume back only when nothing is at all. `ring` is declared, and so dropped, first, and its drop
//! waits.

#![expect(unsafe_code, reason = "hands guest memory to the kernel")]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use kami_image::volume::Volume;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::config;
use super::disk::Disk;
use super::flush::{Ended, Flushes};
use super::outside::Outlet;
use super::request::{self, Bounds, Reject, Request, Status};
use super::ring::{Completion, Operation, Ring};
use super::task::{Progress, Task};
use super::tasks::Tasks;
use super::throttle::Throttle;
use super::token::{Target, Token};
use crate::GuestMemory;
use crate::virtio::device::{ActiveQueue, NeedsReset};
use crate::virtio::notification;
use hold::Hold;

#[cfg(any(test, feature = "fuzz"))]
pub(super) mod fuzz;
mod hold;

/// A queue, as the worker sees it.
#[derive(Debug)]
struct Source {
    active: ActiveQueue,
    /// Requests taken and not given back, never more than the queue's size.
    in_flight: u16,
    /// There may be requests to take.
    ready: bool,
    /// The driver rings for the next request.
    rings: bool,
    /// Requests were given back since the driver was last told.
    used: bool,
}

impl Source {
    /// Whether a request may be taken now.
    fn has_work(&self) -> bool {
        self.ready && self.in_flight < self.active.queue.size()
    }

    /// Whether the driver has added a request since the last one was taken. What is wrong with the
    /// queue shows when it is taken.
    fn has_more(&self, memory: &GuestMemory) -> bool {
        let queue = &self.active.queue;
        let end = queue.avail_idx(memory, Ordering::Relaxed);
        end.is_ok_and(|it| it.0 != queue.next_avail())
    }
}

#[derive(Debug)]
pub(super) struct Engine<R: Ring> {
    ring: R,
    disk: Disk,
    tasks: Tasks,
    /// Requests whose blocks are being written by others, oldest first.
    busy: Vec<u32>,
    flushes: Flushes,
    sources: Vec<Option<Source>>,
    bounds: Bounds,
    events: Events,
    outlet: Outlet,
    hold: Option<Hold>,
    throttle: Option<Throttle>,
    /// A queue made no sense, or the ring failed. Nothing more is taken or given back.
    broken: bool,
    completions: Vec<Completion>,
}

/// What the device and its worker tell each other by.
#[derive(Debug)]
pub(super) struct Events {
    pub stop: EventFd,
    pub needs_reset: NeedsReset,
}

/// What ends the service of a device.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("virtqueue {index} is broken")]
    Queue {
        index: usize,
        #[source]
        source: virtio_queue::Error,
    },
    #[error("cannot watch an event")]
    Watch(#[source] io::Error),
    #[error("io_uring failed")]
    Ring(#[source] io::Error),
}

impl<R: Ring> Engine<R> {
    pub fn new(
        ring: R,
        disk: Disk,
        bounds: Bounds,
        queues: Vec<Option<ActiveQueue>>,
        (events, outlet): (Events, Outlet),
        throttle: Option<Throttle>,
    ) -> Self {
        let source = |active| Source {
            active,
            in_flight: 0,
            // The driver may have added requests before it was watched.
            ready: true,
            rings: true,
            used: false,
        };
        let sources = queues.into_iter().map(|q| q.map(source)).collect();
        let mut engine = Self {
            ring,
            disk,
            tasks: Tasks::default(),
            busy: Vec::new(),
            flushes: Flushes::default(),
            sources,
            bounds,
            events,
            outlet,
            hold: None,
            throttle,
            broken: false,
            completions: Vec::new(),
        };
        engine.watch(Token::new(Target::Stop, 0));
        engine.watch(Token::new(Target::Command, 0));
        engine.watch(Token::new(Target::Timer, 0));
        for index in 0..engine.sources.len() {
            engine.watch(Token::new(Target::Doorbell, index));
        }
        engine
    }

    /// Serves the queues until the stop event, then waits for what is under way. The volume comes
    /// back unless the ring has failed, in which case its state is unknown.
    pub fn run(mut self) -> Option<Volume> {
        while !self.disk.stopping {
            match self.turn() {
                Ok(()) => {}
                Err(Error::Ring(error)) => return self.abandon(&error),
                Err(error) => self.give_up(&error),
            }
        }
        match self.drain() {
            Ok(()) => Some(self.disk.volume),
            Err(error) => self.abandon(&error),
        }
    }

    /// Waits for something to happen, unless there is something to do, and does all there is.
    fn turn(&mut self) -> Result<(), Error> {
        let block = self.broken || !self.stays_awake()?;
        self.disk.cleared_bytes = 0;
        self.disk.write_ended |= std::mem::take(&mut self.disk.put_off);
        self.wait(block).map_err(Error::Ring)?;
        self.dispatch()?;
        for index in 0..self.sources.len() {
            self.take(index)?;
        }
        self.settle()?;
        self.settle_hold();
        self.notify()
    }

    /// Whether there is something to do. If not, all drivers have been told to ring.
    fn stays_awake(&mut self) -> Result<bool, Error> {
        let takes = !self.disk.holding && !self.is_throttled();
        if takes && self.has_work() || self.disk.put_off && !self.disk.holding {
            return Ok(true);
        }
        let memory = &self.disk.memory;
        let sources = &self.sources;
        let mut has_more = || sources.iter().flatten().any(|it| it.has_more(memory));
        // A driver that keeps its disk busy adds the next requests in a moment, and need not ring.
        if takes && self.ring.linger(&mut has_more) {
            for source in self.sources.iter_mut().flatten() {
                source.ready |= source.has_more(memory);
            }
            return Ok(true);
        }
        for (index, source) in self.sources.iter_mut().enumerate() {
            let Some(source) = source.as_mut().filter(|it| !it.ready && !it.rings) else {
                continue;
            };
            let queue = &mut source.active.queue;
            source.ready = queue
                .enable_notification(memory)
                .map_err(|source| Error::Queue { index, source })?;
            source.rings = true;
        }
        Ok(takes && self.has_work())
    }

    fn has_work(&self) -> bool {
        self.sources.iter().flatten().any(Source::has_work)
    }

    fn wait(&mut self, block: bool) -> io::Result<()> {
        self.ring.wait(block, &mut self.completions)
    }

    /// Hands each completion to whom it concerns.
    fn dispatch(&mut self) -> Result<(), Error> {
        let mut result = Ok(());
        let mut completions = std::mem::take(&mut self.completions);
        for completion in completions.drain(..) {
            // Every completion counts, even after an error.
            result = result.and(self.complete(completion));
        }
        self.completions = completions;
        result
    }

    fn complete(&mut self, completion: Completion) -> Result<(), Error> {
        let Completion { result, more, .. } = completion;
        let token = Token::unpack(completion.token);
        match token.target {
            Target::Task(slot) => {
                let Some(task) = self.tasks.get_mut(slot) else {
                    return Ok(());
                };
                let (disk, ring) = (&mut self.disk, &mut self.ring);
                // SAFETY: tasks and disk outlive the operations, see the top of this file.
                let progress = unsafe { task.landed(token.index, result, disk, ring) };
                self.progress(slot, progress)
            }
            Target::Flush => {
                let (disk, ring) = (&mut self.disk, &mut self.ring);
                // SAFETY: flushes and disk outlive the operations, see the top of this file.
                let ended = unsafe { self.flushes.landed(token.index, result, disk, ring) };
                self.flushed(ended)
            }
            event if result < 0 && event.is_event() => {
                Err(Error::Watch(io::Error::from_raw_os_error(-result)))
            }
            Target::Doorbell | Target::Stop | Target::Command | Target::Timer => {
                if let Some(Some(source)) = self.sources.get_mut(token.index)
                    && token.target == Target::Doorbell
                {
                    source.ready = true;
                }
                self.disk.stopping |= token.target == Target::Stop;
                if token.target == Target::Command {
                    self.take_commands();
                }
                if !more {
                    self.watch(token);
                }
                Ok(())
            }
        }
    }

    fn watch(&mut self, token: Token) {
        let event: &dyn AsRawFd = match (token.target, self.sources.get(token.index)) {
            (Target::Doorbell, Some(Some(source))) => &source.active.doorbell,
            (Target::Stop, _) => &self.events.stop,
            (Target::Command, _) => &self.outlet.wake,
            (Target::Timer, _) => match &self.throttle {
                Some(throttle) => throttle.timer(),
                None => return,
            },
            _ => return,
        };
        let event = event.as_raw_fd();
        // SAFETY: names no memory, and `sources`, `events`, `outlet` and `throttle` keep the events open.
        unsafe { self.ring.push(token.pack(), Operation::Watch { event }) };
    }

    /// Takes requests off a queue and starts them.
    fn take(&mut self, index: usize) -> Result<(), Error> {
        let broken = |source| Error::Queue { index, source };
        let mut budget = config::QUEUE_SIZE;
        while let Some(Some(source)) = self.sources.get_mut(index)
            && source.has_work()
            && budget > 0
            && !self.broken
            && !self.disk.stopping
            && !self.disk.holding
            && !self.throttle.as_ref().is_some_and(Throttle::is_waiting)
        {
            budget -= 1;
            let memory = &self.disk.memory;
            let queue = &mut source.active.queue;
            if std::mem::take(&mut source.rings) {
                queue.disable_notification(memory).map_err(broken)?;
            }
            match queue.iter(memory).map_err(broken)?.next() {
                Some(chain) => {
                    let head = chain.head_index();
                    let parsed = request::parse(chain, memory, self.bounds);
                    source.in_flight += 1;
                    self.admit(index, head, parsed)?;
                }
                None => source.ready = false,
            }
        }
        Ok(())
    }

    fn admit(
        &mut self,
        queue: usize,
        head: u16,
        parsed: Result<Request, Reject>,
    ) -> Result<(), Error> {
        let (status, written) = match parsed {
            Ok(request) => {
                let make = |slot, transfers| Task::new((queue, head), request, slot, transfers);
                let slot = self.tasks.insert(make);
                return match self.passes(slot) {
                    true => self.start(slot),
                    false => Ok(()),
                };
            }
            Err(Reject::Status { address, status }) => (Some((address, status)), 1),
            Err(Reject::Unusable) => {
                let error = io::Error::from(io::ErrorKind::InvalidInput);
                self.disk.warn("no room for a status", &error);
                (None, 0)
            }
        };
        self.give_back((queue, head), status, written)
    }

    fn start(&mut self, slot: u32) -> Result<(), Error> {
        let Some(task) = self.tasks.get_mut(slot) else {
            return Ok(());
        };
        // SAFETY: tasks and disk outlive the operations, see the top of this file.
        let progress = unsafe { task.start(&mut self.disk, &mut self.ring) };
        self.progress(slot, progress)
    }

    fn progress(&mut self, slot: u32, progress: Progress) -> Result<(), Error> {
        match progress {
            Progress::Waiting => {}
            Progress::Busy => self.busy.push(slot),
            Progress::Flush => self.flushes.join(slot),
            Progress::Done(status) => return self.finish(slot, status),
        }
        Ok(())
    }

    fn flushed(&mut self, ended: Option<Ended>) -> Result<(), Error> {
        let Some(Ended { requests, status }) = ended else {
            return Ok(());
        };
        let mut result = Ok(());
        for slot in requests {
            result = result.and(self.finish(slot, status));
        }
        result
    }

    /// Whether the request in `slot` is within the limits; else it waits.
    fn passes(&mut self, slot: u32) -> bool {
        match (&mut self.throttle, self.tasks.get_mut(slot)) {
            (Some(throttle), Some(task)) => throttle.admit(slot, &task.request),
            _ => true,
        }
    }

    fn is_throttled(&self) -> bool {
        self.throttle.as_ref().is_some_and(Throttle::is_waiting)
    }

    /// Starts what waited for a limit or for a write to end, and the next flush.
    fn settle(&mut self) -> Result<(), Error> {
        if !self.disk.holding
            && let Some(slot) = self.throttle.as_mut().and_then(Throttle::release)
        {
            self.start(slot)?;
        }
        while !self.disk.holding && std::mem::take(&mut self.disk.write_ended) {
            for slot in std::mem::take(&mut self.busy) {
                self.start(slot)?;
            }
        }
        while !self.hold.as_ref().is_some_and(Hold::holds_flushes) {
            // SAFETY: flushes and disk outlive the operations, see the top of this file.
            let ended = unsafe { self.flushes.begin(&mut self.disk, &mut self.ring) };
            if ended.is_none() {
                break;
            }
            self.flushed(ended)?;
        }
        Ok(())
    }

    fn finish(&mut self, slot: u32, status: Status) -> Result<(), Error> {
        let Some(task) = self.tasks.remove(slot) else {
            return Ok(());
        };
        let written = task.written_bytes(status);
        let status = Some((task.request.status, status));
        let chain = (task.queue, task.head);
        self.tasks.recycle(task);
        self.give_back(chain, status, written)
    }

    /// Puts a chain on its used ring.
    fn give_back(
        &mut self,
        (index, head): (usize, u16),
        status: Option<(GuestAddress, Status)>,
        written: u32,
    ) -> Result<(), Error> {
        let Some(Some(source)) = self.sources.get_mut(index) else {
            return Ok(());
        };
        source.in_flight -= 1;
        if self.broken || self.disk.stopping {
            return Ok(());
        }
        let memory = &self.disk.memory;
        let stored = match status {
            Some((address, status)) => memory.write_obj(status.byte(), address),
            None => Ok(()),
        };
        source.used = true;
        let queue = &mut source.active.queue;
        let added = queue.add_used(memory, head, written);
        stored
            .map_err(virtio_queue::Error::GuestMemory)
            .and(added)
            .map_err(|source| Error::Queue { index, source })
    }

    /// Tells the driver of what was given back, where it wants to know.
    fn notify(&mut self) -> Result<(), Error> {
        let memory = &self.disk.memory;
        let mut failure = None;
        for (index, source) in self.sources.iter_mut().enumerate() {
            let Some(source) = source.as_mut().filter(|s| s.used) else {
                continue;
            };
            source.used = false;
            let wanted = notification::is_wanted(&mut source.active.queue, memory)
                .map_err(|source| Error::Queue { index, source })?;
            if wanted && let Err(error) = source.active.interrupt.signal() {
                failure = Some(error);
            }
        }
        if let Some(error) = failure {
            self.disk.warn("cannot interrupt the guest", &error);
        }
        Ok(())
    }

    /// The driver broke the rules beyond a single request (virtio 1.3 §2.1.2).
    fn give_up(&mut self, error: &Error) {
        if !self.broken {
            self.broken = true;
            self.disk.warn("the driver must reset it", error);
            self.events.needs_reset.signal();
        }
    }

    /// Waits for what is under way, and starts nothing more.
    fn drain(&mut self) -> io::Result<()> {
        self.disk.stopping = true;
        self.disk.holding = false;
        let throttled = self.throttle.as_mut().and_then(Throttle::withdraw);
        let waiting = self.busy.drain(..).chain(self.flushes.withdraw());
        for slot in waiting.chain(throttled) {
            self.tasks.remove(slot);
        }
        while !self.tasks.is_empty() || !self.flushes.is_idle() {
            self.wait(true)?;
            // Queues are no longer touched, so no error of theirs can come up.
            let _ = self.dispatch();
        }
        Ok(())
    }

    /// Leaves everything where it is, forever: the kernel may still write to it.
    fn abandon(mut self, error: &io::Error) -> Option<Volume> {
        self.disk.warn("io_uring failed", error);
        self.events.needs_reset.signal();
        self.outlet.close();
        self.flushes.dismiss();
        self.hold = None;
        std::mem::forget(self);
        None
    }
}

#[cfg(test)]
mod tests;
