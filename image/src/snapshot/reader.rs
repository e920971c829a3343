//! Reading a snapshot, chunk by chunk, each compared with its digest.

use super::{Error, SnapshotFiles};
use crate::chunk::segment::{self, Segment};
use crate::chunk::table::{Entries, Table};
use crate::chunk::{self, ChunkPlace, Digest, StoredChunk};
use crate::id::SnapshotId;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A snapshot open for reading. Whoever has one holds [`super::Hold`].
#[derive(Debug)]
pub(crate) struct Reader {
    table: Table,
    chunks: ChunkReader,
}

impl SnapshotFiles {
    pub(crate) fn read(&self, id: &SnapshotId) -> Result<Reader, Error> {
        Ok(Reader {
            table: Table::open(&self.snapshots, id)?,
            chunks: self.chunks(),
        })
    }

    /// Reads chunks by their place.
    pub(crate) fn chunks(&self) -> ChunkReader {
        ChunkReader {
            folder: self.segments.clone(),
            open: HashMap::new(),
        }
    }
}

impl Reader {
    pub(crate) fn size_bytes(&self) -> u64 {
        self.table.size_bytes()
    }

    pub(crate) fn stored_chunks(&self) -> u64 {
        self.table.stored_chunks()
    }

    /// The stored chunks, and what reads them.
    pub(crate) fn split(&mut self) -> (Entries<'_>, &mut ChunkReader) {
        (self.table.entries(), &mut self.chunks)
    }
}

/// Segments that are open for reading.
#[derive(Debug)]
pub(crate) struct ChunkReader {
    folder: PathBuf,
    open: HashMap<u64, File>,
}

impl ChunkReader {
    /// Reads a chunk into `buffer`, which is as long.
    ///
    /// # Errors
    /// [`Error::Files`] where it cannot be read; [`Error::Damaged`] where it is not what its digest
    /// says.
    pub(crate) fn read(&mut self, chunk: &StoredChunk, buffer: &mut [u8]) -> Result<(), Error> {
        let StoredChunk { digest, place } = *chunk;
        let ChunkPlace { segment, offset } = place;
        let file = match self.open.entry(segment) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(Segment::open(&self.folder, segment)?.into_file().0)
            }
        };
        file.read_exact_at(buffer, offset).map_err(|source| {
            chunk::Error::io("read", &segment::path(&self.folder, segment), source)
        })?;
        match Digest::of(buffer) == digest {
            true => Ok(()),
            false => Err(Error::Damaged { place }),
        }
    }
}
