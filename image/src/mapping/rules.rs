//! The rules for the entries of a block device mapping, and EC2's words for breaking them.

use std::collections::BTreeMap;

use crate::id::SnapshotId;
use crate::manifest::{BlockDeviceMapping, Ebs, GIB, SnapshotSizes, VolumeType};

/// `ephemeral0` up to, not including, this one.
const EPHEMERALS: u8 = 24;

/// Why a block device mapping cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(
        "the device name '{device}' is invalid: expecting /dev/sd[a-z], /dev/xvd[a-z], \
         /dev/xvd[b-c][a-z], or /dev/sda1 for the root"
    )]
    DeviceName { device: String },
    #[error("The device '{device}' is used in more than one block-device mapping")]
    DeviceTwice { device: String },
    #[error("The virtual device '{name}' is used in more than one block-device mapping")]
    VirtualTwice { name: String },
    #[error("the mapping of '{device}' says nothing: expecting one of Ebs, VirtualName, NoDevice")]
    Nothing { device: String },
    #[error("the mapping of '{device}' has both {first} and {second}")]
    TooMuch {
        device: String,
        first: &'static str,
        second: &'static str,
    },
    #[error(
        "the VirtualName '{name}' of '{device}' is invalid: expecting ephemeral0 to ephemeral23"
    )]
    VirtualName { device: String, name: String },
    #[error("The request must contain a SnapshotId or a VolumeSize{}", at(.device))]
    NoSize { device: String },
    #[error(
        "Volume of {size}GiB is too small; minimum is {}GiB for {volume_type}{}",
        .volume_type.sizes_gib().start(), at(.device)
    )]
    TooSmall {
        device: String,
        /// In GiB.
        size: u64,
        volume_type: VolumeType,
    },
    #[error(
        "Volume of {size}GiB is too large for volume type {volume_type}; maximum is {}GiB{}",
        .volume_type.sizes_gib().end(), at(.device)
    )]
    TooLarge {
        device: String,
        /// In GiB.
        size: u64,
        volume_type: VolumeType,
    },
    #[error(
        "Volume of size {size}GB is smaller than snapshot '{snapshot}', expect size >= {expected}GB"
    )]
    SmallerThanSnapshot {
        /// In GiB.
        size: u64,
        snapshot: SnapshotId,
        /// In GiB.
        expected: u64,
    },
    #[error("The snapshot '{snapshot}' does not exist.")]
    UnknownSnapshot { snapshot: SnapshotId },
    #[error("The parameter {parameter} is not supported for {volume_type} volumes{}", at(.device))]
    NotForType {
        device: String,
        parameter: &'static str,
        volume_type: VolumeType,
    },
    #[error("The parameter Iops must be specified for {volume_type} volumes{}", at(.device))]
    IopsMissing {
        device: String,
        volume_type: VolumeType,
    },
    /// In operations, or MiB, a second.
    #[error("Volume {what} of {value} is too low; minimum is {minimum}{}", at(.device))]
    TooSlow {
        device: String,
        what: &'static str,
        value: u32,
        minimum: u32,
    },
    /// In operations, or MiB, a second.
    #[error("Volume {what} of {value} is too high; maximum is {maximum}{}", at(.device))]
    TooFast {
        device: String,
        what: &'static str,
        value: u32,
        maximum: u32,
    },
    #[error(
        "Iops to volume size ratio of {iops} to {size}GiB is too high; maximum is {maximum} for \
         {volume_type}{}", at(.device)
    )]
    IopsRatio {
        device: String,
        iops: u32,
        /// In GiB.
        size: u64,
        /// Operations a second for each GiB.
        maximum: u32,
        volume_type: VolumeType,
    },
    #[error(
        "Throughput (MiBps) to iops ratio of {throughput} to {iops} is too high; maximum is 0.25 \
         MiBps per iops{}", at(.device)
    )]
    ThroughputRatio {
        device: String,
        throughput: u32,
        iops: u32,
    },
    #[error("the parameter Encrypted is invalid for '{device}': its volume starts from a snapshot")]
    EncryptedSnapshot { device: String },
    #[error("encrypted volumes are not supported{}", at(.device))]
    Encrypted { device: String },
    #[error("{member} of the root device '{device}' cannot be changed")]
    RootChange {
        device: String,
        member: &'static str,
    },
    #[error("the root device '{device}' cannot shrink from {from}GB to {to}GB")]
    RootShrinks {
        device: String,
        /// In GiB.
        from: u64,
        /// In GiB.
        to: u64,
    },
}

