//! The seam between the block device and the kernel: operations in, completions out.
//!
//! [`Ring`] is what the engine needs of io_uring (`io_uring_enter(2)`) and no more, so that a test can
//! put a ring in its place that records, reorders, fails, or forgets what was never synced.
//! [`cached`] is the exception: writes that cost less without it.
//! Left out on purpose: registered files and buffers, and submission polling.

#![expect(unsafe_code, reason = "submits operations that name raw memory")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, cqueue, opcode, squeue};
use libc::iovec;

use cached::CachedWrites;
use linger::Linger;

mod cached;
mod linger;

/// The submission queue's length: how many operations one system call takes.
const ENTRIES: u32 = 256;

/// The bit of a token that tells the events' completions from all others.
pub(super) const WATCH: u64 = 1 << 63;

/// One thing that the kernel is asked to do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    /// Completes each time that the event is signalled, until a completion without `more`. Its
    /// token has the [`WATCH`] bit.
    Watch {
        event: RawFd,
    },
    Read(Vectors),
    Write(Vectors),
    /// `fdatasync(2)`
    SyncData {
        file: RawFd,
    },
    /// `fsync(2)`, also of a folder
    SyncAll {
        file: RawFd,
    },
    /// Punches a hole: the bytes read as zeroes and occupy nothing. The file keeps its size.
    Deallocate {
        file: RawFd,
        offset: u64,
        len: u64,
    },
    /// Makes the bytes read as zeroes and keeps them allocated. The file keeps its size.
    Zero {
        file: RawFd,
        offset: u64,
        len: u64,
    },
}

/// The file, its bytes, and the memory of an [`Operation::Read`] or [`Operation::Write`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Vectors {
    pub file: RawFd,
    /// In bytes.
    pub offset: u64,
    pub iovecs: *const iovec,
    /// At most `IOV_MAX`, 1024.
    pub count: u32,
    /// What the iovecs have in all.
    pub bytes: u64,
    /// The file's bytes go through the host's page cache.
    pub is_cached: bool,
}

/// The end of an operation, or one event of a [`Operation::Watch`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub token: u64,
    /// What the system call would have returned, `-errno` for an error.
    pub result: i32,
    /// The operation goes on and will complete again.
    pub more: bool,
}

/// Takes operations and hands back completions, in any order.
pub(super) trait Ring {
    /// Queues `operation`, which starts with the next [`Ring::wait`] at the latest.
    ///
    /// # Safety
    /// The file stays open, and the iovecs and the memory that they name stay mapped and at their
    /// place, until [`Ring::wait`] has handed out the last completion with this token.
    unsafe fn push(&mut self, token: u64, operation: Operation);

    /// Submits what was queued and appends what has completed; with `block`, waits for one
    /// completion at least.
    ///
    /// # Errors
    /// The ring is beyond use; what was pushed may still be under way.
    fn wait(&mut self, block: bool, completions: &mut Vec<Completion>) -> io::Result<()>;

    /// Stays awake for a moment, where that is likely to be worth it, until `has_come` or there is
    /// something for [`Ring::wait`] to hand out. Whether there is.
    fn linger(&mut self, _has_come: &mut dyn FnMut() -> bool) -> bool {
        false
    }
}

/// io_uring. Dropping it waits for what is under way, so that memory which the kernel still writes
/// to is never freed, even when this thread unwinds.
pub(super) struct Uring {
    ring: IoUring,
    /// Operations that have not completed, those on events left out: they touch no memory.
    under_way: usize,
    /// What was pushed since the last submission, oldest first.
    backlog: VecDeque<squeue::Entry>,
    cached: CachedWrites,
    linger: Linger,
}

impl Uring {
    /// # Errors
    /// The kernel has no io_uring, forbids it (`kernel.io_uring_disabled`), or lacks memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            ring: new_ring()?,
            under_way: 0,
            backlog: VecDeque::new(),
            cached: CachedWrites::new(),
            linger: Linger::new(),
        })
    }

    /// Moves the backlog into the submission queue, as far as it goes.
    fn refill(&mut self) {
        while let Some((token, vectors)) = self.cached.divert() {
            // SAFETY: the caller of `Ring::push` upholds it until the operation completes.
            let entry = unsafe { entry(Operation::Write(vectors)) };
            self.backlog.push_back(entry.user_data(token));
        }
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: the caller of `Ring::push` upholds what the entry names until it completes.
            if unsafe { queue.push(entry) }.is_err() {
                return;
            }
            self.backlog.pop_front();
        }
    }

    /// Has the kernel take what is queued; where there is nothing to do but to wait, waits.
    fn enter(&mut self, block: bool) -> io::Result<()> {
        let idle =
            self.ring.completion().is_empty() && self.backlog.is_empty() && self.cached.is_empty();
        let queue = self.ring.submission();
        let is_asked_for = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        let wait = block && idle;
        if !wait && !is_asked_for {
            return Ok(());
        }
        // What waits for the disk is woken by it.
        let sleep = (wait && self.under_way == 0).then(|| self.linger.fall_asleep());
        let result = self.ring.submit_and_wait(usize::from(wait));
        if let Some(sleep) = sleep {
            self.linger.wake_up(sleep);
        }
        match result {
            Ok(_) => Ok(()),
            // EBUSY: completions must be taken first. EAGAIN: out of request memory just now.
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }
}

