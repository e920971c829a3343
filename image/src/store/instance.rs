//! Instances after their launch: what they are up to, how they end, how they go.
//!
//! An instance's process holds a lock as long as it lives. A row that says that the instance lives,
//! while nobody holds the lock, is that of a process that was killed, and is shown as such: a
//! process writes its end into the row before it lets go of the lock, so a row that is read after
//! the lock was found free tells the truth.

use std::fs::{File, TryLockError};
use std::io;
use std::time::SystemTime;

use super::launch::LOCK_FILE;
use super::{Error, Instance, InstanceState, Store, VolumeRecord, ambiguous, id_prefix};
use crate::catalogue::End;
use crate::id::InstanceId;

/// The exit status of an instance whose process was killed: what a shell says of one.
const KILLED_STATUS: u8 = 137;

const KILLED_REASON: &str = "killed: its process is gone";

/// What to write down of an instance.
#[derive(Clone, Copy, Debug)]
pub struct InstanceUpdate<'a> {
    pub state: InstanceState,
    pub reason: Option<&'a str>,
    /// What its `run` exits with; of one that has ended.
    pub exit_status: Option<u8>,
}

impl Store {
    /// Every instance, oldest first.
    ///
    /// # Errors
    /// [`Error::Catalogue`]; [`Error::Io`] where a lock cannot be asked.
    pub fn instances(&self) -> Result<Vec<Instance>, Error> {
        self.catalogue
            .instances()?
            .into_iter()
            .filter_map(|instance| self.truth(instance).transpose())
            .collect()
    }

    /// The instance of that id, name, or unique beginning of an id (with or without `i-`).
    ///
    /// # Errors
    /// [`Error::InstanceNotFound`], [`Error::Ambiguous`], and those of [`Store::instances`].
    pub fn instance(&self, reference: &str) -> Result<Instance, Error> {
        let not_found = || instance_not_found(reference);
        let found = if let Ok(id) = reference.parse::<InstanceId>() {
            self.catalogue.instance(&id)?
        } else if let Some(named) = self.catalogue.instance_named(reference)? {
            Some(named)
        } else {
            let prefix = id_prefix(reference, InstanceId::PREFIX).ok_or_else(not_found)?;
            match *self.catalogue.instance_ids_from(&prefix)? {
                [] => None,
                [id] => self.catalogue.instance(&id)?,
                _ => return Err(ambiguous("instance", reference)),
            }
        };
        let instance = found.ok_or_else(not_found)?;
        self.truth(instance)?.ok_or_else(not_found)
    }

    /// The instance's volumes, root first.
    ///
    /// # Errors
    /// [`Error::Catalogue`]
    pub fn instance_volumes(&self, id: &InstanceId) -> Result<Vec<VolumeRecord>, Error> {
        Ok(self.catalogue.volumes_of(id)?)
    }

    /// Writes down what has become of the instance. With its end its ephemeral disks are deleted:
    /// let go of its volumes before, and of its lock after.
    ///
    /// # Errors
    /// [`Error::InstanceNotFound`], [`Error::Catalogue`]
    pub fn update_instance(
        &self,
        id: &InstanceId,
        update: &InstanceUpdate<'_>,
    ) -> Result<(), Error> {
        let found = if update.state.is_live() {
            let transaction = self.quick()?;
            let found = self
                .catalogue
                .set_instance_state(id, update.state, update.reason)?;
            self.catalogue.commit(transaction)?;
            found
        } else {
            self.end(
                id,
                &End {
                    state: update.state,
                    reason: update.reason,
                    exit_status: update.exit_status,
                    time: Some(SystemTime::now()),
                },
            )?
        };
        match found {
            true => Ok(()),
            false => Err(instance_not_found(&id.to_string())),
        }
    }

    /// Removes an instance that has ended: its row, its folder, its ephemeral disks and the volumes
    /// with DeleteOnTermination. Its other volumes stay.
    ///
    /// After a crash of the host the instance may be listed again, to be removed again.
    ///
    /// # Errors
    /// [`Error::InstanceRuns`], [`Error::InstanceNotFound`], [`Error::Catalogue`], [`Error::Io`]
    pub fn remove_instance(&self, id: &InstanceId) -> Result<(), Error> {
        self.remove(id, |volume| volume.delete_on_termination)
    }

    /// Removes an instance that never ran, with everything that its launch made.
    ///
    /// # Errors
    /// As [`Store::remove_instance`].
    pub fn undo_launch(&self, id: &InstanceId) -> Result<(), Error> {
        self.remove(id, |_| true)
    }

