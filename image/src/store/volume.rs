//! Volumes that outlive instances: looking them up, and letting them go.

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
                let prefix = id_prefix(reference, VolumeId::PREFIX).ok_or_else(not_found)?;
                match *self.catalogue.volume_ids_from(&prefix)? {
                    [] => return Err(not_found()),
                    [id] => id,
                    _ => return Err(ambiguous("volume", reference)),
                }
            }
        };
        self.catalogue.volume(&id)?.ok_or_else(not_found)
    }

    /// Removes the volume's row, within the caller's transaction. Its files are the caller's to
    /// delete, once that has committed.
    pub(super) fn remove_volume_row(&self, volume: &VolumeRecord) -> Result<(), Error> {
        Ok(self.catalogue.remove_volume(&volume.id)?)
    }
}
