//! A disk whose bytes lie in several files, as `imago` maps them.
//!
//! `imago` reads zeroes beyond the end of a file; here that is an error, because a disk file
//! that was cut off would otherwise import as a disk with holes.

use super::{Error, Format, raw};
use imago::file::File as ImagoFile;
use imago::{FormatAccess, Mapping, Storage, StorageOpenOptions};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Layered {
    /// The file that the user named.
    path: PathBuf,
    format: Format,
    access: FormatAccess<ImagoFile>,
    /// Every file it stands on, to find holes in.
    files: Vec<(PathBuf, File)>,
}

/// Hands `file` to `imago`, under its name so that it can be found in [`Layered::files`].
pub(super) fn imago_file(path: &Path, file: File) -> io::Result<ImagoFile> {
    ImagoFile::from_open_file(file, StorageOpenOptions::new().filename(path))
}

impl Layered {
    pub(super) fn new(
        path: &Path,
        format: Format,
        access: FormatAccess<ImagoFile>,
        files: Vec<(PathBuf, File)>,
    ) -> Self {
        Self {
            path: path.to_owned(),
            format,
            access,
            files,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.access.size()
    }

    pub(super) fn next_data(&self, mut offset: u64) -> Result<Option<Range<u64>>, Error> {
        while offset < self.len() {
            let (mapping, len) = self.mapping(offset, self.len() - offset)?;
            match mapping {
                Mapping::Zero { .. } => {}
                Mapping::Raw {
                    storage,
                    offset: stored,
                    ..
                } => {
                    if let Some(data) = self.data_within(storage, stored..stored + len)? {
                        let start = offset + (data.start - stored);
                        return Ok(Some(start..start + (data.end - data.start)));
                    }
                }
                // Compressed.
                _ => return Ok(Some(offset..offset + len)),
            }
            offset += len;
        }
        Ok(None)
    }

    pub(super) fn read(&self, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), Error> {
        while !buffer.is_empty() {
            if offset >= self.len() {
                buffer.fill(0);
                break;
            }
            let (mapping, len) = self.mapping(offset, buffer.len() as u64)?;
            let len = usize::try_from(len).unwrap_or(usize::MAX).min(buffer.len());
            let (part, rest) = buffer.split_at_mut(len);
            let result = match mapping {
                Mapping::Zero { .. } => {
                    part.fill(0);
                    Ok(())
                }
                Mapping::Raw {
                    storage,
                    offset: stored,
                    ..
                } => imago::StorageExt::read(storage, &mut *part, stored),
                Mapping::Special {
                    layer,
                    offset: within,
                    ..
                } => layer.read(&mut *part, within),
                _ => Err(io::ErrorKind::Unsupported.into()),
            };
            result.map_err(|source| self.read_error(offset, source))?;
            offset += len as u64;
            buffer = rest;
        }
        Ok(())
    }

    /// Where the bytes from `offset` on lie: at least one of them, and all within their file.
    fn mapping(&self, offset: u64, len: u64) -> Result<(Mapping<'_, ImagoFile>, u64), Error> {
        let (mapping, len) = self
            .access
            .get_mapping(offset, len)
            .map_err(|source| self.read_error(offset, source))?;
        if len == 0 || mapping.is_eof() {
            return Err(Error::Damaged {
                path: self.path.clone(),
                what: format!("nothing is mapped at byte {offset} of its disk"),
            });
        }
        if let Mapping::Raw {
            storage,
            offset: stored,
            ..
        } = &mapping
        {
            let size = storage
                .size()
                .map_err(|source| self.read_error(offset, source))?;
            if stored.checked_add(len).is_none_or(|end| end > size) {
                return Err(Error::Truncated {
                    path: storage.get_filename().unwrap_or(self.path.clone()),
                    what: format!("byte {offset} of its disk"),
                });
            }
        }
        Ok((mapping, len))
    }

    fn data_within(
        &self,
        storage: &ImagoFile,
        range: Range<u64>,
    ) -> Result<Option<Range<u64>>, Error> {
        let path = storage.get_filename();
        match self
            .files
            .iter()
            .find(|(name, _)| Some(name) == path.as_ref())
        {
            Some((_, file)) => raw::data_within(file, range.clone())
                .map_err(|source| self.read_error(range.start, source)),
            None => Ok(Some(range)),
        }
    }

    fn read_error(&self, offset: u64, source: io::Error) -> Error {
        tracing::debug!(path = %self.path.display(), format = %self.format, offset, "read failed");
        Error::Read {
            path: self.path.clone(),
            offset,
            source,
        }
    }
}
