//! Looking volumes up, and letting them go.

use super::{Error, Store, VolumeRecord, ambiguous, id_prefix};
use crate::id::VolumeId;

impl Store {
    /// Every volume but the ephemeral disks of instances, oldest first.
    ///
    /// # Errors
    /// [`Error::Catalogue`]
    pub fn volumes(&self) -> Result<Vec<VolumeRecord>, Error> {
        Ok(self.catalogue.volumes()?)
    }

    /// The volume of that id, or unique beginning of an id (with or without `vol-`).
    ///
    /// # Errors
    /// [`Error::VolumeNotFound`], [`Error::Ambiguous`], [`Error::Catalogue`]
    pub fn volume(&self, reference: &str) -> Result<VolumeRecord, Error> {
        let not_found = || Error::VolumeNotFound {
            reference: reference.to_owned(),
        };
        let id = match reference.parse() {
            Ok(id) => id,
            Err(_) => {
                let prefix = id_prefix(reference, VolumeId::PREFIX, not_found)?;
                match *self.catalogue.volume_ids_from(&prefix)? {
                    [] => return Err(not_found()),
                    [id] => id,
                    _ => return Err(ambiguous("volume", reference)),
                }
            }
        };
        self.catalogue
            .volume(&id)?
            .filter(|volume| !volume.is_temporary())
            .ok_or_else(not_found)
    }

    /// Whether nothing was ever written to the volume since it was made.
    pub fn is_untouched(&self, id: &VolumeId) -> bool {
        self.volumes.is_untouched(id)
    }

    /// The volume of that id.
    ///
    /// # Errors
    /// [`Error::VolumeNotFound`], [`Error::Catalogue`]
    pub(super) fn volume_of(&self, id: &VolumeId) -> Result<VolumeRecord, Error> {
        self.volume(&id.to_string())
    }

    /// Removes the volume's row, within the caller's transaction: once that has committed, call
    /// [`Store::volumes_gone`].
    pub(super) fn remove_volume_row(&self, volume: &VolumeRecord) -> Result<(), Error> {
        self.catalogue.remove_all_tags(&volume.id.to_string())?;
        Ok(self.catalogue.remove_volume(&volume.id)?)
    }

    /// Deletes the files of volumes that have no row any more, and what of deleted snapshots only they stood
    /// on. What cannot be deleted now is swept later.
    pub(super) fn volumes_gone(&self, ids: &[VolumeId]) {
        for id in ids {
            if let Err(error) = self.volumes.delete(id) {
                tracing::warn!(%id, %error, "cannot delete a volume");
            }
        }
        self.release_snapshots();
    }
}
