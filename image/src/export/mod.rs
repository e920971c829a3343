//! Disk files that snapshots are exported to: raw and qcow2.
//!
//! Both are as sparse as the snapshot. A file gets its name when it is complete and synced, so nobody meets
//! half a disk.

mod qcow2;
mod raw;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use crate::chunk::pending::{self, PendingFile, sync_folder};

/// The formats that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Raw,
    /// Version 3 (`compat=1.1`), clusters of 64 KiB, not compressed.
    Qcow2,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

/// A disk being written, chunk by chunk in ascending order; what is left out is zeroes.
pub(crate) trait Writer {
    /// Writes the chunk at `index`. Of the last one, bytes beyond the disk's end are zeroes.
    fn write(&mut self, index: u64, chunk: &[u8]) -> io::Result<()>;

    /// Writes what is left.
    fn finish(&mut self) -> io::Result<()>;
}

/// Writes the format to `file`, which is empty.
pub(crate) fn writer(
    file: &File,
    format: Format,
    size_bytes: u64,
) -> io::Result<Box<dyn Writer + '_>> {
    Ok(match format {
        Format::Raw => Box::new(raw::Raw::new(file, size_bytes)?),
        Format::Qcow2 => Box::new(qcow2::Qcow2::new(file, size_bytes)),
    })
}

/// A file in the folder of `path`, for [`publish`].
pub(crate) fn create(path: &Path) -> io::Result<PendingFile> {
    PendingFile::create_shared(folder(path))
}

/// Gives the file its name, in place of another file if `replace` says so.
///
/// # Errors
/// `AlreadyExists`, among others.
pub(crate) fn publish(mut file: PendingFile, path: &Path, replace: bool) -> io::Result<()> {
    if replace {
        let number = pending::random_u64()?;
        let name = folder(path).join(format!("{}{number:016x}", pending::UNFINISHED_PREFIX));
        file.publish(name.clone())?;
        std::fs::rename(name, path)?;
    } else {
        file.publish(path.to_owned())?;
    }
    file.keep();
    sync_folder(folder(path))
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
