//! Snapshot tables: which chunk stands at which index of a snapshot (`FORMAT.md` "Snapshot table").
//!
//! A table is as sparse as its snapshot and is read a 4 KiB leaf at a time when an index of it is
//! first asked for, so opening one costs the same at any size. Each entry is checked when it
//! is read: a damaged table gives an error and never leads to another chunk.

use super::header::{HEADER_BYTES, Header, id_field};
use super::{CHUNK_BYTES, ChunkPlace, Digest, Error, StoredChunk};
use crate::id::SnapshotId;
use rustix::fs::{FlockOperation, Mode, OFlags, SeekFrom, flock};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"KAMISNAP";
const VERSION: u32 = 1;
const ID: usize = 0;
const SIZE_BYTES: usize = 24;
const STORED_CHUNKS: usize = 32;
const SLOT_BYTES: usize = 40;
const CONTENT: usize = 48;

const ENTRY_LEN: usize = 64;
const ENTRY_BYTES: u64 = 64;
const LEAF_LEN: usize = 4096;
const LEAF_BYTES: u64 = 4096;
const LEAF_ENTRIES: u64 = LEAF_BYTES / ENTRY_BYTES;
const STORED: u64 = 1;

/// Leaves kept in memory, at most: 8 MiB of them, for 256 GiB of a snapshot.
const MAX_LEAVES: usize = 8192;

/// The largest size of a snapshot: EC2's largest volume.
pub(crate) const MAX_SIZE_BYTES: u64 = 64 << 40;

/// The path of a table in `folder`.
pub(crate) fn path(folder: &Path, id: &SnapshotId) -> PathBuf {
    folder.join(format!("{id}.table"))
}

/// The snapshot that a file name names.
pub(crate) fn id_of(name: &str) -> Option<SnapshotId> {
    name.strip_suffix(".table")?.parse().ok()
}

/// How many chunks a snapshot of `size_bytes` has.
pub(crate) fn chunks_of(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(CHUNK_BYTES)
}

type Leaf = Box<[Option<StoredChunk>]>;

/// A table open for reading.
#[derive(Debug)]
pub(crate) struct Table {
    file: File,
    path: PathBuf,
    id_field: [u8; 24],
    size_bytes: u64,
    stored_chunks: u64,
    content: Digest,
    /// `None` for a leaf of zero chunks only.
    leaves: HashMap<u64, Option<Leaf>>,
}

