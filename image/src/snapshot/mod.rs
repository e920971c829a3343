//! Snapshots: the immutable content that volumes start from, as files (`FORMAT.md`).
//!
//! A snapshot is a table in `snapshots/` whose entries name chunks in `segments/`. Writing one makes
//! files that are complete, checked and durable, and that vanish again unless they are kept: the
//! catalogue commits in between. Which snapshots exist is the catalogue's knowledge, not this
//! module's, and so is which segments they need.

mod check;
mod hold;
mod reader;
mod store;
mod sweep;
mod verify;

use store::TakenOver;

pub(crate) use hold::Hold;
pub(crate) use sweep::{leftovers, sweep_folder};

use crate::chunk::pending::{self, PendingFile, sync_folder};
use crate::chunk::segment::{self, NewSegment, SegmentWriter, Slots};
use crate::chunk::table::{self, Table, TableWriter};
use crate::chunk::{self, CHUNK_BYTES, ChunkIndex, ChunkPlace, StoredChunk};
use crate::format::{self, Source};
use crate::id::SnapshotId;
use std::collections::{BTreeSet, HashMap};
use std::num::NonZero;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Ends the name of the file that is locked by who makes a snapshot of the volume it is named after.
pub(crate) const TURN_SUFFIX: &str = ".turn";

/// Segments that a snapshot takes chunks over from. Each snapshot of a volume writes one, so
/// without a limit a volume would have as many files open as it had snapshots made.
const MAX_SEGMENTS: usize = 128;

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
    #[error(
        "segment {:016x} is damaged: what it has at byte {} is not what was stored there",
        place.segment, place.offset
    )]
    Damaged { place: ChunkPlace },
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// The volume that is read.
    #[error("cannot read the volume")]
    Volume(#[source] Box<crate::volume::Error>),
    /// Whoever was told the progress answered to stop.
    #[error("interrupted")]
    Interrupted,
}

/// Which part of writing a snapshot goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Another snapshot of the same volume is being made.
    Wait,
    /// The disk is read and what is new of it is written.
    Store,
    /// What was written is read back and compared.
    Verify,
    /// A snapshot is copied out of the store.
    Export,
    /// Stored chunks are read and compared with their digests.
    Check,
}

/// Told how far writing a snapshot has come; `Break` ends it with [`Error::Interrupted`].
pub type Report<'a> = dyn FnMut(Progress) -> ControlFlow<()> + 'a;

/// How far writing a snapshot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    /// Bytes of the disk, or of what changed, while storing; bytes to read back while verifying.
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// What a snapshot is written from. Threads read it at the same time.
pub(crate) trait Disk: Sync {
    fn size_bytes(&self) -> u64;

    /// The first run of bytes from `offset` on that may hold something.
    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>, Error>;

    /// Reads the whole of `buffer`; what lies beyond the disk's end is zeroes.
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error>;

    /// What there is to do, for the progress.
    fn work_bytes(&self) -> u64 {
        self.size_bytes()
    }

    /// How much of it is done after the `number`th chunk with data, which is at `index`.
    fn done_bytes(&self, _number: u64, index: u64) -> u64 {
        ((index + 1) * CHUNK_BYTES).min(self.size_bytes())
    }
}

