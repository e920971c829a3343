//! Segments: the large files that chunks lie in (`FORMAT.md` "Segment").
//!
//! Only the import that creates a segment writes to it; after its commit a segment is read-only, but
//! for holes punched where no snapshot has chunks any more. So a reader needs no lock and the page cache
//! is shared by every volume of every instance.

use super::header::{HEADER_BYTES, Header};
use super::pending::{PendingFile, random_u64};
use super::{CHUNK_BYTES, ChunkPlace, Error};
use rustix::fs::{Advice, FallocateFlags, Mode, OFlags};
use std::fs::File;
use std::num::NonZero;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 8] = *b"KAMISEGM";
const VERSION: u32 = 1;
const ID: usize = 0;
const SLOT_BYTES: usize = 8;

/// Slots of one segment file, at most: 1 TiB, which every file system can hold.
pub(crate) const MAX_SLOTS: u64 = 2 * 1024 * 1024;

/// Slots after which the disk is to begin with writing: 8 MiB.
const WRITEBACK_SLOTS: u64 = 16;

/// The path of a segment in `folder`.
pub(crate) fn path(folder: &Path, id: u64) -> PathBuf {
    folder.join(format!("{id:016x}.seg"))
}

/// The segment that a file name names.
pub(crate) fn id_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg").filter(|it| it.len() == 16)?;
    let id = u64::from_str_radix(digits, 16).ok()?;
    (format!("{id:016x}") == digits).then_some(id)
}

/// A segment open for reading.
#[derive(Debug)]
pub(crate) struct Segment {
    file: File,
    len: u64,
}

impl Segment {
    pub(crate) fn open(folder: &Path, id: u64) -> Result<Self, Error> {
        let path = path(folder, id);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&path, flags, Mode::empty())
            .map(File::from)
            .map_err(|source| Error::io("open", &path, source.into()))?;
        check_header(&file, &path, id)?;
        let len = file
            .metadata()
            .map_err(|source| Error::io("read the size of", &path, source))?
            .len();
        Ok(Self { file, len })
    }

    /// The file and its size.
    pub(crate) fn into_file(self) -> (File, u64) {
        (self.file, self.len)
    }
}

fn check_header(file: &File, path: &Path, id: u64) -> Result<(), Error> {
    let header = Header::read(file, path, MAGIC, VERSION)?;
    if header.u64(ID) != id {
        return Err(Error::corrupt(path, "its header names another segment"));
    }
    if header.u64(SLOT_BYTES) != CHUNK_BYTES {
        return Err(Error::corrupt(path, "its slots have another size"));
    }
    Ok(())
}

/// Slots of one segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots(Vec<u64>);

impl Slots {
    /// Takes in the slot at `offset` of the file.
    pub(crate) fn insert(&mut self, offset: u64) {
        let slot = offset / CHUNK_BYTES;
        let word = usize::try_from(slot / 64).unwrap_or(usize::MAX);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << (slot % 64);
        }
    }

    pub(crate) fn contains(&self, offset: u64) -> bool {
        let slot = offset / CHUNK_BYTES;
        let word = usize::try_from(slot / 64)
            .ok()
            .and_then(|at| self.0.get(at));
        word.is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }
}

/// Gives the file system back what the segment has outside the slots `used`.
pub(crate) fn punch(folder: &Path, id: u64, used: &Slots) -> Result<(), Error> {
    let path = path(folder, id);
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(&path, flags, Mode::empty())
        .map(File::from)
        .map_err(|source| Error::io("open", &path, source.into()))?;
    check_header(&file, &path, id)?;
    let failed = |source| Error::io("free space in", &path, source);
    let len = file.metadata().map_err(failed)?.len();
    let mut at = CHUNK_BYTES;
    while at < len {
        let start = at;
        while at < len && !used.contains(at) {
            at += CHUNK_BYTES;
        }
        if at > start {
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, hole, start, at - start)
                .map_err(|source| failed(source.into()))?;
        }
        at += CHUNK_BYTES;
    }
    Ok(())
}

/// The segment files of one import: created when the first chunk comes, closed when full.
#[derive(Debug)]
pub(crate) struct SegmentWriter {
    folder: PathBuf,
    max_slots: u64,
    segments: Vec<NewSegment>,
}

/// A segment that this import has created.
#[derive(Debug)]
pub(crate) struct NewSegment {
    pub(crate) id: u64,
    pub(crate) pending: PendingFile,
    slots: u64,
}

impl SegmentWriter {
    pub(crate) fn new(folder: PathBuf, max_slots: NonZero<u64>) -> Self {
        Self {
            folder,
            max_slots: max_slots.get(),
            segments: Vec::new(),
        }
    }

    /// Writes the `runs` of `chunk`, the rest of which is zeroes, to the next slot.
    pub(crate) fn append(
        &mut self,
        chunk: &[u8],
        runs: &[Range<usize>],
    ) -> Result<ChunkPlace, Error> {
        let full = |segment: &NewSegment| segment.slots == self.max_slots;
        if self.segments.last().is_none_or(full) {
            let segment = NewSegment::create(&self.folder)?;
            self.segments.push(segment);
        }
        let folder = &self.folder;
        let Some(segment) = self.segments.last_mut() else {
            unreachable!("one was pushed above");
        };
        segment.append(folder, chunk, runs)
    }

