//! Reads back what an import has written while the disk takes it.
//!
//! The bytes come from the page cache for the most part, so this proves the store's own work: places,
//! lengths, digests, the table. That the medium has them is `fsync`'s word, whose errors are heeded;
//! bytes that it damages later are found by their digests.

use super::{Error, Phase, Progress, Report, SnapshotFiles, Written};
use crate::chunk::segment::NewSegment;
use crate::chunk::table::{self, Table};
use crate::chunk::{self, CHUNK_BYTES, CHUNK_LEN, Digest, StoredChunk};
use crate::id::SnapshotId;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

const READERS: usize = 2;

pub(super) fn verify(
    files: &SnapshotFiles,
    id: &SnapshotId,
    written: &Written,
    progress: &mut Report<'_>,
) -> Result<(), Error> {
    let path = table::path(&files.snapshots, id);
    let table = written.table.file().try_clone();
    let table = table.map_err(|source| chunk::Error::io("open", &path, source))?;
    Table::from_file(table, path, id)?.check()?;

    let total_bytes = written.chunks.len() as u64 * CHUNK_BYTES;
    let mut done_bytes = 0;
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (report, results) = channel();
        for number in 0..READERS {
            let (report, next) = (report.clone(), &next);
            std::thread::Builder::new()
                .name(format!("verify-{number}"))
                .spawn_scoped(scope, move || read_back(files, written, next, &report))
                .map_err(Error::Thread)?;
        }
        drop(report);
        let syncing = std::thread::Builder::new()
            .name("sync".to_owned())
            .spawn_scoped(scope, || sync(files, &written.segments))
            .map_err(Error::Thread)?;
        for result in results {
            result?;
            done_bytes += CHUNK_BYTES;
            let answer = progress(Progress {
                phase: Phase::Verify,
                done_bytes,
                total_bytes,
            });
            if answer.is_break() {
                return Err(Error::Interrupted);
            }
        }
        syncing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Compares one new chunk after the other with its digest, as long as somebody listens.
fn read_back(
    files: &SnapshotFiles,
    written: &Written,
    next: &AtomicUsize,
    report: &Sender<Result<(), Error>>,
) {
    let mut buffer = vec![0; CHUNK_LEN];
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(chunk) = written.chunks.get(number) else {
            return;
        };
        let result = compare(files, written, chunk, &mut buffer);
        let failed = result.is_err();
        if report.send(result).is_err() || failed {
            return;
        }
    }
}

fn compare(
    files: &SnapshotFiles,
    written: &Written,
    chunk: &StoredChunk,
    buffer: &mut [u8],
) -> Result<(), Error> {
    let place = chunk.place;
    let segment = written.segments.iter().find(|it| it.id == place.segment);
    let file: &File = segment
        .map(|it| it.pending.file())
        .ok_or(Error::Verify { place })?;
    file.read_exact_at(buffer, place.offset).map_err(|source| {
        let path = chunk::segment::path(&files.segments, place.segment);
        chunk::Error::io("read back", &path, source)
    })?;
    if Digest::of(buffer) != chunk.digest {
        return Err(Error::Verify { place });
    }
    Ok(())
}

fn sync(files: &SnapshotFiles, segments: &[NewSegment]) -> Result<(), Error> {
    for segment in segments {
        segment.pending.file().sync_all().map_err(|source| {
            chunk::Error::io(
                "sync",
                &chunk::segment::path(&files.segments, segment.id),
                source,
            )
        })?;
    }
    Ok(())
}
