//! Copying an image within the store.
//!
//! Implements `CopyImage` from a region to itself: only the metadata is new, and the copy names the same
//! snapshots, which stay as long as either image does. Whoever may launch an image may copy it.

use std::time::SystemTime;

use super::image::is_disabled;
use super::image_create::derived;
use super::{Error, Store, iso8601};
use crate::fault;
use crate::id::ImageId;
use crate::manifest::{self, Image, Tag};

/// What the copy of an image has of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageCopy {
    pub name: String,
    /// Without one, the source's.
    pub description: Option<String>,
    pub tags: Vec<Tag>,
    /// Take over the source's tags, where `tags` has not the same key.
    pub copy_tags: bool,
}

impl Store {
    /// Copies the image. The copy belongs to the caller, is private, and neither deprecated nor
    /// protected; its product codes are the source's.
    ///
    /// # Errors
    /// Those of [`Store::launchable_image`]; [`Error::Invalid`] for the name, the description and the
    /// tags; [`Error::ImageNameInUse`]
    pub fn copy_image(&self, reference: &str, copy: &ImageCopy) -> Result<Image, Error> {
        manifest::check_name(&copy.name)?;
        if let Some(description) = &copy.description {
            manifest::check_description(description)?;
        }
        let transaction = self.durable()?;
        let source = self.image(reference)?;
        if is_disabled(&source) {
            return Err(Error::ImageUnavailable {
                image: source.image_id,
            });
        }
        let image = copied(&source, copy, self.owner().to_string());
        manifest::check_tags(&image.tags)?;
        self.check_unused(&image)?;
        self.catalogue.add_image(&image)?;
        fault::point("copy.added");
        self.catalogue.commit(transaction)?;
        fault::point("copy.committed");
        Ok(image)
    }
}

fn copied(source: &Image, copy: &ImageCopy, owner: String) -> Image {
    let mut other = derived(source.clone());
    let location = format!("{owner}/{}", copy.name);
    other.insert("ImageLocation".to_owned(), location.into());
    let mut tags = copy.tags.clone();
    if copy.copy_tags {
        let others = source.tags.iter();
        tags.extend(
            others
                .filter(|tag| copy.tags.iter().all(|own| own.key != tag.key))
                .cloned(),
        );
        tags.sort();
    }
    Image {
        image_id: ImageId::generate(),
        name: copy.name.clone(),
        description: copy.description.clone().or(source.description.clone()),
        owner_id: Some(owner),
        creation_date: Some(iso8601(SystemTime::now())),
        public: false,
        source_image_id: Some(source.image_id.to_string()),
        source_instance_id: None,
        deprecation_time: None,
        deregistration_protection: None,
        last_launched_time: None,
        tags,
        other,
        ..source.clone()
    }
}
