//! Snapshots in the store: looking them up, deleting them.

use super::{Error, SnapshotRecord, Store, ambiguous, id_prefix};
use crate::fault;
use crate::id::SnapshotId;

impl Store {
    /// Every snapshot, oldest first.
    ///
    /// # Errors
    /// [`Error::Catalogue`]
    pub fn snapshots(&self) -> Result<Vec<SnapshotRecord>, Error> {
        Ok(self.catalogue.snapshots()?)
    }

    /// The snapshot of that id, or unique beginning of an id (with or without `snap-`).
    ///
    /// # Errors
    /// [`Error::SnapshotNotFound`], [`Error::Ambiguous`], [`Error::Catalogue`]
    pub fn snapshot(&self, reference: &str) -> Result<SnapshotRecord, Error> {
        let not_found = || not_found(reference);
        let id = match reference.parse() {
            Ok(id) => id,
            Err(_) => {
                let prefix = id_prefix(reference, SnapshotId::PREFIX).ok_or_else(not_found)?;
                match *self.catalogue.snapshot_ids_from(&prefix)? {
                    [] => return Err(not_found()),
                    [id] => id,
                    _ => return Err(ambiguous("snapshot", reference)),
                }
            }
        };
        self.catalogue.snapshot(&id)?.ok_or_else(not_found)
    }

    /// Deletes a snapshot, in any order with those that it shares content with. It is gone from
    /// every listing at once; its space comes back with the last volume that stands on it, and not
    /// before those are done who write or export snapshots right now.
    ///
    /// # Errors
    /// [`Error::SnapshotInUse`] as long as an image names it; [`Error::SnapshotNotFound`];
    /// [`Error::Catalogue`].
    pub fn delete_snapshot(&self, id: &SnapshotId) -> Result<(), Error> {
        let transaction = self.durable()?;
        self.delete_snapshot_row(id)?;
        self.catalogue.commit(transaction)?;
        fault::point("delete-snapshot.hidden");
        self.release_snapshots();
        self.catalogue.tidy();
        Ok(())
    }

    /// As [`Store::delete_snapshot`], within the caller's transaction. Its space comes back
    /// when the caller calls [`Store::release_snapshots`] after the commit.
    pub(super) fn delete_snapshot_row(&self, id: &SnapshotId) -> Result<(), Error> {
        if let Some(image) = self.catalogue.images_of_snapshot(id)?.first() {
            return Err(Error::SnapshotInUse {
                snapshot: *id,
                image: *image,
            });
        }
        match self.catalogue.mark_snapshot_deleted(id)? {
            true => Ok(()),
            false => Err(not_found(&id.to_string())),
        }
    }
}

pub(super) fn not_found(reference: &str) -> Error {
    Error::SnapshotNotFound {
        reference: reference.to_owned(),
    }
}
