//! Snapshots: the immutable content that volumes start from, as files (`FORMAT.md`).
//!
//! A snapshot is a table in `snapshots/` whose entries name chunks in `segments/`. Writing one makes
//! files that are complete, checked and durable, and that vanish again unless they are kept: the
//! catalogue commits in between. Which snapshots exist is the catalogue's knowledge, not this
//! module's, and so is which segments they need.

mod store;
mod sweep;
mod verify;

pub(crate) use sweep::sweep_folder;

use crate::chunk::pending::{PendingFile, sync_folder};
use crate::chunk::segment::{self, NewSegment, SegmentWriter};
use crate::chunk::table::{self, TableWriter};
use crate::chunk::{self, ChunkIndex, ChunkPlace, StoredChunk};
use crate::format::{self, Source};
use crate::id::SnapshotId;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What goes wrong with snapshots.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk file that is imported.
    #[error(transparent)]
    Source(#[from] format::Error),
    /// The store's own files.
    #[error(transparent)]
    Files(#[from] chunk::Error),
    #[error("cannot look up stored chunks")]
    Index(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(
        "what was written to segment {:016x} at byte {} does not read back",
        place.segment, place.offset
    )]
    Verify { place: ChunkPlace },
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// Whoever was told the progress answered to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Which half of writing a snapshot goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The disk is read and what is new of it is written.
    Store,
    /// What was written is read back and compared.
    Verify,
}

/// Told how far writing a snapshot has come; `Break` ends it with [`Error::Interrupted`].
pub type Report<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// How far writing a snapshot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    /// Bytes of the disk while storing, bytes to read back while verifying.
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// The snapshot files of a store.
#[derive(Clone, Debug)]
pub struct SnapshotFiles {
    snapshots: PathBuf,
    segments: PathBuf,
    max_slots: NonZero<u64>,
}

/// A snapshot whose files are complete and durable. Dropped without [`Written::keep`], they are
/// deleted; until then they are locked against [`SnapshotFiles::sweep`].
#[derive(Debug)]
#[must_use = "dropping it deletes the snapshot"]
pub struct Written {
    /// The size of the snapshot.
    pub size_bytes: u64,
    /// The bytes that it added to the store's segments: its new chunks without their zero pages.
    pub stored_bytes: u64,
    /// The chunks that it added.
    pub chunks: Vec<StoredChunk>,
    table: PendingFile,
    segments: Vec<NewSegment>,
}

impl Written {
    /// Leaves the files in place: the catalogue names them now.
    pub fn keep(mut self) {
        self.table.keep();
        for segment in &mut self.segments {
            segment.pending.keep();
        }
    }
}

impl SnapshotFiles {
    /// The snapshot files of the store at `home`. Touches nothing.
    pub fn new(home: &Path) -> Self {
        Self {
            snapshots: home.join("snapshots"),
            segments: home.join("segments"),
            max_slots: NonZero::new(segment::MAX_SLOTS).unwrap_or(NonZero::<u64>::MIN),
        }
    }

    /// Writes the disk of `source` as snapshot `id`, sharing the chunks that `index` finds and
    /// those that come more than once, then reads back what is new.
    ///
    /// # Errors
    /// Every kind of [`Error`]; nothing is left then, nor is after a kill, but for what
    /// [`SnapshotFiles::sweep`] deletes.
    pub fn write(
        &self,
        id: &SnapshotId,
        source: &mut Source,
        index: &dyn ChunkIndex,
        progress: &mut Report<'_>,
    ) -> Result<Written, Error> {
        let create = |source| chunk::Error::io("create a table in", &self.snapshots, source);
        for folder in [&self.snapshots, &self.segments] {
            std::fs::create_dir_all(folder)
                .map_err(|source| chunk::Error::io("create", folder, source))?;
        }
        let table_file = PendingFile::create(&self.snapshots).map_err(create)?;
        let size_bytes = source.size_bytes();
        let table = TableWriter::new(table_file.file(), &self.snapshots, id, size_bytes)?;
        let segments = SegmentWriter::new(self.segments.clone(), self.max_slots);

        let stored = store::store(source, index, table, segments, progress)?;
        let mut written = Written {
            size_bytes,
            stored_bytes: stored.bytes,
            chunks: stored.chunks,
            table: table_file,
            segments: stored.segments,
        };
        verify::verify(self, id, &written, progress)?;
        self.publish(id, &mut written)?;
        Ok(written)
    }

    /// Names the files, segments first, and makes the names durable.
    fn publish(&self, id: &SnapshotId, written: &mut Written) -> Result<(), Error> {
        for segment in &mut written.segments {
            segment.publish(&self.segments)?;
        }
        if !written.segments.is_empty() {
            self.sync(&self.segments)?;
        }
        let path = table::path(&self.snapshots, id);
        written
            .table
            .publish(path.clone())
            .map_err(|source| chunk::Error::io("name", &path, source))?;
        self.sync(&self.snapshots)
    }

    fn sync(&self, folder: &Path) -> Result<(), Error> {
        sync_folder(folder).map_err(|source| chunk::Error::io("sync", folder, source).into())
    }
}

#[cfg(test)]
mod tests;
