//! The files of one layer: created, opened, grown.

use super::bitmap::{self, Bitmap};
use super::files::VolumeFiles;
use super::layer::Layer;
use super::plan::BLOCK_BYTES;
use super::stack::Files;
use super::{Error, names};
use crate::chunk;
use crate::chunk::header::HEADER_BYTES;
use crate::chunk::pending::{create_locked, lock};
use crate::id::{SnapshotId, VolumeId};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a file may stay locked. Of a process that was killed the kernel ends what was under way in
/// its io_uring, and so closes its files, some milliseconds after the process is gone.
const PATIENCE: Duration = Duration::from_secs(1);

impl VolumeFiles {
    /// Creates the files of a layer. Above another one, or above a snapshot, it has a bitmap.
    pub(super) fn create_layer(
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
    pub(super) fn read_layer(
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

    /// Whether a file of the overlay is missing before another one. One that lacks the last ones may have been
    /// begun when the volume was smaller.
    pub(super) fn lacks_a_part(&self, id: &VolumeId, layer: &FoundLayer, size_bytes: u64) -> bool {
        let found = layer.overlay.len() as u64;
        (found + 1..self.parts(size_bytes)).any(|part| self.has_part(id, layer, part))
    }

    fn has_part(&self, id: &VolumeId, layer: &FoundLayer, part: u64) -> bool {
        names::overlay(&self.volumes, id, layer.number, part)
            .symlink_metadata()
            .is_ok()
    }

    /// The first file of the overlay that is missing.
    pub(super) fn first_gap(&self, id: &VolumeId, layer: &FoundLayer) -> PathBuf {
        names::overlay(&self.volumes, id, layer.number, layer.overlay.len() as u64)
    }

    /// The first file of the overlay that is missing although the bitmap holds blocks of it. A layer without a
    /// bitmap does not know.
    pub(super) fn held_gap(
        &self,
        id: &VolumeId,
        layer: &mut FoundLayer,
        size_bytes: u64,
    ) -> Result<Option<PathBuf>, Error> {
        let parts = layer.overlay.len() as u64..self.parts(size_bytes);
        let missing: Vec<_> = parts
            .filter(|part| !self.has_part(id, layer, *part))
            .collect();
        let Some((bitmap, file)) = &mut layer.bitmap else {
            return Ok(None);
        };
        for part in missing {
            let start = part * self.part_bytes;
            let end = (start + self.part_bytes).min(size_bytes);
            let blocks = start / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
            let (held, run_end) = bitmap.run(file, blocks.clone())?;
            if held || run_end < blocks.end {
                let path = names::overlay(&self.volumes, id, layer.number, part);
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    pub(super) fn grow(
        &self,
        id: &VolumeId,
        layer: &mut FoundLayer,
        size_bytes: u64,
    ) -> Result<(), Error> {
        if layer.len_bytes == size_bytes {
            return Ok(());
        }
        let mut new = NewFiles::default();
        let path = |part| names::overlay(&self.volumes, id, layer.number, part);
        for part in layer.overlay.len() as u64..self.parts(size_bytes) {
            let file = match new.create(path(part), id) {
                // What a power cut left when the volume was grown before.
                Err(Error::Exists { .. }) => open_locked(&path(part), id)?,
                file => file?,
            };
            layer.overlay.push(file);
        }
        for (part, file) in (0..).zip(layer.overlay.iter()) {
            self.set_len(&path(part), part, file, size_bytes)?;
        }
        layer.len_bytes = size_bytes;
        new.keep();
        Ok(())
    }

    /// How many overlay files a volume of `size_bytes` has.
    pub(super) fn parts(&self, size_bytes: u64) -> u64 {
        size_bytes.div_ceil(self.part_bytes)
    }

    pub(super) fn set_len(
        &self,
        path: &Path,
        part: u64,
        file: &File,
        size_bytes: u64,
    ) -> Result<(), Error> {
        let len = (size_bytes - part * self.part_bytes).min(self.part_bytes);
        file.set_len(len)
            .map_err(|source| chunk::Error::io("extend", path, source).into())
    }
}

/// A layer's files, open.
pub(super) struct FoundLayer {
    pub(super) number: u32,
    pub(super) overlay: Vec<File>,
    bitmap: Option<(Bitmap, File)>,
    /// The bytes in all files of the overlay.
    pub(super) len_bytes: u64,
    /// Its bitmap has no header.
    pub(super) is_unwritten: bool,
    /// Its bitmap has nothing but a header: no flush has found anything in it.
    pub(super) is_fresh: bool,
}

impl FoundLayer {
    /// Insists on a header.
    pub(super) fn written(self) -> Result<Self, Error> {
        match &self.bitmap {
            Some((bitmap, _)) if self.is_unwritten => Err(bitmap.unwritten().into()),
            _ => Ok(self),
        }
    }

    pub(super) fn into_layer(self, part_bytes: u64, files: &mut Files) -> Layer {
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

pub(super) fn is_missing(error: &chunk::Error) -> bool {
    matches!(error, chunk::Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}

/// Opens the file for this process alone.
pub(super) fn open_locked(path: &Path, id: &VolumeId) -> Result<File, Error> {
    open_locked_within(path, PATIENCE)?.ok_or(Error::InUse { id: *id })
}

fn open_locked_within(path: &Path, patience: Duration) -> Result<Option<File>, Error> {
    let failed = |source| chunk::Error::io("lock", path, source);
    let start = Instant::now();
    let mut file = open(path, OFlags::RDWR)?;
    while !lock(&file).map_err(failed)? {
        if start.elapsed() >= patience {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(1));
        // Whoever has it locked may delete it.
        file = open(path, OFlags::RDWR)?;
    }
    Ok(Some(file))
}

pub(super) fn open_to_read(path: &Path, _: &VolumeId) -> Result<File, Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Issue: an instance whose process had just been killed could not be started: its volume was in use.
    #[test]
    fn lock_that_ends_soon_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("overlay");
        let held = create_locked(&path).unwrap().unwrap();
        assert!(open_locked_within(&path, Duration::ZERO).unwrap().is_none());
        let (waits, waited) = std::sync::mpsc::channel();
        let waiting = path.clone();
        let waiter = std::thread::spawn(move || {
            waits.send(()).unwrap();
            open_locked_within(&waiting, Duration::from_secs(300)).unwrap()
        });
        waited.recv().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        drop(held);
        let file = waiter.join().unwrap().unwrap();
        assert!(open_locked_within(&path, Duration::ZERO).unwrap().is_none());
        drop(file);
        assert!(open_locked_within(&path, Duration::ZERO).unwrap().is_some());
    }
}
