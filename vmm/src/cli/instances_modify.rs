//! `kami instance modify`, after EC2's modify-instance-attribute.

use std::path::PathBuf;

use kami_image::instance::ShutdownBehavior;
use kami_image::store::{Hardware, Instance, InstanceChange};

use super::output::print;
use super::run::{boot_file, user_data};
use super::value::memory_bytes;
use super::{Error, open_store};
use crate::config::Config;
use crate::exit::Exit;

#[derive(Debug, clap::Args)]
pub struct ModifyArgs {
    /// The instance: its id, a unique start of it, or its name
    id: String,

    /// Another instance type; while it is stopped
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    instance_type: Option<String>,

    /// Number of virtual CPUs, 1 to 32; while it is stopped
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32))]
    cpus: Option<u32>,

    /// Size of the guest's memory, such as 512M or 2G; while it is stopped
    #[arg(long, short, value_name = "SIZE", value_parser = memory_bytes)]
    memory: Option<u64>,

    /// Another kernel, a file or an aki-ID; while it is stopped
    #[arg(long, value_name = "FILE|ID")]
    kernel: Option<PathBuf>,

    /// Another initial ramdisk, a file or an ari-ID; while it is stopped
    #[arg(long, value_name = "FILE|ID")]
    initrd: Option<PathBuf>,

    /// Another end of the kernel's command line; while it is stopped
    #[arg(long, value_name = "STR", allow_hyphen_values = true)]
    append: Option<String>,

    /// Other user data; while it is stopped
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,

    /// What becomes of the instance when its guest powers off: stop or terminate
    #[arg(long, value_name = "BEHAVIOR")]
    shutdown_behavior: Option<ShutdownBehavior>,

    /// Whether to refuse to terminate or remove the instance
    #[arg(long, value_name = "true|false")]
    disable_api_termination: Option<bool>,

    /// Whether the volume of a device is deleted when the instance is terminated
    #[arg(long, value_name = "DEVICE=true|false", value_parser = deletion)]
    delete_on_termination: Vec<(String, bool)>,
}

fn deletion(text: &str) -> Result<(String, bool), String> {
    text.split_once('=')
        .and_then(|(device, delete)| Some((device.to_owned(), delete.parse().ok()?)))
        .ok_or_else(|| format!("'{text}' is not DEVICE=true or DEVICE=false"))
}

impl ModifyArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let store = open_store()?;
        let instance = store.instance(&self.id)?;
        let change = InstanceChange {
            hardware: self.hardware(&instance)?,
            kernel: boot_file(self.kernel)?,
            ramdisk: boot_file(self.initrd)?,
            append: self.append,
            user_data: self.user_data.map(user_data).transpose()?,
            shutdown_behavior: self.shutdown_behavior,
            disable_api_termination: self.disable_api_termination,
            delete_on_termination: self.delete_on_termination,
        };
        if change == InstanceChange::default() {
            return Err(Error::Usage("nothing to modify: give at least one option"));
        }
        store.modify_instance(&instance.id, &change)?;
        print(&format!("{}\n", instance.id))?;
        Ok(Exit::Done)
    }

    /// The size that the instance gets: what is given, else the type's, else what it has.
    fn hardware(&self, instance: &Instance) -> Result<Option<Hardware>, Error> {
        if self.instance_type.is_none() && self.cpus.is_none() && self.memory.is_none() {
            return Ok(None);
        }
        let of_type = match &self.instance_type {
            Some(name) => Some(Config::load()?.instance_type(name)?),
            None => None,
        };
        let of_type = of_type.as_ref();
        let had = &instance.settings.instance_type;
        Ok(Some(Hardware {
            instance_type: self.instance_type.clone().or_else(|| had.clone()),
            cpus: self
                .cpus
                .or(of_type.map(|it| it.vcpus))
                .unwrap_or(instance.cpus),
            memory_bytes: self
                .memory
                .or(of_type.map(|it| it.memory_bytes))
                .unwrap_or(instance.memory_bytes),
        }))
    }
}
