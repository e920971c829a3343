//! Chunks: the 512 KiB pieces that snapshots are made of, named by their content.
//!
//! `FORMAT.md` "Segment" and "Snapshot table" give the bytes. A chunk is stored once, uncompressed,
//! in a slot of a segment file; a chunk of zeroes is stored nowhere. Which digest lies where is the
//! catalogue's knowledge, asked through [`ChunkIndex`]; nothing here counts references.

pub(crate) mod header;
pub(crate) mod pending;
pub(crate) mod segment;
pub(crate) mod table;

use std::fmt;
use std::path::{Path, PathBuf};

/// The size of a chunk and of its slot in a segment: EBS's own block size.
pub const CHUNK_BYTES: u64 = 512 * 1024;

/// [`CHUNK_BYTES`] for buffers.
pub(crate) const CHUNK_LEN: usize = 512 * 1024;

/// What zeroes are recognised by within a chunk: a page of them is a hole in the segment.
pub(crate) const PAGE_LEN: usize = 4096;

/// The BLAKE3 digest of a chunk; a snapshot's last chunk is padded with zeroes to 512 KiB first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `chunk`.
    pub fn of(chunk: &[u8]) -> Self {
        Self(*blake3::hash(chunk).as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// Where a chunk is stored: a slot of the file `segments/<segment as 16 hex digits>.seg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkPlace {
    pub segment: u64,
    /// Byte offset in the segment's file, a multiple of [`CHUNK_BYTES`] and not 0.
    pub offset: u64,
}

/// A chunk and where it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredChunk {
    pub digest: Digest,
    pub place: ChunkPlace,
}

/// What goes wrong with the files that hold chunks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is damaged: {what}", path.display())]
    Corrupt { path: PathBuf, what: &'static str },
    #[error("{} is damaged: its entry for chunk {index} is not valid", path.display())]
    CorruptEntry { path: PathBuf, index: u64 },
    #[error("{} has another format version than {known}", path.display())]
    Version { path: PathBuf, known: u32 },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn corrupt(path: &Path, what: &'static str) -> Self {
        Self::Corrupt {
            path: path.to_owned(),
            what,
        }
    }
}

/// Finds chunks that are stored already.
///
/// What it finds stays until the snapshot that came to share it is committed: whoever writes one
/// holds the snapshots of the store meanwhile (`snapshot::Hold`).
pub trait ChunkIndex {
    /// Where `digest` is stored, if it is.
    ///
    /// # Errors
    /// Whatever keeps the index from answering.
    fn find(
        &self,
        digest: &Digest,
    ) -> Result<Option<ChunkPlace>, Box<dyn std::error::Error + Send + Sync>>;
}

/// The index of an empty store.
impl ChunkIndex for () {
    fn find(
        &self,
        _: &Digest,
    ) -> Result<Option<ChunkPlace>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(None)
    }
}

/// The runs of pages of `chunk` that are not all zeroes, as byte ranges.
pub(crate) fn data_runs(chunk: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for (number, page) in chunk.chunks(PAGE_LEN).enumerate() {
        if is_zero(page) {
            continue;
        }
        let start = number * PAGE_LEN;
        let end = start + page.len();
        match runs.last_mut() {
            Some(run) if run.end == start => run.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

/// Whether a page, or a part of one, is all zeroes.
fn is_zero(page: &[u8]) -> bool {
    const ZEROES: [u8; PAGE_LEN] = [0; PAGE_LEN];
    // Compared with zeroes, not byte by byte: this is a `memcmp`, and an import scans every byte.
    ZEROES.get(..page.len()) == Some(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_data_skip_zero_pages() {
        let mut chunk = vec![0; CHUNK_LEN];
        assert!(data_runs(&chunk).is_empty());
        chunk[5 * PAGE_LEN] = 1;
        chunk[7 * PAGE_LEN - 1] = 1;
        chunk[CHUNK_LEN - 1] = 1;
        assert_eq!(
            data_runs(&chunk),
            [5 * PAGE_LEN..7 * PAGE_LEN, CHUNK_LEN - PAGE_LEN..CHUNK_LEN]
        );
    }

    #[test]
    fn digest_prints_as_hex() {
        let digest = Digest::of(b"");
        // BLAKE3's published test vector for the empty input.
        assert!(digest.to_string().starts_with("af1349b9f5f9a1a6"));
        assert_eq!(digest.to_string().len(), 64);
    }
}
