//! Which of an instance's disks use the host's page cache.
//!
//! The words are QEMU's, of which two are of use here: a guest's flush is always the disk's, so neither `unsafe`
//! nor `writethrough` has a place.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::manifest::{UnknownWord, words};

words! {
    /// What the host's page cache has to do with a disk.
    #[derive(Default)]
    CacheMode {
        /// Reads and writes go through it; a flush writes it back.
        #[default]
        Writeback = "writeback",
        /// What the guest writes, and what it reads of that, passes it by.
        None = "none",
    }
}

/// `[DEVICE=]MODE`: the mode of one disk, or of all that no other choice names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheChoice {
    pub device_name: Option<String>,
    pub mode: CacheMode,
}

/// The mode of a disk: what the last choice says that names it, else the last that names none.
pub fn mode_of(choices: &[CacheChoice], device_name: &str) -> CacheMode {
    let last = |name: Option<&str>| {
        let mut choices = choices.iter().rev();
        choices.find(|it| it.device_name.as_deref() == name)
    };
    let choice = last(Some(device_name)).or_else(|| last(None));
    choice.map_or_else(CacheMode::default, |it| it.mode)
}

impl FromStr for CacheChoice {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let (device, mode) = match text.rsplit_once('=') {
            Some((device, mode)) => (Some(device.to_owned()), mode),
            None => (None, text),
        };
        let device_name = device.filter(|it| !it.is_empty());
        let mode = mode.parse()?;
        Ok(Self { device_name, mode })
    }
}

impl fmt::Display for CacheChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.device_name {
            Some(device) => write!(f, "{device}={}", self.mode),
            None => self.mode.fmt(f),
        }
    }
}

impl Serialize for CacheChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CacheChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_choice_that_names_a_disk_counts_and_then_the_last_for_all() {
        let parse = |texts: &[&str]| -> Vec<CacheChoice> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let choices = parse(&[
            "/dev/sdb=writeback",
            "none",
            "/dev/sdc=none",
            "/dev/sdc=writeback",
        ]);
        let mode = |device| mode_of(&choices, device).as_str();
        assert_eq!(
            ["/dev/sda1", "/dev/sdb", "/dev/sdc"].map(mode),
            ["none", "writeback", "writeback"]
        );
        assert_eq!(mode_of(&[], "/dev/sda1"), CacheMode::Writeback);
        let text = serde_json::to_string(&choices).unwrap();
        assert_eq!(
            serde_json::from_str::<Vec<CacheChoice>>(&text).unwrap(),
            choices
        );
        let error = "/dev/sdb=unsafe".parse::<CacheChoice>().unwrap_err();
        assert!(error.to_string().contains("writeback, none"), "{error}");
    }
}
