//! Which blocks the overlay holds (`FORMAT.md` "Bitmap").
//!
//! A page of the bitmap is read when a block of its 128 MiB is first asked for, and written only by
//! a flush, after the data it vouches for. Memory follows what is touched: a page of all zeroes
//! or all ones takes none, and pages that are on disk are dropped when many have gathered.

use super::plan::{BLOCK_BYTES, BitmapPage, FileIndex};
use crate::chunk::header::{HEADER_BYTES, Header, id_field};
use crate::chunk::{self, Error};
use crate::id::{SnapshotId, VolumeId};
use rustix::fs::SeekFrom;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: [u8; 8] = *b"KAMIBMAP";
const VERSION: u32 = 1;
const VOLUME_ID: usize = 0;
const SNAPSHOT_ID: usize = 24;
const GRANULE: usize = 48;
const LAYER: usize = 56;

const PAGE_LEN: usize = 4096;
const PAGE_BYTES: u64 = 4096;
/// Blocks that a page speaks for.
pub(super) const PAGE_BLOCKS: u64 = PAGE_BYTES * 8;

/// Pages in memory before the clean ones are dropped: 32 MiB of them, for 1 TiB of a volume.
const MAX_PAGES: usize = 8192;

#[derive(Debug)]
pub(super) struct Bitmap {
    path: PathBuf,
    pages: BTreeMap<u64, Page>,
    /// How many pages gather before the clean ones are dropped.
    limit: usize,
}

#[derive(Debug)]
struct Page {
    bits: Bits,
    /// Has bits that no flush has begun to write.
    dirty: bool,
    /// Is being written by a flush.
    flushing: bool,
}

#[derive(Clone, Debug)]
enum Bits {
    None,
    All,
    Some(Box<[u8; PAGE_LEN]>),
}

/// What the bitmap of layer `layer` of a volume begins with. The lowest layer that a volume began
/// with names the snapshot that it stands on; what is below the others changes in their life.
pub(super) fn header(volume: &VolumeId, layer: u32, snapshot: Option<&SnapshotId>) -> Header {
    Header::new(MAGIC, VERSION)
        .field(VOLUME_ID, &id_field(volume))
        .field(SNAPSHOT_ID, &snapshot.map_or([0; 24], id_field))
        .field(GRANULE, &BLOCK_BYTES.to_le_bytes())
        .field(LAYER, &u64::from(layer).to_le_bytes())
}

/// Whether no header was ever written to `file`. A flush syncs the header before it writes any page, so
/// such a bitmap vouches for nothing: a power cut came before the first flush.
pub(super) fn is_unwritten(file: &File, path: &Path) -> Result<bool, Error> {
    let mut page = [0; PAGE_LEN];
    read(file, 0, &mut page).map_err(|source| Error::io("read", path, source))?;
    Ok(page == [0; PAGE_LEN])
}

