//! Starting a stopped instance: its volumes are opened again, its ephemeral disks made anew.
//!
//! As a launch does, it works within one transaction, and a failure leaves the instance stopped. An
//! instance whose process was killed, by hand or with its host, starts like one that has stopped.

use std::fs::{File, TryLockError};
use std::time::Duration;

use super::instance::instance_not_found;
use super::launch::{InstanceLock, LOCK_FILE, Launched, LaunchedVolume, Undo};
use super::{Error, Instance, InstanceState, Store, VolumeRecord, create_private};
use crate::catalogue::NewVolume;
use crate::id::{InstanceId, VolumeId};
use crate::instance::EphemeralDisk;
use crate::mapping::{Disk, DiskKind, Ephemeral};

impl Store {
    /// Makes a stopped instance pending again, of this process. The instance's type may have
    /// changed since it was launched: of its ephemeral disks come those that `ephemeral` allows; as
    /// they were at its launch, without.
    ///
    /// # Errors
    /// [`Error::InstanceState`] where it is not stopped, [`Error::NoRootVolume`],
    /// [`Error::InstanceNotFound`], [`Error::Volume`], [`Error::Io`], [`Error::Catalogue`]. Nothing is
    /// changed then.
    pub fn start_instance(
        &self,
        id: &InstanceId,
        ephemeral: Option<Ephemeral>,
    ) -> Result<Launched, Error> {
        let lock = match self.lock_to_start(id) {
            Err(Error::InstanceRuns { .. }) => {
                return Err(self.instance(&id.to_string())?.cannot("started"));
            }
            lock => lock?,
        };
        let transaction = self.quick()?;
        let not_found = || instance_not_found(&id.to_string());
        let instance = self.catalogue.instance(id)?.ok_or_else(not_found)?;
        if instance.settled_state() != InstanceState::Stopped {
            return Err(instance.cannot("started"));
        }
        let mut undo = Undo::new(&self.volumes);
        let (old, kept): (Vec<_>, Vec<_>) = self
            .catalogue
            .volumes_of(id)?
            .into_iter()
            .partition(|volume| volume.is_temporary());
        // Those of a process that was killed.
        for volume in &old {
            self.remove_volume_row(volume)?;
        }
        let root = root_of(&instance, &kept)?;
        let mut disks = Vec::with_capacity(kept.len());
        for volume in &kept {
            let position = match volume.id == root {
                true => 0,
                false => volume.position.max(1) as usize,
            };
            disks.push((position, self.open_volume(volume, volume.id == root)?));
        }
        for disk in ephemeral_disks(&instance, ephemeral) {
            let made = self.make_ephemeral(id, &disk, &mut undo)?;
            disks.push((disk.position, made));
        }
        disks.sort_by_key(|(position, _)| *position);
        self.catalogue.restart_instance(id)?;
        let instance = self.catalogue.instance(id)?.ok_or_else(not_found)?;
        self.catalogue.commit(transaction)?;
        undo.forget();
        if !old.is_empty() {
            let old: Vec<_> = old.iter().map(|volume| volume.id).collect();
            self.volumes_gone(&old);
        }
        Ok(Launched {
            instance,
            lock,
            folder: self.instance_folder(id),
            volumes: disks.into_iter().map(|(_, volume)| volume).collect(),
        })
    }

    /// The lock of an instance whose process this one becomes.
    fn lock_to_start(&self, id: &InstanceId) -> Result<InstanceLock, Error> {
        if !self.catalogue.has_instance(id)? {
            return Err(instance_not_found(&id.to_string()));
        }
        // A crash of the host may have lost the folder: nothing synced it.
        let folder = self.instance_folder(id);
        create_private(&folder).map_err(Error::io("create", &folder))?;
        let path = folder.join(LOCK_FILE);
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(InstanceLock::new(file)),
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
                // Whoever holds it alone is its process; others only look, and are soon done.
                Err(TryLockError::WouldBlock) => drop(self.lock_ended(id)?),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn open_volume(&self, record: &VolumeRecord, root: bool) -> Result<LaunchedVolume, Error> {
        let mut volume = self.volumes.open(&record.id, &record.standing())?;
        volume.sync_before_first_flush(self.catalogue.files_to_sync()?.into());
        Ok(LaunchedVolume {
            disk: Disk {
                device_name: record.device_name.clone(),
                kind: DiskKind::Volume {
                    snapshot: record.snapshot,
                    size_bytes: record.size_bytes,
                    volume_type: record.volume_type.unwrap_or_default(),
                    iops: record.iops,
                    throughput: record.throughput,
                    delete_on_termination: record.delete_on_termination,
                    root,
                },
            },
            id: record.id,
            volume,
        })
    }

    fn make_ephemeral(
        &self,
        instance: &InstanceId,
        disk: &EphemeralDisk,
        undo: &mut Undo<'_>,
    ) -> Result<LaunchedVolume, Error> {
        let id = VolumeId::generate();
        let made = disk.disk();
        self.catalogue.add_volume(&NewVolume {
            id,
            owner: self.owner(),
            disk: &made,
            attached_to: Some((*instance, disk.position)),
        })?;
        undo.volumes.push(id);
        let volume = self.volumes.create(&id, disk.size_bytes, None)?;
        Ok(LaunchedVolume {
            disk: made,
            id,
            volume,
        })
    }
}

/// The volume that the instance boots from.
fn root_of(instance: &Instance, volumes: &[VolumeRecord]) -> Result<VolumeId, Error> {
    let name = &instance.settings.root_device_name;
    let is_root = |volume: &&VolumeRecord| match name.is_empty() {
        true => volume.position == 0,
        false => volume.device_name == *name,
    };
    let root = volumes.iter().find(is_root).map(|volume| volume.id);
    root.ok_or_else(|| Error::NoRootVolume {
        instance: instance.id,
        device: name.clone(),
    })
}

fn ephemeral_disks(instance: &Instance, allowed: Option<Ephemeral>) -> Vec<EphemeralDisk> {
    let mut disks = instance.settings.ephemeral.clone();
    if let Some(allowed) = allowed {
        disks.retain(|disk| disk.index < allowed.count);
        for disk in &mut disks {
            disk.size_bytes = allowed.size_bytes;
        }
    }
    disks
}
