//! Resolving a block device mapping: which disks an instance gets.
//!
//! Implements EC2's rules for merging a launch's overrides into the image's mapping (by
//! DeviceName), for the entries themselves (`rules`) and for their short syntax (`syntax`).
//! Resolving is pure: what it must know of the store, the sizes of the snapshots, is handed to it.
//! Encryption is left out: an entry that asks for it is refused, never quietly stored in the clear.

mod performance;
mod rules;
mod syntax;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::id::SnapshotId;
use crate::manifest::{BlockDeviceMapping, Ebs, GIB, Image, SnapshotSizes, VolumeType};

pub use rules::Error;
pub(crate) use rules::{
    check_ebs, check_entry, check_names, check_not_encrypted, is_device_name, short_name,
};
pub use syntax::{SyntaxError, parse};

/// The ephemeral disks that an instance may have, as an EC2 instance type would say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ephemeral {
    /// `ephemeral0` up to this one exist; entries that name others are ignored.
    pub count: u8,
    pub size_bytes: u64,
}

/// A disk that an instance gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub device_name: String,
    pub kind: DiskKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskKind {
    Volume {
        snapshot: Option<SnapshotId>,
        size_bytes: u64,
        volume_type: VolumeType,
        /// I/O operations a second, if they are limited.
        iops: Option<u32>,
        /// MiB a second, if they are limited.
        throughput: Option<u32>,
        delete_on_termination: bool,
        root: bool,
    },
    Ephemeral {
        /// The N of `ephemeralN`.
        index: u8,
        size_bytes: u64,
    },
}

impl Disk {
    pub fn size_bytes(&self) -> u64 {
        match self.kind {
            DiskKind::Volume { size_bytes, .. } | DiskKind::Ephemeral { size_bytes, .. } => {
                size_bytes
            }
        }
    }

    pub fn snapshot(&self) -> Option<SnapshotId> {
        match self.kind {
            DiskKind::Volume { snapshot, .. } => snapshot,
            DiskKind::Ephemeral { .. } => None,
        }
    }
}

/// The snapshots whose sizes [`resolve`] may ask for.
pub fn snapshots(image: &Image, overrides: &[BlockDeviceMapping]) -> BTreeSet<SnapshotId> {
    image
        .block_device_mappings
        .iter()
        .chain(overrides)
        .filter_map(BlockDeviceMapping::snapshot)
        .collect()
}

/// Merges `overrides` into the mapping of `image` and says which disks come of it: the root first,
/// then the others in mapping order, devices that only `overrides` names last.
///
/// # Errors
/// [`Error`] for the first rule that the overrides or the result break.
pub fn resolve(
    image: &Image,
    overrides: &[BlockDeviceMapping],
    ephemeral: Ephemeral,
    sizes: &SnapshotSizes,
) -> Result<Vec<Disk>, Error> {
    let root = &image.root_device_name;
    check_names(overrides, root)?;
    let merged = merge(image, overrides)?;
    check_names(&merged, root)?;
    let mut disks = Vec::with_capacity(merged.len());
    for entry in &merged {
        check_entry(entry, Some(sizes))?;
        let is_root = entry.device_name == *root;
        if is_root && let Some(base) = image.root_mapping() {
            rules::check_root_size(base, entry)?;
        }
        match disk(entry, is_root, ephemeral, sizes) {
            Some(disk) if is_root => disks.insert(0, disk),
            Some(disk) => disks.push(disk),
            None => {}
        }
    }
    Ok(disks)
}

/// The image's entries, each with its override merged in, then the overrides that name no entry of
/// the image.
fn merge(
    image: &Image,
    overrides: &[BlockDeviceMapping],
) -> Result<Vec<BlockDeviceMapping>, Error> {
    let mut merged = image.block_device_mappings.clone();
    for change in overrides {
        let is_root = change.device_name == image.root_device_name;
        let entry = merged
            .iter_mut()
            .find(|entry| entry.device_name == change.device_name);
        match entry {
            Some(entry) => {
                if is_root {
                    rules::check_root_change(entry, change)?;
                }
                merge_entry(entry, change);
            }
            None => merged.push(change.clone()),
        }
    }
    Ok(merged)
}

/// Only where both entries are EBS ones is there anything to merge; else the override replaces.
fn merge_entry(entry: &mut BlockDeviceMapping, change: &BlockDeviceMapping) {
    match (&mut entry.ebs, &change.ebs) {
        (Some(base), Some(change_ebs))
            if change.no_device.is_none() && change.virtual_name.is_none() =>
        {
            merge_ebs(base, change_ebs);
        }
        _ => *entry = change.clone(),
    }
}

/// What the override states wins. The size that belonged to another snapshot and the performance
/// that belonged to another type go with them.
pub(crate) fn merge_ebs(base: &mut Ebs, change: &Ebs) {
    if change.snapshot_id.is_some() && change.snapshot_id != base.snapshot_id {
        base.snapshot_id = change.snapshot_id;
        base.volume_size = None;
    }
    if change.volume_type.is_some() && change.volume_type != base.volume_type {
        base.volume_type = change.volume_type;
        base.iops = None;
        base.throughput = None;
    }
    base.volume_size = change.volume_size.or(base.volume_size);
    base.iops = change.iops.or(base.iops);
    base.throughput = change.throughput.or(base.throughput);
    base.delete_on_termination = change.delete_on_termination.or(base.delete_on_termination);
    base.encrypted = change.encrypted.or(base.encrypted);
    if change.kms_key_id.is_some() {
        base.kms_key_id.clone_from(&change.kms_key_id);
    }
}

/// The disk that a checked entry stands for, if it stands for one.
fn disk(
    entry: &BlockDeviceMapping,
    root: bool,
    ephemeral: Ephemeral,
    sizes: &SnapshotSizes,
) -> Option<Disk> {
    let kind = if let Some(ebs) = &entry.ebs {
        volume(ebs, root, sizes)?
    } else {
        let index = rules::ephemeral_index(entry.virtual_name.as_deref()?)?;
        if index >= ephemeral.count {
            return None;
        }
        DiskKind::Ephemeral {
            index,
            size_bytes: ephemeral.size_bytes,
        }
    };
    Some(Disk {
        device_name: entry.device_name.clone(),
        kind,
    })
}

/// The volume that a checked entry describes; none where its size is not known.
pub(crate) fn volume(ebs: &Ebs, root: bool, sizes: &SnapshotSizes) -> Option<DiskKind> {
    let snapshot_bytes = ebs.snapshot_id.and_then(|id| sizes.get(&id));
    let snapshot_gib = snapshot_bytes.map(|bytes| rules::gib(*bytes));
    Some(DiskKind::Volume {
        snapshot: ebs.snapshot_id,
        size_bytes: ebs.volume_size.or(snapshot_gib)? * GIB,
        volume_type: ebs.volume_type.unwrap_or_default(),
        iops: ebs.iops,
        throughput: ebs.throughput,
        delete_on_termination: ebs.delete_on_termination.unwrap_or(root),
        root,
    })
}
