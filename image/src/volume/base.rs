//! What a volume with a snapshot stands on: the bitmap, the snapshot's table and its segments.

use super::bitmap::Bitmap;
use super::plan::{BLOCK_BYTES, BitmapPage, Extent, FileIndex, Place};
use super::{Error, add};
use crate::chunk::segment::Segment;
use crate::chunk::table::Table;
use crate::chunk::{self, CHUNK_BYTES, ChunkPlace};
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

/// Segment files that one volume opens, at most. An import makes one for each TiB of new
/// content, so a snapshot lies in as many as imports that it shares chunks with.
pub(super) const MAX_SEGMENTS: usize = 4096;

#[derive(Debug)]
pub(super) struct Base {
    bitmap: Bitmap,
    bitmap_file: FileIndex,
    table: Table,
    /// The folder of the segments.
    folder: PathBuf,
    /// Those that are open, by id; a segment is opened when a chunk of it is first read.
    segments: HashMap<u64, OpenSegment>,
}

#[derive(Debug)]
struct OpenSegment {
    file: FileIndex,
    /// The size of the file.
    len: u64,
}

impl Base {
    pub(super) fn new(
        bitmap: Bitmap,
        bitmap_file: FileIndex,
        table: Table,
        folder: PathBuf,
    ) -> Self {
        Self {
            bitmap,
            bitmap_file,
            table,
            folder,
            segments: HashMap::new(),
        }
    }

    /// Whether the overlay holds the first of `bytes`, and where the run of bytes of which the same
    /// is true ends. The range is not empty.
    pub(super) fn run(&mut self, files: &[File], bytes: Range<u64>) -> Result<(bool, u64), Error> {
        let blocks = bytes.start / BLOCK_BYTES..bytes.end.div_ceil(BLOCK_BYTES);
        let (held, end) = self.bitmap.run(file(files, self.bitmap_file), blocks)?;
        Ok((held, (end * BLOCK_BYTES).min(bytes.end)))
    }

    /// Whether the overlay holds the first, the last and all of `blocks`, which are not none.
    pub(super) fn held(
        &mut self,
        files: &[File],
        blocks: Range<u64>,
    ) -> Result<(bool, bool, bool), Error> {
        let file = file(files, self.bitmap_file);
        let (first, mut at) = self.bitmap.run(file, blocks.clone())?;
        let (mut last, mut all) = (first, first);
        while at < blocks.end {
            (last, at) = self.bitmap.run(file, at..blocks.end)?;
            all &= last;
        }
        Ok((first, last, all))
    }

    /// Has the overlay hold `blocks`, which [`Base::held`] was asked about.
    pub(super) fn hold(&mut self, blocks: Range<u64>) {
        self.bitmap.set(blocks);
    }

    /// Where the snapshot has the bytes from `offset` on: at most `len` of them, and some.
    pub(super) fn extent(
        &mut self,
        files: &mut Vec<File>,
        offset: u64,
        len: u64,
    ) -> Result<Extent, Error> {
        if offset >= self.table.size_bytes() {
            let place = Place::Zeroes;
            return Ok(Extent { len, place });
        }
        let within = offset % CHUNK_BYTES;
        let len = len.min(CHUNK_BYTES - within);
        let place = match self.table.chunk(offset / CHUNK_BYTES)? {
            None => Place::Zeroes,
            Some(chunk) => Place::File {
                file: self.segment(files, chunk.place)?,
                offset: chunk.place.offset + within,
            },
        };
        Ok(Extent { len, place })
    }

    pub(super) fn begin_flush(&mut self) -> (FileIndex, Vec<BitmapPage>) {
        (self.bitmap_file, self.bitmap.begin_flush())
    }

    pub(super) fn end_flush(&mut self, synced: bool) {
        self.bitmap.end_flush(synced);
    }

    pub(super) fn trim(&mut self) {
        self.bitmap.trim();
    }

    /// The open file of the segment that holds `place`.
    fn segment(&mut self, files: &mut Vec<File>, place: ChunkPlace) -> Result<FileIndex, Error> {
        let open = match self.segments.get(&place.segment) {
            Some(open) => open,
            None => {
                if self.segments.len() >= MAX_SEGMENTS {
                    return Err(Error::TooManySegments);
                }
                let segment = Segment::open(&self.folder, place.segment)?;
                let (file, len) = segment.into_file();
                let file = add(files, file);
                self.segments
                    .entry(place.segment)
                    .or_insert(OpenSegment { file, len })
            }
        };
        // A read beyond the file's end would give nothing rather than the chunk.
        if place
            .offset
            .checked_add(CHUNK_BYTES)
            .is_none_or(|end| end > open.len)
        {
            let path = chunk::segment::path(&self.folder, place.segment);
            return Err(chunk::Error::corrupt(&path, "it is truncated").into());
        }
        Ok(open.file)
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "indices are made by the volume and files are never removed"
)]
fn file(files: &[File], index: FileIndex) -> &File {
    &files[index.0 as usize]
}