impl Disk for Source {
    fn size_bytes(&self) -> u64 {
        self.size_bytes()
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>, Error> {
        Ok(self.next_data(offset)?)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        Ok(self.read(offset, buffer)?)
    }
}

/// The snapshot files of a store.
#[derive(Clone, Debug)]
pub struct SnapshotFiles {
    snapshots: PathBuf,
    segments: PathBuf,
    max_slots: NonZero<u64>,
    /// A snapshot of a volume takes over chunks from so many segments at most.
    pub(crate) max_segments: usize,
}

/// What a snapshot of a volume takes over where the volume has not changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base<'a> {
    pub(crate) snapshot: &'a SnapshotId,
    /// In how many segments it has chunks.
    pub(crate) segments: usize,
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
    /// When writing it began.
    pub started: SystemTime,
    /// All of its chunks, in bytes.
    pub full_bytes: u64,
    /// The chunks that it added.
    pub chunks: Vec<StoredChunk>,
    /// Every segment that its table names.
    pub(crate) needs: BTreeSet<u64>,
    table: PendingFile,
    segments: Vec<NewSegment>,
    /// What it shares stays as long as this.
    _hold: Hold,
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
            max_segments: MAX_SEGMENTS,
        }
    }

    /// Where the tables are.
    pub(crate) fn folder(&self) -> &Path {
        &self.snapshots
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
        self.write_on(id, None, source, index, progress)
    }

    /// As [`SnapshotFiles::write`], of a disk that says only where it differs from the snapshot
    /// `base`, which is not larger and whose catalogue row stays meanwhile. Costs what has changed, and 64
    /// bytes for each chunk of the base; once in a while also what lies in its smallest segments.
    pub(crate) fn write_on(
        &self,
        id: &SnapshotId,
        base: Option<Base<'_>>,
        source: &dyn Disk,
        index: &dyn ChunkIndex,
        progress: &mut Report<'_>,
    ) -> Result<Written, Error> {
        std::fs::create_dir_all(&self.segments)
            .map_err(|source| chunk::Error::io("create", &self.segments, source))?;
        let hold = self.hold()?;
        let started = SystemTime::now();
        let create = |source| chunk::Error::io("create a table in", &self.snapshots, source);
        let table_file = PendingFile::create(&self.snapshots).map_err(create)?;
        let size_bytes = source.size_bytes();
        let table = TableWriter::new(table_file.file(), &self.snapshots, id, size_bytes)?;
        let segments = SegmentWriter::new(self.segments.clone(), self.max_slots);
        let taken_over = base.map(|base| self.take_over(base)).transpose()?;
        let taken_over = taken_over.as_ref().map(|(table, leave)| TakenOver {
            entries: table.entries(),
            leave,
            chunks: self.chunks(),
        });
        let stored = store::store(source, taken_over, index, (table, segments), progress)?;
        let mut written = Written {
            size_bytes,
            stored_bytes: stored.bytes,
            started,
            full_bytes: stored.totals.stored_chunks * CHUNK_BYTES,
            chunks: stored.chunks,
            needs: stored.totals.segments,
            table: table_file,
            segments: stored.segments,
            _hold: hold,
        };
        verify::verify(self, id, &written, progress)?;
        self.publish(id, &mut written)?;
        Ok(written)
    }

    /// Calls `each` with every place that the snapshot's table names.
    pub(crate) fn each_place(
        &self,
        id: &SnapshotId,
        each: &mut dyn FnMut(ChunkPlace),
    ) -> Result<(), Error> {
        let table = Table::open(&self.snapshots, id)?;
        for entry in table.entries() {
            each(entry?.1.place);
        }
        Ok(())
    }

    /// Whether some process has the snapshot's table open: a volume, most likely.
    pub(crate) fn is_read(&self, id: &SnapshotId) -> Result<bool, Error> {
        let path = table::path(&self.snapshots, id);
        let failed = |source| chunk::Error::io("lock", &path, source);
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed(error).into()),
        };
        let is_free = pending::lock(&file).map_err(failed)?;
        pending::unlock(&file);
        Ok(!is_free)
    }

    /// Deletes the table of a snapshot that nothing names; one that is missing is no error.
    pub(crate) fn delete_table(&self, id: &SnapshotId) -> Result<(), Error> {
        delete(&table::path(&self.snapshots, id))
    }

    /// As [`SnapshotFiles::delete_table`], of a segment.
    pub(crate) fn delete_segment(&self, segment: u64) -> Result<(), Error> {
        delete(&segment::path(&self.segments, segment))
    }

    /// Frees what the segment has outside the slots `used`.
    pub(crate) fn punch_segment(&self, segment: u64, used: &Slots) -> Result<(), Error> {
        Ok(segment::punch(&self.segments, segment, used)?)
    }

    /// The base's table, and the segments that its chunks are copied from instead of being shared.
    fn take_over(&self, base: Base<'_>) -> Result<(Table, BTreeSet<u64>), Error> {
        let table = Table::open(&self.snapshots, base.snapshot)?;
        if base.segments <= self.max_segments {
            return Ok((table, BTreeSet::new()));
        }
        let mut chunks: HashMap<u64, u64> = HashMap::new();
        for entry in table.entries() {
            *chunks.entry(entry?.1.place.segment).or_default() += 1;
        }
        // The smallest, and half of the limit: the next snapshots have room again.
        let mut segments: Vec<_> = chunks.into_iter().collect();
        segments.sort_unstable_by_key(|(segment, chunks)| (*chunks, *segment));
        let leave = segments.len().saturating_sub(self.max_segments / 2);
        let leave = segments.into_iter().take(leave).map(|it| it.0).collect();
        Ok((table, leave))
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

fn delete(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(chunk::Error::io("delete", path, source).into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
