//! Launching: an instance and its volumes come to be in one transaction, or not at all.
//!
//! The catalogue's write lock is held meanwhile, for less than a millisecond: a sweep that waits
//! for it once has seen the rows of every launch whose files it found. Nothing is synced: see
//! [`crate::catalogue`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{ClientToken, Error, Instance, InstanceState, Store, create_private};
use crate::account::Account;
use crate::catalogue::NewVolume;
use crate::chunk::pending::{create_locked, unlock};
use crate::id::{InstanceId, VolumeId};
use crate::instance::{EphemeralDisk, InstanceSettings};
use crate::manifest::{Image, Tag, check_tags};
use crate::mapping::{Disk, DiskKind};
use crate::volume::{Volume, VolumeFiles};

/// The file in an instance's folder that its process holds locked.
pub(super) const LOCK_FILE: &str = "lock";

/// An instance to launch.
#[derive(Clone, Debug)]
pub struct NewInstance<'a> {
    pub image: &'a Image,
    /// Unique among the instances there are.
    pub name: Option<String>,
    /// What [`Store::resolve`] made of the image and the overrides.
    pub disks: &'a [Disk],
    pub cpus: u32,
    pub memory_bytes: u64,
    /// It is to be removed when it ends.
    pub remove_at_end: bool,
    /// What the image and the disks say is filled in.
    pub settings: InstanceSettings,
    /// The launch that it belongs to; without one it is a launch of its own.
    pub reservation: Option<Reservation>,
    /// Of the instance; its volumes get none.
    pub tags: &'a [Tag],
    pub client_token: Option<&'a ClientToken>,
}

/// A launch of several instances at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// `r-…`
    pub id: String,
    /// Which of the launch's instances this one is, from 0.
    pub index: u32,
}

/// Says that the instance's process lives: dropped, or gone with the process, the instance counts
/// as ended.
#[derive(Debug)]
#[must_use = "dropping it says that the instance has ended"]
pub struct InstanceLock {
    file: File,
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        unlock(&self.file);
    }
}

impl InstanceLock {
    pub(super) fn new(file: File) -> Self {
        Self { file }
    }
}

/// A launched instance, in the state `pending`.
#[derive(Debug)]
pub struct Launched {
    pub instance: Instance,
    /// To be held as long as the instance lives.
    pub lock: InstanceLock,
    /// The instance's own folder.
    pub folder: PathBuf,
    /// In the order of the disks.
    pub volumes: Vec<LaunchedVolume>,
}

#[derive(Debug)]
pub struct LaunchedVolume {
    pub disk: Disk,
    pub id: VolumeId,
    pub volume: Volume,
}

impl Store {
    /// Makes an instance: its rows, its folder, its volumes. The guest's first flush makes them
    /// durable.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::InstanceNameInUse`], [`Error::Volume`], [`Error::Io`],
    /// [`Error::Catalogue`]. Nothing is left then.
    pub fn launch(&self, new: &NewInstance<'_>) -> Result<Launched, Error> {
        if let Some(name) = &new.name {
            check_name(name)?;
            self.free_name(name)?;
        }
        let instance = pending(new, self.owner());
        let transaction = self.quick()?;
        // Dropped in the reverse order: the volumes let go of their files, those are deleted, the
        // rows are undone, and only then does a sweep get to look.
        let mut undo = Undo::new(&self.volumes);
        if let Some(name) = &new.name {
            self.check_name_unused(name)?;
        }
        self.note_launch(&instance.image_id)?;
        self.note_launch(&new.image.image_id)?;
        if let Some(token) = new.client_token {
            self.use_token(token, &instance.reservation)?;
        }
        self.catalogue.add_instance(&instance)?;
        if !new.tags.is_empty() {
            check_tags(new.tags)?;
            self.catalogue
                .add_tags(&instance.id.to_string(), new.tags)?;
        }
        let folder = self.instance_folder(&instance.id);
        let lock = create_folder(&folder, &mut undo)?;
        let mut volumes = Vec::with_capacity(new.disks.len());
        for (position, disk) in new.disks.iter().enumerate() {
            let id = VolumeId::generate();
            self.catalogue.add_volume(&NewVolume {
                id,
                owner: self.owner(),
                disk,
                attached_to: Some((instance.id, position)),
            })?;
            if position == 0 && instance.settings.is_instance_store() {
                self.catalogue.set_temporary(&id)?;
            }
            undo.volumes.push(id);
            let volume = self.create_volume(&id, disk)?;
            volumes.push(LaunchedVolume {
                disk: disk.clone(),
                id,
                volume,
            });
        }
        self.catalogue.commit(transaction)?;
        undo.forget();
        Ok(Launched {
            instance,
            lock,
            folder,
            volumes,
        })
    }

