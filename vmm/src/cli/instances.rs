//! `kami instance`, and `kami ps`: the instances there are.

use std::time::SystemTime;

use kami_image::filter::{self, Noun};
use kami_image::store::{Instance, InstanceState, Store, iso8601};
use serde_json::{Value, json};

use super::filter::{ListArgs, tell_token};
use super::instance_types::TypesArgs;
use super::instances_describe::{describe, reservation, reservations};
use super::instances_modify::ModifyArgs;
use super::instances_verbs::{
    LogsArgs, RebootArgs, RmArgs, StartArgs, StopArgs, TerminateArgs, all,
};
use super::output::{Format, OutputArgs, print, print_json, table};
use super::run;
use super::tag::{TagArgs, UntagArgs};
use super::value::{show_size, show_span};
use super::{Error, open_store};
use crate::exit::Exit;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Launch an instance from an image
    Run(Box<run::Args>),
    /// List instances
    Ls(PsArgs),
    /// List instance types, your own first
    Types(TypesArgs),
    /// Show all about instances
    Show(ShowArgs),
    /// Start stopped instances again
    Start(StartArgs),
    /// Stop instances: press the power button, after a grace time end them by force
    Stop(StopArgs),
    /// Reboot instances
    Reboot(RebootArgs),
    /// End instances for good, with the volumes that go with them
    Terminate(TerminateArgs),
    /// Change an instance: most of it while it is stopped
    Modify(ModifyArgs),
    /// Give an instance tags
    Tag(TagArgs),
    /// Take tags from an instance
    Untag(UntagArgs),
    /// Print what an instance wrote to its console
    Logs(LogsArgs),
    /// Terminate instances that have ended, and list them no more
    Rm(RmArgs),
}

impl Command {
    pub fn run(self) -> Result<Exit, Error> {
        match self {
            Self::Run(args) => args.run(),
            Self::Ls(args) => args.run(),
            Self::Types(args) => args.run(),
            Self::Show(args) => args.run(),
            Self::Start(args) => args.run(),
            Self::Stop(args) => args.run(),
            Self::Reboot(args) => args.run(),
            Self::Terminate(args) => args.run(),
            Self::Modify(args) => args.run(),
            Self::Tag(args) => {
                let store = open_store()?;
                args.run(&store, |reference| id(&store, reference))
            }
            Self::Untag(args) => {
                let store = open_store()?;
                args.run(&store, |reference| id(&store, reference))
            }
            Self::Logs(args) => args.run(),
            Self::Rm(args) => args.run(),
        }
    }
}

fn id(store: &Store, reference: &str) -> Result<String, Error> {
    Ok(store.instance(reference)?.id.to_string())
}

#[derive(Debug, clap::Args)]
pub struct PsArgs {
    /// List the instances that have ended too; terminated ones for an hour
    #[arg(long, short)]
    all: bool,

    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The instances: their ids, unique starts of them, or names
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,

    #[command(flatten)]
    output: OutputArgs,
}

impl PsArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let filters = self.list.filters(Noun::Instance)?;
        let store = open_store()?;
        let mut instances = store.instances()?;
        let by_state = ["instance-state-name", "instance-state-code"];
        if !self.all && !by_state.iter().any(|name| filters.has(name)) {
            instances.retain(|instance| instance.state.is_live());
        }
        let is_json = self.list.output.format == Format::Json;
        let mut shown = Vec::with_capacity(instances.len());
        for instance in instances {
            let value = match is_json || !filters.is_empty() {
                true => describe(&store, &instance)?,
                false => Value::Null,
            };
            if filters.matches_within(&value, &reservation(&instance)) {
                shown.push((instance, value));
            }
        }
        // In the order of the listing.
        let key = |(instance, _): &(Instance, Value)| {
            format!("{} {}", iso8601(instance.launch_time), instance.id)
        };
        let (page, token) = filter::cut(shown, &self.list.page(), key);
        if is_json {
            let mut listing = reservations(page);
            if let Some(token) = token {
                listing["NextToken"] = json!(token.to_string());
            }
            print_json(&listing)?;
            return Ok(Exit::Done);
        }
        let now = SystemTime::now();
        let rows: Vec<_> = page.iter().map(|(it, _)| row(it, now)).collect();
        let header = [
            "INSTANCE ID",
            "NAME",
            "IMAGE",
            "STATE",
            "LAUNCHED",
            "REASON",
        ];
        print(&table(header, &rows))?;
        tell_token(token.as_ref());
        Ok(Exit::Done)
    }
}

