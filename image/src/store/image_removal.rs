//! Taking images away again.
//!
//! Implements `DeregisterImage`. Instances that run, or are stopped, need nothing of their image: they
//! are untouched.

use std::collections::BTreeMap;

use super::image_attributes::is_protected;
use super::{Error, Store};
use crate::fault;
use crate::id::{ImageId, SnapshotId};
use crate::manifest::Image;

/// What became of an image's snapshots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deregistered {
    pub image: Image,
    pub deleted: Vec<SnapshotId>,
    /// They stay, each for the other image that uses it.
    pub kept: Vec<(SnapshotId, ImageId)>,
}

impl Store {
    /// Deregisters images: all of them or none. Their snapshots stay, unless they are to be deleted; those
    /// that other images use stay all the same.
    ///
    /// # Errors
    /// Those of [`Store::image`]; [`Error::NotAuthorized`]; [`Error::ImageProtected`]
    pub fn deregister_images(
        &self,
        references: &[String],
        delete_snapshots: bool,
    ) -> Result<Vec<Deregistered>, Error> {
        let transaction = self.durable()?;
        let gone = self.remove_images(references, delete_snapshots)?;
        fault::point("deregister.removed");
        self.catalogue.commit(transaction)?;
        fault::point("deregister.committed");
        self.release_snapshots();
        self.catalogue.tidy();
        Ok(gone)
    }

    /// What [`Store::deregister_images`] would do.
    ///
    /// # Errors
    /// As it.
    pub fn would_deregister(
        &self,
        references: &[String],
        delete_snapshots: bool,
    ) -> Result<Vec<Deregistered>, Error> {
        let _undone = self.quick()?;
        self.remove_images(references, delete_snapshots)
    }

    /// Each image once, within the transaction that is open.
    fn remove_images(
        &self,
        references: &[String],
        delete_snapshots: bool,
    ) -> Result<Vec<Deregistered>, Error> {
        let mut images = BTreeMap::new();
        for reference in references {
            let image = self.own_image(reference)?;
            images.insert(image.image_id, image);
        }
        let mut all = Vec::with_capacity(images.len());
        for image in images.into_values() {
            let mut gone = Deregistered {
                image,
                deleted: Vec::new(),
                kept: Vec::new(),
            };
            self.remove_image(&mut gone, delete_snapshots)?;
            all.push(gone);
        }
        Ok(all)
    }

    /// Removes the image, and those of its snapshots that nothing else uses, in the transaction that is
    /// open. [`Store::release_snapshots`] follows its commit.
    pub(super) fn remove_image(
        &self,
        gone: &mut Deregistered,
        delete_snapshots: bool,
    ) -> Result<(), Error> {
        let id = gone.image.image_id;
        if is_protected(&gone.image) {
            return Err(Error::ImageProtected { image: id });
        }
        self.catalogue.remove_image(&id)?;
        if !delete_snapshots {
            return Ok(());
        }
        for snapshot in gone.image.snapshots() {
            match self.delete_snapshot_row(&snapshot) {
                Ok(()) => gone.deleted.push(snapshot),
                Err(Error::SnapshotInUse { image, .. }) => gone.kept.push((snapshot, image)),
                // Somebody has quarantined it.
                Err(Error::SnapshotNotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
