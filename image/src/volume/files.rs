//! The files of volumes: created, opened, deleted, swept (`FORMAT.md` "Volume").
//!
//! Creating a volume writes one page and syncs nothing, so that a launch costs the same at any
//! size and waits for no disk; the volume's first flush catches up. Every file of an open volume is
//! locked: a second process cannot open it, and a sweep leaves it alone before its row is committed.

use super::base::Base;
use super::frozen::Frozen;
use super::layer::Layer;
use super::layer_files::{FoundLayer, is_missing, open_locked, open_to_read};
use super::plan::FileIndex;
use super::stack::{Files, Stack};
use super::{Error, MAX_LAYERS, Volume, names};
use crate::chunk::pending::sync_folder;
use crate::chunk::table::Table;
use crate::chunk::{self, table};
use crate::id::{SnapshotId, VolumeId};
use crate::snapshot::{leftovers, sweep_folder};
use std::fs::File;
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
    pub(super) volumes: PathBuf,
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
        // All is checked before anything is changed, but for layers that no flush has reached.
        let mut found = self.read_layers(id, standing)?;
        self.check_parts(id, size_bytes, &mut found)?;
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

    /// All layers of a volume that nobody has open. Deletes those that were begun and never flushed where a power
    /// cut left only a part of their files.
    fn read_layers(&self, id: &VolumeId, standing: &Standing) -> Result<Vec<FoundLayer>, Error> {
        let lowest = self.read_layer((id, standing.layer), standing.base.as_ref(), open_locked)?;
        let mut found = vec![lowest.written()?];
        for number in standing.layer.saturating_add(1).. {
            match self.read_layer((id, number), None, open_locked) {
                Ok(layer)
                    if layer.is_unwritten
                        || layer.is_fresh && self.lacks_a_part(id, &layer, standing.size_bytes) =>
                {
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
        Ok(found)
    }

    /// Insists that no file of an overlay that anything was flushed to is missing before another one. A power cut
    /// leaves such a gap of a layer that had just been grown and not been flushed since: then it is the top one, but
    /// for layers that were never flushed either, which are deleted, and holds nothing in the gap.
    fn check_parts(
        &self,
        id: &VolumeId,
        size_bytes: u64,
        found: &mut Vec<FoundLayer>,
    ) -> Result<(), Error> {
        let lacks = |layer: &FoundLayer| self.lacks_a_part(id, layer, size_bytes);
        let Some(position) = found.iter().position(lacks) else {
            return Ok(());
        };
        let above = position + 1;
        let gap = match found.get_mut(position..) {
            Some([layer, above @ ..]) if above.iter().all(|it| it.is_fresh) => {
                self.held_gap(id, layer, size_bytes)?
            }
            Some([layer, ..]) => Some(self.first_gap(id, layer)),
            _ => None,
        };
        if let Some(path) = gap {
            return Err(chunk::Error::corrupt(&path, "it is missing").into());
        }
        let cleared = found.drain(above.min(found.len())..).next();
        match cleared.map(|layer| layer.number) {
            Some(number) => self.clear_from(id, number),
            None => Ok(()),
        }
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

fn check_size(size_bytes: u64) -> Result<(), Error> {
    match size_bytes {
        1..=table::MAX_SIZE_BYTES => Ok(()),
        _ => Err(Error::Size { size_bytes }),
    }
}
