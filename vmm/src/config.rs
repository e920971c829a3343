//! The user's own settings: `$KAMI_CONFIG`, else `kami/config.toml` in `$XDG_CONFIG_HOME` or `~/.config`.
//!
//! ```toml
//! account = "123456789012"
//!
//! [instance-type."web.small"]
//! vcpus = 2
//! memory = "1536M"
//! ephemeral = { count = 1, size = "20G" }
//!
//! [[prune]]
//! name = "web-*"
//! keep = 3
//! older-than = "30d"
//! ```
//!
//! Strict: what is misspelt is refused with its line, so that no policy is quietly none. The file is read by
//! the commands that need it, and by each anew.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kami_image::account::{Account, InvalidAccount};
use kami_image::instance_type::{self, InstanceType};
use kami_image::mapping::Ephemeral;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::cli::value;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// As whom commands act, unless `KAMI_ACCOUNT` says so.
    pub account: Option<Account>,
    #[serde(default, rename = "instance-type")]
    instance_types: BTreeMap<String, OwnType>,
    /// What `kami image prune --policies` applies.
    #[serde(default)]
    pub prune: Vec<PrunePolicy>,
}

/// An instance type of the user's own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct OwnType {
    #[serde(deserialize_with = "vcpus")]
    vcpus: u32,
    #[serde(rename = "memory", deserialize_with = "memory")]
    memory_bytes: u64,
    #[serde(default)]
    ephemeral: OwnEphemeral,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnEphemeral {
    #[serde(deserialize_with = "disks")]
    count: u8,
    #[serde(rename = "size", deserialize_with = "size")]
    size_bytes: u64,
}

/// Which images to delete: of those whose name matches, all but the newest, once they are old enough.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PrunePolicy {
    /// With `*` for any text and `?` for any character.
    pub name: String,
    /// How many of the newest to keep.
    pub keep: usize,
    /// Younger ones are kept too.
    #[serde(default, deserialize_with = "duration")]
    pub older_than: Option<Duration>,
}

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The message is of one line.
    #[error("{}:{line}: {message}", path.display())]
    Invalid {
        path: PathBuf,
        line: usize,
        message: String,
    },
    #[error("KAMI_ACCOUNT")]
    Account(#[from] InvalidAccount),
    #[error("Invalid value '{name}' for InstanceType.")]
    UnknownType { name: String },
}

impl Config {
    /// Reads the settings of the user. Without a file they are the defaults.
    ///
    /// # Errors
    /// [`Error::Read`], also where `KAMI_CONFIG` names a file that is not there; [`Error::Invalid`].
    pub fn load() -> Result<Self, Error> {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let (path, must_exist) = path_from(variable, std::env::home_dir);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, &path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => {
                Ok(Self::default())
            }
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// Reads settings from `text`, which stands in the file `path`.
    ///
    /// # Errors
    /// [`Error::Invalid`]
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let before = text.get(..at).unwrap_or(text);
            Error::Invalid {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                message: error.message().replace('\n', ", "),
            }
        })
    }

    /// The instance type of that name: the user's own, else a built-in one.
    ///
    /// # Errors
    /// [`Error::UnknownType`]
    pub fn instance_type(&self, name: &str) -> Result<InstanceType, Error> {
        let own = self.instance_types.get(name);
        own.map(|own| own.named(name))
            .or_else(|| instance_type::find(name))
            .ok_or_else(|| Error::UnknownType {
                name: name.to_owned(),
            })
    }

    /// Every instance type: the user's own, then those built-in ones that they leave.
    pub fn all_instance_types(&self) -> Vec<InstanceType> {
        let own = self
            .instance_types
            .iter()
            .map(|(name, own)| own.named(name));
        let is_left = |built_in: &InstanceType| !self.instance_types.contains_key(&built_in.name);
        own.chain(instance_type::all().filter(is_left)).collect()
    }
}

impl OwnType {
    fn named(&self, name: &str) -> InstanceType {
        InstanceType {
            name: name.to_owned(),
            vcpus: self.vcpus,
            memory_bytes: self.memory_bytes,
            ephemeral: Ephemeral {
                count: self.ephemeral.count,
                size_bytes: self.ephemeral.size_bytes,
            },
        }
    }
}

/// As whom the caller acts: `KAMI_ACCOUNT`, else what the settings say, else nobody in particular.
///
/// # Errors
/// Those of [`Config::load`]; [`Error::Account`].
pub fn account() -> Result<Option<Account>, Error> {
    match std::env::var_os("KAMI_ACCOUNT").filter(|account| !account.is_empty()) {
        Some(account) => Ok(Some(account.to_string_lossy().parse()?)),
        None => Ok(Config::load()?.account),
    }
}

/// The file, and whether it was asked for by name. The XDG Base Directory Specification has relative paths
/// ignored.
fn path_from(
    variable: impl Fn(&str) -> Option<PathBuf>,
    home: impl Fn() -> Option<PathBuf>,
) -> (PathBuf, bool) {
    let set = |name| variable(name).filter(|path| !path.as_os_str().is_empty());
    if let Some(path) = set("KAMI_CONFIG") {
        return (path, true);
    }
    let folder = match set("XDG_CONFIG_HOME").filter(|path| path.is_absolute()) {
        Some(folder) => folder,
        None => home().unwrap_or_default().join(".config"),
    };
    (folder.join("kami/config.toml"), false)
}

fn text_as<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(D::Error::custom)
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    text_as(deserializer, value::disk_bytes)
}

fn memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    text_as(deserializer, value::memory_bytes)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    text_as(deserializer, value::duration).map(Some)
}

fn vcpus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        0 => Err(D::Error::custom("an instance needs a processor")),
        vcpus => Ok(vcpus),
    }
}

/// `ephemeral0` to `ephemeral23`.
fn disks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    match u8::deserialize(deserializer)? {
        count @ 0..=24 => Ok(count),
        _ => Err(D::Error::custom(
            "an instance has at most 24 ephemeral disks",
        )),
    }
}

#[cfg(test)]
mod tests;
