//! Instances after their launch: what they are up to.
//!
//! An instance's process holds a lock as long as it lives. A row that says that the instance lives,
//! while nobody holds the lock, is that of a process that was killed, by hand or with its host, and
//! is shown as what it has come to: a process writes its end into the row before it lets go of the
//! lock, so a row that is read after the lock was found free tells the truth.

use std::fs::{File, TryLockError};
use std::io;
use std::time::{Duration, SystemTime};

use super::launch::LOCK_FILE;
use super::{Error, Instance, InstanceState, Store, VolumeRecord, ambiguous, id_prefix};
use crate::id::InstanceId;

/// The exit status of an instance whose process was killed: what a shell says of one.
pub(super) const KILLED_STATUS: u8 = 137;

pub(super) const KILLED_REASON: &str = "killed: its process is gone";

/// How long a terminated instance is listed, as on EC2.
pub const LISTED_AFTER_END: Duration = Duration::from_secs(3600);

impl Instance {
    /// What has become of the instance once its process is gone, whatever its row said before.
    pub(super) fn settled_state(&self) -> InstanceState {
        match self.state {
            InstanceState::ShuttingDown | InstanceState::Terminated => InstanceState::Terminated,
            _ if self.settings.is_instance_store() => InstanceState::Terminated,
            _ => InstanceState::Stopped,
        }
    }

    /// Whether it was terminated so long ago that it is no longer listed.
    pub(super) fn is_forgotten(&self, now: SystemTime) -> bool {
        self.state == InstanceState::Terminated
            && self
                .end_time
                .and_then(|end| now.duration_since(end).ok())
                .is_some_and(|since| since > LISTED_AFTER_END)
    }

    /// EC2's rule for what can stop; one that has stopped can.
    ///
    /// # Errors
    /// [`Error::InstanceStoreStop`], [`Error::InstanceState`]
    pub fn check_can_stop(&self) -> Result<(), Error> {
        match self.state {
            InstanceState::ShuttingDown | InstanceState::Terminated => Err(self.cannot("stopped")),
            _ if self.settings.is_instance_store() => {
                Err(Error::InstanceStoreStop { instance: self.id })
            }
            _ => Ok(()),
        }
    }

    /// EC2's rule for what can start; one that runs can, to no effect.
    ///
    /// # Errors
    /// [`Error::InstanceState`]
    pub fn check_can_start(&self) -> Result<(), Error> {
        match self.state {
            InstanceState::Pending | InstanceState::Running | InstanceState::Stopped => Ok(()),
            _ => Err(self.cannot("started")),
        }
    }

    /// # Errors
    /// [`Error::InstanceState`]
    pub fn check_can_reboot(&self) -> Result<(), Error> {
        match self.state {
            InstanceState::Pending | InstanceState::Running => Ok(()),
            _ => Err(self.cannot("rebooted")),
        }
    }

    /// EC2's rule for what can be terminated: all but what is protected, again and again.
    ///
    /// # Errors
    /// [`Error::TerminationProtected`]
    pub fn check_can_terminate(&self) -> Result<(), Error> {
        let is_over = matches!(
            self.state,
            InstanceState::ShuttingDown | InstanceState::Terminated
        );
        match self.settings.disable_api_termination && !is_over {
            true => Err(Error::TerminationProtected { instance: self.id }),
            false => Ok(()),
        }
    }

    pub(super) fn cannot(&self, done: &'static str) -> Error {
        Error::InstanceState {
            instance: self.id,
            done,
            state: self.state,
        }
    }
}

impl Store {
    /// Every instance, oldest first; terminated ones for an hour.
    ///
    /// # Errors
    /// [`Error::Catalogue`]; [`Error::Io`] where a lock cannot be asked.
    pub fn instances(&self) -> Result<Vec<Instance>, Error> {
        let now = SystemTime::now();
        self.catalogue
            .instances()?
            .into_iter()
            .filter(|instance| !instance.is_forgotten(now))
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
            let prefix = id_prefix(reference, InstanceId::PREFIX, not_found)?;
            match *self.catalogue.instance_ids_from(&prefix)? {
                [] => None,
                [id] => self.catalogue.instance(&id)?,
                _ => return Err(ambiguous("instance", reference)),
            }
        };
        let now = SystemTime::now();
        let listed = found.filter(|instance| !instance.is_forgotten(now));
        self.truth(listed.ok_or_else(not_found)?)?
            .ok_or_else(not_found)
    }

    /// The instance's volumes, root first.
    ///
    /// # Errors
    /// [`Error::Catalogue`]
    pub fn instance_volumes(&self, id: &InstanceId) -> Result<Vec<VolumeRecord>, Error> {
        Ok(self.catalogue.volumes_of(id)?)
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
            instance.state = instance.settled_state();
            instance.state_reason = Some(KILLED_REASON.to_owned());
            instance.exit_status = Some(KILLED_STATUS);
            instance.pid = None;
        }
        Ok(Some(instance))
    }

    /// Whether the instance's process lives.
    pub(super) fn is_held(&self, id: &InstanceId) -> Result<bool, Error> {
        match self.lock_ended(id) {
            Ok(_) => Ok(false),
            Err(Error::InstanceRuns { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The lock of an instance without a process, shared with others who look at it or remove it:
    /// they must not look like its process to each other. None where even the lock is gone.
    ///
    /// # Errors
    /// [`Error::InstanceRuns`], [`Error::Io`]
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

pub(super) fn instance_not_found(reference: &str) -> Error {
    Error::InstanceNotFound {
        reference: reference.to_owned(),
    }
}