    fn remove(&self, id: &InstanceId, goes: fn(&VolumeRecord) -> bool) -> Result<(), Error> {
        let _lock = self.lock_ended(id)?;
        let transaction = self.quick()?;
        if self.catalogue.instance(id)?.is_none() {
            return Err(instance_not_found(&id.to_string()));
        }
        let mut deleted = Vec::new();
        for volume in self.catalogue.volumes_of(id)? {
            if goes(&volume) {
                self.remove_volume_row(&volume)?;
                deleted.push(volume.id);
            } else {
                self.catalogue.detach_volume(&volume.id)?;
            }
        }
        self.catalogue.remove_instance(id)?;
        self.catalogue.commit(transaction)?;

        // Nothing names them any more: what cannot be deleted now is swept later.
        for volume in deleted {
            if let Err(error) = self.volumes.delete(&volume) {
                tracing::warn!(%volume, %error, "cannot delete a volume");
            }
        }
        let folder = self.instance_folder(id);
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %folder.display(), %error, "cannot delete an instance's folder");
        }
        self.release_snapshots();
        self.catalogue.tidy();
        Ok(())
    }

    /// Writes down the end of an instance and deletes its ephemeral disks. False where there is no
    /// such instance.
    fn end(&self, id: &InstanceId, end: &End<'_>) -> Result<bool, Error> {
        let volumes = self.catalogue.volumes_of(id)?;
        let ephemeral = volumes.iter().filter(|volume| volume.ephemeral.is_some());
        let mut deleted = Vec::new();
        for volume in ephemeral {
            match self.volumes.delete(&volume.id) {
                Ok(()) => deleted.push(volume),
                // The row stays, and goes with the instance.
                Err(error) => {
                    tracing::warn!(id = %volume.id, %error, "cannot delete an ephemeral disk");
                }
            }
        }
        let transaction = self.quick()?;
        for volume in &deleted {
            self.remove_volume_row(volume)?;
        }
        let found = self.catalogue.end_instance(id, end)?;
        self.catalogue.commit(transaction)?;
        self.catalogue.tidy();
        Ok(found)
    }

    /// Writes down the end of every instance whose process was killed, and removes those that were
    /// to be removed then.
    pub(super) fn end_killed(&self) -> Result<(), Error> {
        for instance in self.catalogue.instances()? {
            let id = &instance.id;
            if !(instance.state.is_live() || instance.remove_at_end) || self.is_held(id)? {
                continue;
            }
            let Some(now) = self.catalogue.instance(id)? else {
                continue;
            };
            if now.state.is_live() {
                self.end(
                    id,
                    &End {
                        state: InstanceState::Stopped,
                        reason: Some(KILLED_REASON),
                        exit_status: Some(KILLED_STATUS),
                        time: None,
                    },
                )?;
            }
            if now.remove_at_end {
                match self.remove_instance(id) {
                    Ok(()) | Err(Error::InstanceNotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// The instance as it is, whatever its row says; none where it was removed meanwhile.
    fn truth(&self, instance: Instance) -> Result<Option<Instance>, Error> {
        if !instance.state.is_live() || self.is_held(&instance.id)? {
            return Ok(Some(instance));
        }
        let Some(mut instance) = self.catalogue.instance(&instance.id)? else {
            return Ok(None);
        };
        if instance.state.is_live() {
            instance.state = InstanceState::Stopped;
            instance.state_reason = Some(KILLED_REASON.to_owned());
            instance.exit_status = Some(KILLED_STATUS);
            instance.pid = None;
        }
        Ok(Some(instance))
    }

    /// Whether the instance's process lives.
    fn is_held(&self, id: &InstanceId) -> Result<bool, Error> {
        match self.lock_ended(id) {
            Ok(_) => Ok(false),
            Err(Error::InstanceRuns { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The lock of an instance without a process, shared with others who look at it or remove it:
    /// they must not look like its process to each other. None where even the lock is gone.
    pub(super) fn lock_ended(&self, id: &InstanceId) -> Result<Option<File>, Error> {
        let path = self.instance_folder(id).join(LOCK_FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", &path)(error)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Err(Error::InstanceRuns { instance: *id }),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
        }
    }
}

fn instance_not_found(reference: &str) -> Error {
    Error::InstanceNotFound {
        reference: reference.to_owned(),
    }
}
