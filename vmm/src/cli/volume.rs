//! `kami volume`: make, attach, detach, modify, delete, list and show volumes.

use kami_image::filter::{self, Noun};
use kami_image::id::{SnapshotId, VolumeId};
use kami_image::manifest::{Ebs, GIB, Tag, VolumeType};
use kami_image::store::{Store, VolumeRecord};
use kami_image::time::iso8601;
use serde_json::{Value, json};

use super::filter::{ListArgs, tell_token};
use super::output::{DryRun, Format, print, print_json, table};
use super::tag::{TagArgs, UntagArgs};
use super::value::{gib, show_size};
use super::{Error, open_store};
use crate::exit::Exit;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a volume, empty or from a snapshot
    Create(CreateArgs),
    /// List volumes
    Ls(LsArgs),
    /// Show all of a volume
    Show(ShowArgs),
    /// Attach a volume to a stopped instance
    Attach(AttachArgs),
    /// Detach volumes from their stopped instances, the root too
    Detach(DetachArgs),
    /// Grow a volume, or change its type and limits
    Modify(ModifyArgs),
    /// Delete volumes that no instance has
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Give a volume tags
    Tag(TagArgs),
    /// Take tags from a volume
    Untag(UntagArgs),
}

/// What describes a volume.
#[derive(Debug, clap::Args)]
struct Performance {
    /// The volume's type: gp3 (the default), gp2, io1, io2, st1, sc1 or standard
    #[arg(long = "type", value_name = "TYPE", value_parser = volume_type)]
    volume_type: Option<VolumeType>,

    /// Limit the disk to N operations a second: gp3, io1 and io2, the last two always
    #[arg(long, value_name = "N")]
    iops: Option<u32>,

    /// Limit the disk to N MiB a second: gp3
    #[arg(long, value_name = "N")]
    throughput: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The volume's size in GiB; by default that of the snapshot
    #[arg(long, value_name = "GIB", value_parser = gib, required_unless_present = "snapshot")]
    size: Option<u64>,

    /// The snapshot whose content the volume begins with: its id, or a unique start of it
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,

    #[command(flatten)]
    performance: Performance,

    /// Tag the volume
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<Tag>,
}

#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// List these: their ids, or unique starts of them
    #[arg(value_name = "VOLUME")]
    volumes: Vec<String>,

    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The volume: its id, or a unique start of it
    volume: String,
}

#[derive(Debug, clap::Args)]
pub struct AttachArgs {
    /// The volume: its id, or a unique start of it
    volume: String,

    /// The instance: its id, a unique start of it, or its name
    instance: String,

    /// The device's name, such as /dev/sdf; the instance's root device name makes it the root
    device: String,
}

#[derive(Debug, clap::Args)]
pub struct DetachArgs {
    /// The volumes: their ids, or unique starts of them
    #[arg(value_name = "VOLUME", required = true)]
    volumes: Vec<String>,

    /// Only from this instance
    #[arg(long, value_name = "INSTANCE")]
    instance: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true)
    .args(["size", "volume_type", "iops", "throughput"]))]
pub struct ModifyArgs {
    /// The volume: its id, or a unique start of it
    volume: String,

    /// The new size in GiB, no smaller than the old one
    #[arg(long, value_name = "GIB", value_parser = gib)]
    size: Option<u64>,

    #[command(flatten)]
    performance: Performance,
}

#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// The volumes: their ids, or unique starts of them
    #[arg(value_name = "VOLUME", required = true)]
    volumes: Vec<String>,

    #[command(flatten)]
    dry_run: DryRun,
}

impl Command {
    pub fn run(self) -> Result<Exit, Error> {
        let store = open_store()?;
        match self {
            Self::Create(args) => create(&store, args)?,
            Self::Ls(args) => list(&store, &args)?,
            Self::Show(args) => {
                let volume = store.volume(&args.volume)?;
                print_json(&json!({ "Volumes": [describe(&store, &volume)?] }))?;
            }
            Self::Attach(args) => {
                let volume = store.volume(&args.volume)?.id;
                let instance = store.instance(&args.instance)?.id;
                store.attach_volume(&volume, &instance, &args.device)?;
                print_ids(&[volume])?;
            }
            Self::Detach(args) => detach(&store, &args)?,
            Self::Modify(args) => modify(&store, &args)?,
            Self::Delete(args) => delete(&store, &args)?,
            Self::Tag(args) => return args.run(&store, |volume| id(&store, volume)),
            Self::Untag(args) => return args.run(&store, |volume| id(&store, volume)),
        }
        Ok(Exit::Done)
    }
}

impl Performance {
    fn of(&self, size_gib: Option<u64>, snapshot_id: Option<SnapshotId>) -> Ebs {
        Ebs {
            snapshot_id,
            volume_size: size_gib,
            volume_type: self.volume_type,
            iops: self.iops,
            throughput: self.throughput,
            ..Ebs::default()
        }
    }
}

fn create(store: &Store, args: CreateArgs) -> Result<(), Error> {
    let snapshot = match &args.snapshot {
        Some(reference) => Some(store.snapshot(reference)?.id),
        None => None,
    };
    let ebs = args.performance.of(args.size, snapshot);
    let volume = store.add_volume(&ebs, &args.tags)?;
    print_ids(&[volume.id])
}

