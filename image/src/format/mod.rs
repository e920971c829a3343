//! Disk files that can be imported: raw, qcow2 with its backing files, and VMDK.
//!
//! The format is found by content, never by name. A file may come from anywhere, so what it says of
//! itself is checked before `imago`, which maps qcow2 and flat VMDK, sees it: sizes, tables and data within the file, backing files
//! that are plain files. Like `qemu-img convert`, an import follows the backing files that a qcow2
//! names, wherever they are: it copies what the user who runs it may read, as `cp` does.
//!
//! Left out on purpose: writing, encrypted qcow2, external data files, VMDK deltas.

mod layered;
mod probe;
mod qcow2;
mod raw;
mod sparse_vmdk;
mod vmdk;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The largest disk that is imported: EC2's largest volume, 64 TiB.
pub const MAX_SIZE_BYTES: u64 = crate::chunk::table::MAX_SIZE_BYTES;

/// The formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Raw,
    Qcow2,
    Vmdk,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        })
    }
}

/// Why a disk file cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot open {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is neither a file nor a block device", path.display())]
    NotFile { path: PathBuf },
    #[error("{} is empty", path.display())]
    Empty { path: PathBuf },
    #[error("{} holds a disk of {size_bytes} bytes, more than 64 TiB", path.display())]
    TooLarge { path: PathBuf, size_bytes: u64 },
    /// A known kind of file that is not read; the text names it.
    #[error("{} is {what}, which is not supported", path.display())]
    Unsupported { path: PathBuf, what: String },
    #[error("{} is truncated: {what} lies beyond its end", path.display())]
    Truncated { path: PathBuf, what: String },
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("cannot read {} as {format}", path.display())]
    Format {
        path: PathBuf,
        format: Format,
        #[source]
        source: io::Error,
    },
    #[error("cannot use the backing file of {}", path.display())]
    Backing {
        path: PathBuf,
        #[source]
        source: Box<Error>,
    },
    #[error("{name:?} is not the path of a file")]
    BackingName { name: String },
    #[error("{} is its own backing file, by way of {}", path.display(), by_way_of(chain))]
    BackingLoop { path: PathBuf, chain: Vec<PathBuf> },
    #[error("{} stands on more than {} backing files", path.display(), qcow2::MAX_DEPTH)]
    BackingDepth { path: PathBuf },
    #[error("cannot read {} at byte {offset}", path.display())]
    Read {
        path: PathBuf,
        offset: u64,
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// What the user can do about it, if anything.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Unsupported { path, .. } => Some(format!(
                "convert it first: qemu-img convert -O qcow2 {} disk.qcow2",
                path.display()
            )),
            Self::Backing { path, .. } => Some(format!(
                "qemu-img info --backing-chain {} shows which files it stands on",
                path.display()
            )),
            Self::Truncated { .. } => Some("copy or download it again".to_owned()),
            _ => None,
        }
    }
}

fn by_way_of(chain: &[PathBuf]) -> String {
    let names: Vec<String> = chain.iter().map(|it| it.display().to_string()).collect();
    names.join(", ")
}

/// A disk file open for import. Threads may read it at the same time.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    format: Format,
    size_bytes: u64,
    reader: Reader,
}

#[derive(Debug)]
enum Reader {
    Raw(File),
    SparseVmdk(sparse_vmdk::SparseVmdk),
    Layered(layered::Layered),
}

/// Opens the disk in `path`, whatever its format.
///
/// # Errors
/// Every kind of [`Error`] but [`Error::Read`].
pub fn open(path: &Path) -> Result<Source, Error> {
    let file = open_file(path)?;
    let format = probe::probe(path, &file)?;
    open_as(path, file, format)
}

fn open_as(path: &Path, file: File, format: Format) -> Result<Source, Error> {
    let (reader, len) = match format {
        Format::Raw => {
            let len = raw::len(path, &file)?;
            (Reader::Raw(file), len)
        }
        Format::Qcow2 => layered(qcow2::open(path, file)?),
        Format::Vmdk if probe::is_sparse_vmdk(path, &file)? => {
            let disk = sparse_vmdk::open(path, file)?;
            let len = disk.len();
            (Reader::SparseVmdk(disk), len)
        }
        Format::Vmdk => layered(vmdk::open(path, &file)?),
    };
    let path = path.to_owned();
    if len == 0 {
        return Err(Error::Empty { path });
    }
    if len > MAX_SIZE_BYTES {
        return Err(Error::TooLarge {
            path,
            size_bytes: len,
        });
    }
    Ok(Source {
        path,
        format,
        size_bytes: len.next_multiple_of(512),
        reader,
    })
}

fn layered(layered: layered::Layered) -> (Reader, u64) {
    let len = layered.len();
    (Reader::Layered(layered), len)
}

impl Source {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// The size of the disk in bytes: a multiple of the 512-byte sector, the last one padded with
    /// zeroes where the file ends within it, as QEMU does.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The next bytes from `offset` on that may be other than zero; `None` where there are none.
    pub(crate) fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>, Error> {
        match &self.reader {
            Reader::Raw(file) => raw::next_data(&self.path, file, offset),
            Reader::SparseVmdk(disk) => disk.next_data(offset),
            Reader::Layered(layered) => layered.next_data(offset),
        }
    }

    /// Fills `buffer` with the disk's bytes from `offset` on, and zeroes beyond its end.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        match &self.reader {
            Reader::Raw(file) => raw::read(&self.path, file, offset, buffer),
            Reader::SparseVmdk(disk) => disk.read(offset, buffer),
            Reader::Layered(layered) => layered.read(offset, buffer),
        }
    }
}

/// Opens a file or block device, and waits for nobody: not for the writer of a pipe either.
fn open_file(path: &Path) -> Result<File, Error> {
    let open_error = |source| Error::Open {
        path: path.to_owned(),
        source,
    };
    let is_disk =
        |metadata: &std::fs::Metadata| metadata.is_file() || metadata.file_type().is_block_device();
    // Asked before opening too: opening some devices already does something.
    if !is_disk(&std::fs::metadata(path).map_err(open_error)?) {
        return Err(Error::NotFile {
            path: path.to_owned(),
        });
    }
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(open_error)?;
    if !is_disk(&file.metadata().map_err(open_error)?) {
        return Err(Error::NotFile {
            path: path.to_owned(),
        });
    }
    Ok(file)
}

#[cfg(test)]
mod tests;
