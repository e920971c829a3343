//! The rows of volumes, attached to an instance or not. Ephemeral disks are volumes with a number.

use std::time::SystemTime;

use rusqlite::{OptionalExtension, params};

use super::{Catalogue, Error, from_millis, ids_from, parsed, parsed_or_null, to_millis};
use crate::account::Account;
use crate::id::{InstanceId, SnapshotId, VolumeId};
use crate::manifest::{VolumeType, words};
use crate::mapping::{Disk, DiskKind};
use crate::volume::Standing;

words! {
    /// EC2's states of a volume that lasts: creating and deleting one are single steps here.
    VolumeState {
        Available = "available",
        InUse = "in-use",
    }
}

/// A volume to be added.
#[derive(Clone, Copy, Debug)]
pub struct NewVolume<'a> {
    pub id: VolumeId,
    pub owner: Account,
    /// Its device name says where it is attached, if it is.
    pub disk: &'a Disk,
    /// The instance, and the place among its disks; 0 is the root's.
    pub attached_to: Option<(InstanceId, usize)>,
}

/// Where a volume that was made before is attached.
#[derive(Clone, Debug)]
pub(crate) struct Attachment {
    pub instance: InstanceId,
    pub position: usize,
    pub device_name: String,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRecord {
    pub id: VolumeId,
    pub owner: Account,
    /// The one that it was made of, which may be gone.
    pub snapshot: Option<SnapshotId>,
    /// The snapshot that its layers stand on.
    pub base: Option<SnapshotId>,
    /// The number of the lowest layer.
    pub layer: u32,
    pub size_bytes: u64,
    /// Temporary disks have none: ephemeral ones, and the root of an instance-store instance.
    pub volume_type: Option<VolumeType>,
    /// I/O operations a second, where they are limited.
    pub iops: Option<u32>,
    /// MiB a second, where they are limited.
    pub throughput: Option<u32>,
    pub create_time: SystemTime,
    /// The instance that it is attached to. Without one the members below mean nothing.
    pub instance: Option<InstanceId>,
    /// Its place among the instance's disks; 0 is the root's.
    pub position: u32,
    pub device_name: String,
    pub attach_time: Option<SystemTime>,
    pub delete_on_termination: bool,
    /// The N of an `ephemeralN`.
    pub ephemeral: Option<u8>,
}

impl VolumeRecord {
    /// Whether it lasts no longer than its instance runs, and is no EBS volume.
    pub fn is_temporary(&self) -> bool {
        self.volume_type.is_none()
    }

    /// What opening its files asks for.
    pub fn standing(&self) -> Standing {
        Standing {
            size_bytes: self.size_bytes,
            base: self.base,
            layer: self.layer,
        }
    }

    pub fn state(&self) -> VolumeState {
        match self.instance {
            Some(_) => VolumeState::InUse,
            None => VolumeState::Available,
        }
    }
}

/// What a disk's kind says of its row.
#[derive(Default)]
struct Columns {
    volume_type: Option<&'static str>,
    iops: Option<u32>,
    throughput: Option<u32>,
    delete_on_termination: bool,
    ephemeral: Option<u8>,
}

impl Columns {
    fn of(disk: &Disk) -> Self {
        match disk.kind {
            DiskKind::Ephemeral { index, .. } => Self {
                ephemeral: Some(index),
                delete_on_termination: true,
                ..Self::default()
            },
            DiskKind::Volume {
                volume_type,
                iops,
                throughput,
                delete_on_termination,
                ..
            } => Self {
                volume_type: Some(volume_type.as_str()),
                iops,
                throughput,
                delete_on_termination,
                ephemeral: None,
            },
        }
    }
}

const COLUMNS: &str = "SELECT id, owner, snapshot, base, layer, size_bytes, volume_type, iops, \
    throughput, created, instance, position, device_name, attached, delete_on_termination, \
    ephemeral FROM volumes";

impl Catalogue {
    pub(crate) fn add_volume(&self, volume: &NewVolume<'_>) -> Result<(), Error> {
        let new = Columns::of(volume.disk);
        let now = to_millis(SystemTime::now());
        let add = || {
            self.connection
                .prepare_cached(
                    "INSERT INTO volumes (id, owner, snapshot, base, size_bytes, volume_type,
                     iops, throughput, created, instance, position, device_name, attached,
                     delete_on_termination, ephemeral)
                     VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
                )?
                .execute(params![
                    volume.id.to_string(),
                    volume.owner.to_string(),
                    volume.disk.snapshot().map(|id| id.to_string()),
                    volume.disk.size_bytes(),
                    new.volume_type,
                    new.iops,
                    new.throughput,
                    now,
                    volume.attached_to.map(|(instance, _)| instance.to_string()),
                    volume.attached_to.map_or(0, |(_, position)| position),
                    volume.disk.device_name,
                    volume.attached_to.map(|_| now),
                    new.delete_on_termination,
                    new.ephemeral,
                ])
        };
        self.sqlite(add()).map(|_| ())
    }

    /// Every volume but the ephemeral disks, oldest first.
    pub(crate) fn volumes(&self) -> Result<Vec<VolumeRecord>, Error> {
        let query = || {
            self.connection
                .prepare_cached(&format!(
                    "{COLUMNS} WHERE volume_type IS NOT NULL ORDER BY created, id"
                ))?
                .query_map([], record)?
                .collect()
        };
        self.sqlite(query())
    }