/// What follows a message about a volume: the device that it is to be, if it is to be one.
fn at(device: &str) -> String {
    match device {
        "" => String::new(),
        _ => format!(" ('{device}')"),
    }
}

/// The size in GiB of a volume that just holds `bytes`.
pub(super) fn gib(bytes: u64) -> u64 {
    bytes.div_ceil(GIB).max(1)
}

/// The N of `ephemeralN`.
pub(super) fn ephemeral_index(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("ephemeral")?;
    let index: u8 = digits.parse().ok()?;
    // Written back it must be the same: no sign, no leading zero.
    (index < EPHEMERALS && index.to_string() == digits).then_some(index)
}

/// `sda` of `/dev/sda`: the form in which two names of one device are equal.
pub(crate) fn short_name(device: &str) -> &str {
    device.strip_prefix("/dev/").unwrap_or(device)
}

/// Whether a disk can have that name.
pub(crate) fn is_device_name(device: &str, is_root: bool) -> bool {
    let lower = |b: &u8| b.is_ascii_lowercase();
    match short_name(device).as_bytes() {
        b"sda1" => is_root,
        [b's', b'd', letter] | [b'x', b'v', b'd', letter] => lower(letter),
        [b'x', b'v', b'd', b'b' | b'c', letter] => lower(letter),
        _ => false,
    }
}

/// Checks the names of the devices and of the ephemeral disks: each valid, none twice, `xvda` and
/// `/dev/xvda` being one.
///
/// # Errors
/// [`Error::DeviceName`], [`Error::DeviceTwice`], [`Error::VirtualTwice`]
pub(crate) fn check_names(
    entries: &[BlockDeviceMapping],
    root_device_name: &str,
) -> Result<(), Error> {
    let mut devices = BTreeMap::new();
    let mut ephemerals = BTreeMap::new();
    for entry in entries {
        let device = entry.device_name.clone();
        if !is_device_name(&device, device == root_device_name) {
            return Err(Error::DeviceName { device });
        }
        if devices.insert(short_name(&entry.device_name), ()).is_some() {
            return Err(Error::DeviceTwice { device });
        }
        if let Some(name) = &entry.virtual_name
            && ephemerals.insert(name, ()).is_some()
        {
            return Err(Error::VirtualTwice { name: name.clone() });
        }
    }
    Ok(())
}

/// Checks what one entry says. What depends on the sizes of snapshots is checked if there are any.
///
/// # Errors
/// All of [`Error`] but those of [`check_names`] and [`check_root_change`].
pub(crate) fn check_entry(
    entry: &BlockDeviceMapping,
    sizes: Option<&SnapshotSizes>,
) -> Result<(), Error> {
    let device = || entry.device_name.clone();
    let too_much = |first, second| {
        Err(Error::TooMuch {
            device: device(),
            first,
            second,
        })
    };
    match (&entry.ebs, &entry.virtual_name, &entry.no_device) {
        (Some(ebs), None, None) => check_ebs(&entry.device_name, ebs, sizes),
        (None, Some(name), None) if ephemeral_index(name).is_some() => Ok(()),
        (None, Some(name), None) => Err(Error::VirtualName {
            device: device(),
            name: name.clone(),
        }),
        (None, None, Some(_)) => Ok(()),
        (None, None, None) => Err(Error::Nothing { device: device() }),
        (Some(_), Some(_), _) => too_much("Ebs", "VirtualName"),
        (Some(_), None, Some(_)) => too_much("Ebs", "NoDevice"),
        (None, Some(_), Some(_)) => too_much("VirtualName", "NoDevice"),
    }
}

