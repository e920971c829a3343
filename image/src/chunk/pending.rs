//! Files that get their name only when they are complete.
//!
//! A reader never meets half a file, and what a killed process was writing vanishes with it
//! (`O_TMPFILE`, open(2)); where the file system has no nameless files, a dotted name is used that
//! the sweep knows. The file is locked from its first moment until it is dropped, so that a
//! sweep can tell a file whose row is about to be committed from one that a crash has left.

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Begins the name of a file that is not complete.
pub(crate) const UNFINISHED_PREFIX: &str = ".unfinished-";

/// A new file, complete or not. Dropped without [`PendingFile::keep`] it is deleted.
#[derive(Debug)]
pub(crate) struct PendingFile {
    file: File,
    /// The name it has in the file system by now.
    name: Option<PathBuf>,
    keep: bool,
}

impl PendingFile {
    /// Creates an empty, locked file in `folder`.
    pub(crate) fn create(folder: &Path) -> io::Result<Self> {
        Self::create_with(folder, 0o600)
    }

    /// As [`PendingFile::create`], of a file that others may read as the user's umask has it.
    pub(crate) fn create_shared(folder: &Path) -> io::Result<Self> {
        Self::create_with(folder, 0o666)
    }

    fn create_with(folder: &Path, mode: u32) -> io::Result<Self> {
        match nameless(folder, mode) {
            Ok(file) => Ok(Self {
                file,
                name: None,
                keep: false,
            }),
            Err(error) if lacks_nameless_files(&error) => Self::create_named(folder),
            Err(error) => Err(error),
        }
    }

    fn create_named(folder: &Path) -> io::Result<Self> {
        loop {
            let name = folder.join(format!("{UNFINISHED_PREFIX}{:016x}", random_u64()?));
            if let Some(file) = create_locked(&name)? {
                return Ok(Self {
                    file,
                    name: Some(name),
                    keep: false,
                });
            }
        }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The name it has by now.
    #[cfg(test)]
    pub(crate) fn path(&self) -> Option<&Path> {
        self.name.as_deref()
    }

    /// Syncs the file and gives it its name. The folder is not synced.
    ///
    /// # Errors
    /// `AlreadyExists`, among others.
    pub(crate) fn publish(&mut self, name: PathBuf) -> io::Result<()> {
        self.file.sync_all()?;
        match &self.name {
            None => {
                // linkat(2): the way to name an O_TMPFILE without CAP_DAC_READ_SEARCH.
                let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                rustix::fs::linkat(CWD, path, CWD, &name, AtFlags::SYMLINK_FOLLOW)?;
            }
            Some(old) => {
                rustix::fs::renameat_with(
                    CWD,
                    old,
                    CWD,
                    &name,
                    rustix::fs::RenameFlags::NOREPLACE,
                )?;
            }
        }
        self.name = Some(name);
        Ok(())
    }

    /// Leaves the file in place when this is dropped, which unlocks it.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if let Some(name) = &self.name
            && !self.keep
            && let Err(error) = std::fs::remove_file(name)
        {
            // The next sweep tries again.
            tracing::warn!(path = %name.display(), %error, "cannot delete an unfinished file");
        }
        unlock(&self.file);
    }
}

fn nameless(folder: &Path, mode: u32) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(folder, flags, Mode::from_raw_mode(mode))?);
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    // Without /proc it could never be named.
    std::fs::metadata(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .map_err(|_| io::Error::from(io::ErrorKind::Unsupported))?;
    Ok(file)
}

/// open(2) lists these for O_TMPFILE: EOPNOTSUPP, and from older file systems EISDIR.
fn lacks_nameless_files(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Unsupported | io::ErrorKind::IsADirectory
    )
}

/// Creates and locks `path`; `None` where the name is taken, or where a sweep took the file for a
/// crash's remains in the moment before it was locked.
pub(crate) fn create_locked(path: &Path) -> io::Result<Option<File>> {
    let created = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path);
    let file = match created {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok((lock(&file)? && is_at(&file, path)?).then_some(file))
}

/// Locks `file` for this process alone; false where another one holds it.
pub(crate) fn lock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Lets go of the lock on `file`. Closing it is not enough: a process that was forked meanwhile has it
/// open too until its exec, and an open file that several have open is locked for as long as one has.
pub(crate) fn unlock(file: &File) {
    // flock(2) names no reason that could apply to a file that is open.
    let _ = rustix::fs::flock(file, FlockOperation::Unlock);
}

/// Whether `path` still names `file`: it may have been deleted or replaced since it was opened.
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let ours = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(theirs) => Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes the names in `folder` durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A random number for a name.
pub(crate) fn random_u64() -> io::Result<u64> {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(folder: &Path) -> Vec<String> {
        std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn both_kinds(folder: &Path) -> [PendingFile; 2] {
        [
            PendingFile::create(folder).unwrap(),
            PendingFile::create_named(folder).unwrap(),
        ]
    }

    #[test]
    fn dropped_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for mut pending in both_kinds(folder.path()) {
            pending.file().write_all(b"half").unwrap();
            pending.publish(folder.path().join("name")).unwrap();
            drop(pending);
            assert!(names(folder.path()).iter().all(|name| name != "name"));
        }
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn kept_file_has_its_name_and_content() {
        let folder = tempfile::tempdir().unwrap();
        for (number, mut pending) in both_kinds(folder.path()).into_iter().enumerate() {
            let name = folder.path().join(number.to_string());
            pending.file().write_all(b"whole").unwrap();
            pending.publish(name.clone()).unwrap();
            pending.keep();
            assert!(!lock(&File::open(&name).unwrap()).unwrap(), "still locked");
            drop(pending);
            assert_eq!(std::fs::read(&name).unwrap(), b"whole");
            assert!(lock(&File::open(&name).unwrap()).unwrap());
        }
        assert_eq!(names(folder.path()).len(), 2);
    }

    /// Between its fork and its exec a process has all files of its parent open. A test beside this
    /// one that started a child made locks seem held that had been let go.
    #[test]
    fn lock_ends_though_a_forked_process_has_the_file_open() {
        let folder = tempfile::tempdir().unwrap();
        for (number, mut pending) in both_kinds(folder.path()).into_iter().enumerate() {
            let name = folder.path().join(number.to_string());
            let forked = pending.file().try_clone().unwrap();
            pending.publish(name.clone()).unwrap();
            pending.keep();
            drop(pending);
            assert!(lock(&File::open(&name).unwrap()).unwrap());
            drop(forked);
        }
    }

    #[test]
    fn existing_name_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("taken");
        std::fs::write(&name, b"first").unwrap();
        for mut pending in both_kinds(folder.path()) {
            let error = pending.publish(name.clone()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(std::fs::read(&name).unwrap(), b"first");
        assert_eq!(names(folder.path()), ["taken"]);
    }
}
