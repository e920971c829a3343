//! Modifying an instance, as EC2's modify-instance-attribute does: what its machine is made of while
//! it is stopped, what becomes of it and its volumes at any time.

use super::{Error, Instance, InstanceState, Store};
use crate::id::InstanceId;
use crate::instance::{BootFile, ShutdownBehavior, UserData};

/// What is to change; nothing, by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceChange {
    pub hardware: Option<Hardware>,
    pub kernel: Option<BootFile>,
    pub ramdisk: Option<BootFile>,
    /// What follows the default command line of the kernel.
    pub append: Option<String>,
    pub user_data: Option<UserData>,
    pub shutdown_behavior: Option<ShutdownBehavior>,
    pub disable_api_termination: Option<bool>,
    /// By the names of the devices.
    pub delete_on_termination: Vec<(String, bool)>,
}

/// The size of an instance, and the type that it comes of, if it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardware {
    pub instance_type: Option<String>,
    pub cpus: u32,
    pub memory_bytes: u64,
}

impl InstanceChange {
    fn needs_stopped(&self) -> bool {
        self.hardware.is_some()
            || self.kernel.is_some()
            || self.ramdisk.is_some()
            || self.append.is_some()
            || self.user_data.is_some()
    }

    fn apply(&self, instance: &mut Instance) {
        if let Some(hardware) = &self.hardware {
            instance.cpus = hardware.cpus;
            instance.memory_bytes = hardware.memory_bytes;
            instance
                .settings
                .instance_type
                .clone_from(&hardware.instance_type);
        }
        let settings = &mut instance.settings;
        if self.kernel.is_some() {
            settings.kernel.clone_from(&self.kernel);
        }
        if self.ramdisk.is_some() {
            settings.ramdisk.clone_from(&self.ramdisk);
        }
        if let Some(append) = &self.append {
            settings.append.clone_from(append);
        }
        if self.user_data.is_some() {
            settings.user_data.clone_from(&self.user_data);
        }
        if let Some(behavior) = self.shutdown_behavior {
            settings.shutdown_behavior = behavior;
        }
        if let Some(disable) = self.disable_api_termination {
            settings.disable_api_termination = disable;
        }
    }
}

impl Store {
    /// Changes the instance, wholly or not at all.
    ///
    /// # Errors
    /// [`Error::InstanceNotStopped`], [`Error::InstanceState`] where it is terminated,
    /// [`Error::NoDevice`], [`Error::InstanceNotFound`], [`Error::Catalogue`], [`Error::Io`]
    pub fn modify_instance(&self, id: &InstanceId, change: &InstanceChange) -> Result<(), Error> {
        // Held until it is changed: nobody starts it meanwhile.
        let (_lock, runs) = match self.lock_ended(id) {
            Err(Error::InstanceRuns { .. }) => (None, true),
            lock => (lock?, false),
        };
        let transaction = self.durable()?;
        let found = self.catalogue.instance(id)?;
        let mut instance =
            found.ok_or_else(|| super::instance::instance_not_found(&id.to_string()))?;
        if instance.state == InstanceState::ShuttingDown
            || instance.state == InstanceState::Terminated
        {
            return Err(instance.cannot("modified"));
        }
        if runs && change.needs_stopped() {
            return Err(Error::InstanceNotStopped { instance: *id });
        }
        change.apply(&mut instance);
        self.catalogue.change_instance(&instance)?;
        let volumes = self.catalogue.volumes_of(id)?;
        for (device, delete) in &change.delete_on_termination {
            let volume = volumes
                .iter()
                .find(|v| v.device_name == *device && !v.is_temporary());
            let volume = volume.ok_or_else(|| Error::NoDevice {
                device: device.clone(),
            })?;
            self.catalogue
                .set_delete_on_termination(&volume.id, *delete)?;
        }
        Ok(self.catalogue.commit(transaction)?)
    }
}
