//! Making, changing and deleting volumes. Implements CreateVolume, AttachVolume, DetachVolume, ModifyVolume
//! and DeleteVolume; each is one durable transaction.
//!
//! Different from EC2: a volume is attached, detached and modified while its instance is stopped, never
//! while it runs. What is asked takes effect at once: no volume is ever seen `creating` or `attaching`.

use std::fs::File;

use super::{Error, Instance, InstanceState, Store, VolumeRecord, snapshot};
use crate::catalogue::{Attachment, NewVolume};
use crate::fault;
use crate::id::{InstanceId, VolumeId};
use crate::manifest::{Ebs, GIB, SnapshotSizes, Tag, check_tags};
use crate::mapping::{self, Disk};

/// What a volume's state, or its instance's, does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeRefusal {
    #[error("{volume} is already attached to an instance")]
    AlreadyAttached {
        volume: VolumeId,
        instance: InstanceId,
    },
    #[error("Volume {volume} is currently attached to {instance}")]
    Attached {
        volume: VolumeId,
        instance: InstanceId,
    },
    #[error("Volume '{volume}' is in the 'available' state.")]
    NotAttached { volume: VolumeId },
    #[error("Volume '{volume}' is not attached to instance '{instance}'.")]
    NotAttachedTo {
        volume: VolumeId,
        instance: InstanceId,
    },
    #[error("Invalid value '{device}' for unixDevice. Attachment point {device} is already in use")]
    DeviceInUse { device: String },
    #[error("New size cannot be smaller than existing size: {to}GiB is less than {from}GiB")]
    Shrinks {
        /// In GiB.
        from: u64,
        /// In GiB.
        to: u64,
    },
}

impl VolumeRefusal {
    /// What the user can do about it, if anything.
    pub(super) fn help(&self) -> Option<String> {
        match self {
            Self::AlreadyAttached { volume, instance } | Self::Attached { volume, instance } => {
                Some(format!(
                    "kami volume detach {volume} takes it from {instance}"
                ))
            }
            _ => None,
        }
    }
}

impl Store {
    /// Makes a volume that no instance has, empty or with the content of a snapshot. Of `ebs` only what
    /// CreateVolume has is looked at.
    ///
    /// # Errors
    /// [`Error::Mapping`] for values that the type of volume does not allow or a snapshot that does not
    /// exist; [`Error::Tag`], [`Error::Volume`], [`Error::Catalogue`].
    pub fn add_volume(&self, ebs: &Ebs, tags: &[Tag]) -> Result<VolumeRecord, Error> {
        check_tags(tags)?;
        let disk = self.unattached(ebs)?;
        let id = VolumeId::generate();
        let base = disk.snapshot();
        // Locked until its row is there: no sweep takes it for what a crash left.
        let mut volume = self.volumes.create(&id, disk.size_bytes(), base.as_ref())?;
        let added = volume.sync().map_err(Error::from).and_then(|()| {
            fault::point("create-volume.written");
            self.add_volume_row(id, &disk, tags)
        });
        drop(volume);
        if added.is_err() {
            self.volumes_gone(&[id]);
        }
        added
    }

    /// The disk that `ebs` describes.
    fn unattached(&self, ebs: &Ebs) -> Result<Disk, Error> {
        let mut sizes = SnapshotSizes::new();
        if let Some(id) = ebs.snapshot_id
            && let Some(size_bytes) = self.catalogue.snapshot_size(&id)?
        {
            sizes.insert(id, size_bytes);
        }
        mapping::check_ebs("", ebs, Some(&sizes))?;
        let no_size = || mapping::Error::NoSize {
            device: String::new(),
        };
        Ok(Disk {
            device_name: String::new(),
            kind: mapping::volume(ebs, false, &sizes).ok_or_else(no_size)?,
        })
    }

    fn add_volume_row(
        &self,
        id: VolumeId,
        disk: &Disk,
        tags: &[Tag],
    ) -> Result<VolumeRecord, Error> {
        let transaction = self.durable()?;
        if let Some(snapshot) = disk.snapshot()
            && self.catalogue.snapshot_size(&snapshot)?.is_none()
        {
            return Err(snapshot::not_found(&snapshot.to_string()));
        }
        self.catalogue.add_volume(&NewVolume {
            id,
            owner: self.owner(),
            disk,
            attached_to: None,
        })?;
        self.catalogue.add_tags(&id.to_string(), tags)?;
        let record = self.volume_of(&id)?;
        self.catalogue.commit(transaction)?;
        Ok(record)
    }

    /// Attaches a volume to a stopped instance, as the device of that name. The instance's root device
    /// name makes it the root. It is not deleted when the instance is terminated.
    ///
    /// # Errors
    /// [`Error::Refused`] where the volume or the device is in use; [`Error::InstanceNotStopped`];
    /// [`Error::Mapping`] for a bad device name; [`Error::VolumeNotFound`],
    /// [`Error::InstanceNotFound`], [`Error::Catalogue`].
    pub fn attach_volume(
        &self,
        id: &VolumeId,
        instance: &InstanceId,
        device: &str,
    ) -> Result<(), Error> {
        let transaction = self.durable()?;
        let volume = self.volume_of(id)?;
        if let Some(instance) = volume.instance {
            let volume = *id;
            return Err(VolumeRefusal::AlreadyAttached { volume, instance }.into());
        }
        let (instance, _lock) = self.hold_stopped(instance)?;
        let attachment = self.attachment(&instance, device)?;
        self.catalogue.attach_volume(id, &attachment)?;
        Ok(self.catalogue.commit(transaction)?)
    }