    /// Ends each file where its last slot does: that slot may end in zero pages.
    pub(crate) fn finish(self) -> Result<Vec<NewSegment>, Error> {
        for segment in &self.segments {
            segment
                .pending
                .file()
                .set_len((segment.slots + 1) * CHUNK_BYTES)
                .map_err(|source| Error::io("extend", &path(&self.folder, segment.id), source))?;
        }
        Ok(self.segments)
    }
}

impl NewSegment {
    fn create(folder: &Path) -> Result<Self, Error> {
        let create = |source| Error::io("create a segment in", folder, source);
        let id = random_u64().map_err(create)?;
        let pending = PendingFile::create(folder).map_err(create)?;
        Header::new(MAGIC, VERSION)
            .field(ID, &id.to_le_bytes())
            .field(SLOT_BYTES, &CHUNK_BYTES.to_le_bytes())
            .write(pending.file(), &path(folder, id))?;
        Ok(Self {
            id,
            pending,
            slots: 0,
        })
    }

    fn append(
        &mut self,
        folder: &Path,
        chunk: &[u8],
        runs: &[Range<usize>],
    ) -> Result<ChunkPlace, Error> {
        // Slot 0 is the header's, so that every chunk lies at a multiple of its size.
        let offset = (self.slots + 1) * CHUNK_BYTES;
        let file = self.pending.file();
        write_runs(file, offset, chunk, runs)
            .map_err(|source| Error::io("write", &path(folder, self.id), source))?;
        self.slots += 1;
        if self.slots.is_multiple_of(WRITEBACK_SLOTS) {
            begin_writeback(file, offset + CHUNK_BYTES);
        }
        Ok(ChunkPlace {
            segment: self.id,
            offset,
        })
    }

    /// Gives the segment its final name.
    pub(crate) fn publish(&mut self, folder: &Path) -> Result<(), Error> {
        let path = path(folder, self.id);
        self.pending
            .publish(path.clone())
            .map_err(|source| Error::io("name", &path, source))
    }
}

/// Has the disk take the last slots before `end` while the next ones are made, so that little is left
/// to wait for when the segment is synced. posix_fadvise(2): POSIX_FADV_DONTNEED begins to write what is
/// dirty, and drops only what is clean: none of it yet.
fn begin_writeback(file: &File, end: u64) {
    let len = WRITEBACK_SLOTS * CHUNK_BYTES;
    // Only advice: the sync tells of what fails.
    let _ = rustix::fs::fadvise(file, end - len, NonZero::new(len), Advice::DontNeed);
}

fn write_runs(
    file: &File,
    offset: u64,
    chunk: &[u8],
    runs: &[Range<usize>],
) -> std::io::Result<()> {
    for run in runs {
        let bytes = chunk.get(run.clone()).unwrap_or_default();
        file.write_all_at(bytes, offset + run.start as u64)?;
    }
    Ok(())
}

const _: () = assert!(HEADER_BYTES <= CHUNK_BYTES);

#[cfg(test)]
mod tests {
    use super::super::{CHUNK_LEN, data_runs};
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        let name = path(Path::new(""), 0xabc);
        assert_eq!(name, Path::new("0000000000000abc.seg"));
        assert_eq!(id_of("0000000000000abc.seg"), Some(0xabc));
        for other in [
            "abc.seg",
            "0000000000000ABC.seg",
            "+000000000000abc.seg",
            "x",
        ] {
            assert_eq!(id_of(other), None, "{other}");
        }
    }

    #[test]
    fn full_segment_is_followed_by_another() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = SegmentWriter::new(folder.path().to_owned(), NonZero::new(2).unwrap());
        let mut chunk = vec![0; CHUNK_LEN];
        let mut places = Vec::new();
        for number in 1..=3 {
            chunk[9000] = number;
            places.push(writer.append(&chunk, &data_runs(&chunk)).unwrap());
        }
        assert_eq!(
            places.iter().map(|place| place.offset).collect::<Vec<_>>(),
            [CHUNK_BYTES, 2 * CHUNK_BYTES, CHUNK_BYTES]
        );
        assert_ne!(places[0].segment, places[2].segment);
        let mut segments = writer.finish().unwrap();
        for segment in &mut segments {
            segment.publish(folder.path()).unwrap();
        }
        let read = Segment::open(folder.path(), places[1].segment).unwrap();
        let (file, len) = read.into_file();
        assert_eq!(len, 3 * CHUNK_BYTES);
        let mut back = vec![1; CHUNK_LEN];
        file.read_exact_at(&mut back, places[1].offset).unwrap();
        chunk[9000] = 2;
        assert!(back == chunk);
        // Two chunks of a page each, and the header.
        assert!(file.metadata().unwrap().blocks() * 512 <= 3 * 4096);
    }

    #[test]
    fn another_segments_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut segment = NewSegment::create(folder.path()).unwrap();
        segment.publish(folder.path()).unwrap();
        let other = segment.id ^ 1;
        std::fs::copy(path(folder.path(), segment.id), path(folder.path(), other)).unwrap();
        Segment::open(folder.path(), segment.id).unwrap();
        let error = Segment::open(folder.path(), other).unwrap_err();
        assert!(error.to_string().contains("another segment"), "{error}");
    }
}
