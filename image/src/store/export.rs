//! Snapshots out of the store: exported to disk files, and compared with each other.

use std::ops::ControlFlow;
use std::path::Path;

use super::{Error, Store};
use crate::chunk::table::Entries;
use crate::chunk::{CHUNK_BYTES, CHUNK_LEN, Digest, StoredChunk};
use crate::export::{self, Format};
use crate::id::SnapshotId;
use crate::snapshot::{self, Phase, Progress};

/// A chunk that two snapshots differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangedBlock {
    /// Its place on the disk, counted in chunks of [`CHUNK_BYTES`].
    pub index: u64,
    /// What the first snapshot has there; none where that is zeroes.
    pub first: Option<Digest>,
    pub second: Option<Digest>,
}

impl Store {
    /// The chunks that two snapshots differ in, ascending: ListChangedBlocks. Unlike there, they need
    /// not be of one volume.
    ///
    /// # Errors
    /// [`Error::SnapshotNotFound`]; [`Error::Snapshot`] where a table is damaged.
    pub fn changed_blocks(
        &self,
        first: &SnapshotId,
        second: &SnapshotId,
    ) -> Result<Vec<ChangedBlock>, Error> {
        let _hold = self.snapshots.hold()?;
        let open = |id: &SnapshotId| {
            self.snapshot(&id.to_string())?;
            Ok::<_, Error>(self.snapshots.read(id)?)
        };
        let (mut first, mut second) = (open(first)?, open(second)?);
        let (mut first, mut second) = (first.split().0, second.split().0);
        let next = |entries: &mut Entries<'_>| {
            let entry = entries.next().transpose();
            Ok::<_, Error>(entry.map_err(snapshot::Error::Files)?)
        };
        let (mut left, mut right) = (next(&mut first)?, next(&mut second)?);
        let mut changed = Vec::new();
        loop {
            let at = |entry: &Option<(u64, StoredChunk)>| entry.as_ref().map(|(index, _)| *index);
            let Some(index) = at(&left).into_iter().chain(at(&right)).min() else {
                return Ok(changed);
            };
            let here = |entry: &Option<(u64, StoredChunk)>| {
                entry.filter(|it| it.0 == index).map(|it| it.1.digest)
            };
            let block = ChangedBlock {
                index,
                first: here(&left),
                second: here(&right),
            };
            if block.first.is_some() {
                left = next(&mut first)?;
            }
            if block.second.is_some() {
                right = next(&mut second)?;
            }
            if block.first != block.second {
                changed.push(block);
            }
        }
    }

    /// Writes the disk of a snapshot to a file, which appears when it is complete; every chunk is
    /// compared with its digest on the way.
    ///
    /// # Errors
    /// [`Error::FileExists`] unless the file may be replaced; [`Error::Io`]; [`Error::Snapshot`],
    /// among others for one that is damaged. Nothing is left then.
    pub fn export_snapshot(
        &self,
        id: &SnapshotId,
        path: &Path,
        (format, replace): (Format, bool),
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let exists = || Error::FileExists {
            path: path.to_owned(),
        };
        if !replace && path.symlink_metadata().is_ok() {
            return Err(exists());
        }
        let _hold = self.snapshots.hold()?;
        self.snapshot(&id.to_string())?;
        let mut reader = self.snapshots.read(id)?;
        let size_bytes = reader.size_bytes();
        let total_bytes = reader.stored_chunks() * CHUNK_BYTES;
        let file = export::create(path).map_err(Error::io("create", path))?;
        let mut writer =
            export::writer(file.file(), format, size_bytes).map_err(Error::io("write", path))?;
        let mut buffer = vec![0; CHUNK_LEN];
        let mut done_bytes = 0;
        let (entries, chunks) = reader.split();
        for entry in entries {
            let (index, chunk) = entry.map_err(snapshot::Error::Files)?;
            chunks.read(&chunk, &mut buffer)?;
            writer
                .write(index, &buffer)
                .map_err(Error::io("write", path))?;
            done_bytes += CHUNK_BYTES;
            let answer = progress(Progress {
                phase: Phase::Export,
                done_bytes,
                total_bytes,
            });
            if answer.is_break() {
                return Err(snapshot::Error::Interrupted.into());
            }
        }
        writer.finish().map_err(Error::io("write", path))?;
        drop(writer);
        export::publish(file, path, replace).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => exists(),
            _ => Error::io("name", path)(error),
        })
    }
}
