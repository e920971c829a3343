//! The files of volumes: created, opened, grown, deleted, swept (`FORMAT.md` "Volume").
//!
//! Creating a volume writes one page and syncs nothing, so that a launch costs the same at any
//! size and waits for no disk; the volume's first flush catches up. Every file of an open volume is
//! locked: a second process cannot open it, and a sweep leaves it alone before its row is committed.

use super::base::Base;
use super::bitmap::{self, Bitmap};
use super::{Error, Volume, add};
use crate::chunk::pending::{create_locked, lock};
use crate::chunk::table::Table;
use crate::chunk::{self, table};
use crate::id::{SnapshotId, VolumeId};
use crate::snapshot::sweep_folder;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// What one overlay file holds: 8 TiB, for ext4 ends a file 4 KiB short of 16 TiB.
const PART_BYTES: u64 = 8 << 40;

/// The volume files of a store.
#[derive(Clone, Debug)]
pub struct VolumeFiles {
    volumes: PathBuf,
    snapshots: PathBuf,
    segments: PathBuf,
    pub(super) part_bytes: u64,
}

impl VolumeFiles {
    /// The volume files of the store at `home`. Touches nothing.
    pub fn new(home: &Path) -> Self {
        Self {
            volumes: home.join("volumes"),
            snapshots: home.join("snapshots"),
            segments: home.join("segments"),
            part_bytes: PART_BYTES,
        }
    }

    /// Creates a volume of `size_bytes`, all zeroes, or with the content of `snapshot` and zeroes
    /// beyond it.
    ///
    /// # Errors
    /// [`Error::Size`], [`Error::BelowSnapshot`], [`Error::Exists`]; [`Error::Files`] where the
    /// snapshot's table cannot be opened or a file not be made. Nothing is left then.
    pub fn create(
        &self,
        id: &VolumeId,
        size_bytes: u64,
        snapshot: Option<&SnapshotId>,
    ) -> Result<Volume, Error> {
        let table = self.table(size_bytes, snapshot)?;
        std::fs::create_dir_all(&self.volumes)
            .map_err(|source| chunk::Error::io("create", &self.volumes, source))?;
        let mut new = NewFiles::default();
        let mut overlays = Vec::new();
        for number in 0..self.parts(size_bytes) {
            let file = new.create(self.overlay(id, number), id)?;
            self.set_len(id, number, &file, size_bytes)?;
            overlays.push(file);
        }
        let mut volume = Volume::new(overlays, size_bytes, self.part_bytes);
        if let (Some(table), Some(snapshot)) = (table, snapshot) {
            let path = self.bitmap(id);
            let file = new.create(path.clone(), id)?;
            bitmap::header(id, snapshot).write(&file, &path)?;
            self.stand_on(&mut volume, Bitmap::new(&path), file, table);
        }
        self.sync_on_first_flush(&mut volume)?;
        new.keep();
        Ok(volume)
    }

    /// Opens a volume, growing it if it was smaller than `size_bytes`.
    ///
    /// # Errors
    /// [`Error::InUse`] while another process has it open; [`Error::Shrinks`] where it is larger
    /// than `size_bytes`; [`Error::Files`] where its files are missing, damaged or another
    /// volume's; those of [`VolumeFiles::create`].
    pub fn open(
        &self,
        id: &VolumeId,
        size_bytes: u64,
        snapshot: Option<&SnapshotId>,
    ) -> Result<Volume, Error> {
        let table = self.table(size_bytes, snapshot)?;
        let mut overlays = vec![open_locked(&self.overlay(id, 0), id)?];
        for number in 1.. {
            match open_locked(&self.overlay(id, number), id) {
                Ok(file) => overlays.push(file),
                Err(Error::Files(error)) if is_missing(&error) => break,
                Err(error) => return Err(error),
            }
        }
        // All is checked before anything is changed.
        let held_bytes = len(&overlays, &self.overlay(id, 0))?;
        if held_bytes > size_bytes {
            return Err(Error::Shrinks {
                id: *id,
                held_bytes,
                size_bytes,
            });
        }
        let bitmap = match snapshot {
            None => None,
            Some(snapshot) => {
                let path = self.bitmap(id);
                let file = open_locked(&path, id)?;
                Some((Bitmap::open(&file, &path, id, snapshot)?, file))
            }
        };
        self.grow(id, &mut overlays, held_bytes, size_bytes)?;
        let mut volume = Volume::new(overlays, size_bytes, self.part_bytes);
        if let (Some((bitmap, file)), Some(table)) = (bitmap, table) {
            self.stand_on(&mut volume, bitmap, file, table);
        }
        self.sync_on_first_flush(&mut volume)?;
        Ok(volume)
    }

