//! What an instance is told once, and keeps: all that its next start, its modification and its
//! listing need. The catalogue has it as JSON, beside the columns that it looks for.
//!
//! Implements EC2's instance attributes `userData`, `instanceInitiatedShutdownBehavior`,
//! `disableApiTermination`, `kernel` and `ramdisk`. What its volumes are, the catalogue's rows say.

mod base64;
mod cache;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::catalogue::KernelFileId;
use crate::manifest::{Architecture, ProductCode, RootDeviceType, words};
use crate::mapping::{Disk, DiskKind};

pub use cache::{CacheChoice, CacheMode};

/// The most bytes of user data that EC2 takes.
pub const USER_DATA_BYTES: usize = 16 << 10;

words! {
    /// What becomes of an instance whose guest powers itself off.
    #[derive(Default)]
    ShutdownBehavior {
        #[default]
        Stop = "stop",
        Terminate = "terminate",
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct InstanceSettings {
    /// The type that gave it its vCPUs, memory and ephemeral disks, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// The image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    #[serde(skip_serializing_if = "is_default")]
    pub root_device_type: RootDeviceType,
    /// The image's; empty where it is not known: an older version launched the instance.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub root_device_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<BootFile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramdisk: Option<BootFile>,
    /// What follows the default command line of the kernel.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub append: String,
    /// The disks that each start makes anew.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ephemeral: Vec<EphemeralDisk>,
    /// Which disks use the host's page cache, by what was asked of the launch.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cache: Vec<CacheChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_data: Option<UserData>,
    #[serde(skip_serializing_if = "is_default")]
    pub shutdown_behavior: ShutdownBehavior,
    /// Termination protection.
    #[serde(skip_serializing_if = "is_default")]
    pub disable_api_termination: bool,
    /// The image's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub product_codes: Vec<ProductCode>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl InstanceSettings {
    /// Whether the instance's root disk is as temporary as its ephemeral ones, so that it cannot
    /// stop.
    pub fn is_instance_store(&self) -> bool {
        self.root_device_type == RootDeviceType::InstanceStore
    }

    /// Whether the disk of that name uses the host's page cache.
    pub fn cache_mode(&self, device_name: &str) -> CacheMode {
        cache::mode_of(&self.cache, device_name)
    }
}

/// A disk that lasts from a start to the next stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EphemeralDisk {
    /// Its place among all the instance's disks.
    pub position: usize,
    pub device_name: String,
    /// The N of `ephemeralN`.
    pub index: u8,
    pub size_bytes: u64,
}

impl EphemeralDisk {
    /// Those among `disks`.
    pub(crate) fn of(disks: &[Disk]) -> Vec<Self> {
        let at = |(position, disk): (usize, &Disk)| match disk.kind {
            DiskKind::Ephemeral { index, size_bytes } => Some(Self {
                position,
                device_name: disk.device_name.clone(),
                index,
                size_bytes,
            }),
            DiskKind::Volume { .. } => None,
        };
        disks.iter().enumerate().filter_map(at).collect()
    }

    pub(crate) fn disk(&self) -> Disk {
        Disk {
            device_name: self.device_name.clone(),
            kind: DiskKind::Ephemeral {
                index: self.index,
                size_bytes: self.size_bytes,
            },
        }
    }
}

/// Where an instance's kernel or RAM disk comes from, at each start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootFile {
    /// One of the store.
    Stored(KernelFileId),
    /// A file, by its absolute path.
    File(PathBuf),
}

impl BootFile {
    /// An id is one of the store, all else the path of a file.
    ///
    /// # Errors
    /// The working folder, which a relative path begins at, is gone.
    pub fn of(text: &Path) -> std::io::Result<Self> {
        match text.to_str().and_then(|text| text.parse().ok()) {
            Some(id) => Ok(Self::Stored(id)),
            None => std::path::absolute(text).map(Self::File),
        }
    }
}

impl fmt::Display for BootFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stored(id) => id.fmt(f),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl Serialize for BootFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Stored(id) => serializer.collect_str(id),
            Self::File(path) => path.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for BootFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.parse() {
            Ok(id) => Self::Stored(id),
            Err(_) => Self::File(text.into()),
        })
    }
}

/// User data: up to [`USER_DATA_BYTES`] of anything; base64 in JSON, as EC2 has it.
#[derive(Clone, PartialEq, Eq)]
pub struct UserData(Vec<u8>);

/// User data that EC2 would not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("User data is limited to {USER_DATA_BYTES} bytes")]
pub struct UserDataTooLong;

impl UserData {
    /// # Errors
    /// [`UserDataTooLong`]
    pub fn new(bytes: Vec<u8>) -> Result<Self, UserDataTooLong> {
        match bytes.len() {
            0..=USER_DATA_BYTES => Ok(Self(bytes)),
            _ => Err(UserDataTooLong),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for UserData {
    /// It may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserData({} bytes)", self.0.len())
    }
}

impl Serialize for UserData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&base64::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for UserData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = base64::decode(&text).ok_or_else(|| D::Error::custom("not base64"))?;
        Self::new(bytes).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_say_nothing_are_an_empty_object() {
        let text = serde_json::to_string(&InstanceSettings::default()).unwrap();
        assert_eq!(text, "{}");
        let read: InstanceSettings = serde_json::from_str("{}").unwrap();
        assert_eq!(read, InstanceSettings::default());
    }

    #[test]
    fn settings_are_read_as_they_were_written() {
        let kernel: KernelFileId = "aki-0123456789abcdef0".parse().unwrap();
        let settings = InstanceSettings {
            instance_type: Some("m5d.large".to_owned()),
            architecture: Some(Architecture::Arm64),
            root_device_type: RootDeviceType::InstanceStore,
            root_device_name: "/dev/sda1".to_owned(),
            kernel: Some(BootFile::Stored(kernel)),
            ramdisk: Some(BootFile::File("/boot/initrd.img".into())),
            append: "quiet".to_owned(),
            ephemeral: vec![EphemeralDisk {
                position: 1,
                device_name: "/dev/sdb".to_owned(),
                index: 0,
                size_bytes: 4096,
            }],
            cache: vec!["/dev/sdb=none".parse().unwrap()],
            user_data: Some(UserData::new(b"#!/bin/sh\n\xff\0".to_vec()).unwrap()),
            shutdown_behavior: ShutdownBehavior::Terminate,
            disable_api_termination: true,
            product_codes: vec![ProductCode {
                product_code_id: "x".to_owned(),
                product_code_type: "marketplace".to_owned(),
            }],
        };
        let text = serde_json::to_string(&settings).unwrap();
        assert!(text.contains(r#""UserData":"IyEvYmluL3NoCv8A""#), "{text}");
        let read: InstanceSettings = serde_json::from_str(&text).unwrap();
        assert_eq!(read, settings);
    }

    #[test]
    fn user_data_ends_at_16_kib() {
        assert!(UserData::new(vec![0; 16384]).is_ok());
        let error = UserData::new(vec![0; 16385]).unwrap_err();
        assert_eq!(error.to_string(), "User data is limited to 16384 bytes");
    }

    #[test]
    fn boot_files_are_ids_or_absolute_paths() {
        let id = BootFile::of(Path::new("ari-0123456789abcdef0")).unwrap();
        assert!(matches!(id, BootFile::Stored(KernelFileId::Ramdisk(_))));
        let BootFile::File(path) = BootFile::of(Path::new("vmlinuz")).unwrap() else {
            panic!("a path");
        };
        assert!(path.is_absolute() && path.ends_with("vmlinuz"));
    }
}