    pub(crate) fn volume(&self, id: &VolumeId) -> Result<Option<VolumeRecord>, Error> {
        let query = || {
            self.connection
                .prepare_cached(&format!("{COLUMNS} WHERE id = ?1"))?
                .query_row([id.to_string()], record)
                .optional()
        };
        self.sqlite(query())
    }

    /// The instance's volumes, root first.
    pub(crate) fn volumes_of(&self, id: &InstanceId) -> Result<Vec<VolumeRecord>, Error> {
        let query = || {
            self.connection
                .prepare_cached(&format!("{COLUMNS} WHERE instance = ?1 ORDER BY position"))?
                .query_map([id.to_string()], record)?
                .collect()
        };
        self.sqlite(query())
    }

    pub(crate) fn has_volume(&self, id: &VolumeId) -> Result<bool, Error> {
        let query = || {
            self.connection
                .prepare_cached("SELECT 1 FROM volumes WHERE id = ?1")?
                .exists([id.to_string()])
        };
        self.sqlite(query())
    }

    /// The first two ids that begin with `prefix`.
    pub(crate) fn volume_ids_from(&self, prefix: &str) -> Result<Vec<VolumeId>, Error> {
        let query = "SELECT id FROM volumes WHERE id >= ?1 AND id < ?2 LIMIT 2";
        self.sqlite(ids_from(&self.connection, query, prefix))
    }

    /// Use the store's `remove_volume_row`, which looks after the snapshot that the volume stood on.
    pub(crate) fn remove_volume(&self, id: &VolumeId) -> Result<(), Error> {
        let delete = || {
            self.connection
                .prepare_cached("DELETE FROM volumes WHERE id = ?1")?
                .execute([id.to_string()])
        };
        self.sqlite(delete()).map(|_| ())
    }

    /// The volume becomes the instance's, and outlives it.
    pub(crate) fn attach_volume(&self, id: &VolumeId, to: &Attachment) -> Result<(), Error> {
        let update = || {
            self.connection
                .prepare_cached(
                    "UPDATE volumes SET instance = ?2, position = ?3, device_name = ?4, attached = ?5,
                     delete_on_termination = 0 WHERE id = ?1",
                )?
                .execute(params![
                    id.to_string(),
                    to.instance.to_string(),
                    to.position,
                    to.device_name,
                    to_millis(SystemTime::now()),
                ])
        };
        self.sqlite(update()).map(|_| ())
    }

    /// The volume gets the size, the type and the limits of `disk`.
    pub(crate) fn modify_volume(&self, id: &VolumeId, disk: &Disk) -> Result<(), Error> {
        let new = Columns::of(disk);
        let update = || {
            self.connection
                .prepare_cached(
                    "UPDATE volumes SET size_bytes = ?2, volume_type = ?3, iops = ?4, throughput = ?5
                     WHERE id = ?1",
                )?
                .execute(params![
                    id.to_string(),
                    disk.size_bytes(),
                    new.volume_type,
                    new.iops,
                    new.throughput,
                ])
        };
        self.sqlite(update()).map(|_| ())
    }

    /// The disk is no volume: it goes when its instance ends.
    pub(crate) fn set_temporary(&self, id: &VolumeId) -> Result<(), Error> {
        let update = || {
            self.connection
                .prepare_cached(
                    "UPDATE volumes SET volume_type = NULL, delete_on_termination = 1 WHERE id = ?1",
                )?
                .execute([id.to_string()])
        };
        self.sqlite(update()).map(|_| ())
    }

    pub(crate) fn set_delete_on_termination(
        &self,
        id: &VolumeId,
        delete: bool,
    ) -> Result<(), Error> {
        let update = || {
            self.connection
                .prepare_cached("UPDATE volumes SET delete_on_termination = ?2 WHERE id = ?1")?
                .execute(params![id.to_string(), delete])
        };
        self.sqlite(update()).map(|_| ())
    }

    /// The volume stays, of no instance.
    pub(crate) fn detach_volume(&self, id: &VolumeId) -> Result<(), Error> {
        let update = || {
            self.connection
                .prepare_cached(
                    "UPDATE volumes SET instance = NULL, attached = NULL WHERE id = ?1",
                )?
                .execute([id.to_string()])
        };
        self.sqlite(update()).map(|_| ())
    }
}

fn record(row: &rusqlite::Row<'_>) -> rusqlite::Result<VolumeRecord> {
    Ok(VolumeRecord {
        id: parsed(row, 0)?,
        owner: parsed(row, 1)?,
        snapshot: parsed_or_null(row, 2)?,
        base: parsed_or_null(row, 3)?,
        layer: row.get(4)?,
        size_bytes: row.get(5)?,
        volume_type: parsed_or_null(row, 6)?,
        iops: row.get(7)?,
        throughput: row.get(8)?,
        create_time: from_millis(row.get(9)?),
        instance: parsed_or_null(row, 10)?,
        position: row.get(11)?,
        device_name: row.get(12)?,
        attach_time: row.get::<_, Option<i64>>(13)?.map(from_millis),
        delete_on_termination: row.get(14)?,
        ephemeral: row.get(15)?,
    })
}
