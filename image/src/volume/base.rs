//! What the lowest layer of a volume stands on: the snapshot's table and its segments.

use super::Error;
use super::plan::{Extent, FileIndex, Place};
use super::stack::Files;
use crate::chunk::segment::Segment;
use crate::chunk::table::Table;
use crate::chunk::{self, CHUNK_BYTES, ChunkPlace};
use std::collections::HashMap;
use std::path::PathBuf;

/// Segment files that one volume opens, at most. An import or a snapshot makes one for each TiB of
/// new content; of a volume's snapshots each takes over 128 at most from the one before.
pub(super) const MAX_SEGMENTS: usize = 4096;

#[derive(Debug)]
pub(super) struct Base {
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
    pub(super) fn new(table: Table, folder: PathBuf) -> Self {
        Self {
            table,
            folder,
            segments: HashMap::new(),
        }
    }

    /// Where the snapshot has the bytes from `offset` on: at most `len` of them, and some.
    pub(super) fn extent(
        &mut self,
        files: &mut Files,
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

    /// The files that this has opened.
    pub(super) fn into_files(self) -> impl Iterator<Item = FileIndex> {
        self.segments.into_values().map(|segment| segment.file)
    }

    /// The open file of the segment that holds `place`.
    fn segment(&mut self, files: &mut Files, place: ChunkPlace) -> Result<FileIndex, Error> {
        let open = match self.segments.get(&place.segment) {
            Some(open) => open,
            None => {
                if self.segments.len() >= MAX_SEGMENTS {
                    return Err(Error::TooManySegments);
                }
                let segment = Segment::open(&self.folder, place.segment)?;
                let (file, len) = segment.into_file();
                let file = files.add(file);
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