impl Bitmap {
    /// The bitmap in a file that [`header`] has been written to.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            pages: BTreeMap::new(),
            limit: MAX_PAGES,
        }
    }

    /// The bitmap in `file`, whose header must be [`header`] of the same.
    pub(super) fn open(
        file: &File,
        path: &Path,
        volume: &VolumeId,
        layer: u32,
        snapshot: Option<&SnapshotId>,
    ) -> Result<Self, Error> {
        let header = Header::read(file, path, MAGIC, VERSION)?;
        if header.bytes(VOLUME_ID) != id_field(volume) {
            return Err(Error::corrupt(path, "its header names another volume"));
        }
        if header.u64(LAYER) != u64::from(layer) {
            return Err(Error::corrupt(path, "its header names another layer"));
        }
        if header.bytes(SNAPSHOT_ID) != snapshot.map_or([0; 24], id_field) {
            return Err(Error::corrupt(path, "its header names another snapshot"));
        }
        if header.u64(GRANULE) != BLOCK_BYTES {
            return Err(Error::corrupt(path, "its blocks have another size"));
        }
        Ok(Self::new(path))
    }

    /// The error of one that [`is_unwritten`] but may not be.
    pub(super) fn unwritten(&self) -> Error {
        Error::corrupt(&self.path, "its header is missing")
    }

    /// Whether the overlay holds the first block of `blocks`, and where the run of blocks of
    /// which the same is true ends. The range is not empty.
    pub(super) fn run(&mut self, file: &File, blocks: Range<u64>) -> Result<(bool, u64), Error> {
        let mut end = blocks.start;
        let mut held = None;
        while end < blocks.end {
            let number = end / PAGE_BLOCKS;
            let first = number * PAGE_BLOCKS;
            let within = end - first..(blocks.end - first).min(PAGE_BLOCKS);
            let (page_held, run_end) = self.page(file, number)?.bits.run(within.clone());
            if *held.get_or_insert(page_held) != page_held {
                break;
            }
            end = first + run_end;
            if run_end < within.end {
                break;
            }
        }
        Ok((held.unwrap_or(false), end))
    }

    /// Has the overlay hold `blocks`, whose pages [`Bitmap::run`] has just been asked about.
    pub(super) fn set(&mut self, blocks: Range<u64>) {
        let mut next = blocks.start;
        while next < blocks.end {
            let number = next / PAGE_BLOCKS;
            let first = number * PAGE_BLOCKS;
            let within = next - first..(blocks.end - first).min(PAGE_BLOCKS);
            next = first + within.end;
            if let Some(page) = self.pages.get_mut(&number) {
                page.bits.set(within);
                page.dirty = true;
            }
        }
    }

    /// The pages that changed since the last flush, to be written to `file`.
    pub(super) fn begin_flush(&mut self, file: FileIndex) -> Vec<BitmapPage> {
        let all: Arc<[u8; PAGE_LEN]> = Arc::new([0xff; PAGE_LEN]);
        let dirty = self.pages.iter_mut().filter(|(_, page)| page.dirty);
        dirty
            .map(|(number, page)| {
                page.dirty = false;
                page.flushing = true;
                BitmapPage {
                    file,
                    offset: page_offset(*number),
                    bytes: match &page.bits {
                        Bits::None => Arc::new([0; PAGE_LEN]),
                        Bits::All => all.clone(),
                        Bits::Some(bits) => Arc::new(**bits),
                    },
                }
            })
            .collect()
    }

    pub(super) fn end_flush(&mut self, synced: bool) {
        for page in self.pages.values_mut().filter(|page| page.flushing) {
            page.flushing = false;
            page.dirty |= !synced;
        }
    }

    /// Drops pages that are as they are on disk, if many have gathered. Not while a write is under
    /// way that ends with [`Bitmap::set`].
    pub(super) fn trim(&mut self) {
        if self.pages.len() > self.limit {
            self.pages.retain(|_, page| page.dirty || page.flushing);
            self.limit = MAX_PAGES.max(2 * self.pages.len());
        }
    }

    /// The first page from `number` on that `file` has anything of.
    pub(super) fn next_page(&self, file: &File, number: u64) -> Result<Option<u64>, Error> {
        let data = next_data(file, page_offset(number))
            .map_err(|source| Error::io("search", &self.path, source))?;
        Ok(data.map(|data| data.saturating_sub(HEADER_BYTES) / PAGE_BYTES))
    }

    fn page(&mut self, file: &File, number: u64) -> Result<&mut Page, Error> {
        use std::collections::btree_map::Entry;
        match self.pages.entry(number) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let mut bytes = [0; PAGE_LEN];
                read(file, page_offset(number), &mut bytes)
                    .map_err(|source| chunk::Error::io("read", &self.path, source))?;
                Ok(entry.insert(Page {
                    bits: Bits::new(bytes),
                    dirty: false,
                    flushing: false,
                }))
            }
        }
    }
}

fn page_offset(number: u64) -> u64 {
    HEADER_BYTES + number * PAGE_BYTES
}

/// The first byte from `offset` on that is in no hole of `file`.
pub(super) fn next_data(file: &File, offset: u64) -> std::io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => Ok(Some(data.max(offset))),
        // lseek(2): no data from there on.
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The first byte from `offset` on that is in a hole of `file`; its end is one.
pub(super) fn next_hole(file: &File, offset: u64) -> std::io::Result<u64> {
    Ok(rustix::fs::seek(file, SeekFrom::Hole(offset))?.max(offset + 1))
}

