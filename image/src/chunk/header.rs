//! The header page that opens every file of the store but the overlay (`FORMAT.md` "Header page").
//!
//! All that it says lies in its first 512 bytes, which a disk writes whole or not at all.

use super::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The size of the header page; the file's content follows it.
pub(crate) const HEADER_BYTES: u64 = 4096;

const SECTOR: usize = 512;
const MAGIC: std::ops::Range<usize> = 0..8;
const VERSION: std::ops::Range<usize> = 8..12;
const FIELDS: std::ops::Range<usize> = 16..480;
const CHECKED: std::ops::Range<usize> = 0..480;
const CHECKSUM: std::ops::Range<usize> = 480..512;

/// The fields of a header, at offsets counted from byte 16 of the page.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    sector: [u8; SECTOR],
}

impl Header {
    pub(crate) fn new(magic: [u8; 8], version: u32) -> Self {
        let mut header = Self {
            sector: [0; SECTOR],
        };
        header.put(MAGIC, &magic);
        header.put(VERSION, &version.to_le_bytes());
        header
    }

    /// Puts `bytes` at `offset` of the fields.
    pub(crate) fn field(mut self, offset: usize, bytes: &[u8]) -> Self {
        let start = FIELDS.start + offset;
        self.put(start..start + bytes.len(), bytes);
        self
    }

    /// The `N` bytes at `offset` of the fields; zeroes beyond them.
    pub(crate) fn bytes<const N: usize>(&self, offset: usize) -> [u8; N] {
        let start = FIELDS.start + offset;
        self.sector
            .get(start..start + N)
            .and_then(|bytes| bytes.try_into().ok())
            .unwrap_or([0; N])
    }

    pub(crate) fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.bytes(offset))
    }

    pub(crate) fn write(mut self, file: &File, path: &Path) -> Result<(), Error> {
        let checksum = blake3::hash(self.sector.get(CHECKED).unwrap_or_default());
        self.put(CHECKSUM, checksum.as_bytes());
        file.write_all_at(&self.sector, 0)
            .map_err(|source| Error::io("write", path, source))
    }

    /// Reads and checks the header of `file`.
    pub(crate) fn read(
        file: &File,
        path: &Path,
        magic: [u8; 8],
        version: u32,
    ) -> Result<Self, Error> {
        let mut sector = [0; SECTOR];
        file.read_exact_at(&mut sector, 0)
            .map_err(|source| match source.kind() {
                std::io::ErrorKind::UnexpectedEof => Error::corrupt(path, "its header is missing"),
                _ => Error::io("read", path, source),
            })?;
        let header = Self { sector };
        if header.sector.get(MAGIC) != Some(&magic[..]) {
            return Err(Error::corrupt(path, "its header has another file's magic"));
        }
        let checksum = blake3::hash(header.sector.get(CHECKED).unwrap_or_default());
        if header.sector.get(CHECKSUM) != Some(&checksum.as_bytes()[..]) {
            return Err(Error::corrupt(path, "its header has a wrong checksum"));
        }
        if header.sector.get(VERSION) != Some(&version.to_le_bytes()[..]) {
            return Err(Error::Version {
                path: path.to_owned(),
                known: version,
            });
        }
        Ok(header)
    }

    fn put(&mut self, range: std::ops::Range<usize>, bytes: &[u8]) {
        if let Some(place) = self.sector.get_mut(range) {
            place.copy_from_slice(bytes);
        }
    }
}

/// An id as the header carries it: its text, padded with zeroes.
pub(crate) fn id_field(id: &impl std::fmt::Display) -> [u8; 24] {
    let mut field = [0; 24];
    for (place, byte) in field.iter_mut().zip(id.to_string().bytes()) {
        *place = byte;
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> (tempfile::NamedTempFile, Header) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let header = Header::new(*b"KAMITEST", 3).field(8, &7u64.to_le_bytes());
        header.clone().write(file.as_file(), file.path()).unwrap();
        (file, header)
    }

    #[test]
    fn fields_come_back() {
        let (file, _) = written();
        let read = Header::read(file.as_file(), file.path(), *b"KAMITEST", 3).unwrap();
        assert_eq!((read.u64(0), read.u64(8)), (0, 7));
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let (file, _) = written();
        for at in 0..512 {
            let mut byte = [0];
            file.as_file().read_exact_at(&mut byte, at).unwrap();
            file.as_file().write_all_at(&[byte[0] ^ 0x10], at).unwrap();
            Header::read(file.as_file(), file.path(), *b"KAMITEST", 3).unwrap_err();
            file.as_file().write_all_at(&byte, at).unwrap();
        }
    }

    #[test]
    fn newer_version_is_named() {
        let (file, _) = written();
        let error = Header::read(file.as_file(), file.path(), *b"KAMITEST", 2).unwrap_err();
        assert!(matches!(error, Error::Version { known: 2, .. }), "{error}");
    }

    #[test]
    fn short_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(511).unwrap();
        let error = Header::read(file.as_file(), file.path(), *b"KAMITEST", 3).unwrap_err();
        assert!(
            error.to_string().ends_with("its header is missing"),
            "{error}"
        );
    }
}
