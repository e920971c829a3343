//! `kami image`: register, import, list and show machine images.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::SystemTime;

use kami_image::filter::Noun;
use kami_image::id::SnapshotId;
use kami_image::manifest::{Image, Manifest, Tag};
use kami_image::store::{ImageOwner, ImageQuery, ImportRequest, Store};
use kami_image::time::parse_iso8601;
use serde_json::json;

use super::filter::{ListArgs, tell_token};
use super::image_create::CreateArgs;
use super::image_prune::PruneArgs;
use super::output::{Format, print, print_json, table};
use super::progress::Meter;
use super::tag::{TagArgs, UntagArgs};
use super::{Error, image_change as change, open_store};
use crate::architecture;
use crate::exit::Exit;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Register an image from a manifest and the files of its snapshots
    Register(RegisterArgs),
    /// Make an image from a disk file: raw, qcow2 or vmdk
    Import(ImportArgs),
    /// Make an image of an instance: of all its attached volumes
    #[command(visible_alias = "create-image")]
    Create(CreateArgs),
    /// List images
    Ls(LsArgs),
    /// Show all of an image
    Show(ShowArgs),
    /// Change an image's description, or who may launch it
    Modify(change::ModifyArgs),
    /// Show who may launch an image, besides its owner
    Permissions(ShowArgs),
    /// Give an image tags
    Tag(TagArgs),
    /// Take tags from an image
    Untag(UntagArgs),
    /// Hide an image from the listings of others, from now on or from some time on
    Deprecate(change::DeprecateArgs),
    /// Take an image's deprecation back
    Undeprecate(change::ImageArgs),
    /// Keep an image from being launched, and share it with nobody
    Disable(change::ImageArgs),
    /// Let a disabled image be launched again
    Enable(change::ImageArgs),
    /// Protect an image from being deregistered
    Protect(change::ProtectArgs),
    /// Take an image's protection away
    Unprotect(change::ImageArgs),
    /// Make another image of the same content
    Copy(change::CopyArgs),
    /// Remove images; instances of them are untouched
    #[command(visible_alias = "rm")]
    Deregister(change::DeregisterArgs),
    /// Deregister old images by rule, and delete the snapshots that only they used
    Prune(PruneArgs),
}

#[derive(Debug, clap::Args)]
pub struct RegisterArgs {
    /// The manifest: an Image, describe-images output or a register-image input, in JSON
    #[arg(value_name = "MANIFEST")]
    manifest: PathBuf,

    /// The file with the bytes of a snapshot that the manifest names: raw, qcow2 or vmdk
    #[arg(long = "snapshot", value_name = "SNAPSHOT=FILE", value_parser = snapshot_file)]
    snapshots: Vec<(SnapshotId, PathBuf)>,

    /// Give the image a tag, besides those of the manifest
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<Tag>,
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
pub struct LsArgs {
    /// List these: their ids, unique starts of them, or names
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,

    /// List the images of this account, or of your own: self
    #[arg(long = "owner", alias = "owners", value_name = "ACCOUNT|self", value_parser = owner)]
    owners: Vec<ImageOwner>,

    /// List deprecated images of others and disabled ones too
    #[arg(long, short)]
    all: bool,

    #[command(flatten)]
    list: ListArgs,
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
            Self::Create(args) => args.run(),
            Self::Ls(args) => list(args),
            Self::Show(args) => show(&args),
            Self::Modify(args) => args.run(),
            Self::Permissions(args) => permissions(&args),
            Self::Tag(args) => with_id(|store, find| args.run(store, find)),
            Self::Untag(args) => with_id(|store, find| args.run(store, find)),
            Self::Deprecate(args) => args.run(),
            Self::Undeprecate(args) => args.run(|store, image| store.deprecate_image(image, None)),
            Self::Disable(args) => args.run(Store::disable_image),
            Self::Enable(args) => args.run(Store::enable_image),
            Self::Protect(args) => args.run(),
            Self::Unprotect(args) => args.run(Store::unprotect_image),
            Self::Copy(args) => args.run(),
            Self::Deregister(args) => args.run(),
            Self::Prune(args) => args.run(),
        }
    }
}

fn register(args: &RegisterArgs) -> Result<Exit, Error> {
    let mut manifest = Manifest::read(&args.manifest).map_err(|source| Error::Manifest {
        path: args.manifest.clone(),
        source,
    })?;
    let own = |tag: &Tag| args.tags.iter().all(|new| new.key != tag.key);
    manifest.image.tags.retain(own);
    manifest.image.tags.extend_from_slice(&args.tags);
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

fn list(args: LsArgs) -> Result<Exit, Error> {
    let store = open_store()?;
    let images = args.images.iter().map(|image| store.image(image));
    let query = ImageQuery {
        images: images
            .map(|image| Ok(image?.image_id))
            .collect::<Result<_, Error>>()?,
        owners: args.owners,
        filters: args.list.filters(Noun::Image)?,
        with_deprecated: args.all,
        with_disabled: args.all,
        page: args.list.page(),
    };
    let (images, token) = store.list_images(&query)?;
    match args.list.output.format {
        Format::Json => {
            let mut listing = json!({ "Images": images });
            if let Some(token) = token {
                listing["NextToken"] = json!(token.to_string());
            }
            print_json(&listing)?;
        }
        Format::Table => {
            let rows: Vec<_> = images.iter().map(row).collect();
            print(&table(
                ["IMAGE ID", "NAME", "ARCH", "SIZE", "STATE", "CREATED"],
                &rows,
            ))?;
            tell_token(token.as_ref());
        }
    }
    Ok(Exit::Done)
}

fn row(image: &Image) -> [String; 6] {
    let root = image.root_mapping().and_then(|entry| entry.ebs.as_ref());
    let size_gib = root.and_then(|ebs| ebs.volume_size);
    [
        image.image_id.to_string(),
        image.name.clone(),
        image.architecture.to_string(),
        size_gib.map_or_else(String::new, |gib| format!("{gib} GiB")),
        state(image),
        image.creation_date.clone().unwrap_or_default(),
    ]
}

/// EC2's word, and for people that the image is deprecated.
fn state(image: &Image) -> String {
    let state = image.state.as_deref().unwrap_or_default();
    let deprecation = image.deprecation_time.as_deref().and_then(parse_iso8601);
    match state {
        "available" if deprecation.is_some_and(|time| time <= SystemTime::now()) => "deprecated",
        state => state,
    }
    .to_owned()
}

/// JSON whatever the output: an image's members are too many for columns.
fn show(args: &ShowArgs) -> Result<Exit, Error> {
    let image = open_store()?.image(&args.image)?;
    print_json(&json!({ "Images": [image] }))?;
    Ok(Exit::Done)
}

/// EC2's answer to `DescribeImageAttribute`: permissions are no member of an image.
fn permissions(args: &ShowArgs) -> Result<Exit, Error> {
    let (id, permissions) = open_store()?.launch_permissions(&args.image)?;
    print_json(&json!({ "ImageId": id, "LaunchPermissions": permissions }))?;
    Ok(Exit::Done)
}

/// Runs a command on one of the caller's own images.
fn with_id(
    run: impl FnOnce(&Store, &dyn Fn(&str) -> Result<String, Error>) -> Result<Exit, Error>,
) -> Result<Exit, Error> {
    let store = open_store()?;
    run(&store, &|image| {
        Ok(store.own_image(image)?.image_id.to_string())
    })
}

fn owner(text: &str) -> Result<ImageOwner, String> {
    match text {
        "self" => Ok(ImageOwner::Caller),
        account => parsed(account).map(ImageOwner::Account),
    }
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
