//! The files of volumes: created, opened, grown, deleted, swept (`FORMAT.md` "Volume").
//!
//! Creating a volume writes one page and syncs nothing, so that a launch costs the same at any
//! size and waits for no disk; the volume's first flush catches up. Every file of an open volume is
//! locked: a second process cannot open it, and a sweep leaves it alone before its row is committed.

use super::base::Base;
use super::bitmap::{self, Bitmap};
use super::frozen::Frozen;
use super::layer::Layer;
use super::plan::FileIndex;
use super::stack::{Files, Stack};
use super::{Error, MAX_LAYERS, Volume, names};
use crate::chunk::header::HEADER_BYTES;
use crate::chunk::pending::{create_locked, lock, sync_folder};
use crate::chunk::table::Table;
use crate::chunk::{self, table};
use crate::id::{SnapshotId, VolumeId};
use crate::snapshot::{leftovers, sweep_folder};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// What one overlay file holds: 8 TiB, for ext4 ends a file 4 KiB short of 16 TiB.
const PART_BYTES: u64 = 8 << 40;

/// What the catalogue says of a volume's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The volume's size. Opening a smaller one grows it.
    pub size_bytes: u64,
    /// The snapshot below all layers.
    pub base: Option<SnapshotId>,
    /// The lowest layer there is. Files of lower ones are what a crash left.
    pub layer: u32,
}

impl Standing {
    /// That of a new volume.
    pub fn new(size_bytes: u64, base: Option<SnapshotId>) -> Self {
        let layer = 0;
        Self {
            size_bytes,
            base,
            layer,
        }
    }
}

/// The volume files of a store.
#[derive(Clone, Debug)]
pub struct VolumeFiles {
    volumes: PathBuf,
    snapshots: PathBuf,
    segments: PathBuf,
    pub(super) part_bytes: u64,
}

