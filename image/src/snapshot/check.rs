//! Compares stored chunks with their digests, and finds files that nothing names.

use super::reader::ChunkReader;
use super::{Error, Phase, Progress, Report, SnapshotFiles};
use crate::chunk::segment::Segment;
use crate::chunk::table::{self, Table};
use crate::chunk::{CHUNK_BYTES, CHUNK_LEN, ChunkPlace, StoredChunk, segment};
use crate::id::SnapshotId;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

const READERS: usize = 2;

impl SnapshotFiles {
    /// The path of a snapshot's table.
    pub(crate) fn table_path(&self, id: &SnapshotId) -> PathBuf {
        table::path(&self.snapshots, id)
    }

    /// The path of a segment.
    pub(crate) fn segment_path(&self, segment: u64) -> PathBuf {
        segment::path(&self.segments, segment)
    }

    /// Reads the whole table and compares it with itself.
    pub(crate) fn check_table(&self, id: &SnapshotId) -> Result<Table, Error> {
        let table = Table::open(&self.snapshots, id)?;
        table.check()?;
        Ok(table)
    }

    /// Opens the segment and checks its header.
    pub(crate) fn check_segment(&self, segment: u64) -> Result<(), Error> {
        Ok(Segment::open(&self.segments, segment).map(drop)?)
    }

    /// Reads all of `chunks` and returns the places of those that cannot be read or are not what
    /// was stored there, in order, each with what is wrong.
    ///
    /// # Errors
    /// [`Error::Interrupted`], [`Error::Thread`]
    pub(crate) fn check_chunks(
        &self,
        chunks: &[StoredChunk],
        progress: &mut Report<'_>,
    ) -> Result<Vec<(ChunkPlace, Error)>, Error> {
        let total_bytes = chunks.len() as u64 * CHUNK_BYTES;
        let mut done_bytes = 0;
        let mut damaged = Vec::new();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let (report, results) = channel();
            for number in 0..READERS {
                let (report, next, reader) = (report.clone(), &next, self.chunks());
                std::thread::Builder::new()
                    .name(format!("check-{number}"))
                    .spawn_scoped(scope, move || check(chunks, reader, next, &report))
                    .map_err(Error::Thread)?;
            }
            drop(report);
            for (place, result) in results {
                if let Err(error) = result {
                    damaged.push((place, error));
                }
                done_bytes += CHUNK_BYTES;
                let answer = progress(Progress {
                    phase: Phase::Check,
                    done_bytes,
                    total_bytes,
                });
                if answer.is_break() {
                    return Err(Error::Interrupted);
                }
            }
            Ok(())
        })?;
        damaged.sort_by_key(|(place, _)| *place);
        Ok(damaged)
    }
}

/// Checks one chunk after the other, as long as somebody listens.
fn check(
    chunks: &[StoredChunk],
    mut reader: ChunkReader,
    next: &AtomicUsize,
    report: &Sender<(ChunkPlace, Result<(), Error>)>,
) {
    let mut buffer = vec![0; CHUNK_LEN];
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(chunk) = chunks.get(number) else {
            return;
        };
        let result = reader.read(chunk, &mut buffer);
        if report.send((chunk.place, result)).is_err() {
            return;
        }
    }
}
