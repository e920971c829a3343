//! `kami ps`, `logs`, `stop` and `rm`: the instances and their lives.

use std::io;
use std::time::{Duration, SystemTime};

use kami_image::store::{self, Instance, Store, iso8601};
use serde_json::{Value, json};

use super::output::{Format, OutputArgs, print, print_json, table, tolerate_broken_pipe};
use super::value::show_span;
use super::{Error, open_store};
use crate::architecture;
use crate::console_log::Reader;
use crate::control;
use crate::exit::Exit;
use crate::instance;

#[derive(Debug, clap::Args)]
pub struct PsArgs {
    /// List the instances that have ended too
    #[arg(long, short)]
    all: bool,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// The instance: its id, a unique start of it, or its name
    id: String,

    /// Go on until the instance ends
    #[arg(long, short)]
    follow: bool,
}

#[derive(Debug, clap::Args)]
pub struct StopArgs {
    /// The instances: their ids, unique starts of them, or names
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,

    /// Seconds that a guest has to react to its power button before it is ended by force
    #[arg(long, short, value_name = "SECONDS", default_value_t = 30)]
    time: u32,
}

#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// The instances: their ids, unique starts of them, or names
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,

    /// End running instances by force first
    #[arg(long, short)]
    force: bool,
}

impl PsArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let store = open_store()?;
        let mut instances = store.instances()?;
        instances.retain(|instance| self.all || instance.state.is_live());
        match self.output.format {
            Format::Json => {
                let reservations = instances
                    .iter()
                    .map(|instance| reservation(&store, instance));
                let reservations = reservations.collect::<Result<Vec<_>, _>>()?;
                print_json(&json!({ "Reservations": reservations }))?;
            }
            Format::Table => {
                let now = SystemTime::now();
                let rows: Vec<_> = instances
                    .iter()
                    .map(|instance| row(instance, now))
                    .collect();
                print(&table(
                    [
                        "INSTANCE ID",
                        "NAME",
                        "IMAGE",
                        "STATE",
                        "LAUNCHED",
                        "REASON",
                    ],
                    &rows,
                ))?;
            }
        }
        Ok(Exit::Done)
    }
}

fn row(instance: &Instance, now: SystemTime) -> [String; 6] {
    let age = now.duration_since(instance.launch_time).unwrap_or_default();
    [
        instance.id.to_string(),
        instance.name.clone().unwrap_or_default(),
        instance.image_name.clone(),
        match instance.exit_status {
            Some(status) => format!("{} ({status})", instance.state),
            None => instance.state.to_string(),
        },
        format!("{} ago", show_span(age.as_secs())),
        instance.state_reason.clone().unwrap_or_default(),
    ]
}

/// An instance as EC2's describe-instances shows one: in a reservation of its own.
fn reservation(store: &Store, instance: &Instance) -> Result<Value, Error> {
    let volumes = store.instance_volumes(&instance.id)?;
    // Ephemeral disks never appear there.
    let attached = volumes.iter().filter(|volume| volume.ephemeral.is_none());
    let mappings: Vec<_> = attached
        .map(|volume| {
            json!({
                "DeviceName": volume.device_name,
                "Ebs": {
                    "VolumeId": volume.id,
                    "Status": "attached",
                    "DeleteOnTermination": volume.delete_on_termination,
                },
            })
        })
        .collect();
    let id = instance.id.to_string();
    let mut shown = json!({
        "InstanceId": id,
        "ImageId": instance.image_id,
        "State": { "Code": instance.state.code(), "Name": instance.state.as_str() },
        "LaunchTime": iso8601(instance.launch_time),
        "Architecture": architecture_of(store, instance)?,
        "VirtualizationType": "hvm",
        "RootDeviceType": "ebs",
        "BlockDeviceMappings": mappings,
        "CpuOptions": { "CoreCount": instance.cpus, "ThreadsPerCore": 1 },
    });
    if let Some(name) = &instance.name {
        shown["Tags"] = json!([{ "Key": "Name", "Value": name }]);
    }
    if let Some(root) = volumes.first() {
        shown["RootDeviceName"] = json!(root.device_name);
    }
    if let Some(message) = &instance.state_reason {
        let code = reason_code(instance.exit_status);
        shown["StateReason"] = json!({ "Code": code, "Message": message });
    }
    Ok(json!({ "ReservationId": id.replacen("i-", "r-", 1), "Instances": [shown] }))
}

/// What the image says, as EC2 shows it; a guest whose image is gone ran here all the same.
fn architecture_of(store: &Store, instance: &Instance) -> Result<architecture::Word, Error> {
    match store.image(&instance.image_id.to_string()) {
        Ok(image) => Ok(image.architecture),
        Err(store::Error::ImageNotFound { .. }) => Ok(architecture::HOST),
        Err(error) => Err(error.into()),
    }
}

/// EC2's word for who ended the instance.
fn reason_code(exit_status: Option<u8>) -> &'static str {
    match exit_status {
        Some(0) => "Client.InstanceInitiatedShutdown",
        Some(137) => "Client.UserInitiatedShutdown",
        _ => "Server.InternalError",
    }
}

impl LogsArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let store = open_store()?;
        let id = store.instance(&self.id)?.id;
        let mut log = Reader::open(&store.instance_folder(&id))?;
        let mut out = io::stdout().lock();
        let copied = if self.follow {
            let lives = || {
                store
                    .instance(&id.to_string())
                    .is_ok_and(|now| now.state.is_live())
            };
            log.follow(&mut out, || !lives())
        } else {
            log.copy(&mut out)
        };
        tolerate_broken_pipe(copied)?;
        Ok(Exit::Done)
    }
}

impl StopArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let store = open_store()?;
        let grace = Duration::from_secs(self.time.into());
        for instance in all(&store, &self.ids)? {
            instance::stop(&store, &instance, grace)?;
            print(&format!("{}\n", instance.id))?;
        }
        Ok(Exit::Done)
    }
}

impl RmArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let store = open_store()?;
        for instance in all(&store, &self.ids)? {
            if self.force {
                instance::kill(&store, &instance)?;
            }
            match store.remove_instance(&instance.id) {
                // It was to be removed at its end, and has just removed itself.
                Err(store::Error::InstanceNotFound { .. }) if instance.remove_at_end => {}
                removed => removed?,
            }
            control::forget(&instance.id.to_string());
            print(&format!("{}\n", instance.id))?;
        }
        // Whoever removes things wants the space of what a crash left, too.
        store.sweep()?;
        Ok(Exit::Done)
    }
}

/// Every instance that is named: one bad id fails the whole command, before anything is done.
fn all(store: &Store, ids: &[String]) -> Result<Vec<Instance>, Error> {
    Ok(ids
        .iter()
        .map(|id| store.instance(id))
        .collect::<Result<_, _>>()?)
}
