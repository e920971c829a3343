//! The manifest of a machine image: its metadata and block device mapping.
//!
//! The types have Amazon EC2's published shapes (`describe-images`, `register-image`). Typed are the
//! members that something here checks or uses; every other member is kept as it came and shown
//! again. Launch permissions are no member of an image and so not here.

mod attributes;
mod check;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::{ImageId, KernelId, RamdiskId, SnapshotId};

pub use attributes::{InvalidTag, LaunchPermission, ProductCode, Tag, check_tags};
pub use check::{Invalid, description as check_description, name as check_name};
pub use parse::{MAX_BYTES, Manifest, ParseError, parse_mappings};

/// A GiB, the unit of [`Ebs::volume_size`].
pub const GIB: u64 = 1 << 30;

/// The size of each snapshot in bytes.
pub type SnapshotSizes = BTreeMap<SnapshotId, u64>;

/// A machine image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Image {
    /// A new id where the manifest states none.
    #[serde(default = "ImageId::generate")]
    pub image_id: ImageId,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Twelve digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_id: Option<String>,
    /// ISO 8601, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_date: Option<String>,
    #[serde(default)]
    pub public: bool,
    #[serde(default)]
    pub image_type: ImageType,
    /// The default is `register-image`'s own.
    #[serde(default)]
    pub architecture: Architecture,
    /// The default is `register-image`'s own.
    #[serde(default)]
    pub virtualization_type: VirtualizationType,
    /// Absent means [`BootMode::Uefi`] on arm64 and [`BootMode::LegacyBios`] on x86.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_mode: Option<BootMode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_id: Option<KernelId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramdisk_id: Option<RamdiskId>,
    #[serde(default)]
    pub root_device_type: RootDeviceType,
    /// The default is `register-image`'s own.
    #[serde(default = "default_root_device_name")]
    pub root_device_name: String,
    #[serde(default)]
    pub block_device_mappings: Vec<BlockDeviceMapping>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub product_codes: Vec<ProductCode>,
    /// What the image was copied from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_image_id: Option<String>,
    /// What the image was created from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_instance_id: Option<String>,
    /// `v2.0`, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imds_support: Option<String>,
    /// ISO 8601, UTC: from then on other accounts' listings leave the image out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecation_time: Option<String>,
    /// `enabled`, `enabled-with-cooldown`, `disabled`, or `disabled after` a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deregistration_protection: Option<String>,
    /// ISO 8601, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_launched_time: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// The members that this version does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

fn default_root_device_name() -> String {
    "/dev/sda1".to_owned()
}

impl Image {
    /// The snapshots that the mapping names.
    pub fn snapshots(&self) -> BTreeSet<SnapshotId> {
        self.block_device_mappings
            .iter()
            .filter_map(BlockDeviceMapping::snapshot)
            .collect()
    }

    /// The root device's entry.
    pub fn root_mapping(&self) -> Option<&BlockDeviceMapping> {
        self.block_device_mappings
            .iter()
            .find(|entry| entry.device_name == self.root_device_name)
    }

    /// How the image wants to be booted, with EC2's default where it does not say.
    pub fn effective_boot_mode(&self) -> BootMode {
        self.boot_mode.unwrap_or(match self.architecture {
            Architecture::Arm64 => BootMode::Uefi,
            _ => BootMode::LegacyBios,
        })
    }
}

/// One entry of a block device mapping: an EBS volume, an ephemeral disk, or no device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BlockDeviceMapping {
    pub device_name: String,
    /// `ephemeral0` to `ephemeral23`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_name: Option<String>,
    /// Present, whatever it says: the device is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_device: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ebs: Option<Ebs>,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl BlockDeviceMapping {
    /// The snapshot that the entry's volume starts from.
    pub fn snapshot(&self) -> Option<SnapshotId> {
        self.ebs.as_ref().and_then(|ebs| ebs.snapshot_id)
    }
}

/// What an entry says of its EBS volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Ebs {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<SnapshotId>,
    /// In GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_type: Option<VolumeType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// In MiB/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_on_termination: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key_id: Option<String>,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Defines an enum whose variants have fixed texts, in JSON and on the command line alike.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$variant_meta])* #[serde(rename = $text)] $variant),*
        }

        impl $name {
            /// Every value, in the order of the definition.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::manifest::UnknownWord;

            fn from_str(text: &str) -> Result<Self, $crate::manifest::UnknownWord> {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|word| word.as_str() == text)
                    .ok_or_else(|| $crate::manifest::UnknownWord {
                        text: text.to_owned(),
                        expected: [$($text),*].join(", "),
                    })
            }
        }
    };
}

pub(crate) use words;

/// A text that is none of the words expected at its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown value {text:?} (expecting one of {expected})")]
pub struct UnknownWord {
    pub text: String,
    pub expected: String,
}

words! {
    /// The processor architecture.
    #[derive(Default)]
    Architecture {
        /// EC2's default for a `register-image` input that states none.
        #[default]
        I386 = "i386",
        X86_64 = "x86_64",
        Arm64 = "arm64",
        /// Known, so that it can be refused by name.
        X86_64Mac = "x86_64_mac",
        /// Known, so that it can be refused by name.
        Arm64Mac = "arm64_mac",
    }
}

words! {
    #[derive(Default)]
    VirtualizationType {
        Hvm = "hvm",
        /// EC2's default for a `register-image` input that states none. Known, so that it can be
        /// refused by name.
        #[default]
        Paravirtual = "paravirtual",
    }
}

words! {
    #[derive(Default)]
    RootDeviceType {
        #[default]
        Ebs = "ebs",
        InstanceStore = "instance-store",
    }
}

words! {
    #[derive(Default)]
    ImageType {
        #[default]
        Machine = "machine",
        Kernel = "kernel",
        Ramdisk = "ramdisk",
    }
}

words! {
    BootMode {
        LegacyBios = "legacy-bios",
        Uefi = "uefi",
        UefiPreferred = "uefi-preferred",
    }
}

words! {
    /// The performance class of a volume. Here it only bounds the size.
    #[derive(Default)]
    VolumeType {
        Standard = "standard",
        Io1 = "io1",
        Io2 = "io2",
        Gp2 = "gp2",
        #[default]
        Gp3 = "gp3",
        Sc1 = "sc1",
        St1 = "st1",
    }
}

impl VolumeType {
    /// The sizes that a volume of this type may have, in GiB.
    pub fn sizes_gib(self) -> std::ops::RangeInclusive<u64> {
        match self {
            Self::Standard => 1..=1024,
            Self::Io1 => 4..=16384,
            Self::Io2 => 4..=65536,
            Self::Gp2 => 1..=16384,
            Self::Gp3 => 1..=65536,
            Self::Sc1 | Self::St1 => 125..=16384,
        }
    }
}