fn detach(store: &Store, args: &DetachArgs) -> Result<(), Error> {
    let instance = match &args.instance {
        Some(reference) => Some(store.instance(reference)?.id),
        None => None,
    };
    let volumes = all(store, &args.volumes)?;
    store.detach_volumes(&volumes, instance.as_ref())?;
    print_ids(&volumes)
}

fn modify(store: &Store, args: &ModifyArgs) -> Result<(), Error> {
    let volume = store.volume(&args.volume)?.id;
    store.modify_volume(&volume, &args.performance.of(args.size, None))?;
    print_ids(&[volume])
}

fn delete(store: &Store, args: &DeleteArgs) -> Result<(), Error> {
    let volumes = all(store, &args.volumes)?;
    if args.dry_run.is_set() {
        store.check_deletable(&volumes)?;
        return Ok(args.dry_run.tell("delete", &volumes)?);
    }
    store.delete_volumes(&volumes)?;
    print_ids(&volumes)
}

/// The volumes of those ids. One bad id fails the whole request, before anything is done.
fn all(store: &Store, references: &[String]) -> Result<Vec<VolumeId>, Error> {
    let volumes = references.iter().map(|reference| store.volume(reference));
    let ids = volumes.map(|volume| Ok(volume?.id));
    ids.collect()
}

fn print_ids(ids: &[VolumeId]) -> Result<(), Error> {
    let lines = ids.iter().map(|id| format!("{id}\n"));
    Ok(print(&lines.collect::<String>())?)
}

fn list(store: &Store, args: &LsArgs) -> Result<(), Error> {
    let filters = args.list.filters(Noun::Volume)?;
    let wanted = all(store, &args.volumes)?;
    let mut volumes = store.volumes()?;
    volumes.retain(|volume| wanted.is_empty() || wanted.contains(&volume.id));
    let is_json = args.list.output.format == Format::Json;
    let mut shown = Vec::new();
    if is_json || !filters.is_empty() {
        for volume in std::mem::take(&mut volumes) {
            let value = describe(store, &volume)?;
            if filters.matches(&value) {
                shown.push((volume, value));
            }
        }
    } else {
        shown.extend(volumes.into_iter().map(|volume| (volume, Value::Null)));
    }
    // In the order of the listing.
    let key = |(volume, _): &(VolumeRecord, Value)| {
        format!("{} {}", iso8601(volume.create_time), volume.id)
    };
    let (page, token) = filter::cut(shown, &args.list.page(), key);
    if is_json {
        let shown: Vec<_> = page.into_iter().map(|(_, value)| value).collect();
        let mut listing = json!({ "Volumes": shown });
        if let Some(token) = token {
            listing["NextToken"] = json!(token.to_string());
        }
        return Ok(print_json(&listing)?);
    }
    let header = [
        "VOLUME ID",
        "SIZE",
        "TYPE",
        "STATE",
        "INSTANCE",
        "DEVICE",
        "SNAPSHOT",
        "CREATED",
    ];
    let rows: Vec<_> = page.iter().map(|(volume, _)| row(volume)).collect();
    print(&table(header, &rows))?;
    tell_token(token.as_ref());
    Ok(())
}

fn id(store: &Store, reference: &str) -> Result<String, Error> {
    Ok(store.volume(reference)?.id.to_string())
}

fn row(volume: &VolumeRecord) -> [String; 8] {
    let instance = volume.instance.map(|id| id.to_string());
    let device = volume.instance.map(|_| volume.device_name.clone());
    [
        volume.id.to_string(),
        show_size(volume.size_bytes),
        volume
            .volume_type
            .map_or_else(String::new, |it| it.to_string()),
        volume.state().to_string(),
        instance.unwrap_or_default(),
        device.unwrap_or_default(),
        volume
            .snapshot
            .map_or_else(String::new, |id| id.to_string()),
        iso8601(volume.create_time),
    ]
}

/// A volume as EC2's describe-volumes shows one.
///
/// # Errors
/// The catalogue cannot be read.
pub fn describe(store: &Store, volume: &VolumeRecord) -> Result<Value, Error> {
    let attachment = volume.instance.map(|instance| {
        json!({
            "AttachTime": volume.attach_time.map(iso8601),
            "Device": volume.device_name,
            "InstanceId": instance,
            "State": "attached",
            "VolumeId": volume.id,
            "DeleteOnTermination": volume.delete_on_termination,
        })
    });
    let mut shown = json!({
        "Attachments": Vec::from_iter(attachment),
        "CreateTime": iso8601(volume.create_time),
        "Encrypted": false,
        "Size": volume.size_bytes / GIB,
        // EC2 shows an empty one where there was none.
        "SnapshotId": volume.snapshot.map_or_else(String::new, |id| id.to_string()),
        "State": volume.state(),
        "VolumeId": volume.id,
        "VolumeType": volume.volume_type.unwrap_or_default(),
        "MultiAttachEnabled": false,
    });
    // EC2 gives some types limits that were not asked for; here there are none.
    if let Some(iops) = volume.iops {
        shown["Iops"] = json!(iops);
    }
    if let Some(throughput) = volume.throughput {
        shown["Throughput"] = json!(throughput);
    }
    let tags = store.tags(&volume.id.to_string())?;
    if !tags.is_empty() {
        shown["Tags"] = json!(tags);
    }
    Ok(shown)
}

fn volume_type(text: &str) -> Result<VolumeType, String> {
    let parsed = text.parse();
    parsed.map_err(|error: kami_image::manifest::UnknownWord| error.to_string())
}
