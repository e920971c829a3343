//! Listing images: whose, which, and a page at a time.
//!
//! Implements `DescribeImages`. Images that are disabled, and those of others that are deprecated, are
//! listed only on demand or by their ids.

use std::ops::ControlFlow;
use std::time::SystemTime;

use super::{Error, Store};
use crate::account::Account;
use crate::catalogue::to_millis;
use crate::filter::{Columns, Condition, Filters, Page, Token};
use crate::id::ImageId;
use crate::manifest::Image;

/// Where the catalogue has what filters of images ask for.
const COLUMNS: Columns = Columns {
    id: "images.id",
    members: &[
        ("architecture", "architecture"),
        (
            "block-device-mapping.snapshot-id",
            "id IN (SELECT image FROM image_snapshots WHERE {snapshot})",
        ),
        ("image-id", "id"),
        ("name", "name"),
        ("owner-id", "owner"),
        ("state", "state"),
    ],
    document: Some("document"),
};

/// What the key of a page's end has between name and owner: no owner contains it.
const BETWEEN: char = '/';

/// Whose images are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageOwner {
    /// The caller.
    Caller,
    Account(Account),
}

/// Which images are listed.
#[derive(Clone, Debug)]
pub struct ImageQuery {
    /// Only these, if there are any here.
    pub images: Vec<ImageId>,
    /// Only theirs, if there are any here.
    pub owners: Vec<ImageOwner>,
    pub filters: Filters,
    /// Deprecated images of others too.
    pub with_deprecated: bool,
    pub with_disabled: bool,
    pub page: Page,
}

impl Store {
    /// The images of the query that the caller sees, by name, and the token of the next page.
    ///
    /// # Errors
    /// [`Error::Catalogue`]
    pub fn list_images(&self, query: &ImageQuery) -> Result<(Vec<Image>, Option<Token>), Error> {
        let condition = self.condition(query);
        let after = query.page.next_token.as_ref().map(|token| {
            let key = token.key();
            key.rsplit_once(BETWEEN).unwrap_or((key, ""))
        });
        let most = query.page.max_results.unwrap_or(usize::MAX);
        let mut images = Vec::new();
        let mut token = None;
        self.catalogue
            .list_images(&condition, after.unwrap_or_default(), &mut |image| {
                if !query.filters.is_empty() {
                    let shown = serde_json::to_value(&image).unwrap_or_default();
                    if !query.filters.matches(&shown) {
                        return ControlFlow::Continue(());
                    }
                }
                if images.len() < most {
                    images.push(image);
                    return ControlFlow::Continue(());
                }
                token = images.last().map(key);
                ControlFlow::Break(())
            })?;
        Ok((images, token))
    }

    fn condition(&self, query: &ImageQuery) -> Condition {
        let mut condition = query.filters.condition(&COLUMNS);
        let caller = self.account().map(|account| account.to_string());
        if let Some(caller) = &caller {
            condition.and(
                "(owner = ? OR EXISTS (SELECT 1 FROM launch_permissions
                 WHERE image = images.id AND account IN (?, 'all')))",
                [caller.clone(), caller.clone()],
            );
        }
        condition.and_one_of("id", query.images.iter().map(ToString::to_string));
        let owners: Option<Vec<_>> = query
            .owners
            .iter()
            .map(|owner| match owner {
                ImageOwner::Account(account) => Some(account.to_string()),
                // The owner of everything.
                ImageOwner::Caller => caller.clone(),
            })
            .collect();
        condition.and_one_of("owner", owners.unwrap_or_default());
        let by_id = !query.images.is_empty();
        if !(by_id || query.with_disabled || query.filters.has("state")) {
            condition.and("state <> 'disabled'", []);
        }
        if !(by_id || query.with_deprecated)
            && let Some(caller) = caller
        {
            condition.and(
                "(deprecated IS NULL OR deprecated > CAST(? AS INTEGER) OR owner = ?)",
                [to_millis(SystemTime::now()).to_string(), caller],
            );
        }
        condition
    }
}

/// Where the image stands in the listing.
fn key(image: &Image) -> Token {
    let owner = image.owner_id.as_deref().unwrap_or_default();
    Token::new(format!("{}{BETWEEN}{owner}", image.name))
}
