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
use std::path::{Path, PathBuf};

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
        let tables = sweep_folder(&self.snapshots, &|name| named_table(name, is_named))?;
        let segments = sweep_folder(&self.segments, &|name| {
            segment::id_of(name).map(segment_named)
        })?;
        Ok(tables + segments)
    }

    /// The files that [`SnapshotFiles::sweep`] would delete.
    pub(crate) fn leftovers(
        &self,
        is_named: &dyn Fn(&SnapshotId) -> bool,
        segment_named: &dyn Fn(u64) -> bool,
    ) -> Result<Vec<PathBuf>, Error> {
        let mut found = leftovers(&self.snapshots, &|name| named_table(name, is_named))?;
        found.extend(leftovers(&self.segments, &|name| {
            segment::id_of(name).map(segment_named)
        })?);
        Ok(found)
    }
}

fn named_table(name: &str, is_named: &dyn Fn(&SnapshotId) -> bool) -> Option<bool> {
    if name.ends_with(TURN_SUFFIX) {
        return Some(false);
    }
    table::id_of(name).map(|id| is_named(&id))
}

/// Deletes the files of `folder` that are not locked and for which `named` says `Some(false)`.
pub(crate) fn sweep_folder(
    folder: &Path,
    named: &dyn Fn(&str) -> Option<bool>,
) -> Result<u64, chunk::Error> {
    let mut deleted = 0;
    for path in unnamed(folder, named)? {
        match delete(&path, &|| is_unnamed(&path, named)) {
            Ok(gone) => deleted += u64::from(gone),
            // Whoever took its row has deleted it meanwhile.
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(chunk::Error::io("delete", &path, source)),
        }
    }
    Ok(deleted)
}

/// The files that [`sweep_folder`] would delete.
pub(crate) fn leftovers(
    folder: &Path,
    named: &dyn Fn(&str) -> Option<bool>,
) -> Result<Vec<PathBuf>, chunk::Error> {
    let mut found = unnamed(folder, named)?;
    found.retain(|path| {
        // Under way, or gone by now: none of a crash's.
        let is_free = File::open(path).is_ok_and(|file| {
            let is_free = pending::lock(&file).unwrap_or(false);
            pending::unlock(&file);
            is_free
        });
        is_free && is_unnamed(path, named)
    });
    Ok(found)
}

/// The files for which `named` says `Some(false)`, locked or not.
fn unnamed(
    folder: &Path,
    named: &dyn Fn(&str) -> Option<bool>,
) -> Result<Vec<PathBuf>, chunk::Error> {
    let failed = |source| chunk::Error::io("sweep", folder, source);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = folder.join(entry.map_err(failed)?.file_name());
        // Asked without the lock only to leave alone what the store has not made.
        if is_unnamed(&path, named) {
            found.push(path);
        }
    }
    Ok(found)
}

fn is_unnamed(path: &Path, named: &dyn Fn(&str) -> Option<bool>) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(UNFINISHED_PREFIX) || named(name) == Some(false))
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