/// Checks what is said of a volume, which is to be the device of that name, if it has one.
///
/// # Errors
/// Those of a volume's size, performance, snapshot and encryption.
pub(crate) fn check_ebs(
    device: &str,
    ebs: &Ebs,
    sizes: Option<&SnapshotSizes>,
) -> Result<(), Error> {
    let device = || device.to_owned();
    if ebs.snapshot_id.is_none() && ebs.volume_size.is_none() {
        return Err(Error::NoSize { device: device() });
    }
    if ebs.encrypted == Some(true) || ebs.kms_key_id.is_some() {
        return Err(Error::Encrypted { device: device() });
    }
    let snapshot_size = match (ebs.snapshot_id, sizes) {
        (Some(snapshot), Some(sizes)) => {
            let bytes = sizes
                .get(&snapshot)
                .ok_or(Error::UnknownSnapshot { snapshot })?;
            Some((snapshot, gib(*bytes)))
        }
        _ => None,
    };
    let size = ebs.volume_size.or(snapshot_size.map(|(_, size)| size));
    if let (Some(size), Some((snapshot, expected))) = (size, snapshot_size)
        && size < expected
    {
        return Err(Error::SmallerThanSnapshot {
            size,
            snapshot,
            expected,
        });
    }
    let volume_type = ebs.volume_type.unwrap_or_default();
    match size {
        Some(size) if size < *volume_type.sizes_gib().start() => Err(Error::TooSmall {
            device: device(),
            size,
            volume_type,
        }),
        Some(size) if size > *volume_type.sizes_gib().end() => Err(Error::TooLarge {
            device: device(),
            size,
            volume_type,
        }),
        _ => super::performance::check(device, ebs, size),
    }
}

/// The rule of `register-image`: whether a volume is encrypted follows from its snapshot and is
/// not said again. (An Image object, which EC2 printed, does say it.)
///
/// # Errors
/// [`Error::EncryptedSnapshot`]
pub(crate) fn check_not_encrypted(entry: &BlockDeviceMapping) -> Result<(), Error> {
    match &entry.ebs {
        Some(ebs) if ebs.snapshot_id.is_some() && ebs.encrypted.is_some() => {
            Err(Error::EncryptedSnapshot {
                device: entry.device_name.clone(),
            })
        }
        _ => Ok(()),
    }
}

/// On the root only size, type (with its performance) and DeleteOnTermination may change; the size
/// is [`check_root_size`]'s.
///
/// # Errors
/// [`Error::RootChange`]
pub(super) fn check_root_change(
    entry: &BlockDeviceMapping,
    change: &BlockDeviceMapping,
) -> Result<(), Error> {
    let base = entry.ebs.as_ref();
    let changed = change.ebs.as_ref();
    let snapshot = changed.and_then(|ebs| ebs.snapshot_id);
    let member = if change.no_device.is_some() {
        "NoDevice"
    } else if change.virtual_name.is_some() {
        "VirtualName"
    } else if snapshot.is_some() && snapshot != base.and_then(|ebs| ebs.snapshot_id) {
        "SnapshotId"
    } else if changed.is_some_and(|ebs| ebs.encrypted.is_some() || ebs.kms_key_id.is_some()) {
        "Encrypted"
    } else {
        return Ok(());
    };
    Err(Error::RootChange {
        device: entry.device_name.clone(),
        member,
    })
}

/// The root may grow, never shrink.
///
/// # Errors
/// [`Error::RootShrinks`]
pub(super) fn check_root_size(
    base: &BlockDeviceMapping,
    merged: &BlockDeviceMapping,
) -> Result<(), Error> {
    let size = |entry: &BlockDeviceMapping| entry.ebs.as_ref().and_then(|ebs| ebs.volume_size);
    match (size(base), size(merged)) {
        (Some(from), Some(to)) if to < from => Err(Error::RootShrinks {
            device: merged.device_name.clone(),
            from,
            to,
        }),
        _ => Ok(()),
    }
}
