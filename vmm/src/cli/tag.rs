//! `tag` and `untag`, the same under every noun.

use kami_image::manifest::Tag;
use kami_image::store::{Store, TagToRemove};

use super::Error;
use crate::exit::Exit;

#[derive(Debug, clap::Args)]
pub struct TagArgs {
    /// Its id, a unique start of it, or its name if it has one
    #[arg(value_name = "ID")]
    reference: String,

    /// The tags; a key that it has gets the new value
    #[arg(value_name = "KEY=VALUE", required = true)]
    tags: Vec<Tag>,
}

#[derive(Debug, clap::Args)]
pub struct UntagArgs {
    /// Its id, a unique start of it, or its name if it has one
    #[arg(value_name = "ID")]
    reference: String,

    /// The keys of the tags; with a value, only those that have it
    #[arg(value_name = "KEY[=VALUE]", required = true)]
    tags: Vec<TagToRemove>,
}

impl TagArgs {
    /// Tags the object whose id `find` knows.
    pub fn run(
        &self,
        store: &Store,
        find: impl FnOnce(&str) -> Result<String, Error>,
    ) -> Result<Exit, Error> {
        store.add_tags(&[find(&self.reference)?], &self.tags)?;
        Ok(Exit::Done)
    }
}

impl UntagArgs {
    /// Takes tags from the object whose id `find` knows.
    pub fn run(
        &self,
        store: &Store,
        find: impl FnOnce(&str) -> Result<String, Error>,
    ) -> Result<Exit, Error> {
        store.remove_tags(&[find(&self.reference)?], &self.tags)?;
        Ok(Exit::Done)
    }
}
