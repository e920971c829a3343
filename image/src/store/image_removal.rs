//! Taking images away again.
//!
//! Implements `DeregisterImage`. Instances that run, or are stopped, need nothing of their image: they
//! are untouched.

use super::image_attributes::is_protected;
use super::{Error, Store};
use crate::fault;
use crate::manifest::Image;

impl Store {
    /// Deregisters the image. Its snapshots stay.
    ///
    /// # Errors
    /// Those of [`Store::image`]; [`Error::NotAuthorized`]; [`Error::ImageProtected`]
    pub fn deregister_image(&self, reference: &str) -> Result<Image, Error> {
        let transaction = self.durable()?;
        let image = self.own_image(reference)?;
        let id = image.image_id;
        if is_protected(&image) {
            return Err(Error::ImageProtected { image: id });
        }
        self.catalogue.remove_image(&id)?;
        fault::point("deregister.removed");
        self.catalogue.commit(transaction)?;
        fault::point("deregister.committed");
        Ok(image)
    }
}
