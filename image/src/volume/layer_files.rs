//! The files of one layer: created, opened, grown.

use super::bitmap::{self, Bitmap};
use super::files::VolumeFiles;
use super::layer::Layer;
use super::plan::BLOCK_BYTES;
use super::stack::Files;
use super::{Error, names};
use crate::chunk;
use crate::chunk::header::HEADER_BYTES;
use crate::chunk::pending::{create_locked, is_at, lock};
use crate::id::{SnapshotId, VolumeId};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a file may stay locked by a process that lives: a sweep locks what it looks at for a moment.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long it may by one that is gone. The kernel ends what was under way in its io_uring, and so closes its files,
/// only after that; a sync among it takes as long as the disk does.
const PATIENCE_WITH_THE_DEAD: Duration = Duration::from_secs(30);

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
    let mut open = || open(path, OFlags::RDWR);
    let patience = (PATIENCE, PATIENCE_WITH_THE_DEAD);
    lock_within(&mut open, path, patience)?.ok_or(Error::InUse { id: *id })
}

/// Opens a file and locks it, with patience with a holder that lives and with one that is gone.
fn lock_within(
    open: &mut dyn FnMut() -> Result<File, Error>,
    path: &Path,
    (living, dead): (Duration, Duration),
) -> Result<Option<File>, Error> {
    let failed = |source| chunk::Error::io("lock", path, source);
    let start = Instant::now();
    loop {
        let file = open()?;
        if lock(&file).map_err(failed)? {
            // Whoever had it locked may have deleted it.
            if is_at(&file, path).map_err(failed)? {
                return Ok(Some(file));
            }
            continue;
        }
        let waited = start.elapsed();
        if waited >= dead || waited >= living && is_locked_by_the_living(&file).map_err(failed)? {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a process that is not about to end holds a lock on the file, by `proc_locks(5)`. One in a PID namespace
/// that this process does not see does not count; where there is no such file, every holder does.
fn is_locked_by_the_living(file: &File) -> io::Result<bool> {
    let inode = file.metadata()?.ino().to_string();
    let Ok(locks) = std::fs::read_to_string("/proc/locks") else {
        return Ok(true);
    };
    Ok(locks.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let is_flock = fields.nth(1) == Some("FLOCK");
        let pid = fields.nth(2);
        // The device's number is another one than stat's on some file systems, so the inode must do.
        let held = fields.next().and_then(|place| place.rsplit(':').next());
        is_flock && held == Some(inode.as_str()) && pid.is_some_and(is_alive)
    }))
}

/// Whether a process is there and not on its way out, by `proc_pid_stat(5)`.
fn is_alive(pid: &str) -> bool {
    /// `PF_EXITING` of the kernel's flags of a task.
    const EXITING: u32 = 0x4;
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The name before may have anything in it.
    let mut fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace();
    let state = fields.next();
    let flags = fields.nth(5).and_then(|flags| flags.parse::<u32>().ok());
    !matches!(state, Some("Z" | "X")) && flags.is_none_or(|flags| flags & EXITING == 0)
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
    use std::os::fd::AsFd;

    const NONE: Duration = Duration::ZERO;
    const LONG: Duration = Duration::from_secs(300);

    fn lock_at(path: &Path, patience: (Duration, Duration)) -> Option<File> {
        lock_within(&mut || open(path, OFlags::RDWR), path, patience).unwrap()
    }

    /// Not a test of its own: the process that locks what it is given, and ends.
    #[test]
    fn holder() {
        if std::env::var_os("KAMI_TEST_HOLDER").is_some() {
            let given = io::stdin().as_fd().try_clone_to_owned().unwrap();
            assert!(lock(&File::from(given)).unwrap());
        }
    }

    /// Issue: an instance whose process had just been killed could not be started: its volume was in use. On a
    /// busy disk it still was after a second.
    #[test]
    fn lock_of_a_process_that_is_gone_is_waited_for_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("overlay");
        let held = create_locked(&path).unwrap().unwrap();
        assert!(is_locked_by_the_living(&held).unwrap());
        assert!(lock_at(&path, (NONE, LONG)).is_none());
        drop(held);
        // An open file stays locked by who locked it, as long as anybody has it open.
        let held = open(&path, OFlags::RDWR).unwrap();
        let mut holder = std::process::Command::new(std::env::current_exe().unwrap());
        holder.args(["--exact", "volume::layer_files::tests::holder"]);
        holder.env("KAMI_TEST_HOLDER", "1");
        holder.stdin(held.try_clone().unwrap());
        assert!(holder.output().unwrap().status.success());
        drop(holder);
        assert!(lock_at(&path, (NONE, NONE)).is_none());
        assert!(!is_locked_by_the_living(&held).unwrap());
        let (waits, waited) = std::sync::mpsc::channel();
        let waiting = path.clone();
        let waiter = std::thread::spawn(move || {
            waits.send(()).unwrap();
            lock_at(&waiting, (NONE, LONG))
        });
        waited.recv().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        drop(held);
        assert!(waiter.join().unwrap().is_some());
    }

    #[test]
    fn processes_that_end_are_not_alive() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id().to_string();
        assert!(is_alive(&std::process::id().to_string()));
        // Until it is waited for, it is a zombie.
        while is_alive(&pid) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!is_alive(&pid));
    }

    /// Issue: what was opened just before it was deleted was taken for the volume's file.
    #[test]
    fn file_that_is_deleted_before_it_is_locked_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("overlay");
        drop(File::create(&path).unwrap());
        let mut is_first = true;
        let mut open = || {
            let file = open(&path, OFlags::RDWR);
            if std::mem::take(&mut is_first) {
                std::fs::remove_file(&path).unwrap();
                drop(File::create(&path).unwrap());
            }
            file
        };
        let file = lock_within(&mut open, &path, (NONE, NONE))
            .unwrap()
            .unwrap();
        assert!(is_at(&file, &path).unwrap());
        let mut gone = || {
            let file = super::open(&path, OFlags::RDWR)?;
            std::fs::remove_file(&path).unwrap();
            Ok(file)
        };
        drop(file);
        let error = lock_within(&mut gone, &path, (NONE, NONE)).unwrap_err();
        assert!(matches!(error, Error::Files(error) if is_missing(&error)));
    }
}
