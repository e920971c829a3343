//! `kami snapshot`: make, list, show, export, compare and delete snapshots.

use std::path::PathBuf;

use kami_image::chunk::{CHUNK_BYTES, Digest};
use kami_image::export;
use kami_image::filter::Noun;
use kami_image::id::SnapshotId;
use kami_image::manifest::{GIB, Tag};
use kami_image::store::{Live, SnapshotRecord, Store, VolumeSnapshot, iso8601};
use serde_json::{Value, json};

use super::filter::{ListArgs, tell_token};
use super::output::{Format, OutputArgs, print, print_json, table};
use super::progress::Meter;
use super::tag::{TagArgs, UntagArgs};
use super::value::show_size;
use super::{Error, open_store};
use crate::exit::Exit;
use crate::instance::live::LiveDisks;

/// What EC2 says where a snapshot was made of no volume of the account's.
const NO_VOLUME: &str = "vol-ffffffff";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a snapshot of a volume; it costs what has changed since the volume's last one
    Create(CreateArgs),
    /// List snapshots
    Ls(ListArgs),
    /// Show all of a snapshot
    Show(ShowArgs),
    /// Write the disk of a snapshot to a file, raw or qcow2
    Export(ExportArgs),
    /// List the blocks of 512 KiB that two snapshots differ in
    Changes(ChangesArgs),
    /// Delete snapshots that no image uses, in any order
    Delete(DeleteArgs),
    /// Give a snapshot tags
    Tag(TagArgs),
    /// Take tags from a snapshot
    Untag(UntagArgs),
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The volume: its id, or a unique start of it
    volume: String,

    /// What the snapshot is
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    description: String,

    /// Give the snapshot a tag
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<Tag>,
}

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The snapshot: its id, or a unique start of it
    snapshot: String,

    /// The file to write, which appears when it is complete
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The file's format
    #[arg(long, value_enum, default_value_t)]
    format: ExportFormat,

    /// Replace a file that exists
    #[arg(long, short)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub struct ChangesArgs {
    /// The older snapshot: its id, or a unique start of it
    first: String,

    /// The newer one
    second: String,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum ExportFormat {
    #[default]
    Raw,
    Qcow2,
}

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The snapshot: its id, or a unique start of it
    snapshot: String,
}

#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// The snapshots: their ids, or unique starts of them
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<String>,
}

impl Command {
    pub fn run(self) -> Result<Exit, Error> {
        match self {
            Self::Create(args) => create(args),
            Self::Ls(args) => list(&args),
            Self::Show(args) => show(&args),
            Self::Export(args) => export(&args),
            Self::Changes(args) => changes(&args),
            Self::Delete(args) => delete(&args),
            Self::Tag(args) => with_store(|store| args.run(store, |it| id_of(store, it))),
            Self::Untag(args) => with_store(|store| args.run(store, |it| id_of(store, it))),
        }
    }
}

fn create(args: CreateArgs) -> Result<Exit, Error> {
    let store = open_store()?;
    let volume = store.volume(&args.volume)?;
    let new = VolumeSnapshot {
        volume: volume.id,
        snapshot: SnapshotId::generate(),
        description: args.description,
    };
    let mut progress = Meter::on_stderr()?;
    let show = &mut |what: &str, p| progress.show(what, p);
    let mut live = LiveDisks::with(&store, &volume)?;
    let live = live.as_mut().map(|live| live as &mut dyn Live);
    let snapshot = store.create_snapshot(&new, &args.tags, live, show)?;
    progress.finish();
    print(&format!("{}\n", snapshot.id))?;
    Ok(Exit::Done)
}

fn export(args: &ExportArgs) -> Result<Exit, Error> {
    let store = open_store()?;
    let id = store.snapshot(&args.snapshot)?.id;
    let format = match args.format {
        ExportFormat::Raw => export::Format::Raw,
        ExportFormat::Qcow2 => export::Format::Qcow2,
    };
    let mut progress = Meter::on_stderr()?;
    let name = id.to_string();
    let show = &mut |p| progress.show(&name, p);
    store.export_snapshot(&id, &args.file, (format, args.force), show)?;
    progress.finish();
    Ok(Exit::Done)
}

