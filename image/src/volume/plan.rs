//! What a volume answers: extents to read from, and plans for writes and flushes.

use std::ops::Range;
use std::sync::Arc;

/// The copy-on-write granule: the overlay holds or lacks whole blocks of this many bytes.
pub const BLOCK_BYTES: u64 = 4096;

/// A file (or folder) of a volume. An index stays valid until [`Volume::rebase`] forgets the layer that
/// it belongs to; then nothing may be under way on the volume.
///
/// [`Volume::rebase`]: super::Volume::rebase
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileIndex(pub u32);

/// The index of the overlay that the volume was created or opened with, of its lowest layer. A
/// volume of more than 8 TiB has more overlay files than this one, because ext4 ends a file 4 KiB
/// short of 16 TiB.
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

/// The part of a block that a write does not cover, to be copied into the overlay first: zeroes
/// too, for the overlay may hold what a crash left there. Shorter than a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    pub from: Place,
    /// Byte offset in the plan's file.
    pub to_offset: u64,
    pub len: u64,
}

/// What a write (or a discard, or zeroing) of a range must do, in this order: the fills, then the
/// data (or a hole punched) at `offset` of `file`, then [`Volume::end_write`].
///
/// [`Volume::end_write`]: super::Volume::end_write
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
    pub(super) blocks: Option<Range<u64>>,
}

/// The answer to [`Volume::begin_write`].
///
/// [`Volume::begin_write`]: super::Volume::begin_write
#[derive(Debug, PartialEq, Eq)]
pub enum BeginWrite {
    Ready(WritePlan),
    /// An unfinished write is copying one of these blocks: ask again when any write has ended.
    Busy,
}

/// What a flush must do, in this order: `fsync` of each file of `once` and `fdatasync` of each of
/// `data`; then each of `pages` written; then `fdatasync` of each of `bitmaps`; then
/// [`Volume::end_flush`]. Nothing to do where all four are empty.
///
/// [`Volume::end_flush`]: super::Volume::end_flush
#[derive(Debug)]
pub struct FlushPlan {
    /// Files and folders that the first flush makes durable, and the first one after a new layer
    /// was begun: those that say that this volume exists.
    pub once: Vec<FileIndex>,
    /// The overlay files that were written since the last flush.
    pub data: Vec<FileIndex>,
    pub pages: Vec<BitmapPage>,
    /// The files that `pages` go to.
    pub bitmaps: Vec<FileIndex>,
}

/// A page of a bitmap as it was when the flush began.
#[derive(Debug)]
pub struct BitmapPage {
    /// The bitmap's file, and the byte offset there.
    pub file: FileIndex,
    pub offset: u64,
    pub bytes: Arc<[u8; 4096]>,
}
