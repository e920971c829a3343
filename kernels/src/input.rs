//! Reading kernel files: an open file with the name that errors call it by, and little-endian numbers out of
//! bytes that may end too early.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{Error, Unbootable};

/// Bytes of a file's beginning that tell what it is and hold its headers: those of bzImage and PE are the farthest.
pub(crate) const HEAD_BYTES: usize = 4096;

/// An open file, and the path that errors call it by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a> {
    pub file: &'a File,
    pub path: &'a Path,
}

impl Input<'_> {
    /// The file's first [`HEAD_BYTES`], or all of a shorter one, without moving its position.
    pub fn head(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; HEAD_BYTES];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(rest, filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.read_error(error)),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// The file's size in bytes.
    pub fn bytes(&self) -> Result<u64, Error> {
        let metadata = self.file.metadata();
        Ok(metadata.map_err(|error| self.read_error(error))?.len())
    }

    /// The `N` bytes at `offset`.
    pub fn array_at<const N: usize>(&self, offset: u64) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        let read = self.file.read_exact_at(&mut array, offset);
        read.map_err(|error| self.read_error(error))?;
        Ok(array)
    }

    pub fn read_error(&self, source: io::Error) -> Error {
        Error::read(self.path, source)
    }

    pub fn unbootable(&self, source: Unbootable) -> Error {
        Error::unbootable(self.path, source)
    }
}

/// Opens `path` for reading.
pub(crate) fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| Error::read(path, source))
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}
