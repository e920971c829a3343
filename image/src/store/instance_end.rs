//! How instances end: stopping keeps their volumes, terminating deletes those with
//! DeleteOnTermination and lets go of the others, removing also forgets the instance.
//!
//! Rows go first, in one transaction; what is then not deleted for a crash has no row and is swept.
//! Who ends an instance from outside says so in its row before (`stopping`, `shutting-down`); its
//! process reads that when its guest has ended, and so does whoever finds the process killed.

use std::io;
use std::time::SystemTime;

use super::instance::{KILLED_REASON, KILLED_STATUS, instance_not_found};
use super::{Error, Instance, InstanceState, Store, VolumeRecord};
use crate::catalogue::End;
use crate::fault;
use crate::id::InstanceId;
use crate::instance::ShutdownBehavior;

/// Why an instance is stopped or terminated whose guest powered off when it was asked to.
pub const STOPPED_REASON: &str = "stopped on request";
pub const TERMINATED_REASON: &str = "terminated on request";

/// What a process exits with that could not start its guest.
const FAILED_STATUS: u8 = 1;

/// How an instance's guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestEnd<'a> {
    /// Of itself, so that the shutdown behaviour counts.
    pub powered_off: bool,
    pub reason: &'a str,
    /// What its process exits with.
    pub exit_status: u8,
}

impl Store {
    /// The guest runs, unless the instance was told to end before.
    ///
    /// # Errors
    /// [`Error::Catalogue`]
    pub fn set_running(&self, id: &InstanceId) -> Result<(), Error> {
        self.move_instance(id, &[InstanceState::Pending], InstanceState::Running)
    }

    /// The instance is about to be stopped: its process is asked next.
    ///
    /// # Errors
    /// Those of [`Instance::check_can_stop`]; [`Error::Catalogue`]
    pub fn begin_stop(&self, instance: &Instance) -> Result<(), Error> {
        use InstanceState::{Pending, Running, Stopping};
        instance.check_can_stop()?;
        self.move_instance(&instance.id, &[Pending, Running], Stopping)
    }

    /// The instance is about to be terminated: its process, if it has one, is asked next, and then
    /// comes [`Store::terminate`].
    ///
    /// # Errors
    /// Those of [`Instance::check_can_terminate`]; [`Error::Catalogue`]
    pub fn begin_termination(&self, instance: &Instance) -> Result<(), Error> {
        use InstanceState::{Pending, Running, ShuttingDown, Stopping};
        instance.check_can_terminate()?;
        let live = [Pending, Running, Stopping];
        self.move_instance(&instance.id, &live, ShuttingDown)?;
        fault::point("terminate.begun");
        Ok(())
    }

    fn move_instance(
        &self,
        id: &InstanceId,
        from: &[InstanceState],
        to: InstanceState,
    ) -> Result<(), Error> {
        let transaction = self.quick()?;
        self.catalogue.move_instance(id, from, to)?;
        Ok(self.catalogue.commit(transaction)?)
    }

    /// Writes down the end of the caller's own instance: it is terminated where it is shutting down,
    /// where its guest powered off and its shutdown behaviour says so, and where its root disk is
    /// temporary; else stopped, and its ephemeral disks are deleted. Let go of its volumes before,
    /// and of its lock after. Returns the state it has come to.
    ///
    /// # Errors
    /// [`Error::InstanceNotFound`], [`Error::Catalogue`]
    pub fn end_instance(
        &self,
        id: &InstanceId,
        end: &GuestEnd<'_>,
    ) -> Result<InstanceState, Error> {
        self.end_as(id, |instance| {
            let by_itself = end.powered_off
                && matches!(
                    instance.state,
                    InstanceState::Pending | InstanceState::Running
                );
            let terminates = instance.settings.shutdown_behavior == ShutdownBehavior::Terminate;
            let state = match by_itself && terminates {
                true => InstanceState::Terminated,
                false => instance.settled_state(),
            };
            let reason = match state {
                _ if by_itself || !end.powered_off => end.reason,
                InstanceState::Terminated => TERMINATED_REASON,
                _ => STOPPED_REASON,
            };
            Some(End {
                state,
                reason: Some(reason),
                exit_status: Some(end.exit_status),
                time: Some(SystemTime::now()),
            })
        })
    }

    /// Terminates an instance without a process. One that is terminated stays so.
    ///
    /// # Errors
    /// [`Error::InstanceRuns`], [`Error::InstanceNotFound`], [`Error::Catalogue`], [`Error::Io`]
    pub fn terminate(&self, id: &InstanceId) -> Result<(), Error> {
        let _lock = self.lock_ended(id)?;
        self.end_as(id, |instance| {
            (instance.state != InstanceState::Terminated).then_some(End {
                state: InstanceState::Terminated,
                reason: Some(TERMINATED_REASON),
                exit_status: instance.exit_status,
                time: Some(SystemTime::now()),
            })
        })?;
        Ok(())
    }

