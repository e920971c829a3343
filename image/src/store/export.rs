//! Snapshots out of the store: exported to disk files, and compared with each other.

use std::ops::ControlFlow;
use std::path::Path;

use super::{Error, Store};
use crate::chunk::{CHUNK_BYTES, CHUNK_LEN};
use crate::export::{self, Format};
use crate::id::SnapshotId;
use crate::snapshot::{self, Phase, Progress};

impl Store {
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
