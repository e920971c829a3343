//! Reading a manifest file in any of its three shapes: one Image object, the output of
//! `describe-images` with one image, the input of `register-image`.
//!
//! An Image object states its Architecture, VirtualizationType and RootDeviceName; a
//! `register-image` input that does not is i386, paravirtual and /dev/sda1, as on EC2. A file is first parsed without types, to tell the
//! shapes apart and to say "not JSON" of what is not; then with types, so that an error can name
//! the member and its line.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use super::{BlockDeviceMapping, Image};

/// The largest manifest that is read. One with every mapping and tag EC2 allows has a few KiB.
pub const MAX_BYTES: u64 = 1 << 20;

/// Members that an Image object has and a `register-image` input has not.
const ONLY_IN_IMAGES: [&str; 8] = [
    "ImageId",
    "State",
    "OwnerId",
    "CreationDate",
    "Public",
    "ImageType",
    "Hypervisor",
    "RootDeviceType",
];

/// What a manifest file says: an image that is not registered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub image: Image,
    /// The file is a `register-image` input: EC2's stricter rules for those hold.
    pub is_register_input: bool,
}

/// Why a manifest, or a block device mapping in JSON, cannot be read. Lines count from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    #[error("cannot read")]
    Read(#[source] std::io::Error),
    #[error("larger than {MAX_BYTES} bytes, which no manifest is")]
    TooLarge,
    #[error("not UTF-8 text")]
    NotText,
    #[error("line {line}, column {column}: not JSON: {problem}")]
    NotJson {
        line: usize,
        column: usize,
        problem: String,
    },
    #[error("not an image: expecting a JSON object")]
    NotAnObject,
    /// For the object that lacks it, the line is where the object ends.
    #[error("line {line}: {}the member {member} is missing", within(.object))]
    Missing {
        line: usize,
        /// The path of the object that lacks the member, empty for the outermost one.
        object: String,
        member: String,
    },
    #[error("line {line}: {member}: {problem}")]
    Mistyped {
        line: usize,
        /// The member's path, as `BlockDeviceMappings[0].Ebs.VolumeSize`.
        member: String,
        problem: String,
    },
    #[error("holds {count} images, and one image is registered at a time")]
    ImageCount { count: usize },
}

fn within(object: &str) -> String {
    match object {
        "" => String::new(),
        object => format!("{object}: "),
    }
}

impl Manifest {
    /// Reads the manifest file at `path`.
    ///
    /// # Errors
    /// [`ParseError`], which does not repeat the path.
    pub fn read(path: &Path) -> Result<Self, ParseError> {
        let file = std::fs::File::open(path).map_err(ParseError::Read)?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(ParseError::Read)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(ParseError::TooLarge);
        }
        Self::parse(std::str::from_utf8(&bytes).map_err(|_| ParseError::NotText)?)
    }

    /// Parses the text of a manifest file.
    ///
    /// # Errors
    /// [`ParseError`]
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let value: Value = serde_json::from_str(text).map_err(|e| not_json(&e))?;
        let object = value.as_object().ok_or(ParseError::NotAnObject)?;
        let (image, is_register_input) = match object.get("Images") {
            Some(_) => (described(text)?, false),
            None if ONLY_IN_IMAGES.iter().any(|name| object.contains_key(*name)) => {
                typed::<Stated>(text)?;
                (typed(text)?, false)
            }
            None => (typed(text)?, true),
        };
        Ok(Self {
            image,
            is_register_input,
        })
    }
}

/// The members that an Image object must state, though a `register-image` input need not.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
#[expect(dead_code, reason = "read for the error only")]
struct Stated {
    architecture: IgnoredAny,
    virtualization_type: IgnoredAny,
    root_device_name: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Described<T> {
    images: Vec<T>,
}

fn described(text: &str) -> Result<Image, ParseError> {
    let count = typed::<Described<IgnoredAny>>(text)?.images.len();
    if count != 1 {
        return Err(ParseError::ImageCount { count });
    }
    typed::<Described<Stated>>(text)?;
    let images = typed::<Described<Image>>(text)?.images;
    images
        .into_iter()
        .next()
        .ok_or(ParseError::ImageCount { count: 0 })
}

/// Parses `text`, which is JSON, as a `T`.
fn typed<T: DeserializeOwned>(text: &str) -> Result<T, ParseError> {
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = match error.path().to_string() {
            root if root == "." => String::new(),
            path => path,
        };
        mistyped(path, error.inner())
    })
}

/// Splits serde_json's "problem at line 1 column 2", and recognises a missing member by its words.
fn mistyped(path: String, error: &serde_json::Error) -> ParseError {
    let line = error.line();
    let problem = problem(error);
    match problem
        .strip_prefix("missing field `")
        .and_then(|rest| rest.strip_suffix('`'))
    {
        Some(member) => ParseError::Missing {
            line,
            object: path,
            member: member.to_owned(),
        },
        None => ParseError::Mistyped {
            line,
            member: path,
            problem,
        },
    }
}

fn problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => text.get(..at).unwrap_or_default().to_owned(),
        None => text,
    }
}

fn not_json(error: &serde_json::Error) -> ParseError {
    ParseError::NotJson {
        line: error.line(),
        column: error.column(),
        problem: problem(error),
    }
}

/// Parses a JSON block device mapping: one entry, or a list of them.
///
/// # Errors
/// [`ParseError`]
pub fn parse_mappings(text: &str) -> Result<Vec<BlockDeviceMapping>, ParseError> {
    let value: Value = serde_json::from_str(text).map_err(|e| not_json(&e))?;
    match value {
        Value::Array(_) => typed(text),
        Value::Object(_) => Ok(vec![typed(text)?]),
        _ => Err(ParseError::NotAnObject),
    }
}
