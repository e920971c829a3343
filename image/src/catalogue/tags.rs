//! The tags of every kind of object, by its id.

use rusqlite::params;

use super::{Catalogue, Error};
use crate::manifest::Tag;

impl Catalogue {
    /// By key.
    pub(crate) fn tags(&self, resource: &str) -> Result<Vec<Tag>, Error> {
        let query = || {
            self.connection
                .prepare_cached("SELECT key, value FROM tags WHERE resource = ?1 ORDER BY key")?
                .query_map([resource], |row| {
                    Ok(Tag {
                        key: row.get(0)?,
                        value: row.get(1)?,
                    })
                })?
                .collect()
        };
        self.sqlite(query())
    }

    /// A key that the object has gets the new value.
    pub(crate) fn add_tags(&self, resource: &str, tags: &[Tag]) -> Result<(), Error> {
        let add = || {
            for tag in tags {
                self.connection
                    .prepare_cached(
                        "INSERT OR REPLACE INTO tags (resource, key, value) VALUES (?1, ?2, ?3)",
                    )?
                    .execute(params![resource, tag.key, tag.value])?;
            }
            Ok(())
        };
        self.sqlite(add())
    }

    /// With a value, only where the tag has that one.
    pub(crate) fn remove_tag(
        &self,
        resource: &str,
        key: &str,
        value: Option<&str>,
    ) -> Result<(), Error> {
        let remove = || {
            self.connection
                .prepare_cached(
                    "DELETE FROM tags WHERE resource = ?1 AND key = ?2 AND value = coalesce(?3, value)",
                )?
                .execute(params![resource, key, value])
        };
        self.sqlite(remove()).map(|_| ())
    }

    /// With the object itself.
    pub(crate) fn remove_all_tags(&self, resource: &str) -> Result<(), Error> {
        let remove = || {
            self.connection
                .prepare_cached("DELETE FROM tags WHERE resource = ?1")?
                .execute([resource])
        };
        self.sqlite(remove()).map(|_| ())
    }
}