/// A ring whose completions are worked on when they are asked for, instead of by an interrupt of
/// this thread (Linux 6.1); without that where the kernel is older.
fn new_ring() -> io::Result<IoUring> {
    let deferred = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(ENTRIES);
    match deferred {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(ENTRIES),
        ring => ring,
    }
}

impl Ring for Uring {
    unsafe fn push(&mut self, token: u64, operation: Operation) {
        self.under_way += usize::from(token & WATCH == 0);
        if let Operation::Write(vectors) = operation
            && self.cached.takes(token, vectors)
        {
            return;
        }
        // SAFETY: as this function's.
        let entry = unsafe { entry(operation) };
        self.backlog.push_back(entry.user_data(token));
    }

    fn wait(&mut self, block: bool, completions: &mut Vec<Completion>) -> io::Result<()> {
        let had = completions.len();
        loop {
            let had_before = completions.len();
            self.refill();
            self.enter(block)?;
            // SAFETY: as the callers of `push` promised.
            unsafe { self.cached.carry_out(completions) };
            let taken = self.ring.completion().map(|entry| Completion {
                token: entry.user_data(),
                result: entry.result(),
                more: cqueue::more(entry.flags()),
            });
            completions.extend(taken);
            let new = completions.iter().skip(had_before);
            self.under_way -= new.filter(|c| c.token & WATCH == 0).count();
            if self.backlog.is_empty() && (!block || completions.len() > had) {
                return Ok(());
            }
        }
    }

    fn linger(&mut self, has_come: &mut dyn FnMut() -> bool) -> bool {
        // Much of what was pushed is done as soon as it is submitted; no need to have the driver ring.
        if !self.backlog.is_empty() || !self.cached.is_empty() {
            return true;
        }
        if self.under_way > 0 {
            return false;
        }
        let Self { ring, linger, .. } = self;
        linger.until(|| has_come() || has_news(ring))
    }
}

/// Whether there are completions, or would be if the ring was entered.
fn has_news(ring: &mut IoUring) -> bool {
    let (_, queue, completions) = ring.split();
    queue.taskrun() || !completions.is_empty()
}

impl Drop for Uring {
    fn drop(&mut self) {
        let mut completions = Vec::new();
        while self.under_way > 0 {
            if let Err(error) = self.wait(true, &mut completions) {
                // Whoever drops the memory next would hand it to others while the kernel writes it.
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot drain io_uring"
                );
                std::process::abort();
            }
        }
    }
}

/// # Safety
/// As [`Ring::push`].
unsafe fn entry(operation: Operation) -> squeue::Entry {
    match operation {
        Operation::Watch { event } => {
            // Edge-triggered: each signal of the event completes once, and nobody need read it.
            let readable = libc::POLLIN.unsigned_abs().into();
            opcode::PollAdd::new(Fd(event), readable)
                .multi(true)
                .build()
        }
        // SAFETY: as this function's.
        Operation::Read(v) => match unsafe { single(v) } {
            Some((base, len)) => opcode::Read::new(Fd(v.file), base, len)
                .offset(v.offset)
                .build(),
            None => opcode::Readv::new(Fd(v.file), v.iovecs, v.count)
                .offset(v.offset)
                .build(),
        },
        // SAFETY: as this function's.
        Operation::Write(v) => match unsafe { single(v) } {
            Some((base, len)) => opcode::Write::new(Fd(v.file), base, len)
                .offset(v.offset)
                .build(),
            None => opcode::Writev::new(Fd(v.file), v.iovecs, v.count)
                .offset(v.offset)
                .build(),
        },
        Operation::SyncData { file } => opcode::Fsync::new(Fd(file))
            .flags(FsyncFlags::DATASYNC)
            .build(),
        Operation::SyncAll { file } => opcode::Fsync::new(Fd(file)).build(),
        Operation::Deallocate { file, offset, len } => {
            allocate(file, offset, len, libc::FALLOC_FL_PUNCH_HOLE)
        }
        Operation::Zero { file, offset, len } => {
            allocate(file, offset, len, libc::FALLOC_FL_ZERO_RANGE)
        }
    }
}

/// The memory of the only iovec: the kernel has less to do without a vector.
///
/// # Safety
/// The iovecs are there.
unsafe fn single(vectors: Vectors) -> Option<(*mut u8, u32)> {
    if vectors.count != 1 {
        return None;
    }
    // SAFETY: as this function's.
    let iovec { iov_base, iov_len } = unsafe { *vectors.iovecs };
    Some((iov_base.cast(), u32::try_from(iov_len).ok()?))
}

fn allocate(file: RawFd, offset: u64, len: u64, mode: i32) -> squeue::Entry {
    opcode::Fallocate::new(Fd(file), len)
        .offset(offset)
        .mode(mode | libc::FALLOC_FL_KEEP_SIZE)
        .build()
}
