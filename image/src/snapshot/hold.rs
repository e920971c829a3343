//! Who uses what snapshots are made of, and who may delete of it.
//!
//! The catalogue says what committed snapshots and volumes need. What it cannot say is that a snapshot
//! being written has found a chunk to share, or that somebody copies a snapshot out of the store:
//! they hold the `snapshots` folder (`flock`, shared), and chunks are deleted only by who has it
//! alone. What is deleted while it is held is hidden at once, and its space comes back later.

use super::{Error, SnapshotFiles};
use crate::chunk;
use crate::chunk::pending::unlock;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;

/// Held: nothing that the catalogue named when this was taken is deleted.
#[derive(Debug)]
pub(crate) struct Hold {
    folder: File,
}

impl Drop for Hold {
    fn drop(&mut self) {
        unlock(&self.folder);
    }
}

impl SnapshotFiles {
    /// Keeps all there is in place. Waits for a deletion that is under way, which takes as long as
    /// reading the tables of the snapshots that share segments with what is deleted.
    pub(crate) fn hold(&self) -> Result<Hold, Error> {
        let folder = self.lock_file()?;
        loop {
            match flock(&folder, FlockOperation::LockShared) {
                Ok(()) => return Ok(Hold { folder }),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.lock_failed(error)),
            }
        }
    }

    /// The right to delete; none while anybody holds anything.
    pub(crate) fn hold_alone(&self) -> Result<Option<Hold>, Error> {
        let folder = self.lock_file()?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Hold { folder })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(self.lock_failed(error)),
        }
    }

    fn lock_file(&self) -> Result<File, Error> {
        let path = &self.snapshots;
        std::fs::create_dir_all(path).map_err(|source| chunk::Error::io("create", path, source))?;
        File::open(path).map_err(|source| chunk::Error::io("open", path, source).into())
    }

    fn lock_failed(&self, error: rustix::io::Errno) -> Error {
        chunk::Error::io("lock", &self.snapshots, error.into()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_alone_while_another_holds() {
        let home = tempfile::tempdir().unwrap();
        let files = SnapshotFiles::new(home.path());
        let one = files.hold().unwrap();
        let two = files.hold().unwrap();
        assert!(files.hold_alone().unwrap().is_none());
        drop(one);
        assert!(files.hold_alone().unwrap().is_none());
        drop(two);
        let alone = files.hold_alone().unwrap();
        assert!(alone.is_some());
        assert!(files.hold_alone().unwrap().is_none());
    }
}
