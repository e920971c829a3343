//! A volume: the disk that one instance sees.
//!
//! A volume answers one question, *where do these bytes live?*, and says what a write must prepare.
//! It moves no data itself and never sees guest memory: the block device takes the extents and
//! plans from here and does the I/O. One thread owns a volume, so nothing here locks.
//!
//! A volume consists of layers, most often of one. Each has an overlay and, where there is anything
//! below it, a bitmap of the blocks that the overlay holds; below the lowest is the snapshot, or
//! zeroes. A block not held may contain anything in the overlay, such as what a crash left of
//! writes that were never flushed: nothing reads it, and the first write covers all of it.
//!
//! Writes go to the top layer. [`Volume::freeze`] puts a new one on top, so that those below stay
//! as they are while a snapshot is made of them, and [`Volume::rebase`] puts that snapshot in their
//! place.

mod base;
mod bitmap;
mod direct;
mod files;
mod frozen;
#[doc(hidden)]
pub mod fuzz;
mod layer;
mod layer_files;
mod names;
mod plan;
mod stack;

pub use direct::Alignment;
pub use files::{Standing, VolumeFiles};
pub use frozen::Frozen;
pub use plan::{
    BLOCK_BYTES, BeginWrite, BitmapPage, Extent, FileIndex, Fill, FlushPlan, OVERLAY, Place,
    WritePlan,
};

use crate::chunk;
use crate::id::{SnapshotId, VolumeId};
use files::Home;
use layer::Layer;
use rustix::fs::Advice;
use stack::{Files, Stack};
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

/// Layers of a volume, at most. More than two come of snapshots that failed, again and again.
pub const MAX_LAYERS: usize = 64;

/// The highest number of a layer.
const MAX_NUMBER: u32 = u32::MAX - 2;

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
    #[error("volume {id} has {MAX_LAYERS} layers already")]
    TooManyLayers { id: VolumeId },
    #[error("volume {id} has no layer {layer} above others")]
    NoSuchLayer { id: VolumeId, layer: u32 },
    /// [`Volume::freeze`] and [`Volume::rebase`] have all writes end first.
    #[error("volume {id} is being written")]
    Busy { id: VolumeId },
    /// The device that drives the volume must hold its requests first.
    #[error("the disk is at work")]
    NotHeld,
    #[error("a volume outside a store has no layers")]
    NoStore,
    #[error("cannot read chunk {index} of the frozen volume")]
    ReadChunk {
        index: u64,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot find the data of the frozen volume's overlay")]
    Search {
        #[source]
        source: std::io::Error,
    },
    /// See [`Volume::lose_writes`].
    #[error(
        "the host failed to sync the volume before, and may have dropped writes then: stop the instance and start it \
         again, and have its file systems checked"
    )]
    LostWrites,
    #[error("the file system of the store has no direct I/O")]
    NoDirectIo,
    #[error("the file system of the store has direct I/O in units of {offset} bytes, not of 512")]
    DirectIoUnit { offset: usize },
    #[error(
        "the file system of the store wants memory aligned to {memory} bytes for direct I/O: 4096 can be had"
    )]
    DirectIoMemory { memory: usize },
    #[error("cannot switch an overlay to direct I/O")]
    DirectIo(#[source] std::io::Error),
    /// The volume's size, or that which it had when a layer was begun.
    #[error(
        "a volume with a layer of {size_bytes} bytes, no multiple of 512, cannot have direct I/O"
    )]
    DirectIoSize { size_bytes: u64 },
    #[error("cannot sync volume {id}")]
    Sync {
        id: VolumeId,
        #[source]
        source: std::io::Error,
    },
}

/// A disk of `size_bytes` bytes.
#[derive(Debug)]
pub struct Volume {
    size_bytes: u64,
    stack: Stack,
    /// Where new layers are made; none of a volume outside a store.
    home: Option<Home>,
    /// What the next flush syncs first: the files that say that the volume and its layers exist.
    once: Vec<FileIndex>,
    /// Writes that have begun and not ended.
    writes: usize,
    /// The blocks of those of them that the overlay lacks some of.
    in_flight: Vec<Range<u64>>,
    has_lost_writes: bool,
    /// [`Volume::bypass_cache`]
    is_direct: bool,
}

