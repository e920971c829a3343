//! Pruning: deleting old images by rule, with the snapshots that only they used.
//!
//! EC2 has this as Data Lifecycle Manager and as Recycle Bin rules; the rules here are those of a
//! folder of versions: of the images with such names, keep the newest. Never deleted are images
//! with instances, images that are protected, and images that a parameter names.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::image_attributes::is_protected;
use super::{Deregistered, Error, Store};
use crate::fault;
use crate::filter;
use crate::id::{InstanceId, SnapshotId};
use crate::manifest::Image;
use crate::time::parse_iso8601;

/// Which images are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PruneRule {
    /// Those with such names, where `*` is any text and `?` one character or none,
    pub name: String,
    /// but the newest,
    pub keep: usize,
    /// once they are so old.
    pub older_than: Option<Duration>,
}

/// An image that a rule wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pruned {
    pub image: Image,
    /// Why it stays all the same.
    pub obstacle: Option<Obstacle>,
    /// The snapshots that go with it.
    pub snapshots: Vec<SnapshotId>,
}

/// Why an image is not pruned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    #[error("{0} was launched from it")]
    Instance(InstanceId),
    #[error("it is protected")]
    Protected,
    #[error("the parameter {0} names it")]
    Parameter(String),
}

impl Store {
    /// Deletes what the rules say of the caller's own images, all of it or nothing. Returns every
    /// image that a rule wanted to go, oldest first. Unless it is to be `real`, that is all.
    ///
    /// # Errors
    /// [`Error::Catalogue`]; nothing was deleted then.
    pub fn prune(&self, rules: &[PruneRule], real: bool) -> Result<Vec<Pruned>, Error> {
        let transaction = self.durable()?;
        let mut pruned = Vec::new();
        for image in self.prunable(rules)? {
            pruned.push(self.prune_image(image)?);
        }
        if !real {
            // Dropped, the transaction is undone.
            return Ok(pruned);
        }
        fault::point("prune.removed");
        self.catalogue.commit(transaction)?;
        fault::point("prune.committed");
        self.release_snapshots();
        self.catalogue.tidy();
        Ok(pruned)
    }

    /// The images that one of the rules wants to go, oldest first.
    fn prunable(&self, rules: &[PruneRule]) -> Result<Vec<Image>, Error> {
        let now = SystemTime::now();
        let mut own = self.catalogue.images()?;
        own.retain(|image| self.owns(image));
        own.sort_by_cached_key(|image| std::cmp::Reverse((created(image), image.image_id)));
        let mut wanted = BTreeSet::new();
        for rule in rules {
            let matching = own
                .iter()
                .filter(|image| filter::matches(&rule.name, &image.name));
            let old = matching.skip(rule.keep).filter(|image| {
                let age = now.duration_since(created(image)).unwrap_or_default();
                rule.older_than.is_none_or(|least| age >= least)
            });
            wanted.extend(old.map(|image| image.image_id));
        }
        own.retain(|image| wanted.contains(&image.image_id));
        own.reverse();
        Ok(own)
    }

    fn prune_image(&self, image: Image) -> Result<Pruned, Error> {
        if let Some(obstacle) = self.obstacle(&image)? {
            return Ok(Pruned {
                image,
                obstacle: Some(obstacle),
                snapshots: Vec::new(),
            });
        }
        let mut gone = Deregistered {
            image,
            deleted: Vec::new(),
            kept: Vec::new(),
        };
        self.remove_image(&mut gone, true)?;
        Ok(Pruned {
            image: gone.image,
            obstacle: None,
            snapshots: gone.deleted,
        })
    }

    fn obstacle(&self, image: &Image) -> Result<Option<Obstacle>, Error> {
        if is_protected(image) {
            return Ok(Some(Obstacle::Protected));
        }
        if let Some(instance) = self.catalogue.instance_of_image(&image.image_id)? {
            return Ok(Some(Obstacle::Instance(instance)));
        }
        let named = self
            .catalogue
            .parameter_of_value(&image.image_id.to_string())?;
        Ok(named.map(Obstacle::Parameter))
    }
}

/// An image whose manifest gives no time that can be read is the oldest of all.
fn created(image: &Image) -> SystemTime {
    let date = image.creation_date.as_deref();
    date.and_then(parse_iso8601)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}
