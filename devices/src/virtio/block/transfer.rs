//! Reads and writes between files and memory that belong to one request, or to one flush.
//!
//! Short ones go on where they stopped, interrupted ones start again, and all are waited for
//! together.

#![expect(unsafe_code, reason = "hands iovecs to the kernel")]

use std::ops::Range;
use std::os::fd::AsRawFd;

use kami_image::volume::{FileIndex, Volume};
use libc::iovec;

use super::bounce::{self, Bounce};
use super::ring::{Operation, Ring, Vectors};
use super::token::{Target, Token};

/// The most iovecs in one operation (`IOV_MAX`, `readv(2)`).
const IOVECS_MAX: usize = 1024;

/// Vectors with room for more are not kept for the next request.
const KEPT_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

/// A contiguous run of a file and the iovecs that it is read into or written from.
#[derive(Debug)]
struct Transfer {
    direction: Direction,
    file: FileIndex,
    offset: u64,
    /// Where the run lies in the request's data, in bytes.
    position: u64,
    left: u64,
    iovecs: Range<usize>,
}

/// What a read found no bytes for, because its file ends earlier. It reads as zeroes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unread {
    pub position: u64,
    pub len: u64,
}

/// The operations of one step. Build with [`Transfers::clear`] and [`Transfers::add`], start with
/// [`Transfers::submit`]; from then on until [`Transfers::is_idle`] nothing may be added or cleared,
/// because the kernel reads `iovecs`.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    iovecs: Vec<iovec>,
    list: Vec<Transfer>,
    under_way: usize,
    failure: Option<i32>,
    /// What the kernel does not take as it is goes through here, one transfer after the other.
    bounce: Option<Bounce>,
    /// Those that wait for that, and last the one that does.
    bounced: Vec<usize>,
}

impl Transfers {
    /// This value for the next request, unless it is large.
    pub fn emptied(mut self) -> Option<Self> {
        if self.under_way > 0
            || self.iovecs.capacity() > KEPT_MAX
            || self.list.capacity() > KEPT_MAX
        {
            return None;
        }
        self.clear();
        self.bounce = None;
        Some(self)
    }

    pub fn clear(&mut self) {
        self.iovecs.clear();
        self.list.clear();
        self.failure = None;
        self.bounced.clear();
    }

    /// Adds `len` bytes of memory at `base`, for the bytes of `file` from `offset` on. Goes into
    /// the last operation where it continues that one.
    pub fn add(
        &mut self,
        direction: Direction,
        (file, offset): (FileIndex, u64),
        position: u64,
        (base, len): (*mut u8, usize),
    ) {
        let start = self.iovecs.len();
        self.iovecs.push(iovec {
            iov_base: base.cast(),
            iov_len: len,
        });
        let bytes = len as u64;
        match self.list.last_mut() {
            Some(last)
                if last.direction == direction
                    && last.file == file
                    && last.offset + last.left == offset
                    && last.position + last.left == position
                    && last.iovecs.len() < IOVECS_MAX =>
            {
                last.left += bytes;
                last.iovecs.end += 1;
            }
            _ => self.list.push(Transfer {
                direction,
                file,
                offset,
                position,
                left: bytes,
                iovecs: start..start + 1,
            }),
        }
    }

    /// Starts all that was added.
    ///
    /// # Safety
    /// The memory that was added, and this value, stay until [`Transfers::is_idle`]; `volume` keeps
    /// the files open.
    pub unsafe fn submit(&mut self, target: Target, volume: &Volume, ring: &mut impl Ring) {
        for index in 0..self.list.len() {
            if self.needs_bounce(index, volume) {
                self.bounced.push(index);
                continue;
            }
            // SAFETY: as this function's.
            unsafe { self.push(index, target, volume, ring) };
        }
        if let Some(&index) = self.bounced.last() {
            self.bounce.get_or_insert_with(Bounce::new);
            // SAFETY: as this function's.
            unsafe { self.push(index, target, volume, ring) };
        }
    }

    /// Whether the file does not take this memory.
    fn needs_bounce(&self, index: usize, volume: &Volume) -> bool {
        let Some(transfer) = self.list.get(index) else {
            return false;
        };
        let iovecs = self.iovecs.get(transfer.iovecs.clone()).unwrap_or_default();
        let alignment = volume.alignment(transfer.file);
        alignment.is_some_and(|it| !bounce::suits(it, iovecs))
    }

