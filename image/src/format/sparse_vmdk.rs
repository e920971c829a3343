//! VMDK in one file, its grains allocated as they were written (VMware's *Virtual Disk Format 5.0*,
//! "Hosted Sparse Extents" and "Stream-Optimized Compressed Sparse Extents").
//!
//! The kind that VMware, VirtualBox and `qemu-img` export and that OVA archives hold; `imago` reads
//! the flat kind only. Left out on purpose: disks split over several such files, and deltas.

use super::{Error, MAX_SIZE_BYTES, raw};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const SECTOR: u64 = 512;
/// "SparseExtentHeader.gdOffset": the header at the end of the file has it.
const AT_END: u64 = u64::MAX;
const COMPRESSED: u32 = 1 << 16;
const ZEROED_GRAINS: u32 = 1 << 2;
const DEFLATE: u16 = 1;

/// Grains of 4 KiB to 1 MiB; VMware writes 64 KiB.
const GRAIN_SECTORS: std::ops::RangeInclusive<u64> = 8..=2048;
const TABLE_ENTRIES: u64 = 512;
const MAX_DIRECTORY_BYTES: u64 = 32 << 20;
const MAX_DESCRIPTOR_BYTES: u64 = 2 << 20;

#[derive(Debug)]
pub(super) struct SparseVmdk {
    path: PathBuf,
    file: File,
    file_len: u64,
    size_bytes: u64,
    grain_bytes: u64,
    compressed: bool,
    /// The entry 1 means a grain of zeroes, not the grain at sector 1.
    zeroed_grains: bool,
    /// Byte offsets of the grain tables; 0 for none.
    directory: Vec<u64>,
    /// The table looked at last. Import threads share it: they read on, mostly in one table.
    table: Mutex<Option<(u64, Table)>>,
}

/// A grain table: sectors of grains.
type Table = std::sync::Arc<[u32]>;

/// The members of the header, little-endian and packed.
struct Header {
    bytes: [u8; 512],
}