/// As EC2's list-changed-blocks shows them. Its tokens name what a block holds: here that is the
/// digest, and a block of zeroes has none.
fn changes(args: &ChangesArgs) -> Result<Exit, Error> {
    let store = open_store()?;
    let [first, second] = [&args.first, &args.second].map(|it| store.snapshot(it));
    let (first, second) = (first?, second?);
    let blocks = store.changed_blocks(&first.id, &second.id)?;
    match args.output.format {
        Format::Json => {
            let shown = blocks.iter().map(|block| {
                let mut shown = json!({ "BlockIndex": block.index });
                if let Some(digest) = block.first {
                    shown["FirstBlockToken"] = json!(digest.to_string());
                }
                if let Some(digest) = block.second {
                    shown["SecondBlockToken"] = json!(digest.to_string());
                }
                shown
            });
            print_json(&json!({
                "ChangedBlocks": shown.collect::<Vec<_>>(),
                "VolumeSize": second.size_bytes.div_ceil(GIB),
                "BlockSize": CHUNK_BYTES,
            }))?;
        }
        Format::Table => {
            // Enough of a digest to tell one from another.
            let short = |digest: Option<Digest>| match digest {
                Some(digest) => digest.to_string()[..16].to_owned(),
                None => "zeroes".to_owned(),
            };
            let rows: Vec<_> = blocks
                .iter()
                .map(|block| {
                    [
                        block.index.to_string(),
                        (block.index * CHUNK_BYTES).to_string(),
                        short(block.first),
                        short(block.second),
                    ]
                })
                .collect();
            print(&table(["BLOCK", "BYTE OFFSET", "FIRST", "SECOND"], &rows))?;
        }
    }
    Ok(Exit::Done)
}

fn with_store(run: impl FnOnce(&Store) -> Result<Exit, Error>) -> Result<Exit, Error> {
    run(&open_store()?)
}

fn id_of(store: &Store, reference: &str) -> Result<String, Error> {
    Ok(store.snapshot(reference)?.id.to_string())
}

fn list(args: &ListArgs) -> Result<Exit, Error> {
    let store = open_store()?;
    let filters = args.filters(Noun::Snapshot)?;
    let (snapshots, token) = store.list_snapshots(&filters, &args.page(), &describe)?;
    match args.output.format {
        Format::Json => {
            let shown = snapshots.iter().map(|it| described(&store, it));
            let mut listing = json!({ "Snapshots": shown.collect::<Result<Vec<_>, _>>()? });
            if let Some(token) = token {
                listing["NextToken"] = json!(token.to_string());
            }
            print_json(&listing)?;
        }
        Format::Table => {
            let rows: Vec<_> = snapshots.iter().map(row).collect();
            print(&table(
                [
                    "SNAPSHOT ID",
                    "VOLUME",
                    "SIZE",
                    "NEW",
                    "STATE",
                    "STARTED",
                    "DESCRIPTION",
                ],
                &rows,
            ))?;
            tell_token(token.as_ref());
        }
    }
    Ok(Exit::Done)
}

fn row(snapshot: &SnapshotRecord) -> [String; 7] {
    [
        snapshot.id.to_string(),
        snapshot.volume.map(|id| id.to_string()).unwrap_or_default(),
        show_size(snapshot.size_bytes),
        show_size(snapshot.stored_bytes),
        state(snapshot).to_owned(),
        iso8601(snapshot.started),
        snapshot.description.clone(),
    ]
}

/// EC2's word.
fn state(snapshot: &SnapshotRecord) -> &'static str {
    match (snapshot.damaged, snapshot.completed) {
        (true, _) => "error",
        (false, Some(_)) => "completed",
        (false, None) => "pending",
    }
}

/// A snapshot as EC2's describe-snapshots shows one.
pub fn describe(snapshot: &SnapshotRecord, tags: &[Tag]) -> Value {
    let volume = snapshot.volume.map(|id| id.to_string());
    let mut shown = json!({
        "SnapshotId": snapshot.id,
        "VolumeId": volume.as_deref().unwrap_or(NO_VOLUME),
        "State": state(snapshot),
        "StartTime": iso8601(snapshot.started),
        "Progress": "100%",
        "OwnerId": snapshot.owner,
        "Description": snapshot.description,
        "VolumeSize": snapshot.size_bytes.div_ceil(GIB),
        "FullSnapshotSizeInBytes": snapshot.full_bytes,
        "Encrypted": false,
        "StorageTier": "standard",
        "Tags": tags,
    });
    if let Some(completed) = snapshot.completed {
        shown["CompletionTime"] = json!(iso8601(completed));
    }
    if snapshot.damaged {
        shown["StateMessage"] = json!("content of the snapshot is lost");
    }
    shown
}

fn described(store: &Store, snapshot: &SnapshotRecord) -> Result<Value, Error> {
    Ok(describe(snapshot, &store.tags(&snapshot.id.to_string())?))
}

/// JSON whatever the output, as of an image.
fn show(args: &ShowArgs) -> Result<Exit, Error> {
    let store = open_store()?;
    let snapshot = store.snapshot(&args.snapshot)?;
    print_json(&json!({ "Snapshots": [described(&store, &snapshot)?] }))?;
    Ok(Exit::Done)
}

fn delete(args: &DeleteArgs) -> Result<Exit, Error> {
    let store = open_store()?;
    // One bad id fails the whole command, before anything is done.
    let snapshots = args
        .snapshots
        .iter()
        .map(|reference| store.snapshot(reference))
        .collect::<Result<Vec<_>, _>>()?;
    for snapshot in snapshots {
        store.delete_snapshot(&snapshot.id)?;
        print(&format!("{}\n", snapshot.id))?;
    }
    Ok(Exit::Done)
}
