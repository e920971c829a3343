//! The guest's FLUSH: done only when every write that was done before it is on the disk.
//!
//! One flush of the volume at a time. Requests that come while it is under way wait for the next
//! one, which they share: theirs may have to cover writes that the first one began too early for.
//! Reads and writes go on meanwhile. The order is the volume's ([`FlushPlan`]): data, then the
//! bitmap pages that vouch for it, then the bitmaps' own sync.
//!
//! A sync of data that failed is remembered by the volume, beyond all resets of the device
//! ([`Volume::lose_writes`](kami_image::volume::Volume::lose_writes)): every later flush fails.

#![expect(unsafe_code, reason = "hands bitmap pages to the kernel")]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::mpsc::SyncSender;

use kami_image::volume::{self, FlushPlan};

use super::disk::Disk;
use super::request::Status;
use super::ring::{Operation, Ring};
use super::token::{Target, Token};
use super::transfer::{Direction, Transfers};

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Syncing the file of this index in the plan's `once`.
    Once(usize),
    Data,
    Pages,
    Bitmaps,
    Done,
}

#[derive(Debug)]
struct Current {
    plan: FlushPlan,
    waiters: Waiters,
    stage: Stage,
    /// Syncs under way; `transfers` counts its own.
    syncs: usize,
    failure: Option<i32>,
    /// A sync was interrupted, so the stage runs again.
    again: bool,
    /// The kernel reads `plan.pages` through this in [`Stage::Pages`].
    transfers: Transfers,
}

/// Who wants a flush.
#[derive(Debug, Default)]
struct Waiters {
    /// The slots of requests.
    requests: Vec<u32>,
    /// Those outside, who are told whether it worked.
    outside: Vec<SyncSender<bool>>,
}

#[derive(Debug, Default)]
pub(super) struct Flushes {
    waiting: Waiters,
    current: Option<Current>,
}

/// A flush that has ended, the requests that it was for, and how.
#[derive(Debug)]
pub(super) struct Ended {
    pub requests: Vec<u32>,
    pub status: Status,
}

// The contract of the unsafe functions: until a flush has ended, the caller drops neither `disk`
// nor this value, which keeps the bitmap's pages and the iovecs.
impl Flushes {
    /// Has the request in `slot` wait for a flush that begins from now on.
    pub fn join(&mut self, slot: u32) {
        self.waiting.requests.push(slot);
    }

    /// As [`Flushes::join`], for somebody outside the guest.
    pub fn join_outside(&mut self, answer: SyncSender<bool>) {
        self.waiting.outside.push(answer);
    }

    /// Takes back the requests whose flush has not begun.
    pub fn withdraw(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.waiting).requests
    }

    /// Lets go of those outside, unanswered.
    pub fn dismiss(&mut self) {
        self.waiting.outside.clear();
        if let Some(current) = &mut self.current {
            current.waiters.outside.clear();
        }
    }

    /// How many requests wait for a flush, one under way included.
    pub fn requests(&self) -> usize {
        let current = self.current.as_ref();
        self.waiting.requests.len() + current.map_or(0, |it| it.waiters.requests.len())
    }

    pub fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    /// Begins a flush, if one is wanted and none is under way.
    ///
    /// # Safety
    /// `disk` and this value outlive what is under way.
    pub unsafe fn begin(&mut self, disk: &mut Disk, ring: &mut impl Ring) -> Option<Ended> {
        let waiting = &self.waiting;
        let wanted = !waiting.requests.is_empty() || !waiting.outside.is_empty();
        if self.current.is_some() || !wanted {
            return None;
        }
        if disk.volume.has_lost_writes() {
            disk.warn("flush failed", &volume::Error::LostWrites);
            return Some(std::mem::take(&mut self.waiting).answer(false, disk));
        }
        self.current = Some(Current {
            plan: disk.volume.begin_flush(),
            waiters: std::mem::take(&mut self.waiting),
            stage: Stage::Once(0),
            syncs: 0,
            failure: None,
            again: false,
            transfers: Transfers::default(),
        });
        // SAFETY: as this function's.
        unsafe { self.proceed(disk, ring) }
    }

    /// Takes the completion of the operation at `index`.
    ///
    /// # Safety
    /// `disk` and this value outlive what is under way.
    pub unsafe fn landed(
        &mut self,
        index: usize,
        result: i32,
        disk: &mut Disk,
        ring: &mut impl Ring,
    ) -> Option<Ended> {
        let current = self.current.as_mut()?;
        match current.stage {
            Stage::Pages => {
                let at = (Target::Flush, &disk.volume, &mut *ring);
                // SAFETY: as this function's.
                unsafe { current.transfers.landed(index, result, at) };
                current.failure = current.failure.or(current.transfers.failure());
            }
            _ => {
                current.syncs = current.syncs.saturating_sub(1);
                match -result {
                    libc::EINTR | libc::EAGAIN => current.again = true,
                    errno if errno > 0 => {
                        current.failure.get_or_insert(errno);
                        if !matches!(current.stage, Stage::Bitmaps) {
                            disk.volume.lose_writes();
                        }
                    }
                    _ => {}
                }
            }
        }
        if current.syncs > 0 || !current.transfers.is_idle() {
            return None;
        }
        current.stage = match current.stage {
            stage if std::mem::take(&mut current.again) => stage,
            Stage::Once(n) => Stage::Once(n + 1),
            Stage::Data => Stage::Pages,
            Stage::Pages => Stage::Bitmaps,
            Stage::Bitmaps | Stage::Done => Stage::Done,
        };
        // SAFETY: as this function's.
        unsafe { self.proceed(disk, ring) }
    }

    /// Starts what comes next, passing over what there is nothing of.
    ///
    /// # Safety
    /// `disk` and this value outlive what is under way.
    unsafe fn proceed(&mut self, disk: &mut Disk, ring: &mut impl Ring) -> Option<Ended> {
        let mut current = self.current.take()?;
        while current.syncs == 0 && current.transfers.is_idle() {
            if current.failure.is_some() || disk.stopping || matches!(current.stage, Stage::Done) {
                return Some(Self::end(current, disk));
            }
            // SAFETY: as this function's.
            current.stage = unsafe { current.start_stage(disk, ring) };
        }
        self.current = Some(current);
        None
    }

    fn end(current: Current, disk: &mut Disk) -> Ended {
        let synced = matches!(current.stage, Stage::Done) && current.failure.is_none();
        disk.volume.end_flush(current.plan, synced);
        if let Some(errno) = current.failure {
            disk.warn("flush failed", &io::Error::from_raw_os_error(errno));
        }
        current.waiters.answer(synced, disk)
    }
}