/// Where an open volume makes its layers.
#[derive(Debug)]
pub(super) struct Home {
    files: VolumeFiles,
    pub(super) id: VolumeId,
    /// The folder of the volumes.
    pub(super) folder: FileIndex,
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
        check_size(size_bytes)?;
        let base = snapshot.map(|it| self.base(size_bytes, it)).transpose()?;
        std::fs::create_dir_all(&self.volumes)
            .map_err(|source| chunk::Error::io("create", &self.volumes, source))?;
        let mut files = Files::default();
        let folder = self.open_folder()?;
        let layer = self.create_layer((id, 0), size_bytes, snapshot, &mut files)?;
        Ok(self.assemble((id, folder), size_bytes, (files, vec![layer]), base))
    }

    /// Opens a volume, growing it if it was smaller than its standing says.
    ///
    /// # Errors
    /// [`Error::InUse`] while another process has it open; [`Error::Shrinks`] where it is larger
    /// than that; [`Error::TooManyLayers`]; [`Error::Files`] where its files are missing, damaged
    /// or another volume's; those of [`VolumeFiles::create`].
    pub fn open(&self, id: &VolumeId, standing: &Standing) -> Result<Volume, Error> {
        let size_bytes = standing.size_bytes;
        check_size(size_bytes)?;
        let snapshot = standing.base.as_ref();
        let base = snapshot.map(|it| self.base(size_bytes, it)).transpose()?;
        // All is checked before anything is changed.
        let lowest = self.read_layer((id, standing.layer), snapshot, open_locked)?;
        let mut found = vec![lowest.written()?];
        let mut number = standing.layer;
        loop {
            number = number.saturating_add(1);
            match self.read_layer((id, number), None, open_locked) {
                Ok(layer) if layer.is_unwritten => {
                    drop(layer);
                    self.clear_from(id, number)?;
                    break;
                }
                Ok(_) if found.len() >= MAX_LAYERS => return Err(Error::TooManyLayers { id: *id }),
                Ok(layer) => found.push(layer),
                Err(Error::Files(error)) if is_missing(&error) => break,
                Err(error) => return Err(error),
            }
        }
        let too_large = found.iter().find(|layer| layer.len_bytes > size_bytes);
        if let Some(layer) = too_large {
            return Err(Error::Shrinks {
                id: *id,
                held_bytes: layer.len_bytes,
                size_bytes,
            });
        }
        if let Some(top) = found.last_mut() {
            self.grow(id, top, size_bytes)?;
        }
        let mut files = Files::default();
        let folder = self.open_folder()?;
        let layers = found
            .into_iter()
            .map(|layer| layer.into_layer(self.part_bytes, &mut files))
            .collect();
        Ok(self.assemble((id, folder), size_bytes, (files, layers), base))
    }

    /// The layers of a volume from its standing's up to `below`, which is not among them, for
    /// reading. No lock is asked for: the volume may be in use, but those layers are never written
    /// again.
    ///
    /// # Errors
    /// [`Error::Files`] where a file is missing, damaged or another volume's; those of
    /// [`VolumeFiles::create`].
    pub fn frozen(&self, id: &VolumeId, standing: &Standing, below: u32) -> Result<Frozen, Error> {
        check_size(standing.size_bytes)?;
        let mut snapshot = standing.base.as_ref();
        let base = snapshot
            .map(|it| self.base(standing.size_bytes, it))
            .transpose()?;
        let (mut files, mut layers) = (Files::default(), Vec::new());
        for number in standing.layer..below {
            let layer = self.read_layer((id, number), snapshot.take(), open_to_read)?;
            let layer = layer.written()?;
            layers.push(layer.into_layer(self.part_bytes, &mut files));
        }
        let stack = Stack {
            files,
            layers,
            base,
        };
        Ok(Frozen::new(standing.size_bytes, stack))
    }

    /// Begins a layer, as [`Volume::freeze`] does, of a volume that nobody has open, and makes that
    /// durable. Returns its number.
    ///
    /// # Errors
    /// Those of [`VolumeFiles::open`], [`Volume::freeze`] and [`Volume::sync`].
    pub fn freeze(&self, id: &VolumeId, standing: &Standing) -> Result<u32, Error> {
        let mut volume = self.open(id, standing)?;
        let layer = volume.freeze()?;
        volume.sync()?;
        Ok(layer)
    }

    /// Makes the files of layer `layer` and above durable, whoever has them open: a row that says
    /// that the volume begins there must not outlive them.
    ///
    /// # Errors
    /// [`Error::Files`].
    pub fn sync_layers(&self, id: &VolumeId, layer: u32) -> Result<(), Error> {
        for (number, path) in names::of_volume(&self.volumes, id)? {
            if number >= layer {
                File::open(&path)
                    .and_then(|file| file.sync_all())
                    .map_err(|source| chunk::Error::io("sync", &path, source))?;
            }
        }
        sync_folder(&self.volumes)
            .map_err(|source| chunk::Error::io("sync", &self.volumes, source).into())
    }

    /// Whether the overlays of a volume are there and hold nothing.
    pub fn is_untouched(&self, id: &VolumeId) -> bool {
        use std::os::unix::fs::MetadataExt;
        let is_empty = |(_, path): &(u32, PathBuf)| {
            let is_bitmap = path.extension().is_some_and(|it| it == "bitmap");
            is_bitmap || path.metadata().is_ok_and(|it| it.blocks() == 0)
        };
        names::of_volume(&self.volumes, id)
            .is_ok_and(|files| !files.is_empty() && files.iter().all(is_empty))
    }

    /// Deletes the files of a volume that nobody has open; those that are missing are no error.
    ///
    /// # Errors
    /// [`Error::InUse`]; [`Error::Files`].
    pub fn delete(&self, id: &VolumeId) -> Result<(), Error> {
        self.delete_where(id, |_| true)
    }

    /// Deletes the files of the layers below `layer`, which nobody has open: those that the volume's
    /// standing does not count any more.
    ///
    /// # Errors
    /// [`Error::InUse`]; [`Error::Files`].
    pub fn delete_below(&self, id: &VolumeId, layer: u32) -> Result<(), Error> {
        self.delete_where(id, |number| number < layer)
    }

    /// Deletes what is left of layers that were begun and never flushed.
    fn clear_from(&self, id: &VolumeId, layer: u32) -> Result<(), Error> {
        self.delete_where(id, |number| number >= layer)
    }

    fn delete_where(&self, id: &VolumeId, is_meant: impl Fn(u32) -> bool) -> Result<(), Error> {
        // All are locked before the first is gone.
        let mut locked = Vec::new();
        for (layer, path) in names::of_volume(&self.volumes, id)? {
            if !is_meant(layer) {
                continue;
            }
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

    /// Deletes the files that nobody has open of every volume that `lowest_layer` does not know,
    /// and of the layers below the one that it names. It must ask the catalogue as it is when it is
    /// called. Returns how many were deleted.
    ///
    /// # Errors
    /// [`Error::Files`] where the folder cannot be read or a file not deleted.
    pub fn sweep(&self, lowest_layer: &dyn Fn(&VolumeId) -> Option<u32>) -> Result<u64, Error> {
        Ok(sweep_folder(&self.volumes, &|name| {
            let (id, layer) = names::parse(name)?;
            Some(lowest_layer(&id).is_some_and(|lowest| layer >= lowest))
        })?)
    }

    /// The files that [`VolumeFiles::sweep`] would delete.
    pub(crate) fn leftovers(
        &self,
        lowest_layer: &dyn Fn(&VolumeId) -> Option<u32>,
    ) -> Result<Vec<PathBuf>, Error> {
        Ok(leftovers(&self.volumes, &|name| {
            let (id, layer) = names::parse(name)?;
            Some(lowest_layer(&id).is_some_and(|lowest| layer >= lowest))
        })?)
    }

    /// The snapshot below a volume of `size_bytes`.
    fn base(&self, size_bytes: u64, snapshot: &SnapshotId) -> Result<Base, Error> {
        let table = Table::open(&self.snapshots, snapshot)?;
        if table.size_bytes() > size_bytes {
            return Err(Error::BelowSnapshot {
                size_bytes,
                snapshot: *snapshot,
                snapshot_bytes: table.size_bytes(),
            });
        }
        Ok(Base::new(table, self.segments.clone()))
    }

    /// Whether the last process that had the volume came to flush it is not known when it is
    /// opened, so every life of a volume begins with a flush of all its files.
    fn assemble(
        &self,
        (id, folder): (&VolumeId, File),
        size_bytes: u64,
        (mut files, layers): (Files, Vec<Layer>),
        base: Option<Base>,
    ) -> Volume {
        let folder = files.add(folder);
        let once = layers.iter().flat_map(Layer::files).chain([folder]);
        let once = once.collect();
        let mut volume = Volume::new(files, layers, size_bytes);
        volume.stack.base = base;
        volume.once = once;
        volume.home = Some(Home {
            files: self.clone(),
            id: *id,
            folder,
        });
        volume
    }

    fn open_folder(&self) -> Result<File, Error> {
        File::open(&self.volumes)
            .map_err(|source| chunk::Error::io("open", &self.volumes, source).into())
    }

    /// Creates the files of a layer. Above another one, or above a snapshot, it has a bitmap.
    fn create_layer(
        &self,
        (id, number): (&VolumeId, u32),
        size_bytes: u64,
        snapshot: Option<&SnapshotId>,
        files: &mut Files,
    ) -> Result<Layer, Error> {
        let mut new = NewFiles::default();
        let mut overlay = Vec::new();
        for part in 0..self.parts(size_bytes) {
            let path = names::overlay(&self.volumes, id, number, part);
            let file = new.create(path.clone(), id)?;
            self.set_len(&path, part, &file, size_bytes)?;
            overlay.push(file);
        }
        let mut bitmap = None;
        if number > 0 || snapshot.is_some() {
            let path = names::bitmap(&self.volumes, id, number);
            let file = new.create(path.clone(), id)?;
            bitmap::header(id, number, snapshot).write(&file, &path)?;
            bitmap = Some((Bitmap::new(&path), file));
        }
        new.keep();
        let found = FoundLayer {
            number,
            overlay,
            bitmap,
            len_bytes: size_bytes,
            is_unwritten: false,
            is_fresh: true,
        };
        Ok(found.into_layer(self.part_bytes, files))
    }

    /// Opens the files of a layer by `open`. `snapshot` is what is below the lowest one.
    fn read_layer(
        &self,
        (id, number): (&VolumeId, u32),
        snapshot: Option<&SnapshotId>,
        open: fn(&Path, &VolumeId) -> Result<File, Error>,
    ) -> Result<FoundLayer, Error> {
        let path = |part| names::overlay(&self.volumes, id, number, part);
        let mut overlay = vec![open(&path(0), id)?];
        for part in 1.. {
            match open(&path(part), id) {
                Ok(file) => overlay.push(file),
                Err(Error::Files(error)) if is_missing(&error) => break,
                Err(error) => return Err(error),
            }
        }
        let mut found = FoundLayer {
            number,
            len_bytes: len(&overlay, &path(0))?,
            overlay,
            bitmap: None,
            is_unwritten: false,
            is_fresh: false,
        };
        if number > 0 || snapshot.is_some() {
            let path = names::bitmap(&self.volumes, id, number);
            let file = open(&path, id)?;
            // Layers above the first stand on what was below them when they were begun, and on what
            // a rebase put there since.
            let snapshot = snapshot.filter(|_| number == 0);
            found.is_unwritten = bitmap::is_unwritten(&file, &path)?;
            found.is_fresh = len(std::slice::from_ref(&file), &path)? <= HEADER_BYTES;
            let bitmap = match found.is_unwritten {
                true => Bitmap::new(&path),
                false => Bitmap::open(&file, &path, id, number, snapshot)?,
            };
            found.bitmap = Some((bitmap, file));
        }
        Ok(found)
    }

    fn grow(&self, id: &VolumeId, layer: &mut FoundLayer, size_bytes: u64) -> Result<(), Error> {
        if layer.len_bytes == size_bytes {
            return Ok(());
        }
        let mut new = NewFiles::default();
        let path = |part| names::overlay(&self.volumes, id, layer.number, part);
        for part in layer.overlay.len() as u64..self.parts(size_bytes) {
            layer.overlay.push(new.create(path(part), id)?);
        }
        for (part, file) in (0..).zip(layer.overlay.iter()) {
            self.set_len(&path(part), part, file, size_bytes)?;
        }
        layer.len_bytes = size_bytes;
        new.keep();
        Ok(())
    }

    /// How many overlay files a volume of `size_bytes` has.
    fn parts(&self, size_bytes: u64) -> u64 {
        size_bytes.div_ceil(self.part_bytes)
    }

    fn set_len(&self, path: &Path, part: u64, file: &File, size_bytes: u64) -> Result<(), Error> {
        let len = (size_bytes - part * self.part_bytes).min(self.part_bytes);
        file.set_len(len)
            .map_err(|source| chunk::Error::io("extend", path, source).into())
    }
}

impl Home {
    /// Makes the files of a new layer on top.
    pub(super) fn begin_layer(
        &self,
        number: u32,
        size_bytes: u64,
        files: &mut Files,
    ) -> Result<Layer, Error> {
        let layer = (&self.id, number);
        match self.files.create_layer(layer, size_bytes, None, files) {
            // What a power cut left of one that was never flushed. This process holds the volume's
            // lock.
            Err(Error::Exists { .. }) => {
                self.files.clear_from(&self.id, number)?;
                self.files.create_layer(layer, size_bytes, None, files)
            }
            result => result,
        }
    }

    pub(super) fn base(&self, size_bytes: u64, snapshot: &SnapshotId) -> Result<Base, Error> {
        self.files.base(size_bytes, snapshot)
    }
}

/// A layer's files, open.
struct FoundLayer {
    number: u32,
    overlay: Vec<File>,
    bitmap: Option<(Bitmap, File)>,
    /// The bytes in all files of the overlay.
    len_bytes: u64,
    /// Its bitmap has no header.
    is_unwritten: bool,
    /// Its bitmap has nothing but a header.
    is_fresh: bool,
}

impl FoundLayer {
    /// Insists on a header.
    fn written(self) -> Result<Self, Error> {
        match &self.bitmap {
            Some((bitmap, _)) if self.is_unwritten => Err(bitmap.unwritten().into()),
            _ => Ok(self),
        }
    }

    fn into_layer(self, part_bytes: u64, files: &mut Files) -> Layer {
        let overlay: Vec<_> = self.overlay.into_iter().map(|it| files.add(it)).collect();
        let mut layer = Layer::new(self.number, overlay, (part_bytes, self.len_bytes));
        if let Some((bitmap, file)) = self.bitmap {
            layer = layer.with_bitmap(bitmap, files.add(file));
        }
        match self.is_fresh {
            true => layer.fresh(),
            false => layer,
        }
    }
}

fn check_size(size_bytes: u64) -> Result<(), Error> {
    match size_bytes {
        1..=table::MAX_SIZE_BYTES => Ok(()),
        _ => Err(Error::Size { size_bytes }),
    }
}

fn is_missing(error: &chunk::Error) -> bool {
    matches!(error, chunk::Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

fn open_locked(path: &Path, id: &VolumeId) -> Result<File, Error> {
    let file = open(path, OFlags::RDWR)?;
    match lock(&file).map_err(|source| chunk::Error::io("lock", path, source))? {
        true => Ok(file),
        false => Err(Error::InUse { id: *id }),
    }
}

fn open_to_read(path: &Path, _: &VolumeId) -> Result<File, Error> {
    open(path, OFlags::RDONLY)
}

fn open(path: &Path, mode: OFlags) -> Result<File, Error> {
    rustix::fs::open(
        path,
        mode | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )
    .map(File::from)
    .map_err(|error| chunk::Error::io("open", path, error.into()).into())
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
