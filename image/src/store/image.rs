//! Images: which are there, for whom, and which may be launched.
//!
//! An account sees its own images, those that it may launch, and the public ones; others do not exist
//! for it. A caller without an account acts as the owner of everything.

use super::{Error, Store, ambiguous, id_prefix};
use crate::catalogue::ImageState;
use crate::id::ImageId;
use crate::manifest::{Image, LaunchPermission};

impl Store {
    /// Every image that the caller sees, by name.
    ///
    /// # Errors
    /// [`Error::Catalogue`]
    pub fn images(&self) -> Result<Vec<Image>, Error> {
        let mut seen = Vec::new();
        for image in self.catalogue.images()? {
            if self.may_launch(&image)? {
                seen.push(image);
            }
        }
        Ok(seen)
    }

    /// The image of that id, name, or unique beginning of an id (with or without `ami-`), if the
    /// caller sees it.
    ///
    /// # Errors
    /// [`Error::ImageNotFound`], [`Error::IdMalformed`], [`Error::Ambiguous`],
    /// [`Error::Catalogue`]
    pub fn image(&self, reference: &str) -> Result<Image, Error> {
        let image = self.find_image(reference)?;
        match self.may_launch(&image)? {
            true => Ok(image),
            false => Err(image_not_found(reference)),
        }
    }

    /// The image that a launch names, as in [`Store::image`] or as `resolve:ssm:NAME[:VERSION]`, the
    /// parameter that holds its id.
    ///
    /// # Errors
    /// Those of [`Store::image`] and [`Store::parameter`]; [`Error::NotAuthorized`] where the image is
    /// somebody else's, [`Error::ImageUnavailable`] where it is disabled.
    pub fn launchable_image(&self, reference: &str) -> Result<Image, Error> {
        let image = self.find_image(&self.named(reference)?)?;
        let id = image.image_id;
        if !self.may_launch(&image)? {
            return Err(Error::NotAuthorized { image: id });
        }
        // Disabled, or found damaged by a check of the store.
        match image.state.as_deref() == Some(ImageState::Available.as_str()) {
            true => Ok(image),
            false => Err(Error::ImageUnavailable { image: id }),
        }
    }

    /// Writes down that the image was launched now, in the transaction that is open.
    ///
    /// # Errors
    /// [`Error::ImageUnavailable`] where it was deregistered or disabled meanwhile;
    /// [`Error::Catalogue`]
    pub(super) fn note_launch(&self, image: &ImageId) -> Result<(), Error> {
        match self.catalogue.note_launch(image)? {
            true => Ok(()),
            false => Err(Error::ImageUnavailable { image: *image }),
        }
    }

    /// The image that the caller may change: one of its own.
    ///
    /// # Errors
    /// Those of [`Store::image`]; [`Error::NotAuthorized`]
    pub fn own_image(&self, reference: &str) -> Result<Image, Error> {
        let image = self.image(reference)?;
        match self.owns(&image) {
            true => Ok(image),
            false => Err(Error::NotAuthorized {
                image: image.image_id,
            }),
        }
    }

    /// Who may launch the image, besides its owner.
    ///
    /// # Errors
    /// As of the functions that change an image: only the owner may know.
    pub fn launch_permissions(
        &self,
        reference: &str,
    ) -> Result<(ImageId, Vec<LaunchPermission>), Error> {
        let id = self.own_image(reference)?.image_id;
        Ok((id, self.catalogue.launch_permissions(&id)?))
    }

    /// Whether the image is the caller's own.
    pub(super) fn owns(&self, image: &Image) -> bool {
        self.account()
            .is_none_or(|account| image.owner_id == Some(account.to_string()))
    }

    /// Whether the image is the caller's own, or shared with it.
    pub(super) fn may_launch(&self, image: &Image) -> Result<bool, Error> {
        match self.account() {
            Some(account) if !self.owns(image) => {
                Ok(self.catalogue.may_launch(&image.image_id, account)?)
            }
            _ => Ok(true),
        }
    }

    /// The image that is meant, whosever it is. Of several with that name, those that the caller
    /// sees go before the others, and its own before all.
    fn find_image(&self, reference: &str) -> Result<Image, Error> {
        let not_found = || image_not_found(reference);
        if let Ok(id) = reference.parse::<ImageId>() {
            return self.catalogue.image(&id)?.ok_or_else(not_found);
        }
        if let Some(image) = self.named_image(reference)? {
            return Ok(image);
        }
        let prefix = id_prefix(reference, ImageId::PREFIX, not_found)?;
        match *self.catalogue.image_ids_from(&prefix)? {
            [] => Err(not_found()),
            [id] => self.catalogue.image(&id)?.ok_or_else(not_found),
            _ => Err(ambiguous("image", reference)),
        }
    }

    fn named_image(&self, name: &str) -> Result<Option<Image>, Error> {
        let mut images = self.catalogue.images_named(name)?;
        if images.len() > 1 && self.account().is_some() {
            let mut own = Vec::new();
            let mut shared = Vec::new();
            for image in images.drain(..) {
                if self.owns(&image) {
                    own.push(image);
                } else if self.may_launch(&image)? {
                    shared.push(image);
                }
            }
            images = if own.is_empty() { shared } else { own };
        }
        match images.len() {
            0 | 1 => Ok(images.pop()),
            _ => Err(ambiguous("image", name)),
        }
    }
}

pub(super) fn image_not_found(reference: &str) -> Error {
    Error::ImageNotFound {
        reference: reference.to_owned(),
    }
}

pub(super) fn is_disabled(image: &Image) -> bool {
    image.state.as_deref() == Some(ImageState::Disabled.as_str())
}
