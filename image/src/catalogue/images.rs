//! The rows of images, and of who may launch them.
//!
//! The document is the Image object as EC2 shows it, but for what has a place of its own: the tags,
//! and the time of the last launch, which a launch writes and must be quick about. The columns beside
//! it repeat what listings ask for; whoever writes a document writes them with it.

use std::ops::ControlFlow;
use std::time::SystemTime;

use rusqlite::{OptionalExtension, Row, params, params_from_iter};

use super::{Catalogue, Error, convert, from_millis, ids_from, parsed, to_millis};
use crate::account::Account;
use crate::filter::Condition;
use crate::id::{ImageId, InstanceId};
use crate::manifest::{Image, LaunchPermission, words};
use crate::time::iso8601;

words! {
    /// EC2's states of an image. The others that EC2 knows, none here is ever in.
    ImageState {
        Available = "available",
        /// Cannot be launched, and listings leave it out.
        Disabled = "disabled",
    }
}

/// Opens every query for images that [`image`] reads.
pub(super) const SELECT: &str = "SELECT document, last_launched, \
    (SELECT json_group_array(json_object('Key', key, 'Value', value) ORDER BY key) \
     FROM tags WHERE resource = images.id) FROM images";

impl Catalogue {
    /// Every image, by name.
    pub(crate) fn images(&self) -> Result<Vec<Image>, Error> {
        let query = || {
            self.connection
                .prepare_cached(&format!("{SELECT} ORDER BY name, owner"))?
                .query_map([], image)?
                .collect()
        };
        self.sqlite(query())
    }

    /// Calls `each` with every image that fulfils the condition, by name, until it breaks off. They
    /// begin after that name and owner.
    pub(crate) fn list_images(
        &self,
        condition: &Condition,
        (name, owner): (&str, &str),
        each: &mut dyn FnMut(Image) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut list = || {
            let Condition { sql, values } = condition;
            let query = format!("{SELECT} WHERE (name, owner) > (?, ?){sql} ORDER BY name, owner");
            let mut statement = self.connection.prepare(&query)?;
            let after = [name, owner];
            let values = after.into_iter().chain(values.iter().map(String::as_str));
            for image in statement.query_map(params_from_iter(values), image)? {
                if each(image?).is_break() {
                    break;
                }
            }
            Ok(())
        };
        self.sqlite(list())
    }

    pub(crate) fn image(&self, id: &ImageId) -> Result<Option<Image>, Error> {
        let query = || {
            self.connection
                .prepare_cached(&format!("{SELECT} WHERE id = ?1"))?
                .query_row([id.to_string()], image)
                .optional()
        };
        self.sqlite(query())
    }

    /// The images of that name, one at most an owner.
    pub(crate) fn images_named(&self, name: &str) -> Result<Vec<Image>, Error> {
        let query = || {
            self.connection
                .prepare_cached(&format!("{SELECT} WHERE name = ?1"))?
                .query_map([name], image)?
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

    /// Adds the image and its tags. Its snapshots must have been added.
    pub(crate) fn add_image(&self, image: &Image) -> Result<(), Error> {
        let add = || {
            let id = image.image_id.to_string();
            let owner = image.owner_id.as_deref().unwrap_or_default();
            self.connection
                .prepare_cached(
                    "INSERT INTO images (id, owner, name, document, architecture, state, created,
                     deprecated)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6,
                        coalesce(CAST(unixepoch(?7, 'subsec') * 1000 AS INTEGER), 0),
                        CAST(unixepoch(?8, 'subsec') * 1000 AS INTEGER))",
                )?
                .execute(params![
                    id,
                    owner,
                    image.name,
                    document(image)?,
                    image.architecture.as_str(),
                    state(image),
                    image.creation_date,
                    image.deprecation_time,
                ])?;
            for snapshot in image.snapshots() {
                self.connection
                    .prepare_cached(
                        "INSERT INTO image_snapshots (image, snapshot) VALUES (?1, ?2)",
                    )?
                    .execute([&id, &snapshot.to_string()])?;
            }
            Ok(())
        };
        self.sqlite(add())?;
        self.add_tags(&image.image_id.to_string(), &image.tags)
    }

    /// Writes down what may change of an image: its description, its state, its attributes. Its
    /// content, name and owner stay as they are.
    pub(crate) fn update_image(&self, image: &Image) -> Result<(), Error> {
        let update = || {
            self.connection
                .prepare_cached(
                    "UPDATE images SET document = ?2, state = ?3,
                     deprecated = CAST(unixepoch(?4, 'subsec') * 1000 AS INTEGER) WHERE id = ?1",
                )?
                .execute(params![
                    image.image_id.to_string(),
                    document(image)?,
                    state(image),
                    image.deprecation_time,
                ])
        };
        self.sqlite(update()).map(|_| ())
    }