impl Header {
    fn read(path: &Path, file: &File, offset: u64) -> Result<Self, Error> {
        let mut bytes = [0; 512];
        raw::read(path, file, offset, &mut bytes)?;
        Ok(Self { bytes })
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let bytes = self.bytes.get(at..at + N);
        bytes.and_then(|it| it.try_into().ok()).unwrap_or([0; N])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
}

pub(super) fn open(path: &Path, file: File) -> Result<SparseVmdk, Error> {
    let file_len = raw::len(path, &file)?;
    let mut header = Header::read(path, &file, 0)?;
    check_descriptor(path, &file, &header)?;
    if header.u64(56) == AT_END {
        // Before the end-of-stream marker of one sector lies the footer.
        let footer = file_len.saturating_sub(2 * SECTOR);
        header = Header::read(path, &file, footer)?;
        if !header.bytes.starts_with(b"KDMV") || header.u64(56) == AT_END {
            return Err(truncated(path, "its footer"));
        }
    }
    let damaged = |what: &str| Error::Damaged {
        path: path.to_owned(),
        what: what.to_owned(),
    };
    let unsupported = |what: String| Error::Unsupported {
        path: path.to_owned(),
        what,
    };
    let (version, flags) = (header.u32(4), header.u32(8));
    if !(1..=3).contains(&version) {
        return Err(unsupported(format!("a sparse VMDK of version {version}")));
    }
    let compressed = flags & COMPRESSED != 0;
    if compressed && u16::from_le_bytes(header.array(77)) != DEFLATE {
        return Err(unsupported(
            "a VMDK compressed in an unknown way".to_owned(),
        ));
    }
    let grain_sectors = header.u64(20);
    if !GRAIN_SECTORS.contains(&grain_sectors) || !grain_sectors.is_power_of_two() {
        return Err(damaged("its grains have an impossible size"));
    }
    if u64::from(header.u32(44)) != TABLE_ENTRIES {
        return Err(damaged("its grain tables have not 512 entries"));
    }
    let size_bytes = header.u64(12).saturating_mul(SECTOR);
    if size_bytes > MAX_SIZE_BYTES {
        return Err(Error::TooLarge {
            path: path.to_owned(),
            size_bytes,
        });
    }
    let mut disk = SparseVmdk {
        path: path.to_owned(),
        file,
        file_len,
        size_bytes,
        grain_bytes: grain_sectors * SECTOR,
        compressed,
        zeroed_grains: flags & ZEROED_GRAINS != 0,
        directory: Vec::new(),
        table: Mutex::new(None),
    };
    disk.directory = disk.read_directory(header.u64(56))?;
    Ok(disk)
}

/// The descriptor within the file must say that the file is the whole disk.
fn check_descriptor(path: &Path, file: &File, header: &Header) -> Result<(), Error> {
    let (start, sectors) = (header.u64(28), header.u64(36));
    let len = sectors.saturating_mul(SECTOR).min(MAX_DESCRIPTOR_BYTES);
    if start == 0 || len == 0 {
        return Err(Error::Unsupported {
            path: path.to_owned(),
            what: "one of several files of a VMDK".to_owned(),
        });
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    raw::read(path, file, start.saturating_mul(SECTOR), &mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let is_extent = |line: &&str| {
        let access = line.split_whitespace().next().unwrap_or_default();
        matches!(access, "RW" | "RDONLY" | "NOACCESS")
    };
    let what = if text.contains("parentFileNameHint") {
        "a VMDK that is a difference to another"
    } else if text.lines().filter(is_extent).count() != 1 {
        "one of several files of a VMDK"
    } else {
        return Ok(());
    };
    Err(Error::Unsupported {
        path: path.to_owned(),
        what: what.to_owned(),
    })
}

impl SparseVmdk {
    pub(super) fn len(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>, Error> {
        let mut grain = offset / self.grain_bytes;
        let grains = self.size_bytes.div_ceil(self.grain_bytes);
        while grain < grains {
            // A table that is not there is skipped as a whole.
            if self.table(grain / TABLE_ENTRIES)?.is_none() {
                grain = (grain / TABLE_ENTRIES + 1) * TABLE_ENTRIES;
                continue;
            }
            if self.grain(grain)?.is_some() {
                let start = (grain * self.grain_bytes).max(offset);
                let end = ((grain + 1) * self.grain_bytes).min(self.size_bytes);
                return Ok((start < end).then_some(start..end));
            }
            grain += 1;
        }
        Ok(None)
    }

    pub(super) fn read(&self, mut offset: u64, mut buffer: &mut [u8]) -> Result<(), Error> {
        while !buffer.is_empty() {
            if offset >= self.size_bytes {
                buffer.fill(0);
                break;
            }
            let grain = offset / self.grain_bytes;
            let within = offset % self.grain_bytes;
            let len = (self.grain_bytes - within).min(self.size_bytes - offset);
            let len = usize::try_from(len).unwrap_or(usize::MAX).min(buffer.len());
            let (part, rest) = buffer.split_at_mut(len);
            match self.grain(grain)? {
                None => part.fill(0),
                Some(stored) if self.compressed => self.inflate(stored, within, part)?,
                Some(stored) => self.read_stored(stored + within, part)?,
            }
            offset += len as u64;
            buffer = rest;
        }
        Ok(())
    }

    /// The byte offset of a grain in the file; `None` for one of zeroes.
    fn grain(&self, grain: u64) -> Result<Option<u64>, Error> {
        let Some(table) = self.table(grain / TABLE_ENTRIES)? else {
            return Ok(None);
        };
        let within = usize::try_from(grain % TABLE_ENTRIES).unwrap_or(usize::MAX);
        Ok(match table.get(within).copied().unwrap_or(0) {
            0 => None,
            1 if self.zeroed_grains => None,
            sector => Some(u64::from(sector) * SECTOR),
        })
    }

    fn table(&self, number: u64) -> Result<Option<Table>, Error> {
        let entry = usize::try_from(number)
            .ok()
            .and_then(|it| self.directory.get(it));
        let Some(&offset) = entry.filter(|offset| **offset != 0) else {
            return Ok(None);
        };
        let mut last = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((held, table)) = &*last
            && *held == number
        {
            return Ok(Some(table.clone()));
        }
        let table: Table = self.entries(offset, TABLE_ENTRIES, "a grain table")?.into();
        *last = Some((number, table.clone()));
        Ok(Some(table))
    }

    fn read_directory(&self, sector: u64) -> Result<Vec<u64>, Error> {
        let tables = self.size_bytes.div_ceil(self.grain_bytes * TABLE_ENTRIES);
        if tables * 4 > MAX_DIRECTORY_BYTES {
            return Err(Error::Damaged {
                path: self.path.clone(),
                what: "its grain directory is larger than 32 MiB".to_owned(),
            });
        }
        let offset = sector.saturating_mul(SECTOR);
        let entries = self.entries(offset, tables, "its grain directory")?;
        Ok(entries
            .into_iter()
            .map(|it| u64::from(it) * SECTOR)
            .collect())
    }

    /// `count` little-endian entries of 32 bits at `offset`.
    fn entries(&self, offset: u64, count: u64, what: &str) -> Result<Vec<u32>, Error> {
        let mut bytes = vec![0; usize::try_from(count * 4).unwrap_or(0)];
        self.check(offset, bytes.len(), what)?;
        raw::read(&self.path, &self.file, offset, &mut bytes)?;
        let (entries, _) = bytes.as_chunks();
        Ok(entries.iter().map(|it| u32::from_le_bytes(*it)).collect())
    }

    fn read_stored(&self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.check(offset, buffer.len(), "a grain")?;
        raw::read(&self.path, &self.file, offset, buffer)
    }

    /// Fills `buffer` from byte `within` of the compressed grain at `offset`.
    fn inflate(&self, offset: u64, within: u64, buffer: &mut [u8]) -> Result<(), Error> {
        // "GrainMarker": the grain's first sector, the size of what follows.
        let mut marker = [0; 12];
        self.read_stored(offset, &mut marker)?;
        let [.., a, b, c, d] = marker;
        let size = u64::from(u32::from_le_bytes([a, b, c, d]));
        let damaged = |what: String| Error::Damaged {
            path: self.path.clone(),
            what,
        };
        // Deflate adds a few bytes to what it cannot compress.
        if size > 2 * self.grain_bytes {
            return Err(damaged(format!("the grain at byte {offset} is too large")));
        }
        let mut stored = vec![0; usize::try_from(size).unwrap_or(0)];
        self.read_stored(offset + 12, &mut stored)?;
        let mut inflated = flate2::read::ZlibDecoder::new(&stored[..]);
        let skipped = io::copy(&mut inflated.by_ref().take(within), &mut io::sink());
        match skipped.and_then(|_| inflated.read_exact(buffer)) {
            Ok(()) => Ok(()),
            Err(_) => Err(damaged(format!(
                "the grain at byte {offset} does not inflate"
            ))),
        }
    }

    fn check(&self, offset: u64, len: usize, what: &str) -> Result<(), Error> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.file_len => Ok(()),
            _ => Err(truncated(&self.path, what)),
        }
    }
}

fn truncated(path: &Path, what: &str) -> Error {
    Error::Truncated {
        path: path.to_owned(),
        what: what.to_owned(),
    }
}