impl Table {
    pub(crate) fn open(folder: &Path, id: &SnapshotId) -> Result<Self, Error> {
        let path = path(folder, id);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&path, flags, Mode::empty())
            .map(File::from)
            .map_err(|source| Error::io("open", &path, source.into()))?;
        // Read by a volume, which may be that of a running instance that was not told yet that its
        // volume stands on another snapshot now: deleting it waits. It fails only while its
        // writer has the file, which holds all snapshots anyway.
        let _ = flock(&file, FlockOperation::NonBlockingLockShared);
        Self::from_file(file, path, id)
    }

    pub(crate) fn from_file(file: File, path: PathBuf, id: &SnapshotId) -> Result<Self, Error> {
        let header = Header::read(&file, &path, MAGIC, VERSION)?;
        let id_field = id_field(id);
        if header.bytes(ID) != id_field {
            return Err(Error::corrupt(&path, "its header names another snapshot"));
        }
        if header.u64(SLOT_BYTES) != CHUNK_BYTES {
            return Err(Error::corrupt(&path, "its chunks have another size"));
        }
        let size_bytes = header.u64(SIZE_BYTES);
        if size_bytes > MAX_SIZE_BYTES {
            return Err(Error::corrupt(&path, "its snapshot is larger than 64 TiB"));
        }
        let len = file
            .metadata()
            .map_err(|source| Error::io("read the size of", &path, source))?
            .len();
        if len != table_bytes(size_bytes) {
            return Err(Error::corrupt(&path, "it is truncated"));
        }
        Ok(Self {
            file,
            path,
            id_field,
            size_bytes,
            stored_chunks: header.u64(STORED_CHUNKS),
            content: Digest(header.bytes(CONTENT)),
            leaves: HashMap::new(),
        })
    }

    /// The size of the snapshot.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// How many chunks are stored, as the header says.
    pub(crate) fn stored_chunks(&self) -> u64 {
        self.stored_chunks
    }

    /// The chunk at `index`: `None` for one of zeroes, and beyond the snapshot's end.
    pub(crate) fn chunk(&mut self, index: u64) -> Result<Option<StoredChunk>, Error> {
        if index >= chunks_of(self.size_bytes) {
            return Ok(None);
        }
        let number = index / LEAF_ENTRIES;
        if !self.leaves.contains_key(&number) {
            if self.leaves.len() >= MAX_LEAVES {
                self.leaves.clear();
            }
            let leaf = self.read_leaf(number)?;
            self.leaves.insert(number, leaf);
        }
        let leaf = self.leaves.get(&number).and_then(Option::as_deref);
        let within = usize::try_from(index % LEAF_ENTRIES).unwrap_or(usize::MAX);
        Ok(leaf.and_then(|leaf| leaf.get(within).copied().flatten()))
    }

    /// Every chunk that is stored, in order.
    pub(crate) fn entries(&self) -> Entries<'_> {
        Entries {
            table: self,
            leaf: None,
            next: 0,
        }
    }

    /// Calls `each` with every chunk that is stored, in order.
    pub(crate) fn each_chunk(
        &self,
        each: &mut dyn FnMut(u64, StoredChunk) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for entry in self.entries() {
            let (index, chunk) = entry?;
            each(index, chunk)?;
        }
        Ok(())
    }

    /// Reads the whole table, comparing it with what its header says of it.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let mut content = blake3::Hasher::new();
        let mut stored_chunks = 0;
        self.each_chunk(&mut |index, chunk| {
            stored_chunks += 1;
            content.update(&encode(&self.id_field, index, &chunk));
            Ok(())
        })?;
        if stored_chunks != self.stored_chunks || *content.finalize().as_bytes() != self.content.0 {
            return Err(Error::corrupt(&self.path, "some of its entries are lost"));
        }
        Ok(())
    }

    /// The first leaf from `number` on that is no hole.
    fn next_leaf(&self, number: u64) -> Result<Option<u64>, Error> {
        let start = HEADER_BYTES + number * LEAF_BYTES;
        match rustix::fs::seek(&self.file, SeekFrom::Data(start)) {
            Ok(data) => Ok(Some(
                data.max(start).saturating_sub(HEADER_BYTES) / LEAF_BYTES,
            )),
            // lseek(2): no data from there on.
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(source) => Err(Error::io("search", &self.path, source.into())),
        }
    }

    fn read_leaf(&self, number: u64) -> Result<Option<Leaf>, Error> {
        let mut bytes = [0; LEAF_LEN];
        self.file
            .read_exact_at(&mut bytes, HEADER_BYTES + number * LEAF_BYTES)
            .map_err(|source| Error::io("read", &self.path, source))?;
        if bytes == [0; LEAF_LEN] {
            return Ok(None);
        }
        let (entries, _) = bytes.as_chunks::<ENTRY_LEN>();
        (number * LEAF_ENTRIES..)
            .zip(entries)
            .map(|(index, entry)| self.decode(index, entry))
            .collect::<Result<Leaf, Error>>()
            .map(Some)
    }

    fn decode(&self, index: u64, entry: &[u8; ENTRY_LEN]) -> Result<Option<StoredChunk>, Error> {
        if *entry == [0; ENTRY_LEN] {
            return Ok(None);
        }
        let chunk = decode(entry);
        // Encoding it again compares the checksum, the flags and the reserved bytes at once.
        let sound = encode(&self.id_field, index, &chunk) == *entry
            && index < chunks_of(self.size_bytes)
            && chunk.place.offset.is_multiple_of(CHUNK_BYTES)
            && (CHUNK_BYTES..=i64::MAX as u64 - CHUNK_BYTES).contains(&chunk.place.offset);
        if !sound {
            return Err(Error::CorruptEntry {
                path: self.path.clone(),
                index,
            });
        }
        Ok(Some(chunk))
    }
}

/// The stored chunks of a table with their indices, ascending; nothing follows an error.
#[derive(Debug)]
pub(crate) struct Entries<'a> {
    table: &'a Table,
    /// The leaf that `next` lies in, once it is read.
    leaf: Option<Leaf>,
    /// The first index that was not looked at.
    next: u64,
}

impl Iterator for Entries<'_> {
    type Item = Result<(u64, StoredChunk), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(leaf) = &self.leaf else {
                match self.read_leaf() {
                    Ok(true) => continue,
                    Ok(false) => return None,
                    Err(error) => {
                        self.next = u64::MAX;
                        return Some(Err(error));
                    }
                }
            };
            let index = self.next;
            let within = usize::try_from(index % LEAF_ENTRIES).unwrap_or(usize::MAX);
            let chunk = leaf.get(within).copied().flatten();
            self.next += 1;
            if self.next.is_multiple_of(LEAF_ENTRIES) {
                self.leaf = None;
            }
            if let Some(chunk) = chunk {
                return Some(Ok((index, chunk)));
            }
        }
    }
}

impl Entries<'_> {
    /// Goes on to the next leaf with stored chunks, if there is one. `next` begins a leaf.
    fn read_leaf(&mut self) -> Result<bool, Error> {
        while self.next < chunks_of(self.table.size_bytes) {
            let Some(number) = self.table.next_leaf(self.next / LEAF_ENTRIES)? else {
                return Ok(false);
            };
            self.next = number * LEAF_ENTRIES;
            self.leaf = self.table.read_leaf(number)?;
            if self.leaf.is_some() {
                return Ok(true);
            }
            // A leaf of zeroes that takes space.
            self.next += LEAF_ENTRIES;
        }
        Ok(false)
    }
}

