//! A volume: the disk that one instance sees.
//!
//! A volume answers one question, *where do these bytes live?*, and says what a write must prepare.
//! It moves no data itself and never sees guest memory: the block device takes the extents and
//! plans from here and does the I/O. One thread owns a volume, so nothing here locks.
//!
//! A volume without a snapshot is its overlay, byte for byte. One with a snapshot reads a block from
//! the overlay where the bitmap says that the overlay holds it, else from the snapshot's
//! chunks. A block not held may contain anything in the overlay, such as what a crash left of
//! writes that were never flushed: nothing reads it, and the first write covers all of it.

mod base;
mod bitmap;
mod files;
mod plan;

pub use files::VolumeFiles;
pub use plan::{
    BLOCK_BYTES, BeginWrite, BitmapPage, Extent, FileIndex, Fill, FlushPlan, OVERLAY, Place,
    WritePlan,
};

use crate::chunk;
use crate::chunk::pending::unlock;
use crate::id::{SnapshotId, VolumeId};
use base::Base;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

/// What goes wrong with a volume.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The range ends beyond the volume.
    #[error("bytes {offset}+{len} lie outside the volume of {size} bytes")]
    OutOfRange { offset: u64, len: u64, size: u64 },
    /// The volume's own files, or its snapshot's.
    #[error(transparent)]
    Files(#[from] chunk::Error),
    #[error("volume {id} is in use by another process")]
    InUse { id: VolumeId },
    #[error("volume {id} exists already")]
    Exists { id: VolumeId },
    #[error("a volume of {size_bytes} bytes cannot be made: 1 byte to 64 TiB can")]
    Size { size_bytes: u64 },
    #[error(
        "a volume of {size_bytes} bytes is smaller than its snapshot {snapshot} of {snapshot_bytes}"
    )]
    BelowSnapshot {
        size_bytes: u64,
        snapshot: SnapshotId,
        snapshot_bytes: u64,
    },
    #[error("volume {id} holds {held_bytes} bytes and cannot shrink to {size_bytes}")]
    Shrinks {
        id: VolumeId,
        held_bytes: u64,
        size_bytes: u64,
    },
    #[error("the snapshot lies in more than {} segment files", base::MAX_SEGMENTS)]
    TooManySegments,
}

/// A disk of `size_bytes` bytes.
#[derive(Debug)]
pub struct Volume {
    size_bytes: u64,
    /// By [`FileIndex`]. Files are added, never removed.
    files: Vec<File>,
    /// The overlay: each file holds this many bytes of the volume, the last one the rest.
    parts: Vec<Part>,
    part_bytes: u64,
    base: Option<Base>,
    /// What the first flush syncs.
    once: Vec<FileIndex>,
    /// The blocks of unfinished writes that the overlay lacks some of.
    in_flight: Vec<Range<u64>>,
}

/// A file of the overlay.
#[derive(Debug)]
struct Part {
    file: FileIndex,
    /// Whether it was written since a flush began.
    written: bool,
}

impl Volume {
    /// A volume without a snapshot: every byte lives in `overlay`, at its own offset.
    pub fn plain(overlay: File, size_bytes: u64) -> Self {
        Self::new(vec![overlay], size_bytes, u64::MAX)
    }

    fn new(overlays: Vec<File>, size_bytes: u64, part_bytes: u64) -> Self {
        let mut volume = Self {
            size_bytes,
            files: Vec::with_capacity(overlays.len() + 4),
            parts: Vec::with_capacity(overlays.len()),
            part_bytes,
            base: None,
            once: Vec::new(),
            in_flight: Vec::new(),
        };
        for file in overlays {
            let file = add(&mut volume.files, file);
            let written = false;
            volume.parts.push(Part { file, written });
        }
        volume
    }

