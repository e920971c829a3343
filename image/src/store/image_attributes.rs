//! What may change of a registered image: its description, who may launch it, and for how long.
//!
//! Implements `ModifyImageAttribute`, `ResetImageAttribute`, `EnableImageDeprecation`,
//! `DisableImage`, `EnableImageDeregistrationProtection` and their opposites. Everything else of an
//! image stays as it was registered. Only its owner may change an image.

use std::time::{Duration, SystemTime};

use super::image::is_disabled;
use super::{Error, Store};
use crate::catalogue::ImageState;
use crate::manifest::{self, Image, LaunchPermission};
use crate::time::{iso8601, parse_iso8601};

/// How long an image whose protection had a cooldown stays protected after that was taken away.
const COOLDOWN: Duration = Duration::from_secs(24 * 3600);

const ENABLED: &str = "enabled";
const WITH_COOLDOWN: &str = "enabled-with-cooldown";
const DISABLED: &str = "disabled";
const DISABLED_AFTER: &str = "disabled after ";

/// What `ModifyImageAttribute` may change. Empty, it changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageChange {
    pub description: Option<String>,
    /// Take all permissions away before the others are added.
    pub reset_permissions: bool,
    pub add_permissions: Vec<LaunchPermission>,
    pub remove_permissions: Vec<LaunchPermission>,
    /// Instances of it are to answer to version 2 of the metadata service only. There is no way back.
    pub imds_v2: bool,
}

impl Store {
    /// Changes attributes of the image.
    ///
    /// # Errors
    /// Those of [`Store::image`]; [`Error::NotAuthorized`]; [`Error::Invalid`] for the description;
    /// [`Error::ImageUnavailable`] where a disabled image is to be shared.
    pub fn modify_image(&self, reference: &str, change: &ImageChange) -> Result<Image, Error> {
        self.change_image(reference, |image| {
            if let Some(description) = &change.description {
                manifest::check_description(description)?;
                image.description = Some(description.clone()).filter(|text| !text.is_empty());
            }
            if change.imds_v2 {
                image.imds_support = Some("v2.0".to_owned());
            }
            if !change.add_permissions.is_empty() && is_disabled(image) {
                return Err(Error::ImageUnavailable {
                    image: image.image_id,
                });
            }
            self.change_permissions(image, change)
        })
    }

    fn change_permissions(&self, image: &mut Image, change: &ImageChange) -> Result<(), Error> {
        let id = image.image_id;
        if change.reset_permissions {
            for permission in self.catalogue.launch_permissions(&id)? {
                self.catalogue.remove_launch_permission(&id, permission)?;
            }
        }
        for permission in &change.add_permissions {
            self.catalogue.add_launch_permission(&id, *permission)?;
        }
        for permission in &change.remove_permissions {
            self.catalogue.remove_launch_permission(&id, *permission)?;
        }
        let permissions = self.catalogue.launch_permissions(&id)?;
        image.public = permissions.contains(&LaunchPermission::Group);
        Ok(())
    }

    /// From `time` on the image is deprecated; without one it no longer is.
    ///
    /// # Errors
    /// As [`Store::modify_image`].
    pub fn deprecate_image(
        &self,
        reference: &str,
        time: Option<SystemTime>,
    ) -> Result<Image, Error> {
        self.change_image(reference, |image| {
            image.deprecation_time = time.map(iso8601);
            Ok(())
        })
    }

    /// The image can no longer be launched, and whom it was shared with loses it.
    ///
    /// # Errors
    /// As [`Store::modify_image`].
    pub fn disable_image(&self, reference: &str) -> Result<Image, Error> {
        self.change_image(reference, |image| {
            image.state = Some(ImageState::Disabled.as_str().to_owned());
            let unshare = ImageChange {
                reset_permissions: true,
                ..ImageChange::default()
            };
            self.change_permissions(image, &unshare)
        })
    }

    /// The image can be launched again, by its owner.
    ///
    /// # Errors
    /// As [`Store::modify_image`].
    pub fn enable_image(&self, reference: &str) -> Result<Image, Error> {
        self.change_image(reference, |image| {
            image.state = Some(ImageState::Available.as_str().to_owned());
            Ok(())
        })
    }

    /// The image cannot be deregistered until [`Store::unprotect_image`], with a cooldown not until
    /// a day after it.
    ///
    /// # Errors
    /// As [`Store::modify_image`].
    pub fn protect_image(&self, reference: &str, cooldown: bool) -> Result<Image, Error> {
        self.change_image(reference, |image| {
            let state = if cooldown { WITH_COOLDOWN } else { ENABLED };
            image.deregistration_protection = Some(state.to_owned());
            Ok(())
        })
    }

    /// Takes the protection away.
    ///
    /// # Errors
    /// As [`Store::modify_image`].
    pub fn unprotect_image(&self, reference: &str) -> Result<Image, Error> {
        self.change_image(reference, |image| {
            let protection = image.deregistration_protection.as_deref();
            let state = match protection {
                Some(WITH_COOLDOWN) => {
                    format!("{DISABLED_AFTER}{}", iso8601(SystemTime::now() + COOLDOWN))
                }
                // A cooldown that has begun goes on.
                Some(after) if after.starts_with(DISABLED_AFTER) && is_protected(image) => {
                    after.to_owned()
                }
                _ => DISABLED.to_owned(),
            };
            image.deregistration_protection = Some(state);
            Ok(())
        })
    }

    fn change_image(
        &self,
        reference: &str,
        change: impl FnOnce(&mut Image) -> Result<(), Error>,
    ) -> Result<Image, Error> {
        let transaction = self.durable()?;
        let mut image = self.own_image(reference)?;
        change(&mut image)?;
        self.catalogue.update_image(&image)?;
        self.catalogue.commit(transaction)?;
        Ok(image)
    }
}

/// Whether the image must not be deregistered.
pub(super) fn is_protected(image: &Image) -> bool {
    match image.deregistration_protection.as_deref() {
        Some(ENABLED | WITH_COOLDOWN) => true,
        Some(state) => state
            .strip_prefix(DISABLED_AFTER)
            .and_then(parse_iso8601)
            .is_some_and(|end| SystemTime::now() < end),
        None => false,
    }
}