fn table_bytes(size_bytes: u64) -> u64 {
    HEADER_BYTES + chunks_of(size_bytes).div_ceil(LEAF_ENTRIES) * LEAF_BYTES
}

fn encode(id_field: &[u8; 24], index: u64, chunk: &StoredChunk) -> [u8; ENTRY_LEN] {
    let segment = chunk.place.segment.to_le_bytes();
    let offset = chunk.place.offset.to_le_bytes();
    let flags = STORED.to_le_bytes();
    let fields = [&chunk.digest.0[..], &segment, &offset, &flags].concat();
    let mut checksum = blake3::Hasher::new();
    checksum.update(id_field).update(&index.to_le_bytes());
    let checksum = checksum.update(&fields).finalize();
    let mut entry = [0; ENTRY_LEN];
    let bytes = fields.iter().chain(checksum.as_bytes()).copied();
    for (place, byte) in entry.iter_mut().zip(bytes) {
        *place = byte;
    }
    entry
}

fn decode(entry: &[u8; ENTRY_LEN]) -> StoredChunk {
    let (digest, rest) = entry.split_first_chunk().unwrap_or((&[0; 32], &[]));
    let (segment, rest) = rest.split_first_chunk().unwrap_or((&[0; 8], &[]));
    let (offset, _) = rest.split_first_chunk().unwrap_or((&[0; 8], &[]));
    StoredChunk {
        digest: Digest(*digest),
        place: ChunkPlace {
            segment: u64::from_le_bytes(*segment),
            offset: u64::from_le_bytes(*offset),
        },
    }
}

/// What a table that was written names.
#[derive(Debug)]
pub(crate) struct Totals {
    pub(crate) stored_chunks: u64,
    pub(crate) segments: BTreeSet<u64>,
}

/// Writes a new table, index by index.
#[derive(Debug)]
pub(crate) struct TableWriter<'a> {
    file: &'a File,
    path: PathBuf,
    id_field: [u8; 24],
    size_bytes: u64,
    stored_chunks: u64,
    segments: BTreeSet<u64>,
    content: blake3::Hasher,
    /// The leaf being filled and its number.
    leaf: (u64, Box<[u8; LEAF_LEN]>),
}

impl<'a> TableWriter<'a> {
    pub(crate) fn new(
        file: &'a File,
        folder: &Path,
        id: &SnapshotId,
        size_bytes: u64,
    ) -> Result<Self, Error> {
        let path = path(folder, id);
        file.set_len(table_bytes(size_bytes))
            .map_err(|source| Error::io("extend", &path, source))?;
        Ok(Self {
            file,
            path,
            id_field: id_field(id),
            size_bytes,
            stored_chunks: 0,
            segments: BTreeSet::new(),
            content: blake3::Hasher::new(),
            leaf: (0, Box::new([0; LEAF_LEN])),
        })
    }

    /// Enters `chunk` at `index`, which is above every one before.
    pub(crate) fn put(&mut self, index: u64, chunk: &StoredChunk) -> Result<(), Error> {
        let number = index / LEAF_ENTRIES;
        if number != self.leaf.0 {
            self.write_leaf()?;
            self.leaf.0 = number;
        }
        let entry = encode(&self.id_field, index, chunk);
        let within = usize::try_from(index % LEAF_ENTRIES).unwrap_or(usize::MAX);
        let (entries, _) = self.leaf.1.as_chunks_mut::<ENTRY_LEN>();
        if let Some(place) = entries.get_mut(within) {
            *place = entry;
        }
        self.content.update(&entry);
        self.stored_chunks += 1;
        self.segments.insert(chunk.place.segment);
        Ok(())
    }

    /// Writes what is left, and the header last.
    pub(crate) fn finish(mut self) -> Result<Totals, Error> {
        self.write_leaf()?;
        Header::new(MAGIC, VERSION)
            .field(ID, &self.id_field)
            .field(SIZE_BYTES, &self.size_bytes.to_le_bytes())
            .field(STORED_CHUNKS, &self.stored_chunks.to_le_bytes())
            .field(SLOT_BYTES, &CHUNK_BYTES.to_le_bytes())
            .field(CONTENT, self.content.finalize().as_bytes())
            .write(self.file, &self.path)?;
        Ok(Totals {
            stored_chunks: self.stored_chunks,
            segments: self.segments,
        })
    }

    fn write_leaf(&mut self) -> Result<(), Error> {
        let (number, bytes) = &mut self.leaf;
        if **bytes != [0; LEAF_LEN] {
            self.file
                .write_all_at(&bytes[..], HEADER_BYTES + *number * LEAF_BYTES)
                .map_err(|source| Error::io("write", &self.path, source))?;
            **bytes = [0; LEAF_LEN];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