impl Volume {
    /// A volume without a snapshot: every byte lives in `overlay`, at its own offset.
    pub fn plain(overlay: File, size_bytes: u64) -> Self {
        let mut files = Files::default();
        let file = files.add(overlay);
        let layer = Layer::new(0, [file], (u64::MAX, size_bytes));
        Self::new(files, vec![layer], size_bytes)
    }

    fn new(files: Files, layers: Vec<Layer>, size_bytes: u64) -> Self {
        Self {
            size_bytes,
            stack: Stack {
                files,
                layers,
                base: None,
            },
            home: None,
            once: Vec::new(),
            writes: 0,
            in_flight: Vec::new(),
            has_lost_writes: false,
            is_direct: false,
        }
    }

    /// Has the first flush make these files and folders durable too, in this order: the catalogue
    /// that names the volume commits without a sync, so that launching waits for no disk.
    pub fn sync_before_first_flush(&mut self, files: Vec<File>) {
        for file in files {
            let index = self.stack.files.add(file);
            self.once.push(index);
        }
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The open file behind an index that an extent or a plan of this volume named.
    pub fn file(&self, index: FileIndex) -> BorrowedFd<'_> {
        self.stack.files.file(index).as_fd()
    }

    /// Has I/O on the overlays, and on those of layers begun later, pass the host's page cache by. What the
    /// snapshot has is still read through it: all that stand on the snapshot share it.
    ///
    /// # Errors
    /// [`Error::NoDirectIo`], [`Error::DirectIoUnit`], [`Error::DirectIoMemory`], [`Error::DirectIoSize`],
    /// [`Error::DirectIo`]: the volume is of no use then.
    pub fn bypass_cache(&mut self) -> Result<(), Error> {
        // A read at the end of a layer that was begun when the volume was smaller would go on off a sector.
        let sizes = self.stack.layers.iter().map(Layer::len_bytes);
        let mut odd = sizes.chain([self.size_bytes]);
        if let Some(size_bytes) = odd.find(|size| !size.is_multiple_of(512)) {
            return Err(Error::DirectIoSize { size_bytes });
        }
        let overlays = self.stack.layers.iter().flat_map(Layer::overlay);
        direct::bypass_cache(&mut self.stack.files, overlays)?;
        self.is_direct = true;
        Ok(())
    }

    /// What I/O on a file must keep to; `None` where the host's page cache takes any.
    pub fn alignment(&self, index: FileIndex) -> Option<Alignment> {
        self.stack.files.alignment(index)
    }

    /// Appends to `out` where the `len` bytes from `offset` on live, in order. A file that ends before
    /// an extent does goes on with zeroes.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Files`] where a bitmap, the snapshot's table or a segment
    /// cannot be read or is damaged; [`Error::TooManySegments`].
    pub fn map_read(&mut self, offset: u64, len: u64, out: &mut Vec<Extent>) -> Result<(), Error> {
        let end = self.check(offset, len)?;
        self.stack.map(offset..end, out)?;
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
        let Some(top) = self.stack.layers.last_mut() else {
            return Err(Error::NoStore);
        };
        let number = top.number;
        // A range that ends at the volume's end and is empty has no place of its own.
        let spot = top.spot(offset);
        let (file, within) = spot.map_or((OVERLAY, 0), |spot| (spot.file, spot.offset));
        let end = end.min(spot.map_or(end, |spot| spot.end));
        let mut plan = WritePlan {
            file,
            offset: within,
            len: end - offset,
            fills: [None, None],
            blocks: None,
        };
        if len == 0 || !top.has_bitmap() {
            top.touch();
            self.writes += 1;
            return Ok(BeginWrite::Ready(plan));
        }
        let blocks = offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        let (first_held, last_held, all_held) = top.held(&self.stack.files, blocks.clone())?;
        if all_held {
            self.writes += 1;
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
            // A part of a block lies in one layer or in one chunk, so in one place.
            let len = range.end - range.start;
            *fill = Some(Fill {
                from: self.stack.locate(range.clone(), number)?.place,
                to_offset: within + range.start - offset,
                len,
            });
        }
        if let Some(top) = self.stack.layers.last_mut() {
            top.touch();
        }
        self.writes += 1;
        self.in_flight.push(blocks.clone());
        plan.blocks = Some(blocks);
        Ok(BeginWrite::Ready(plan))
    }