    /// Ends the instance as `decide` says of its row, if it says anything: rows first, then files.
    fn end_as<'a>(
        &self,
        id: &InstanceId,
        decide: impl Fn(&Instance) -> Option<End<'a>>,
    ) -> Result<InstanceState, Error> {
        let mut transaction = self.quick()?;
        let mut decided = self.decided(id, &decide)?;
        let terminates = |end: &End<'_>| end.state == InstanceState::Terminated;
        if decided.1.as_ref().is_some_and(terminates) {
            // The volumes that are deleted then must not come back in the catalogue.
            drop(transaction);
            transaction = self.durable()?;
            decided = self.decided(id, &decide)?;
        }
        let (_, Some(end)) = decided else {
            return Ok(decided.0);
        };
        let terminates = terminates(&end);
        let mut deleted = Vec::new();
        for volume in self.catalogue.volumes_of(id)? {
            if volume.is_temporary() || terminates && volume.delete_on_termination {
                self.remove_volume_row(&volume)?;
                deleted.push(volume.id);
            } else if terminates {
                self.catalogue.detach_volume(&volume.id)?;
            }
        }
        self.catalogue.end_instance(id, &end)?;
        if terminates {
            fault::point("terminate.changed");
        }
        self.catalogue.commit(transaction)?;
        if terminates {
            fault::point("terminate.committed");
        }
        if !deleted.is_empty() {
            self.volumes_gone(&deleted);
        }
        self.catalogue.tidy();
        Ok(end.state)
    }

    fn decided<'a>(
        &self,
        id: &InstanceId,
        decide: impl Fn(&Instance) -> Option<End<'a>>,
    ) -> Result<(InstanceState, Option<End<'a>>), Error> {
        let instance = self.catalogue.instance(id)?;
        let instance = instance.ok_or_else(|| instance_not_found(&id.to_string()))?;
        Ok((instance.state, decide(&instance)))
    }

    /// Removes an instance that has ended: its row, its folder, its temporary disks and the volumes
    /// with DeleteOnTermination. Its other volumes stay.
    ///
    /// After a crash of the host the instance may be listed again, to be removed again.
    ///
    /// # Errors
    /// [`Error::InstanceRuns`], [`Error::InstanceNotFound`], [`Error::Catalogue`], [`Error::Io`]
    pub fn remove_instance(&self, id: &InstanceId) -> Result<(), Error> {
        self.remove(id, |volume| {
            volume.delete_on_termination || volume.is_temporary()
        })
    }

    /// Removes an instance that never ran, with everything that its launch made.
    ///
    /// # Errors
    /// As [`Store::remove_instance`].
    pub fn undo_launch(&self, id: &InstanceId) -> Result<(), Error> {
        self.remove(id, |_| true)
    }

    fn remove(&self, id: &InstanceId, goes: impl Fn(&VolumeRecord) -> bool) -> Result<(), Error> {
        let _lock = self.lock_ended(id)?;
        let transaction = self.quick()?;
        if !self.catalogue.has_instance(id)? {
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
        self.catalogue.remove_all_tags(&id.to_string())?;
        self.catalogue.remove_instance(id)?;
        self.catalogue.commit(transaction)?;

        self.volumes_gone(&deleted);
        let folder = self.instance_folder(id);
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %folder.display(), %error, "cannot delete an instance's folder");
        }
        self.catalogue.tidy();
        Ok(())
    }

    /// Writes down the end of every instance whose process was killed, removes those that were to be
    /// removed then, and forgets those that were terminated long ago.
    pub(super) fn settle_instances(&self) -> Result<(), Error> {
        self.forget_tokens()?;
        let now = SystemTime::now();
        for instance in self.catalogue.instances()? {
            let goes = instance.remove_at_end || instance.is_forgotten(now);
            if !(instance.state.is_live() || goes) {
                continue;
            }
            match self.settle(&instance.id, goes) {
                // It runs, or has gone meanwhile.
                Ok(()) | Err(Error::InstanceRuns { .. } | Error::InstanceNotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn settle(&self, id: &InstanceId, goes: bool) -> Result<(), Error> {
        self.settle_instance(id)?;
        match goes {
            true => self.remove_instance(id),
            false => Ok(()),
        }
    }

    /// Writes down the end of an instance whose process was killed, if it was.
    ///
    /// # Errors
    /// [`Error::InstanceRuns`], [`Error::InstanceNotFound`], [`Error::Catalogue`], [`Error::Io`]
    pub fn settle_instance(&self, id: &InstanceId) -> Result<(), Error> {
        self.settle_as(id, KILLED_REASON, KILLED_STATUS)
    }

    /// Takes back a start whose guest never ran: the instance is stopped again. Let go of its volumes
    /// and of its lock before.
    ///
    /// # Errors
    /// As [`Store::settle_instance`].
    pub fn undo_start(&self, id: &InstanceId) -> Result<(), Error> {
        self.settle_as(id, "its start failed", FAILED_STATUS)
    }

    fn settle_as(&self, id: &InstanceId, reason: &str, exit_status: u8) -> Result<(), Error> {
        // Held until it is settled: nobody starts the instance meanwhile.
        let _lock = self.lock_ended(id)?;
        self.end_as(id, |instance| {
            let state = instance.settled_state();
            instance.state.is_live().then(|| End {
                state,
                reason: Some(reason),
                exit_status: Some(exit_status),
                // When it was killed is not known; one that is terminated is listed from now on.
                time: (state == InstanceState::Terminated).then(SystemTime::now),
            })
        })?;
        Ok(())
    }
}
