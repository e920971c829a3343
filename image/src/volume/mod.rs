//! A volume: the disk that one instance sees.
//!
//! A volume answers one question, *where do these bytes live?*, and says what a write must prepare.
//! It moves no data itself and never sees guest memory: the block device takes the extents and
//! plans from here and does the I/O. One thread owns a volume, so nothing here locks.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// The copy-on-write granule: the overlay holds or lacks whole blocks of this many bytes.
pub const BLOCK_BYTES: u64 = 4096;

/// A file (or folder) of a volume. An index stays valid for the life of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileIndex(pub u32);

/// The overlay's index. A volume of more than 8 TiB has more overlay files than this one, because
/// ext4 ends a file 4 KiB short of 16 TiB.
pub const OVERLAY: FileIndex = FileIndex(0);

/// Where a run of bytes lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: the run reads as zeroes and touches no disk.
    Zeroes,
    /// In `file`, from `offset` bytes on.
    File { file: FileIndex, offset: u64 },
}

/// A run of `len` bytes of the volume and the place it is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub len: u64,
    pub place: Place,
}

/// The part of a block that a write does not cover, to be copied into the overlay first.
/// Shorter than a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    pub from: Place,
    /// Byte offset in the plan's file.
    pub to_offset: u64,
    pub len: u64,
}

/// What a write (or a discard, or zeroing) of a range must do, in this order: the fills, then the
/// data (or a hole punched) at `offset` of `file`, then [`Volume::end_write`].
#[derive(Debug, PartialEq, Eq)]
pub struct WritePlan {
    /// The overlay file that the data and the fills go to.
    pub file: FileIndex,
    /// Byte offset in `file` of the first byte to write.
    pub offset: u64,
    /// Bytes to write: fewer than were asked for where the range crosses from one overlay file to
    /// the next; then the rest needs a plan of its own.
    pub len: u64,
    /// The rest of the first and of the last block, where the overlay lacks them.
    pub fills: [Option<Fill>; 2],
    /// The blocks that the overlay starts to hold when the write ends.
    blocks: Option<std::ops::Range<u64>>,
}

/// The answer to [`Volume::begin_write`].
#[derive(Debug, PartialEq, Eq)]
pub enum BeginWrite {
    Ready(WritePlan),
    /// An unfinished write is copying one of these blocks: ask again when any write has ended.
    Busy,
}

/// What a flush must do, in this order: `fsync` of each file of `once` and `fdatasync` of each of
/// `data`; then each page of `pages` written to `bitmap` at its offset; then, if there was a page,
/// `fdatasync` of `bitmap`; then [`Volume::end_flush`]. Nothing to do where all three are empty.
#[derive(Debug)]
pub struct FlushPlan {
    /// Files and folders that the first flush makes durable: those that say that this volume
    /// exists.
    pub once: Vec<FileIndex>,
    /// The overlay files that were written since the last flush.
    pub data: Vec<FileIndex>,
    pub bitmap: FileIndex,
    pub pages: Vec<BitmapPage>,
}

/// A page of the bitmap as it was when the flush began.
#[derive(Debug)]
pub struct BitmapPage {
    pub offset: u64,
    pub bytes: Arc<[u8; 4096]>,
}

/// What goes wrong with a volume.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The range ends beyond the volume.
    #[error("bytes {offset}+{len} lie outside the volume of {size} bytes")]
    OutOfRange { offset: u64, len: u64, size: u64 },
    #[error("cannot {action}")]
    Io {
        action: &'static str,
        #[source]
        source: std::io::Error,
    },
}

/// A disk of `size_bytes` bytes.
#[derive(Debug)]
pub struct Volume {
    size_bytes: u64,
    /// By [`FileIndex`].
    files: Vec<File>,
    once: Vec<FileIndex>,
    written: bool,
}

impl Volume {
    /// A volume without a snapshot: every byte lives in `overlay`, at its own offset.
    pub fn plain(overlay: File, size_bytes: u64) -> Self {
        Self {
            size_bytes,
            files: vec![overlay],
            once: Vec::new(),
            written: false,
        }
    }

    /// Has the first flush make these files and folders durable too, in this order: the catalogue
    /// that names the volume commits without a sync, so that launching waits for no disk.
    pub fn sync_before_first_flush(&mut self, files: Vec<File>) {
        for file in files {
            let index = self.add(file);
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
    /// [`Error::OutOfRange`]; [`Error::Io`] where the snapshot's table cannot be read.
    pub fn map_read(&mut self, offset: u64, len: u64, out: &mut Vec<Extent>) -> Result<(), Error> {
        self.check(offset, len)?;
        out.push(Extent {
            len,
            place: Place::File {
                file: OVERLAY,
                offset,
            },
        });
        Ok(())
    }

    /// Says what a write of the `len` bytes from `offset` on must do. Discards and zeroing use it
    /// too: they punch a hole where a write would put data.
    ///
    /// # Errors
    /// As [`Volume::map_read`].
    pub fn begin_write(&mut self, offset: u64, len: u64) -> Result<BeginWrite, Error> {
        self.check(offset, len)?;
        Ok(BeginWrite::Ready(WritePlan {
            file: OVERLAY,
            offset,
            len,
            fills: [None, None],
            blocks: None,
        }))
    }

    /// Ends the write of `plan`: when `written`, its blocks are read from the overlay from now on,
    /// and the next flush makes that durable.
    pub fn end_write(&mut self, plan: WritePlan, written: bool) {
        let _ = plan;
        self.written |= written;
    }

    /// Says what must happen before the writes that have ended by now are durable.
    /// One flush at a time: end it before the next begins.
    pub fn begin_flush(&mut self) -> FlushPlan {
        let written = std::mem::take(&mut self.written);
        FlushPlan {
            once: std::mem::take(&mut self.once),
            data: if written { vec![OVERLAY] } else { Vec::new() },
            bitmap: OVERLAY,
            pages: Vec::new(),
        }
    }

    /// Ends the flush of `plan`; what was not `synced` is tried again by the next one.
    pub fn end_flush(&mut self, plan: FlushPlan, synced: bool) {
        if !synced {
            self.once = plan.once;
            self.written |= !plan.data.is_empty();
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "far fewer descriptors exist"
    )]
    fn add(&mut self, file: File) -> FileIndex {
        self.files.push(file);
        FileIndex(self.files.len() as u32 - 1)
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), Error> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size_bytes => Ok(()),
            _ => Err(Error::OutOfRange {
                offset,
                len,
                size: self.size_bytes,
            }),
        }
    }
}
