//! Snapshots in the store: making one of a volume, looking them up, deleting them.

use std::ops::ControlFlow;

use super::{Error, Live, SnapshotRecord, Store, VolumeSnapshot, ambiguous, id_prefix};
use crate::fault;
use crate::id::SnapshotId;
use crate::manifest::{Tag, check_description, check_tags};
use crate::snapshot::Progress;

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
                let prefix = id_prefix(reference, SnapshotId::PREFIX, not_found)?;
                match *self.catalogue.snapshot_ids_from(&prefix)? {
                    [] => return Err(not_found()),
                    [id] => id,
                    _ => return Err(ambiguous("snapshot", reference)),
                }
            }
        };
        self.catalogue.snapshot(&id)?.ok_or_else(not_found)
    }

    /// Makes a snapshot of a volume; `live` is the instance that runs with it, if one does.
    ///
    /// # Errors
    /// [`Error::Tag`], [`Error::Invalid`] for the description, and those of [`Store::write_volume_snapshots`]. No snapshot is left then.
    pub fn create_snapshot(
        &self,
        new: &VolumeSnapshot,
        tags: &[Tag],
        mut live: Option<&mut dyn Live>,
        progress: &mut dyn FnMut(&str, Progress) -> ControlFlow<()>,
    ) -> Result<SnapshotRecord, Error> {
        check_tags(tags)?;
        check_description(&new.description)?;
        let wanted = std::slice::from_ref(new);
        let written = match &mut live {
            Some(live) => self.write_volume_snapshots(wanted, Some(&mut **live), progress)?,
            None => self.write_volume_snapshots(wanted, None, progress)?,
        };
        let transaction = self.durable()?;
        written.add_rows()?;
        self.catalogue.add_tags(&new.snapshot.to_string(), tags)?;
        self.catalogue.commit(transaction)?;
        written.finish(live);
        self.snapshot(&new.snapshot.to_string())
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