/// Reads what the file has; the bitmap ends where the last page that was written does.
pub(super) fn read(file: &File, mut offset: u64, mut buffer: &mut [u8]) -> std::io::Result<()> {
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => break,
            Ok(count) => {
                offset += count as u64;
                buffer = buffer.get_mut(count..).unwrap_or_default();
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Bits {
    fn new(bytes: [u8; PAGE_LEN]) -> Self {
        match bytes {
            _ if bytes == [0; PAGE_LEN] => Self::None,
            _ if bytes == [0xff; PAGE_LEN] => Self::All,
            _ => Self::Some(Box::new(bytes)),
        }
    }

    /// The first bit of `within`, and where the run of bits like it ends.
    fn run(&self, within: Range<u64>) -> (bool, u64) {
        let bytes = match self {
            Self::None => return (false, within.end),
            Self::All => return (true, within.end),
            Self::Some(bytes) => bytes,
        };
        let word = |number: u64| {
            let (words, _) = bytes.as_chunks();
            let word = usize::try_from(number).ok().and_then(|it| words.get(it));
            u64::from_le_bytes(*word.unwrap_or(&[0; 8]))
        };
        let first = word(within.start / 64) >> (within.start % 64);
        let held = first & 1 == 1;
        // Counts ones; a run of zeroes is one of ones in the complement.
        let like = |word: u64| if held { word } else { !word };
        let mut end =
            within.start + u64::from(like(first).trailing_ones()).min(64 - within.start % 64);
        while end.is_multiple_of(64) && end < within.end {
            let count = u64::from(like(word(end / 64)).trailing_ones());
            end += count;
            if count < 64 {
                break;
            }
        }
        (held, end.min(within.end))
    }

    fn set(&mut self, within: Range<u64>) {
        if within == (0..PAGE_BLOCKS) {
            *self = Self::All;
        }
        let bytes = match self {
            Self::All => return,
            Self::None => {
                *self = Self::Some(Box::new([0; PAGE_LEN]));
                return self.set(within);
            }
            Self::Some(bytes) => bytes,
        };
        let (words, _) = bytes.as_chunks_mut();
        let mut next = within.start;
        while next < within.end {
            let end = (next - next % 64 + 64).min(within.end);
            let mask = (u64::MAX >> (64 - (end - next))) << (next % 64);
            let place: Option<&mut [u8; 8]> = usize::try_from(next / 64)
                .ok()
                .and_then(|it| words.get_mut(it));
            if let Some(place) = place {
                *place = (u64::from_le_bytes(*place) | mask).to_le_bytes();
            }
            next = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Ranges set in any order read back as in a vector of booleans, as do the pages
        /// that a flush writes.
        #[test]
        fn bits_match_a_vector(
            ranges in prop::collection::vec((0u64..3 * PAGE_BLOCKS, 1u64..40_000), 1..12),
            probes in prop::collection::vec((0u64..3 * PAGE_BLOCKS, 1u64..70_000), 1..20),
        ) {
            let end = 3 * PAGE_BLOCKS + 70_000;
            let file = tempfile::tempfile().unwrap();
            let mut bitmap = Bitmap::new(Path::new("bitmap"));
            let mut model = vec![false; usize::try_from(end).unwrap()];
            for (start, len) in ranges {
                let range = start..start + len;
                let mut at = start;
                while at < range.end {
                    at = bitmap.run(&file, at..range.end).unwrap().1;
                }
                bitmap.set(range.clone());
                for block in range {
                    model[usize::try_from(block).unwrap()] = true;
                }
            }
            for page in bitmap.begin_flush(FileIndex(0)) {
                file.write_all_at(&page.bytes[..], page.offset).unwrap();
            }
            let mut reopened = Bitmap::new(Path::new("bitmap"));
            for (start, len) in probes {
                let range = usize::try_from(start).unwrap()..usize::try_from(start + len).unwrap();
                let held = model[range.start];
                let run = model[range.clone()].iter().take_while(|it| **it == held).count();
                let expected = (held, start + run as u64);
                prop_assert_eq!(bitmap.run(&file, start..start + len).unwrap(), expected);
                prop_assert_eq!(reopened.run(&file, start..start + len).unwrap(), expected);
            }
        }
    }

    #[test]
    fn failed_flush_leaves_pages_dirty_and_later_ones_too() {
        let file = tempfile::tempfile().unwrap();
        let mut bitmap = Bitmap::new(Path::new("bitmap"));
        let hold = |bitmap: &mut Bitmap, block: u64| {
            bitmap.run(&file, block..block + 1).unwrap();
            bitmap.set(block..block + 1);
        };
        hold(&mut bitmap, 1);
        assert_eq!(bitmap.begin_flush(FileIndex(0)).len(), 1);
        hold(&mut bitmap, 2);
        hold(&mut bitmap, PAGE_BLOCKS);
        bitmap.end_flush(false);
        let pages = bitmap.begin_flush(FileIndex(0));
        assert_eq!(pages.len(), 2);
        assert_eq!(pages[0].bytes[0], 0b110);
        bitmap.end_flush(true);
        assert!(bitmap.begin_flush(FileIndex(0)).is_empty());
    }

    #[test]
    fn clean_pages_are_dropped_and_dirty_ones_stay() {
        let file = tempfile::tempfile().unwrap();
        let mut bitmap = Bitmap::new(Path::new("bitmap"));
        for page in 0..=MAX_PAGES as u64 {
            bitmap
                .run(&file, page * PAGE_BLOCKS..page * PAGE_BLOCKS + 1)
                .unwrap();
        }
        bitmap.set(5..6);
        bitmap.trim();
        assert_eq!(bitmap.pages.len(), 1);
        assert_eq!(bitmap.run(&file, 4..7).unwrap(), (false, 5));
        assert_eq!(bitmap.run(&file, 5..7).unwrap(), (true, 6));
    }
}