    /// Removes the image with its permissions and tags; its snapshots stay.
    pub(crate) fn remove_image(&self, id: &ImageId) -> Result<(), Error> {
        let remove = || {
            let id = id.to_string();
            for table in [
                "DELETE FROM image_snapshots WHERE image = ?1",
                "DELETE FROM launch_permissions WHERE image = ?1",
                "DELETE FROM images WHERE id = ?1",
            ] {
                self.connection.prepare_cached(table)?.execute([&id])?;
            }
            Ok(())
        };
        self.sqlite(remove())?;
        self.remove_all_tags(&id.to_string())
    }

    /// An instance that was launched from the image and has not been terminated.
    pub(crate) fn instance_of_image(&self, id: &ImageId) -> Result<Option<InstanceId>, Error> {
        let query = || {
            self.connection
                .prepare_cached(
                    "SELECT id FROM instances WHERE image = ?1 AND state <> 'terminated'
                     ORDER BY launched LIMIT 1",
                )?
                .query_row([id.to_string()], |row| parsed(row, 0))
                .optional()
        };
        self.sqlite(query())
    }

    /// Writes down that the image was launched now. False where there is none that may be.
    pub(crate) fn note_launch(&self, id: &ImageId) -> Result<bool, Error> {
        let update = || {
            self.connection
                .prepare_cached(
                    "UPDATE images SET last_launched = ?2 WHERE id = ?1 AND state = 'available'",
                )?
                .execute(params![id.to_string(), to_millis(SystemTime::now())])
        };
        Ok(self.sqlite(update())? != 0)
    }

    /// Who may launch the image, besides its owner.
    pub(crate) fn launch_permissions(&self, id: &ImageId) -> Result<Vec<LaunchPermission>, Error> {
        let query = || {
            self.connection
                .prepare_cached(
                    "SELECT account FROM launch_permissions WHERE image = ?1 ORDER BY account",
                )?
                .query_map([id.to_string()], |row| parsed(row, 0))?
                .collect()
        };
        self.sqlite(query())
    }

    /// Whether somebody has let the account launch the image.
    pub(crate) fn may_launch(&self, id: &ImageId, account: Account) -> Result<bool, Error> {
        let query = || {
            self.connection
                .prepare_cached(
                    "SELECT 1 FROM launch_permissions WHERE image = ?1 AND account IN (?2, 'all')",
                )?
                .exists([id.to_string(), account.to_string()])
        };
        self.sqlite(query())
    }

    pub(crate) fn add_launch_permission(
        &self,
        id: &ImageId,
        permission: LaunchPermission,
    ) -> Result<(), Error> {
        self.change_permission(
            "INSERT OR IGNORE INTO launch_permissions (image, account) VALUES (?1, ?2)",
            id,
            permission,
        )
    }

    pub(crate) fn remove_launch_permission(
        &self,
        id: &ImageId,
        permission: LaunchPermission,
    ) -> Result<(), Error> {
        self.change_permission(
            "DELETE FROM launch_permissions WHERE image = ?1 AND account = ?2",
            id,
            permission,
        )
    }

    fn change_permission(
        &self,
        statement: &str,
        id: &ImageId,
        permission: LaunchPermission,
    ) -> Result<(), Error> {
        let change = || {
            self.connection
                .prepare_cached(statement)?
                .execute([id.to_string(), permission.to_string()])
        };
        self.sqlite(change()).map(|_| ())
    }
}

fn state(image: &Image) -> &str {
    let available = ImageState::Available.as_str();
    image.state.as_deref().unwrap_or(available)
}

/// What the row keeps of the image as its document.
fn document(image: &Image) -> rusqlite::Result<String> {
    let kept = Image {
        tags: Vec::new(),
        last_launched_time: None,
        ..image.clone()
    };
    serde_json::to_string(&kept)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// Reads a row of [`SELECT`].
pub(super) fn image(row: &Row<'_>) -> rusqlite::Result<Image> {
    let mut image: Image = convert(0, serde_json::from_str(row.get_ref(0)?.as_str()?))?;
    let launched: Option<i64> = row.get(1)?;
    image.last_launched_time = launched.map(|millis| iso8601(from_millis(millis)));
    image.tags = convert(2, serde_json::from_str(row.get_ref(2)?.as_str()?))?;
    Ok(image)
}