    /// Takes the completion of the operation at `index`, and goes on with the rest of a short one.
    ///
    /// # Safety
    /// As [`Transfers::submit`].
    pub unsafe fn landed(
        &mut self,
        index: usize,
        result: i32,
        (target, volume, ring): (Target, &Volume, &mut impl Ring),
    ) -> Option<Unread> {
        self.under_way = self.under_way.saturating_sub(1);
        let is_bounced = self.bounced.last() == Some(&index);
        let transfer = self.list.get_mut(index)?;
        let mut unread = None;
        match (u64::try_from(result), transfer.direction) {
            (Err(_), _) if matches!(-result, libc::EINTR | libc::EAGAIN) => {}
            (Err(_), _) => {
                self.failure.get_or_insert(-result);
                return None;
            }
            (Ok(0), Direction::Read) => {
                unread = Some(Unread {
                    position: transfer.position,
                    len: std::mem::take(&mut transfer.left),
                });
            }
            (Ok(0), Direction::Write) => {
                self.failure.get_or_insert(libc::EIO);
                return None;
            }
            (Ok(bytes), direction) => {
                if let (Some(bounce), true) = (&self.bounce, is_bounced)
                    && direction == Direction::Read
                {
                    let iovecs = self.iovecs.get(transfer.iovecs.clone());
                    // SAFETY: as this function's.
                    unsafe { bounce.store(bytes, iovecs.unwrap_or_default()) };
                }
                transfer.advance(bytes, &mut self.iovecs);
            }
        }
        let next = match (transfer.left, is_bounced) {
            (0, false) => None,
            (0, true) => {
                self.bounced.pop();
                self.bounced.last().copied()
            }
            // Its rest may begin where the file does not take it.
            (_, false) if self.needs_bounce(index, volume) => {
                self.bounced.insert(0, index);
                self.bounce.get_or_insert_with(Bounce::new);
                (self.bounced.len() == 1).then_some(index)
            }
            (_, _) => Some(index),
        };
        if let Some(index) = next.filter(|_| self.failure.is_none()) {
            // SAFETY: as this function's.
            unsafe { self.push(index, target, volume, ring) };
        }
        unread
    }

    /// Fails the step for a reason outside the operations.
    pub fn fail(&mut self, errno: i32) {
        self.failure.get_or_insert(errno);
    }

    pub fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    /// The errno of the first operation that failed.
    pub fn failure(&self) -> Option<i32> {
        self.failure
    }

    /// # Safety
    /// As [`Transfers::submit`].
    unsafe fn push(&mut self, index: usize, target: Target, volume: &Volume, ring: &mut impl Ring) {
        let Some(transfer) = self.list.get(index) else {
            return;
        };
        let iovecs = self.iovecs.get(transfer.iovecs.clone()).unwrap_or_default();
        let iovecs = match &mut self.bounce {
            Some(bounce) if self.bounced.last() == Some(&index) => {
                // SAFETY: the caller keeps the memory.
                unsafe { bounce.load(transfer.direction, iovecs) }
            }
            _ => iovecs,
        };
        let vectors = Vectors {
            file: volume.file(transfer.file).as_raw_fd(),
            offset: transfer.offset,
            iovecs: iovecs.as_ptr(),
            count: u32::try_from(iovecs.len()).unwrap_or(0),
            bytes: transfer.left,
            is_cached: volume.alignment(transfer.file).is_none(),
        };
        let operation = match transfer.direction {
            Direction::Read => Operation::Read(vectors),
            Direction::Write => Operation::Write(vectors),
        };
        self.under_way += 1;
        // SAFETY: the caller keeps memory and files; `iovecs` stays unmoved until the operation
        // completes, because nothing is added meanwhile.
        unsafe { ring.push(Token::new(target, index).pack(), operation) };
    }
}

impl Transfer {
    /// Leaves out the first `bytes` bytes, which are done.
    fn advance(&mut self, bytes: u64, iovecs: &mut [iovec]) {
        let bytes = bytes.min(self.left);
        self.offset += bytes;
        self.position += bytes;
        self.left -= bytes;
        let mut done = usize::try_from(bytes).unwrap_or(usize::MAX);
        while let Some(first) = iovecs.get_mut(self.iovecs.start) {
            if done < first.iov_len {
                first.iov_base = first.iov_base.wrapping_byte_add(done);
                first.iov_len -= done;
                return;
            }
            done -= first.iov_len;
            self.iovecs.start += 1;
            if self.iovecs.is_empty() {
                return;
            }
        }
    }
}
