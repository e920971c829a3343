//! The short syntax of EC2's command line tools for one entry of a block device mapping:
//! `DEVICE=ephemeralN`, `DEVICE=none`, and
//! `DEVICE=[SNAPSHOT]:[GIB]:[DELETE-ON-TERMINATION]:[TYPE[:IOPS]]`, where fields at the end may be
//! left out. A text that begins with a brace or bracket is JSON instead.

use std::str::FromStr;

use super::rules;
use crate::id::InvalidId;
use crate::manifest::{BlockDeviceMapping, Ebs, ParseError, UnknownWord, parse_mappings};

/// Why a text is no block device mapping.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyntaxError {
    #[error(
        "block device mapping {text:?}: expecting DEVICE=ephemeralN, DEVICE=none, \
         DEVICE=[SNAPSHOT]:[GIB]:[true|false]:[TYPE[:IOPS]], or JSON"
    )]
    Form { text: String },
    #[error("block device mapping {text:?}")]
    Snapshot {
        text: String,
        #[source]
        source: InvalidId,
    },
    #[error("block device mapping {text:?}: the size {field:?} is not a whole number of GiB")]
    Size { text: String, field: String },
    #[error("block device mapping {text:?}: expecting true or false where it says {field:?}")]
    DeleteOnTermination { text: String, field: String },
    #[error("block device mapping {text:?}")]
    Type {
        text: String,
        #[source]
        source: UnknownWord,
    },
    #[error("block device mapping {text:?}: {field:?} is not a number of I/O operations a second")]
    Iops { text: String, field: String },
    #[error("block device mapping")]
    Json(#[from] ParseError),
    #[error("block device mapping: the JSON list holds {count} entries, and one is expected")]
    Count { count: usize },
}

/// Parses one entry in the short syntax, or one or a list of them in JSON.
///
/// # Errors
/// [`SyntaxError`]
pub fn parse(text: &str) -> Result<Vec<BlockDeviceMapping>, SyntaxError> {
    if text.trim_start().starts_with(['{', '[']) {
        return Ok(parse_mappings(text)?);
    }
    Ok(vec![short(text)?])
}

impl FromStr for BlockDeviceMapping {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        let mut entries = parse(text)?;
        let count = entries.len();
        match entries.pop() {
            Some(entry) if count == 1 => Ok(entry),
            _ => Err(SyntaxError::Count { count }),
        }
    }
}

fn short(text: &str) -> Result<BlockDeviceMapping, SyntaxError> {
    let form = || SyntaxError::Form {
        text: text.to_owned(),
    };
    let (device, target) = text.split_once('=').ok_or_else(form)?;
    if device.is_empty() {
        return Err(form());
    }
    let mut entry = BlockDeviceMapping {
        device_name: device.to_owned(),
        ..BlockDeviceMapping::default()
    };
    if target == "none" {
        entry.no_device = Some(String::new());
    } else if rules::ephemeral_index(target).is_some() {
        entry.virtual_name = Some(target.to_owned());
    } else if target.starts_with("snap-") || target.contains(':') {
        entry.ebs = Some(ebs(text, target)?);
    } else {
        return Err(form());
    }
    Ok(entry)
}

fn ebs(text: &str, target: &str) -> Result<Ebs, SyntaxError> {
    let text = || text.to_owned();
    let mut fields = target.split(':');
    let mut field = || fields.next().filter(|field| !field.is_empty());
    let mut ebs = Ebs::default();
    if let Some(field) = field() {
        ebs.snapshot_id = Some(field.parse().map_err(|source| SyntaxError::Snapshot {
            text: text(),
            source,
        })?);
    }
    if let Some(field) = field() {
        ebs.volume_size = Some(number(field).ok_or_else(|| SyntaxError::Size {
            text: text(),
            field: field.to_owned(),
        })?);
    }
    if let Some(field) = field() {
        let flag = field
            .parse()
            .map_err(|_| SyntaxError::DeleteOnTermination {
                text: text(),
                field: field.to_owned(),
            })?;
        ebs.delete_on_termination = Some(flag);
    }
    if let Some(field) = field() {
        ebs.volume_type = Some(field.parse().map_err(|source| SyntaxError::Type {
            text: text(),
            source,
        })?);
    }
    if let Some(field) = field() {
        ebs.iops = Some(number(field).ok_or_else(|| SyntaxError::Iops {
            text: text(),
            field: field.to_owned(),
        })?);
    }
    if fields.next().is_some() || ebs == Ebs::default() {
        return Err(SyntaxError::Form { text: text() });
    }
    Ok(ebs)
}

/// Digits only: no sign.
fn number<T: FromStr>(field: &str) -> Option<T> {
    let digits = field.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| field.parse().ok()).flatten()
}
