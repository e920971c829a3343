//! What surrounds an image: tags and product codes, which it shares with other kinds of object, and
//! launch permissions.
//!
//! Implements the restrictions of EC2's user guide, "Tag your Amazon EC2 resources".

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::account::{Account, InvalidAccount};

const KEY_LENGTH: std::ops::RangeInclusive<usize> = 1..=128;
const VALUE_LENGTH: usize = 256;
const MOST: usize = 50;
/// What EC2 keeps for itself.
const RESERVED: &str = "aws:";

/// A label of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Tag {
    pub key: String,
    #[serde(default)]
    pub value: String,
}

/// What an image must be paid for by; carried on to its instances, and to images made of those.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProductCode {
    pub product_code_id: String,
    /// `devpay` or `marketplace`.
    pub product_code_type: String,
}

/// Who may launch an image, besides its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum LaunchPermission {
    UserId(Account),
    /// Always the group `all`: the image is public.
    #[serde(serialize_with = "all")]
    Group,
}

fn all<S: serde::Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(ALL)
}

const ALL: &str = "all";

impl fmt::Display for LaunchPermission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UserId(account) => account.fmt(f),
            Self::Group => f.pad(ALL),
        }
    }
}

/// Reads an account or `all`, with or without EC2's `UserId=` or `Group=` before it.
impl FromStr for LaunchPermission {
    type Err = InvalidAccount;

    fn from_str(text: &str) -> Result<Self, InvalidAccount> {
        if text.strip_prefix("Group=").unwrap_or(text) == ALL {
            return Ok(Self::Group);
        }
        let account = text.strip_prefix("UserId=").unwrap_or(text);
        account.parse().map(Self::UserId)
    }
}

/// Why an object cannot have these tags.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTag {
    #[error("tag {text:?} is not KEY=VALUE")]
    Form { text: String },
    #[error("Tag key {key:?} is not 1 to 128 characters long")]
    Key { key: String },
    #[error("Tag value of {key:?} exceeds the maximum length of 256 characters")]
    Value { key: String },
    #[error("Tag keys starting with 'aws:' are reserved for internal use: {key:?}")]
    Reserved { key: String },
    #[error("Tag key {key:?} is given twice")]
    Twice { key: String },
    #[error("The maximum number of tags for a resource is {MOST}, and {count} are given")]
    TooMany { count: usize },
}

/// Reads `KEY=VALUE`; the value may be empty.
impl FromStr for Tag {
    type Err = InvalidTag;

    fn from_str(text: &str) -> Result<Self, InvalidTag> {
        let (key, value) = text.split_once('=').ok_or_else(|| InvalidTag::Form {
            text: text.to_owned(),
        })?;
        let tag = Self {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        if tag.key.starts_with(RESERVED) {
            return Err(InvalidTag::Reserved { key: tag.key });
        }
        tag.check()?;
        Ok(tag)
    }
}

impl Tag {
    fn check(&self) -> Result<(), InvalidTag> {
        let key = || self.key.clone();
        if !KEY_LENGTH.contains(&self.key.chars().count()) {
            return Err(InvalidTag::Key { key: key() });
        }
        if self.value.chars().count() > VALUE_LENGTH {
            return Err(InvalidTag::Value { key: key() });
        }
        Ok(())
    }
}

/// Checks all the tags that an object is to have. Reserved keys pass: a manifest may come from EC2.
///
/// # Errors
/// [`InvalidTag`] for the first rule that they break.
pub fn check_tags(tags: &[Tag]) -> Result<(), InvalidTag> {
    let mut keys = BTreeSet::new();
    for tag in tags {
        tag.check()?;
        if !keys.insert(&tag.key) {
            return Err(InvalidTag::Twice {
                key: tag.key.clone(),
            });
        }
    }
    match tags.len() {
        ..=MOST => Ok(()),
        count => Err(InvalidTag::TooMany { count }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_accounts_or_all_and_have_ec2s_shape() {
        for (text, json, again) in [
            (
                "012345678901",
                r#"{"UserId":"012345678901"}"#,
                "012345678901",
            ),
            (
                "UserId=012345678901",
                r#"{"UserId":"012345678901"}"#,
                "012345678901",
            ),
            ("all", r#"{"Group":"all"}"#, "all"),
            ("Group=all", r#"{"Group":"all"}"#, "all"),
        ] {
            let permission: LaunchPermission = text.parse().unwrap();
            assert_eq!(serde_json::to_string(&permission).unwrap(), json);
            assert_eq!(permission.to_string(), again);
        }
        for text in ["", "1", "Group=some", "UserId=all", "everybody"] {
            assert!(text.parse::<LaunchPermission>().is_err(), "{text}");
        }
    }

    fn error(text: &str) -> String {
        text.parse::<Tag>().unwrap_err().to_string()
    }

    #[test]
    fn a_tag_is_read_up_to_the_first_equals_sign() {
        for (text, key, value) in [("a=b", "a", "b"), ("a=", "a", ""), ("a=b=c", "a", "b=c")] {
            let tag: Tag = text.parse().unwrap();
            assert_eq!((tag.key.as_str(), tag.value.as_str()), (key, value));
        }
    }

    #[test]
    fn what_ec2_refuses_is_refused() {
        assert_eq!(error("a"), "tag \"a\" is not KEY=VALUE");
        assert!(error("=b").contains("1 to 128"));
        assert!(error(&format!("{}=b", "é".repeat(129))).contains("1 to 128"));
        assert!(error(&format!("a={}", "é".repeat(257))).contains("256"));
        assert!(error("aws:x=1").contains("reserved"));
        assert!("AWS:x=1".parse::<Tag>().is_ok());

        let tag = |key: usize| format!("{key}=x").parse::<Tag>().unwrap();
        let tags: Vec<Tag> = (0..51).map(tag).collect();
        assert_eq!(check_tags(&tags[..50]), Ok(()));
        assert!(check_tags(&tags).unwrap_err().to_string().contains("51"));
        let twice = check_tags(&[tag(1), tag(1)]).unwrap_err();
        assert!(matches!(twice, InvalidTag::Twice { .. }));
    }
}