    /// Where a device of that name has its place among the instance's disks.
    fn attachment(&self, instance: &Instance, device: &str) -> Result<Attachment, Error> {
        let volumes = self.catalogue.volumes_of(&instance.id)?;
        let ephemeral = &instance.settings.ephemeral;
        let root_device = &instance.settings.root_device_name;
        let short = mapping::short_name;
        let is_root = match root_device.as_str() {
            // An older version launched the instance and did not write it down.
            "" => ["sda1", "sda", "xvda"].contains(&short(device)),
            name => short(name) == short(device),
        };
        if !mapping::is_device_name(device, is_root) {
            let device = device.to_owned();
            return Err(mapping::Error::DeviceName { device }.into());
        }
        let mut used = volumes.iter().map(|volume| &volume.device_name);
        let mut used_by_ephemeral = ephemeral.iter().map(|disk| &disk.device_name);
        let is_it = |used: &String| short(used) == short(device);
        if used.any(is_it) || used_by_ephemeral.any(is_it) {
            let device = device.to_owned();
            return Err(VolumeRefusal::DeviceInUse { device }.into());
        }
        let positions = volumes.iter().map(|volume| volume.position as usize);
        let last = positions.chain(ephemeral.iter().map(|disk| disk.position));
        let position = match is_root {
            true => 0,
            false => last.max().unwrap_or(0) + 1,
        };
        let device_name = match root_device.as_str() {
            name if is_root && !name.is_empty() => name,
            _ => device,
        };
        Ok(Attachment {
            instance: instance.id,
            position,
            device_name: device_name.to_owned(),
        })
    }

    /// Detaches volumes from their stopped instances, or from the one that is named, which must be it: all of
    /// them or none.
    ///
    /// # Errors
    /// [`Error::Refused`] where one is not attached (there); [`Error::InstanceNotStopped`];
    /// [`Error::VolumeNotFound`], [`Error::Catalogue`].
    pub fn detach_volumes(
        &self,
        ids: &[VolumeId],
        instance: Option<&InstanceId>,
    ) -> Result<(), Error> {
        let transaction = self.durable()?;
        // Until the commit nobody starts the instances.
        let mut locks = Vec::new();
        for &volume in ids {
            let found = self.volume_of(&volume)?.instance;
            let holder = found.ok_or(VolumeRefusal::NotAttached { volume })?;
            if let Some(&instance) = instance
                && instance != holder
            {
                return Err(VolumeRefusal::NotAttachedTo { volume, instance }.into());
            }
            locks.push(self.hold_stopped(&holder)?);
            self.catalogue.detach_volume(&volume)?;
        }
        Ok(self.catalogue.commit(transaction)?)
    }

    /// Changes what `change` states of size, type, Iops and Throughput. A volume only grows; the
    /// performance that belonged to another type goes with that. Returns the volume as it is then.
    ///
    /// # Errors
    /// [`Error::Refused`] where it would shrink; [`Error::InstanceNotStopped`]; [`Error::Mapping`] for
    /// values that the type does not allow; [`Error::VolumeNotFound`], [`Error::Catalogue`].
    pub fn modify_volume(&self, id: &VolumeId, change: &Ebs) -> Result<VolumeRecord, Error> {
        let transaction = self.durable()?;
        let volume = self.volume_of(id)?;
        let from = volume.size_bytes / GIB;
        if let Some(to) = change.volume_size.filter(|to| *to < from) {
            return Err(VolumeRefusal::Shrinks { from, to }.into());
        }
        let _lock = match &volume.instance {
            Some(instance) => Some(self.hold_stopped(instance)?),
            None => None,
        };
        let mut ebs = Ebs {
            volume_size: Some(from),
            volume_type: volume.volume_type,
            iops: volume.iops,
            throughput: volume.throughput,
            ..Ebs::default()
        };
        mapping::merge_ebs(&mut ebs, change);
        self.catalogue.modify_volume(id, &self.unattached(&ebs)?)?;
        let record = self.volume_of(id)?;
        self.catalogue.commit(transaction)?;
        Ok(record)
    }

    /// Deletes volumes that are not attached: all of them or none. Snapshots that were made of them stay.
    ///
    /// # Errors
    /// Those of [`Store::check_deletable`].
    pub fn delete_volumes(&self, ids: &[VolumeId]) -> Result<(), Error> {
        let transaction = self.durable()?;
        self.check_deletable(ids)?;
        for id in ids {
            self.remove_volume_row(&self.volume_of(id)?)?;
        }
        self.catalogue.commit(transaction)?;
        fault::point("delete-volume.committed");
        self.volumes_gone(ids);
        Ok(())
    }

    /// Whether the volumes can be deleted.
    ///
    /// # Errors
    /// [`Error::Refused`] where one is attached; [`Error::VolumeNotFound`], [`Error::Catalogue`].
    pub fn check_deletable(&self, ids: &[VolumeId]) -> Result<(), Error> {
        for &volume in ids {
            if let Some(instance) = self.volume_of(&volume)?.instance {
                return Err(VolumeRefusal::Attached { volume, instance }.into());
            }
        }
        Ok(())
    }

    /// The stopped instance, with a lock that keeps it from being started meanwhile. Within a transaction.
    fn hold_stopped(&self, id: &InstanceId) -> Result<(Instance, Option<File>), Error> {
        let not_found = || Error::InstanceNotFound {
            reference: id.to_string(),
        };
        let instance = self.catalogue.instance(id)?.ok_or_else(not_found)?;
        let not_stopped = Error::InstanceNotStopped { instance: *id };
        let lock = match self.lock_ended(id) {
            Ok(lock) => lock,
            Err(Error::InstanceRuns { .. }) => return Err(not_stopped),
            Err(error) => return Err(error),
        };
        // Without a process, whatever the row says.
        match instance.settled_state() {
            InstanceState::Stopped => Ok((instance, lock)),
            _ => Err(not_stopped),
        }
    }
}