    /// Deletes the files of a volume that nobody has open; those that are missing are no error.
    ///
    /// # Errors
    /// [`Error::InUse`]; [`Error::Files`].
    pub fn delete(&self, id: &VolumeId) -> Result<(), Error> {
        let mut paths = vec![self.overlay(id, 0), self.bitmap(id)];
        for number in 1.. {
            let path = self.overlay(id, number);
            if !path.exists() {
                break;
            }
            paths.push(path);
        }
        // All are locked before the first is gone.
        let mut locked = Vec::new();
        for path in paths {
            match open_locked(&path, id) {
                Ok(file) => locked.push((path, file)),
                Err(Error::Files(error)) if is_missing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        for (path, _file) in &locked {
            std::fs::remove_file(path)
                .map_err(|source| chunk::Error::io("delete", path, source))?;
        }
        Ok(())
    }

    /// Deletes the files of every volume that `is_named` denies and nobody has open. It must ask
    /// the catalogue as it is when it is called. Returns how many were deleted.
    ///
    /// # Errors
    /// [`Error::Files`] where the folder cannot be read or a file not deleted.
    pub fn sweep(&self, is_named: &dyn Fn(&VolumeId) -> bool) -> Result<u64, Error> {
        Ok(sweep_folder(&self.volumes, &|name| {
            id_of(name).map(|id| is_named(&id))
        })?)
    }

    /// The table of the snapshot of a volume of `size_bytes`, both of which are checked.
    fn table(
        &self,
        size_bytes: u64,
        snapshot: Option<&SnapshotId>,
    ) -> Result<Option<Table>, Error> {
        if !(1..=table::MAX_SIZE_BYTES).contains(&size_bytes) {
            return Err(Error::Size { size_bytes });
        }
        let Some(snapshot) = snapshot else {
            return Ok(None);
        };
        let table = Table::open(&self.snapshots, snapshot)?;
        if table.size_bytes() > size_bytes {
            return Err(Error::BelowSnapshot {
                size_bytes,
                snapshot: *snapshot,
                snapshot_bytes: table.size_bytes(),
            });
        }
        Ok(Some(table))
    }

    fn stand_on(&self, volume: &mut Volume, bitmap: Bitmap, file: File, table: Table) {
        let file = add(&mut volume.files, file);
        volume.once.push(file);
        volume.base = Some(Base::new(bitmap, file, table, self.segments.clone()));
    }

    /// Whether the last process that had the volume came to flush it is not known when it is
    /// opened, so every life of a volume begins with this.
    fn sync_on_first_flush(&self, volume: &mut Volume) -> Result<(), Error> {
        let parts: Vec<_> = volume.parts.iter().map(|part| part.file).collect();
        volume.once.extend(parts);
        let folder = File::open(&self.volumes)
            .map_err(|source| chunk::Error::io("open", &self.volumes, source))?;
        volume.sync_before_first_flush(vec![folder]);
        Ok(())
    }

    fn grow(
        &self,
        id: &VolumeId,
        overlays: &mut Vec<File>,
        held_bytes: u64,
        size_bytes: u64,
    ) -> Result<(), Error> {
        if held_bytes == size_bytes {
            return Ok(());
        }
        let mut new = NewFiles::default();
        for number in overlays.len() as u64..self.parts(size_bytes) {
            overlays.push(new.create(self.overlay(id, number), id)?);
        }
        for (number, file) in (0..).zip(overlays.iter()) {
            self.set_len(id, number, file, size_bytes)?;
        }
        new.keep();
        Ok(())
    }

    /// How many overlay files a volume of `size_bytes` has.
    fn parts(&self, size_bytes: u64) -> u64 {
        size_bytes.div_ceil(self.part_bytes)
    }

    fn set_len(
        &self,
        id: &VolumeId,
        number: u64,
        file: &File,
        size_bytes: u64,
    ) -> Result<(), Error> {
        let len = (size_bytes - number * self.part_bytes).min(self.part_bytes);
        file.set_len(len)
            .map_err(|source| chunk::Error::io("extend", &self.overlay(id, number), source).into())
    }

    fn overlay(&self, id: &VolumeId, number: u64) -> PathBuf {
        self.volumes.join(match number {
            0 => format!("{id}.overlay"),
            _ => format!("{id}.overlay.{number}"),
        })
    }

    fn bitmap(&self, id: &VolumeId) -> PathBuf {
        self.volumes.join(format!("{id}.bitmap"))
    }
}

/// The volume that a file name names.
fn id_of(name: &str) -> Option<VolumeId> {
    let (id, rest) = name.split_once('.')?;
    let ours = match rest.strip_prefix("overlay.") {
        Some(number) => number.parse::<u64>().is_ok(),
        None => rest == "overlay" || rest == "bitmap",
    };
    id.parse().ok().filter(|_| ours)
}

fn is_missing(error: &chunk::Error) -> bool {
    matches!(error, chunk::Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

fn open_locked(path: &Path, id: &VolumeId) -> Result<File, Error> {
    let failed = |source: io::Error| chunk::Error::io("open", path, source);
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map(File::from)
        .map_err(|error| failed(error.into()))?;
    if !lock(&file).map_err(failed)? {
        return Err(Error::InUse { id: *id });
    }
    Ok(file)
}

/// The bytes in all `files`, the first of which is at `path`.
fn len(files: &[File], path: &Path) -> Result<u64, Error> {
    files.iter().try_fold(0, |sum, file| {
        let metadata = file
            .metadata()
            .map_err(|source| chunk::Error::io("read the size of", path, source))?;
        Ok(sum + metadata.len())
    })
}

/// Files that are deleted again unless all goes well.
#[derive(Default)]
struct NewFiles {
    paths: Vec<PathBuf>,
}

impl NewFiles {
    fn create(&mut self, path: PathBuf, id: &VolumeId) -> Result<File, Error> {
        match create_locked(&path) {
            Ok(Some(file)) => {
                self.paths.push(path);
                Ok(file)
            }
            Ok(None) => Err(Error::Exists { id: *id }),
            Err(source) => Err(chunk::Error::io("create", &path, source).into()),
        }
    }

    fn keep(mut self) {
        self.paths.clear();
    }
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        for path in &self.paths {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "cannot delete a volume's file");
            }
        }
    }
}