    fn create_volume(&self, id: &VolumeId, disk: &Disk) -> Result<Volume, Error> {
        let snapshot = disk.snapshot();
        let mut volume = self
            .volumes
            .create(id, disk.size_bytes(), snapshot.as_ref())?;
        // An ephemeral disk is gone anyway when the host crashes.
        if let DiskKind::Volume { .. } = disk.kind {
            volume.sync_before_first_flush(self.catalogue.files_to_sync()?.into());
        }
        Ok(volume)
    }

    /// An instance that is terminated, or was to be removed at its end but was killed, does not keep
    /// its name.
    fn free_name(&self, name: &str) -> Result<(), Error> {
        match self.catalogue.instance_named(name)? {
            Some(holder) if holder.state == InstanceState::Terminated => {
                let transaction = self.quick()?;
                self.catalogue.free_instance_name(&holder.id)?;
                Ok(self.catalogue.commit(transaction)?)
            }
            Some(holder) if holder.remove_at_end => match self.remove_instance(&holder.id) {
                Err(Error::InstanceRuns { .. } | Error::InstanceNotFound { .. }) => Ok(()),
                removed => removed,
            },
            _ => Ok(()),
        }
    }

    fn check_name_unused(&self, name: &str) -> Result<(), Error> {
        match self.catalogue.instance_named(name)? {
            Some(holder) => Err(Error::InstanceNameInUse {
                name: name.to_owned(),
                instance: holder.id,
            }),
            None => Ok(()),
        }
    }
}

fn pending(new: &NewInstance<'_>, owner: Account) -> Instance {
    let id = InstanceId::generate();
    let image = new.image;
    let (reservation, launch_index) = match &new.reservation {
        Some(reservation) => (reservation.id.clone(), reservation.index),
        None => (id.to_string().replacen(InstanceId::PREFIX, "r-", 1), 0),
    };
    Instance {
        id,
        name: new.name.clone(),
        image_id: image.image_id,
        image_name: image.name.clone(),
        state: InstanceState::Pending,
        state_reason: None,
        exit_status: None,
        launch_time: SystemTime::now(),
        end_time: None,
        cpus: new.cpus,
        memory_bytes: new.memory_bytes,
        pid: Some(std::process::id()),
        remove_at_end: new.remove_at_end,
        owner,
        reservation,
        launch_index,
        settings: InstanceSettings {
            architecture: Some(image.architecture),
            root_device_type: image.root_device_type,
            root_device_name: image.root_device_name.clone(),
            ephemeral: EphemeralDisk::of(new.disks),
            product_codes: image.product_codes.clone(),
            ..new.settings.clone()
        },
    }
}

/// Creates the instance's folder with its lock.
fn create_folder(folder: &Path, undo: &mut Undo<'_>) -> Result<InstanceLock, Error> {
    create_private(folder).map_err(Error::io("create", folder))?;
    undo.folder = Some(folder.to_owned());
    let path = folder.join(LOCK_FILE);
    let taken = || std::io::Error::from(std::io::ErrorKind::AlreadyExists);
    let file = create_locked(&path)
        .and_then(|file| file.ok_or_else(taken))
        .map_err(Error::io("create", &path))?;
    Ok(InstanceLock::new(file))
}

/// The rule for the names of instances and kernels. A name that looks like an id could hide the
/// object that has the id.
pub(super) fn check_name(name: &str) -> Result<(), Error> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let like_an_id = ["i-", "aki-", "ari-"]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    if first && rest && name.len() <= 128 && !like_an_id {
        return Ok(());
    }
    Err(Error::Name {
        name: name.to_owned(),
    })
}

/// Deletes what a launch has made, unless it comes to its end. Its rows are the transaction's to
/// undo; what cannot be deleted is left to the sweep.
#[derive(Debug)]
pub(super) struct Undo<'a> {
    folder: Option<PathBuf>,
    pub(super) volumes: Vec<VolumeId>,
    files: &'a VolumeFiles,
}

impl<'a> Undo<'a> {
    pub(super) fn new(files: &'a VolumeFiles) -> Self {
        Self {
            folder: None,
            volumes: Vec::new(),
            files,
        }
    }
}

impl Undo<'_> {
    pub(super) fn forget(mut self) {
        self.folder = None;
        self.volumes.clear();
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        for id in &self.volumes {
            if let Err(error) = self.files.delete(id) {
                tracing::warn!(%id, %error, "cannot delete the volume of a failed launch");
            }
        }
        if let Some(folder) = &self.folder
            && let Err(error) = std::fs::remove_dir_all(folder)
        {
            tracing::warn!(path = %folder.display(), %error, "cannot delete the folder of a failed launch");
        }
    }
}
