//! A volume of a store as a disk to read and write, as the block device does it with io_uring.

use std::error::Error;
use std::path::Path;

use kami_image::volume::{BeginWrite, Extent, FileIndex, Place, Standing, Volume, VolumeFiles};
use rusqlite::{Connection, OpenFlags};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A volume that no other process has open.
#[derive(Debug)]
pub struct Disk(Volume);

impl Disk {
    /// Opens the volume of that id in the store in `home`.
    ///
    /// # Errors
    /// There is no such volume, it is in use, or its files are damaged.
    pub fn open(home: &Path, id: &str) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
        let catalogue = Connection::open_with_flags(home.join("catalogue.db"), flags)?;
        let query = "SELECT size_bytes, base, layer FROM volumes WHERE id = ?1";
        let (size_bytes, base, layer) = catalogue.query_row(query, [id], |row| {
            Ok((row.get(0)?, row.get::<_, Option<String>>(1)?, row.get(2)?))
        })?;
        let standing = Standing {
            size_bytes,
            base: base.map(|id| id.parse()).transpose()?,
            layer,
        };
        Ok(Self(VolumeFiles::new(home).open(&id.parse()?, &standing)?))
    }

    pub fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    /// # Errors
    /// The bytes lie outside the disk, or cannot be read.
    pub fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let mut extents = Vec::new();
        self.0.map_read(offset, bytes.len() as u64, &mut extents)?;
        let mut rest = bytes;
        for Extent { len, place } in extents {
            let (part, after) = rest.split_at_mut(usize::try_from(len)?);
            self.fill(place, part)?;
            rest = after;
        }
        Ok(())
    }

    /// Writes, for the next flush to make durable.
    ///
    /// # Errors
    /// As [`Disk::read`].
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            let BeginWrite::Ready(plan) = self
                .0
                .begin_write(offset + done as u64, rest.len() as u64)?
            else {
                return Err("no other write is under way".into());
            };
            for fill in plan.fills.iter().flatten() {
                let mut filling = vec![0; usize::try_from(fill.len)?];
                self.fill(fill.from, &mut filling)?;
                self.write_at(plan.file, fill.to_offset, &filling)?;
            }
            let len = usize::try_from(plan.len)?;
            self.write_at(plan.file, plan.offset, &rest[..len])?;
            self.0.end_write(plan, true);
            done += len;
        }
        Ok(())
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// A file cannot be written or synced.
    pub fn flush(&mut self) -> Result<()> {
        let plan = self.0.begin_flush();
        for file in &plan.once {
            rustix::fs::fsync(self.0.file(*file))?;
        }
        for file in &plan.data {
            rustix::fs::fdatasync(self.0.file(*file))?;
        }
        for page in &plan.pages {
            self.write_at(page.file, page.offset, &page.bytes[..])?;
        }
        for file in &plan.bitmaps {
            rustix::fs::fdatasync(self.0.file(*file))?;
        }
        self.0.end_flush(plan, true);
        Ok(())
    }

    fn fill(&self, from: Place, mut bytes: &mut [u8]) -> Result<()> {
        let Place::File { file, mut offset } = from else {
            bytes.fill(0);
            return Ok(());
        };
        while !bytes.is_empty() {
            match rustix::io::pread(self.0.file(file), &mut *bytes, offset)? {
                0 => return Err("a file of the volume is too short".into()),
                read => {
                    bytes = &mut bytes[read..];
                    offset += read as u64;
                }
            }
        }
        Ok(())
    }

    fn write_at(&self, file: FileIndex, mut offset: u64, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let written = rustix::io::pwrite(self.0.file(file), bytes, offset)?;
            bytes = &bytes[written..];
            offset += written as u64;
        }
        Ok(())
    }
}
