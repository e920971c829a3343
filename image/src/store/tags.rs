//! Tags of every kind of object.
//!
//! Implements `CreateTags` and `DeleteTags`. The objects are named by their ids, which whoever calls
//! has looked up.

use super::{Error, Store};
use crate::manifest::{InvalidTag, Tag, check_tags};

/// A tag to take away: the one of that key, with a value only if it has that one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagToRemove {
    pub key: String,
    pub value: Option<String>,
}

/// Reads `KEY` or `KEY=VALUE`.
impl std::str::FromStr for TagToRemove {
    type Err = InvalidTag;

    fn from_str(text: &str) -> Result<Self, InvalidTag> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        if key.is_empty() {
            return Err(InvalidTag::Key { key: String::new() });
        }
        Ok(Self {
            key: key.to_owned(),
            value,
        })
    }
}

impl Store {
    /// The object's tags, by key.
    ///
    /// # Errors
    /// [`Error::Catalogue`]
    pub fn tags(&self, resource: &str) -> Result<Vec<Tag>, Error> {
        Ok(self.catalogue.tags(resource)?)
    }

    /// Gives each object the tags; a key that it has gets the new value.
    ///
    /// # Errors
    /// [`Error::Tag`] where an object would have too many; [`Error::Catalogue`]
    pub fn add_tags(&self, resources: &[String], tags: &[Tag]) -> Result<(), Error> {
        check_tags(tags)?;
        let transaction = self.durable()?;
        for resource in resources {
            self.catalogue.add_tags(resource, tags)?;
            check_tags(&self.catalogue.tags(resource)?)?;
        }
        Ok(self.catalogue.commit(transaction)?)
    }

    /// Takes the tags from each object. A tag that it does not have is no error.
    ///
    /// # Errors
    /// [`Error::Catalogue`]
    pub fn remove_tags(&self, resources: &[String], tags: &[TagToRemove]) -> Result<(), Error> {
        let transaction = self.durable()?;
        for resource in resources {
            for TagToRemove { key, value } in tags {
                self.catalogue.remove_tag(resource, key, value.as_deref())?;
            }
        }
        Ok(self.catalogue.commit(transaction)?)
    }
}