    /// Ends the write of `plan`: when `written`, its blocks are read from the overlay from now on,
    /// and the next flush makes that durable.
    pub fn end_write(&mut self, plan: WritePlan, written: bool) {
        self.writes = self.writes.saturating_sub(1);
        if let Some(blocks) = &plan.blocks
            && let Some(position) = self.in_flight.iter().position(|it| it == blocks)
        {
            self.in_flight.swap_remove(position);
        }
        if let Some(top) = self.stack.layers.last_mut() {
            // Of a write that failed some bytes may have been written, to blocks held before.
            top.wrote(plan.file);
            if let Some(blocks) = plan.blocks.filter(|_| written) {
                top.hold(blocks);
            }
        }
        self.trim();
    }

    /// Says what must happen before the writes that have ended by now are durable.
    /// One flush at a time: end it before the next begins. None of a volume that has lost writes,
    /// whose bitmaps would vouch for them.
    pub fn begin_flush(&mut self) -> FlushPlan {
        let mut plan = FlushPlan {
            once: std::mem::take(&mut self.once),
            data: Vec::new(),
            pages: Vec::new(),
            bitmaps: Vec::new(),
        };
        for layer in &mut self.stack.layers {
            layer.begin_flush(&mut plan);
        }
        plan
    }

    /// Ends the flush of `plan`; what was not `synced` is tried again by the next one.
    pub fn end_flush(&mut self, mut plan: FlushPlan, synced: bool) {
        for layer in &mut self.stack.layers {
            layer.end_flush(&plan, synced);
        }
        if !synced {
            // A layer may have been begun meanwhile.
            plan.once.append(&mut self.once);
            self.once = plan.once;
        }
    }

    /// Takes note that the sync of a file of a flush plan's `once` or `data` failed, for whatever
    /// reason: the host has dropped what it could not write, and a later sync that succeeds says
    /// nothing of that (`fsync(2)`, "Notes"). Until the volume is opened again no flush succeeds.
    /// A bitmap's own sync is another thing: its pages are written again by the next flush.
    ///
    /// What the host has left of the overlays in memory goes on serving whoever reads this volume: its bitmap vouches
    /// for that, so that no reader sees anything but what was written. It is forgotten when this is dropped, and who
    /// opens the volume next reads what is on the disk. A process that is killed before forgets nothing: until the
    /// host needs its memory or reboots, the next one may read, and flush with success, what the disk never got. The
    /// kernel tells it no more than this of any file whose sync failed.
    pub fn lose_writes(&mut self) {
        self.has_lost_writes = true;
    }

    /// Whether [`Volume::lose_writes`] was called.
    pub fn has_lost_writes(&self) -> bool {
        self.has_lost_writes
    }

    /// Flushes, waiting for the disk: for a volume that no device drives.
    ///
    /// # Errors
    /// [`Error::Sync`]; [`Error::LostWrites`]
    pub fn sync(&mut self) -> Result<(), Error> {
        if self.has_lost_writes {
            return Err(Error::LostWrites);
        }
        let plan = self.begin_flush();
        let files = &self.stack.files;
        let sync_data = || {
            let mut once = plan.once.iter();
            once.try_for_each(|it| files.file(*it).sync_all())?;
            let mut data = plan.data.iter();
            data.try_for_each(|it| files.file(*it).sync_data())
        };
        let sync_bitmaps = || {
            for page in &plan.pages {
                let file = files.file(page.file);
                file.write_all_at(&page.bytes[..], page.offset)?;
            }
            let mut bitmaps = plan.bitmaps.iter();
            bitmaps.try_for_each(|it| files.file(*it).sync_data())
        };
        let data = sync_data();
        let has_lost_writes = data.is_err();
        let result = data.and_then(|()| sync_bitmaps());
        self.end_flush(plan, result.is_ok());
        if has_lost_writes {
            self.lose_writes();
        }
        result.map_err(|source| match &self.home {
            Some(home) => Error::Sync {
                id: home.id,
                source,
            },
            None => Error::NoStore,
        })
    }