fn row(instance: &Instance, now: SystemTime) -> [String; 6] {
    [
        instance.id.to_string(),
        instance.name.clone().unwrap_or_default(),
        instance.image_name.clone(),
        state(instance),
        age(instance, now),
        instance.state_reason.clone().unwrap_or_default(),
    ]
}

fn state(instance: &Instance) -> String {
    match instance.exit_status {
        Some(status) => format!("{} ({status})", instance.state),
        None => instance.state.to_string(),
    }
}

fn age(instance: &Instance, now: SystemTime) -> String {
    let age = now.duration_since(instance.launch_time).unwrap_or_default();
    format!("{} ago", show_span(age.as_secs()))
}

impl ShowArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let store = open_store()?;
        let instances = all(&store, &self.ids)?;
        match self.output.format {
            Format::Json => {
                let mut shown = Vec::with_capacity(instances.len());
                for instance in instances {
                    let value = describe(&store, &instance)?;
                    shown.push((instance, value));
                }
                print_json(&reservations(shown))?;
            }
            Format::Table => {
                let shown: Result<Vec<_>, _> =
                    instances.iter().map(|it| page(&store, it)).collect();
                print(&shown?.join("\n"))?;
            }
        }
        Ok(Exit::Done)
    }
}

/// All about an instance, a line each.
fn page(store: &Store, instance: &Instance) -> Result<String, Error> {
    let settings = &instance.settings;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let boot = |file: &Option<_>| file.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut lines = vec![
        ("Instance", instance.id.to_string()),
        ("Name", text(&instance.name)),
        ("State", state(instance)),
        ("Reason", text(&instance.state_reason)),
        (
            "Image",
            format!("{} {}", instance.image_id, instance.image_name),
        ),
        ("Type", text(&settings.instance_type)),
        (
            "Size",
            format!(
                "{} processors, {} of memory",
                instance.cpus,
                show_size(instance.memory_bytes)
            ),
        ),
        ("Launched", iso8601(instance.launch_time)),
        ("Ended", instance.end_time.map(iso8601).unwrap_or_default()),
        ("Reservation", instance.reservation.clone()),
        ("Owner", instance.owner.to_string()),
        ("Kernel", boot(&settings.kernel)),
        ("Ramdisk", boot(&settings.ramdisk)),
        ("Append", settings.append.clone()),
        (
            "User data",
            settings
                .user_data
                .as_ref()
                .map(|data| show_size(data.bytes().len() as u64))
                .unwrap_or_default(),
        ),
        ("Root device", settings.root_device_type.to_string()),
        (
            "At shutdown",
            match settings.is_instance_store() {
                true => "terminate".to_owned(),
                false => settings.shutdown_behavior.to_string(),
            },
        ),
    ];
    if settings.disable_api_termination {
        lines.push(("Protected", "from termination".to_owned()));
    }
    for tag in store.tags(&instance.id.to_string())? {
        lines.push(("Tag", format!("{}={}", tag.key, tag.value)));
    }
    for volume in disks(store, instance)? {
        lines.push(("Disk", volume));
    }
    lines.retain(|(_, value)| !value.is_empty());
    let line = |(name, value): &(&str, String)| format!("{:13}{value}\n", format!("{name}:"));
    Ok(lines.iter().map(line).collect())
}

/// The instance's disks, also those that EC2 does not list.
fn disks(store: &Store, instance: &Instance) -> Result<Vec<String>, Error> {
    let volumes = store.instance_volumes(&instance.id)?;
    let of = volumes.iter().map(|volume| {
        let kind = match (volume.ephemeral, volume.volume_type) {
            (Some(index), _) => format!("ephemeral{index}"),
            (None, Some(volume_type)) => volume_type.to_string(),
            (None, None) => "instance-store".to_owned(),
        };
        let goes = match volume.delete_on_termination {
            true => "deleted on termination",
            false => "kept",
        };
        let size = show_size(volume.size_bytes);
        format!("{} {} {size} {kind}, {goes}", volume.device_name, volume.id)
    });
    let mut shown: Vec<String> = of.collect();
    if instance.state == InstanceState::Stopped {
        let later = instance.settings.ephemeral.iter();
        shown.extend(
            later.map(|disk| format!("{} ephemeral{}, at its start", disk.device_name, disk.index)),
        );
    }
    Ok(shown)
}