impl Waiters {
    fn answer(self, synced: bool, disk: &Disk) -> Ended {
        // A device that stops takes no more answers: who asks again meets its volume at rest.
        if !disk.stopping {
            for answer in self.outside {
                let _ = answer.send(synced);
            }
        }
        Ended {
            requests: self.requests,
            status: match synced {
                true => Status::Ok,
                false => Status::IoError,
            },
        }
    }
}

impl Current {
    /// Starts the operations of this stage and returns it; the next stage where there are none.
    ///
    /// # Safety
    /// `disk` and this value's heap outlive what is under way.
    unsafe fn start_stage(&mut self, disk: &Disk, ring: &mut impl Ring) -> Stage {
        let file = |index| disk.volume.file(index).as_raw_fd();
        match self.stage {
            Stage::Once(n) => match self.plan.once.get(n) {
                Some(&index) => {
                    // SAFETY: names no memory; `disk` keeps the file open.
                    unsafe { self.sync(Operation::SyncAll { file: file(index) }, ring) };
                    self.stage
                }
                None => Stage::Data,
            },
            Stage::Data if self.plan.data.is_empty() => Stage::Pages,
            Stage::Data => {
                for index in 0..self.plan.data.len() {
                    let Some(&index) = self.plan.data.get(index) else {
                        break;
                    };
                    // SAFETY: names no memory; `disk` keeps the file open.
                    unsafe { self.sync(Operation::SyncData { file: file(index) }, ring) };
                }
                self.stage
            }
            Stage::Pages if self.plan.pages.is_empty() => Stage::Done,
            Stage::Pages => {
                for page in &self.plan.pages {
                    // The kernel only reads here: the operation is a write to the file.
                    let memory = (page.bytes.as_ptr().cast_mut(), page.bytes.len());
                    let to = (page.file, page.offset);
                    self.transfers
                        .add(Direction::Write, to, page.offset, memory);
                }
                // SAFETY: the plan keeps the pages, this value the iovecs, `disk` the file.
                unsafe { self.transfers.submit(Target::Flush, &disk.volume, ring) };
                self.stage
            }
            Stage::Bitmaps => {
                for index in 0..self.plan.bitmaps.len() {
                    let Some(&index) = self.plan.bitmaps.get(index) else {
                        break;
                    };
                    // SAFETY: names no memory; `disk` keeps the file open.
                    unsafe { self.sync(Operation::SyncData { file: file(index) }, ring) };
                }
                self.stage
            }
            Stage::Done => Stage::Done,
        }
    }

    /// # Safety
    /// As [`Ring::push`].
    unsafe fn sync(&mut self, operation: Operation, ring: &mut impl Ring) {
        self.syncs += 1;
        // SAFETY: as this function's.
        unsafe { ring.push(Token::new(Target::Flush, 0).pack(), operation) };
    }
}
