//! `kami image`: register, import, list and show machine images.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use kami_image::id::SnapshotId;
use kami_image::manifest::{Image, Manifest, Tag};
use kami_image::store::ImportRequest;
use serde_json::json;

use super::output::{Format, OutputArgs, print, print_json, table};
use super::progress::Meter;
use super::{Error, open_store};
use crate::architecture;
use crate::exit::Exit;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Register an image from a manifest and the files of its snapshots
    Register(RegisterArgs),
    /// Make an image from a disk file: raw, qcow2 or vmdk
    Import(ImportArgs),
    /// List images
    Ls(OutputArgs),
    /// Show all of an image
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
pub struct RegisterArgs {
    /// The manifest: an Image, describe-images output or a register-image input, in JSON
    #[arg(value_name = "MANIFEST")]
    manifest: PathBuf,

    /// The file with the bytes of a snapshot that the manifest names: raw, qcow2 or vmdk
    #[arg(long = "snapshot", value_name = "SNAPSHOT=FILE", value_parser = snapshot_file)]
    snapshots: Vec<(SnapshotId, PathBuf)>,
}

#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// The disk: raw, qcow2 (with or without a backing file) or vmdk
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The image's name
    #[arg(long)]
    name: String,

    /// What the disk is for, by default this host's architecture; amd64, aarch64 and i686 are
    /// taken too
    #[arg(long, value_name = "ARCH", default_value_t = architecture::HOST, value_parser = architecture::values(),
        hide_default_value = true)]
    arch: architecture::Word,

    /// What the image is
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Give the image a tag
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<Tag>,
}

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The image: its id, a unique start of it, or its name
    image: String,
}

impl Command {
    pub fn run(self) -> Result<Exit, Error> {
        match self {
            Self::Register(args) => register(&args),
            Self::Import(args) => import(args),
            Self::Ls(args) => list(args),
            Self::Show(args) => show(&args),
        }
    }
}

fn register(args: &RegisterArgs) -> Result<Exit, Error> {
    let manifest = Manifest::read(&args.manifest).map_err(|source| Error::Manifest {
        path: args.manifest.clone(),
        source,
    })?;
    let store = open_store()?;
    let mut progress = Meter::on_stderr()?;
    let image = store.register(manifest, &args.snapshots, &mut |what, p| {
        progress.show(what, p)
    })?;
    progress.finish();
    print(&format!("{}\n", image.image_id))?;
    Ok(Exit::Done)
}

fn import(args: ImportArgs) -> Result<Exit, Error> {
    let store = open_store()?;
    let request = ImportRequest {
        file: args.file,
        name: args.name,
        architecture: args.arch,
        description: args.description,
        tags: args.tags,
    };
    let mut progress = Meter::on_stderr()?;
    let image = store.import(&request, &mut |what, p| progress.show(what, p))?;
    progress.finish();
    print(&format!("{}\n", image.image_id))?;
    Ok(Exit::Done)
}

fn list(output: OutputArgs) -> Result<Exit, Error> {
    let images = open_store()?.images()?;
    match output.format {
        Format::Json => print_json(&json!({ "Images": images }))?,
        Format::Table => {
            let rows: Vec<_> = images.iter().map(row).collect();
            print(&table(
                ["IMAGE ID", "NAME", "ARCH", "SIZE", "CREATED"],
                &rows,
            ))?;
        }
    }
    Ok(Exit::Done)
}

fn row(image: &Image) -> [String; 5] {
    let root = image.root_mapping().and_then(|entry| entry.ebs.as_ref());
    let size_gib = root.and_then(|ebs| ebs.volume_size);
    [
        image.image_id.to_string(),
        image.name.clone(),
        image.architecture.to_string(),
        size_gib.map_or_else(String::new, |gib| format!("{gib} GiB")),
        image.creation_date.clone().unwrap_or_default(),
    ]
}

/// JSON whatever the output: an image's members are too many for columns.
fn show(args: &ShowArgs) -> Result<Exit, Error> {
    let image = open_store()?.image(&args.image)?;
    print_json(&json!({ "Images": [image] }))?;
    Ok(Exit::Done)
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn snapshot_file(text: &str) -> Result<(SnapshotId, PathBuf), String> {
    match text.split_once('=') {
        Some((id, file)) if !file.is_empty() => Ok((parsed(id)?, file.into())),
        _ => Err(format!("'{text}' is not SNAPSHOT=FILE")),
    }
}