    /// Has later writes go to a new layer on top, and returns its number: what lies below it stays
    /// as it is. Where nothing was written since the last time, the top layer is still that one.
    /// Syncs nothing; the new layer's files are durable, and what was written before is in the
    /// files that [`VolumeFiles::frozen`] reads, after the next flush.
    ///
    /// # Errors
    /// [`Error::Busy`] while a write has not ended; [`Error::TooManyLayers`]; [`Error::NoStore`];
    /// [`Error::Files`] where the layer's files cannot be made. All is as before then.
    pub fn freeze(&mut self) -> Result<u32, Error> {
        let (Some(home), Some(top)) = (&self.home, self.stack.layers.last()) else {
            return Err(Error::NoStore);
        };
        if self.writes > 0 {
            return Err(Error::Busy { id: home.id });
        }
        let is_lowest = self.stack.layers.len() == 1;
        if top.is_fresh() && !is_lowest {
            return Ok(top.number);
        }
        if self.stack.layers.len() >= MAX_LAYERS || top.number >= MAX_NUMBER {
            return Err(Error::TooManyLayers { id: home.id });
        }
        let number = top.number + 1;
        let layer = home.begin_layer(number, self.size_bytes, &mut self.stack.files)?;
        if self.is_direct
            && let Err(error) = direct::bypass_cache(&mut self.stack.files, layer.overlay())
        {
            // Its files are those of a layer that no flush reached: the next one takes their place.
            let files = layer.files();
            files.for_each(|it| self.stack.files.close(it, home.folder));
            return Err(error);
        }
        self.once.extend(layer.files());
        self.once.push(home.folder);
        self.stack.layers.push(layer);
        Ok(number)
    }

    /// Has the volume stand on `snapshot` instead of the layers below `layer`, whose content it must
    /// be. Closes the files of those, so nothing may be under way on the volume, a flush
    /// included. Where the lowest layer is that one already, nothing happens.
    ///
    /// # Errors
    /// [`Error::Busy`]; [`Error::NoSuchLayer`]; [`Error::NoStore`]; [`Error::BelowSnapshot`] and
    /// [`Error::Files`] where the snapshot's table does not fit or cannot be opened. All is as
    /// before then.
    pub fn rebase(&mut self, snapshot: &SnapshotId, layer: u32) -> Result<(), Error> {
        let Some(home) = &self.home else {
            return Err(Error::NoStore);
        };
        if self.writes > 0 {
            return Err(Error::Busy { id: home.id });
        }
        let layers = &mut self.stack.layers;
        let Some(position) = layers.iter().position(|it| it.number == layer) else {
            return Err(Error::NoSuchLayer { id: home.id, layer });
        };
        if position == 0 {
            return Ok(());
        }
        let base = home.base(self.size_bytes, snapshot)?;
        let gone: Vec<_> = layers.drain(..position).collect();
        let old = self.stack.base.replace(base);
        let files = gone.iter().flat_map(Layer::files);
        for file in files.chain(old.into_iter().flat_map(base::Base::into_files)) {
            self.once.retain(|it| *it != file);
            self.stack.files.close(file, home.folder);
        }
        Ok(())
    }

    fn trim(&mut self) {
        let (top, below) = match self.stack.layers.split_last_mut() {
            Some(it) => it,
            None => return,
        };
        below.iter_mut().for_each(Layer::trim);
        if self.in_flight.is_empty() {
            top.trim();
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
        if !self.has_lost_writes {
            return;
        }
        for file in self.stack.layers.iter().flat_map(Layer::overlay) {
            let file = self.stack.files.file(file);
            // Advice: nothing hangs on it but how long the next reader is deceived.
            let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
        }
    }
}

#[cfg(test)]
mod tests;
