//! The rows of images.

use rusqlite::OptionalExtension;

use super::{Catalogue, Error, convert, ids_from, parsed};
use crate::id::ImageId;
use crate::manifest::Image;

impl Catalogue {
    /// Every image, by name.
    pub(crate) fn images(&self) -> Result<Vec<Image>, Error> {
        let query = || {
            self.connection
                .prepare_cached("SELECT document FROM images ORDER BY name, owner")?
                .query_map([], document)?
                .collect()
        };
        self.sqlite(query())
    }

    pub(crate) fn image(&self, id: &ImageId) -> Result<Option<Image>, Error> {
        let query = || {
            self.connection
                .prepare_cached("SELECT document FROM images WHERE id = ?1")?
                .query_row([id.to_string()], document)
                .optional()
        };
        self.sqlite(query())
    }

    /// The images of that name, one at most an owner.
    pub(crate) fn images_named(&self, name: &str) -> Result<Vec<Image>, Error> {
        let query = || {
            self.connection
                .prepare_cached("SELECT document FROM images WHERE name = ?1")?
                .query_map([name], document)?
                .collect()
        };
        self.sqlite(query())
    }

    /// The first two ids that begin with `prefix`.
    pub(crate) fn image_ids_from(&self, prefix: &str) -> Result<Vec<ImageId>, Error> {
        let query = "SELECT id FROM images WHERE id >= ?1 AND id < ?2 LIMIT 2";
        self.sqlite(ids_from(&self.connection, query, prefix))
    }

    pub(crate) fn image_of_name(&self, owner: &str, name: &str) -> Result<Option<ImageId>, Error> {
        let query = || {
            self.connection
                .prepare_cached("SELECT id FROM images WHERE name = ?1 AND owner = ?2")?
                .query_row([name, owner], |row| parsed(row, 0))
                .optional()
        };
        self.sqlite(query())
    }

    /// The image's snapshots must have been added.
    pub(crate) fn add_image(&self, image: &Image) -> Result<(), Error> {
        let add = || {
            let document = serde_json::to_string(image)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
            let id = image.image_id.to_string();
            let owner = image.owner_id.as_deref().unwrap_or_default();
            self.connection
                .prepare_cached(
                    "INSERT INTO images (id, owner, name, document) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute([&id, owner, &image.name, &document])?;
            for snapshot in image.snapshots() {
                self.connection
                    .prepare_cached(
                        "INSERT INTO image_snapshots (image, snapshot) VALUES (?1, ?2)",
                    )?
                    .execute([&id, &snapshot.to_string()])?;
            }
            Ok(())
        };
        self.sqlite(add())
    }
}

fn document(row: &rusqlite::Row<'_>) -> rusqlite::Result<Image> {
    convert(0, serde_json::from_str(row.get_ref(0)?.as_str()?))
}