    /// Has the first flush make these files and folders durable too, in this order: the catalogue
    /// that names the volume commits without a sync, so that launching waits for no disk.
    pub fn sync_before_first_flush(&mut self, files: Vec<File>) {
        for file in files {
            let index = add(&mut self.files, file);
            self.once.push(index);
        }
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The open file behind an index that an extent or a plan of this volume named.
    #[expect(
        clippy::indexing_slicing,
        reason = "indices are made here and files are never removed"
    )]
    pub fn file(&self, index: FileIndex) -> BorrowedFd<'_> {
        self.files[index.0 as usize].as_fd()
    }

    /// Appends to `out` where the `len` bytes from `offset` on live, in order.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Files`] where the bitmap, the snapshot's table or a segment
    /// cannot be read or is damaged; [`Error::TooManySegments`].
    pub fn map_read(&mut self, offset: u64, len: u64, out: &mut Vec<Extent>) -> Result<(), Error> {
        let end = self.check(offset, len)?;
        // What earlier calls appended is not extended.
        let first = out.len();
        let mut at = offset;
        while at < end {
            let (part, within, part_end) = self.part(at);
            let end = end.min(part_end);
            let run = match &mut self.base {
                None => (true, end),
                Some(base) => base.run(&self.files, at..end)?,
            };
            let (held, run_end) = run;
            let extent = match &mut self.base {
                Some(base) if !held => base.extent(&mut self.files, at, run_end - at)?,
                _ => Extent {
                    len: run_end - at,
                    place: Place::File {
                        file: part,
                        offset: within,
                    },
                },
            };
            at += extent.len;
            append(out, first, extent);
        }
        self.trim();
        Ok(())
    }

    /// Says what a write of the `len` bytes from `offset` on must do. Discards and zeroing use it
    /// too: they punch a hole where a write would put data.
    ///
    /// # Errors
    /// As [`Volume::map_read`].
    pub fn begin_write(&mut self, offset: u64, len: u64) -> Result<BeginWrite, Error> {
        let end = self.check(offset, len)?;
        let (file, within, part_end) = self.part(offset);
        let end = end.min(part_end);
        let mut plan = WritePlan {
            file,
            offset: within,
            len: end - offset,
            fills: [None, None],
            blocks: None,
        };
        let Some(base) = self.base.as_mut().filter(|_| len > 0) else {
            return Ok(BeginWrite::Ready(plan));
        };
        let blocks = offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        let (first_held, last_held, all_held) = base.held(&self.files, blocks.clone())?;
        if all_held {
            return Ok(BeginWrite::Ready(plan));
        }
        let overlaps = |it: &Range<u64>| it.start < blocks.end && blocks.start < it.end;
        if self.in_flight.iter().any(overlaps) {
            return Ok(BeginWrite::Busy);
        }
        let before = blocks.start * BLOCK_BYTES..offset;
        let after = end..(blocks.end * BLOCK_BYTES).min(self.size_bytes);
        for (fill, (range, held)) in plan
            .fills
            .iter_mut()
            .zip([(before, first_held), (after, last_held)])
        {
            if held || range.is_empty() {
                continue;
            }
            // A part of a block lies in one chunk, so in one place.
            let len = range.end - range.start;
            *fill = Some(Fill {
                from: base.extent(&mut self.files, range.start, len)?.place,
                to_offset: within + range.start - offset,
                len,
            });
        }
        self.in_flight.push(blocks.clone());
        plan.blocks = Some(blocks);
        Ok(BeginWrite::Ready(plan))
    }

    /// Ends the write of `plan`: when `written`, its blocks are read from the overlay from now on,
    /// and the next flush makes that durable.
    pub fn end_write(&mut self, plan: WritePlan, written: bool) {
        // Of a write that failed some bytes may have been written, to blocks held before.
        if let Some(part) = self.parts.iter_mut().find(|part| part.file == plan.file) {
            part.written = true;
        }
        let Some(blocks) = plan.blocks else {
            return;
        };
        if let Some(position) = self.in_flight.iter().position(|it| *it == blocks) {
            self.in_flight.swap_remove(position);
        }
        if let Some(base) = self.base.as_mut().filter(|_| written) {
            base.hold(blocks);
        }
        self.trim();
    }

    /// Says what must happen before the writes that have ended by now are durable.
    /// One flush at a time: end it before the next begins.
    pub fn begin_flush(&mut self) -> FlushPlan {
        let mut data = Vec::new();
        for part in self.parts.iter_mut().filter(|part| part.written) {
            part.written = false;
            data.push(part.file);
        }
        let (bitmap, pages) = match &mut self.base {
            Some(base) => base.begin_flush(),
            None => (OVERLAY, Vec::new()),
        };
        FlushPlan {
            once: std::mem::take(&mut self.once),
            data,
            bitmap,
            pages,
        }
    }

    /// Ends the flush of `plan`; what was not `synced` is tried again by the next one.
    pub fn end_flush(&mut self, plan: FlushPlan, synced: bool) {
        if let Some(base) = &mut self.base {
            base.end_flush(synced);
        }
        if !synced {
            self.once = plan.once;
            for part in &mut self.parts {
                part.written |= plan.data.contains(&part.file);
            }
        }
    }

    /// The overlay file of the byte at `offset`, that byte's offset in it, and where in the volume
    /// the file's bytes end.
    fn part(&self, offset: u64) -> (FileIndex, u64, u64) {
        let number = offset / self.part_bytes;
        let part = usize::try_from(number)
            .ok()
            .and_then(|it| self.parts.get(it));
        // A range that ends at the volume's end and is empty has no part of its own.
        let file = part.map_or(OVERLAY, |part| part.file);
        let start = number * self.part_bytes;
        (file, offset - start, start.saturating_add(self.part_bytes))
    }

    fn trim(&mut self) {
        if let Some(base) = self.base.as_mut().filter(|_| self.in_flight.is_empty()) {
            base.trim();
        }
    }

    /// The end of the range.
    fn check(&self, offset: u64, len: u64) -> Result<u64, Error> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size_bytes => Ok(end),
            _ => Err(Error::OutOfRange {
                offset,
                len,
                size: self.size_bytes,
            }),
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.files.iter().for_each(unlock);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a process has far fewer descriptors"
)]
fn add(files: &mut Vec<File>, file: File) -> FileIndex {
    files.push(file);
    FileIndex(files.len() as u32 - 1)
}

/// Appends `extent`, as one with the last of those from `first` on where it continues that.
fn append(out: &mut Vec<Extent>, first: usize, extent: Extent) {
    if let Some(last) = out.get_mut(first..).and_then(<[Extent]>::last_mut) {
        let continues = match (last.place, extent.place) {
            (Place::Zeroes, Place::Zeroes) => true,
            (
                Place::File { file, offset },
                Place::File {
                    file: next,
                    offset: at,
                },
            ) => file == next && offset + last.len == at,
            _ => false,
        };
        if continues {
            last.len += extent.len;
            return;
        }
    }
    out.push(extent);
}

#[cfg(test)]
mod tests;
