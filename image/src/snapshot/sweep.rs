//! Deletes the snapshot files that a crash has left and nothing names.
//!
//! An import locks its files until its row is committed and they are kept. So a file is locked here
//! first and looked up in the catalogue second: unlocked and unnamed means that nobody will ever
//! name it.

use super::{Error, SnapshotFiles, TURN_SUFFIX};
use crate::chunk::pending::{self, UNFINISHED_PREFIX};
use crate::chunk::{self, segment, table};
use crate::id::SnapshotId;
use std::fs::File;
use std::io;
use std::path::Path;

impl SnapshotFiles {
    /// Deletes every table that `is_named` denies, every segment that `segment_named` denies and
    /// every unfinished file, unless an import that is under way holds it. Both must ask
    /// the catalogue as it is when they are called, not as it was before the sweep began. Files
    /// that are neither are left alone. Returns how many were deleted.
    ///
    /// # Errors
    /// [`Error::Files`] where a folder cannot be read or a file not deleted.
    pub fn sweep(
        &self,
        is_named: &dyn Fn(&SnapshotId) -> bool,
        segment_named: &dyn Fn(u64) -> bool,
    ) -> Result<u64, Error> {
        // The tables first: their segments are needed as long as they stand.
        let tables = sweep_folder(&self.snapshots, &|name| {
            if name.ends_with(TURN_SUFFIX) {
                return Some(false);
            }
            table::id_of(name).map(|id| is_named(&id))
        })?;
        let segments = sweep_folder(&self.segments, &|name| {
            segment::id_of(name).map(segment_named)
        })?;
        Ok(tables + segments)
    }
}

/// Deletes the files of `folder` that are not locked and for which `named` says `Some(false)`.
pub(crate) fn sweep_folder(
    folder: &Path,
    named: &dyn Fn(&str) -> Option<bool>,
) -> Result<u64, chunk::Error> {
    let failed = |source| chunk::Error::io("sweep", folder, source);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed(error)),
    };
    let mut deleted = 0;
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        let Some(name) = name.to_str() else {
            continue;
        };
        let is_named = |name: &str| {
            if name.starts_with(UNFINISHED_PREFIX) {
                return Some(false);
            }
            named(name)
        };
        // Asked without the lock only to leave alone what the store has not made.
        if is_named(name) == Some(false) {
            let path = folder.join(name);
            let gone = delete(&path, &|| is_named(name) == Some(false))
                .map_err(|source| chunk::Error::io("delete", &path, source))?;
            deleted += u64::from(gone);
        }
    }
    Ok(deleted)
}

/// Deletes `path` unless somebody holds it, or it is named by the time it is locked.
fn delete(path: &Path, unnamed: &dyn Fn() -> bool) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if !pending::lock(&file)? || !unnamed() || !pending::is_at(&file, path)? {
        return Ok(false);
    }
    std::fs::remove_file(path)?;
    Ok(true)
}
