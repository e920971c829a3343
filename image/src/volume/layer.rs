//! One layer of a volume: an overlay and, where there is anything below it, a bitmap of the blocks
//! that the overlay holds.

use super::Error;
use super::bitmap::Bitmap;
use super::plan::{BLOCK_BYTES, FileIndex, FlushPlan};
use super::stack::Files;
use std::ops::Range;

#[derive(Debug)]
pub(super) struct Layer {
    pub(super) number: u32,
    /// The files of the overlay: each holds `part_bytes` bytes of the volume, the last one the rest.
    parts: Vec<Part>,
    part_bytes: u64,
    /// The size that the volume has, or had when the layer above was begun.
    len_bytes: u64,
    bitmap: Option<(Bitmap, FileIndex)>,
    /// No write has touched it yet.
    is_fresh: bool,
}

/// A file of the overlay.
#[derive(Debug)]
struct Part {
    file: FileIndex,
    /// Whether it was written since a flush began.
    written: bool,
}

/// Where a byte of an overlay is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub(super) file: FileIndex,
    /// The byte's offset there.
    pub(super) offset: u64,
    /// Where in the volume the file's bytes end.
    pub(super) end: u64,
}

impl Layer {
    /// A layer that holds every byte unless it is given a bitmap.
    pub(super) fn new(
        number: u32,
        overlay: impl IntoIterator<Item = FileIndex>,
        (part_bytes, len_bytes): (u64, u64),
    ) -> Self {
        let written = false;
        Self {
            number,
            parts: overlay
                .into_iter()
                .map(|file| Part { file, written })
                .collect(),
            part_bytes,
            len_bytes,
            bitmap: None,
            is_fresh: false,
        }
    }

    pub(super) fn with_bitmap(mut self, bitmap: Bitmap, file: FileIndex) -> Self {
        self.bitmap = Some((bitmap, file));
        self
    }

    /// Says that nothing was ever written to it.
    pub(super) fn fresh(mut self) -> Self {
        self.is_fresh = true;
        self
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// The size that the volume has, or had when the layer above was begun.
    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    pub(super) fn has_bitmap(&self) -> bool {
        self.bitmap.is_some()
    }

    pub(super) fn bitmap(&self) -> Option<(&Bitmap, FileIndex)> {
        self.bitmap.as_ref().map(|(bitmap, file)| (bitmap, *file))
    }

    /// The files of the overlay, in order.
    pub(super) fn overlay(&self) -> impl Iterator<Item = FileIndex> {
        self.parts.iter().map(|part| part.file)
    }

    /// All its files.
    pub(super) fn files(&self) -> impl Iterator<Item = FileIndex> {
        let bitmap = self.bitmap.iter().map(|(_, file)| *file);
        bitmap.chain(self.overlay())
    }

    /// Whether the overlay holds the first of `bytes`, and where the run of bytes of which the same
    /// is true ends. The range is not empty.
    pub(super) fn run(&mut self, files: &Files, bytes: Range<u64>) -> Result<(bool, u64), Error> {
        let Some((bitmap, file)) = &mut self.bitmap else {
            // The last block is held whole: past the file's end it is zeroes.
            let end = self.len_bytes.checked_next_multiple_of(BLOCK_BYTES);
            let end = end.unwrap_or(u64::MAX);
            return Ok(match bytes.start < end {
                true => (true, bytes.end.min(end)),
                false => (false, bytes.end),
            });
        };
        let blocks = bytes.start / BLOCK_BYTES..bytes.end.div_ceil(BLOCK_BYTES);
        let (held, end) = bitmap.run(files.file(*file), blocks)?;
        Ok((held, (end * BLOCK_BYTES).min(bytes.end)))
    }

    /// Whether the overlay holds the first, the last and all of `blocks`, which are not none.
    pub(super) fn held(
        &mut self,
        files: &Files,
        blocks: Range<u64>,
    ) -> Result<(bool, bool, bool), Error> {
        let Some((bitmap, file)) = &mut self.bitmap else {
            return Ok((true, true, true));
        };
        let file = files.file(*file);
        let (first, mut at) = bitmap.run(file, blocks.clone())?;
        let (mut last, mut all) = (first, first);
        while at < blocks.end {
            (last, at) = bitmap.run(file, at..blocks.end)?;
            all &= last;
        }
        Ok((first, last, all))
    }

    /// Where the overlay has the byte at `offset`; nowhere where the layer ends before.
    pub(super) fn spot(&self, offset: u64) -> Option<Spot> {
        let number = offset / self.part_bytes;
        let part = self.parts.get(usize::try_from(number).ok()?)?;
        let start = number * self.part_bytes;
        Some(Spot {
            file: part.file,
            offset: offset - start,
            end: start.saturating_add(self.part_bytes),
        })
    }

    /// A write to it has begun.
    pub(super) fn touch(&mut self) {
        self.is_fresh = false;
    }

    /// Has the overlay hold `blocks`, which [`Layer::held`] was asked about.
    pub(super) fn hold(&mut self, blocks: Range<u64>) {
        if let Some((bitmap, _)) = &mut self.bitmap {
            bitmap.set(blocks);
        }
    }

    /// Some bytes of `file` may have been written.
    pub(super) fn wrote(&mut self, file: FileIndex) {
        if let Some(part) = self.parts.iter_mut().find(|part| part.file == file) {
            part.written = true;
        }
    }

    /// Adds what a flush must do for this layer.
    pub(super) fn begin_flush(&mut self, plan: &mut FlushPlan) {
        for part in self.parts.iter_mut().filter(|part| part.written) {
            part.written = false;
            plan.data.push(part.file);
        }
        if let Some((bitmap, file)) = &mut self.bitmap {
            let pages = bitmap.begin_flush(*file);
            if !pages.is_empty() {
                plan.bitmaps.push(*file);
                plan.pages.extend(pages);
            }
        }
    }

    pub(super) fn end_flush(&mut self, plan: &FlushPlan, synced: bool) {
        if let Some((bitmap, _)) = &mut self.bitmap {
            bitmap.end_flush(synced);
        }
        for part in self.parts.iter_mut().filter(|_| !synced) {
            part.written |= plan.data.contains(&part.file);
        }
    }

    /// Drops what is on disk too from memory. Not while a write of this layer is under way.
    pub(super) fn trim(&mut self) {
        if let Some((bitmap, _)) = &mut self.bitmap {
            bitmap.trim();
        }
    }
}
