//! Raw disk files and block devices: the bytes as they are, their holes skipped (lseek(2)).

use super::Error;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The size of `file` in bytes. A block device's is where its end is.
pub(super) fn len(path: &Path, file: &File) -> Result<u64, Error> {
    rustix::fs::seek(file, SeekFrom::End(0)).map_err(|source| Error::Open {
        path: path.to_owned(),
        source: source.into(),
    })
}

/// The next bytes of `file` from `offset` on that are not in a hole.
pub(super) fn next_data(
    path: &Path,
    file: &File,
    offset: u64,
) -> Result<Option<Range<u64>>, Error> {
    let failed = |source: io::Error| Error::Read {
        path: path.to_owned(),
        offset,
        source,
    };
    let len = len(path, file)?;
    if offset >= len {
        return Ok(None);
    }
    match data_within(file, offset..len) {
        Ok(range) => Ok(range),
        Err(error) => Err(failed(error)),
    }
}

/// The first run of data of `file` in `range`.
pub(super) fn data_within(file: &File, range: Range<u64>) -> io::Result<Option<Range<u64>>> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(range.start)) {
        Ok(start) => start.max(range.start),
        Err(Errno::NXIO) => return Ok(None),
        // Block devices and some file systems know no holes.
        Err(Errno::INVAL) => return Ok(Some(range)),
        Err(error) => return Err(error.into()),
    };
    if start >= range.end {
        return Ok(None);
    }
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    // A file that shrinks meanwhile must not send the caller in circles.
    Ok(Some(start..end.clamp(start + 1, range.end)))
}

/// Fills `buffer` from `offset` on; zeroes beyond the end of `file`.
pub(super) fn read(
    path: &Path,
    file: &File,
    offset: u64,
    mut buffer: &mut [u8],
) -> Result<(), Error> {
    let mut at = offset;
    while !buffer.is_empty() {
        match file.read_at(buffer, at) {
            Ok(0) => {
                buffer.fill(0);
                return Ok(());
            }
            Ok(count) => {
                at += count as u64;
                buffer = buffer.get_mut(count..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(Error::Read {
                    path: path.to_owned(),
                    offset: at,
                    source,
                });
            }
        }
    }
    Ok(())
}
