//! `kami image modify`, `deprecate`, `disable`, `protect`, `copy`, `deregister` and their opposites.

use std::time::SystemTime;

use kami_image::account::InvalidAccount;
use kami_image::manifest::{Image, LaunchPermission, Tag};
use kami_image::store::{self, Deregistered, ImageChange, ImageCopy, Store};
use kami_image::time::parse_iso8601;
use serde_json::json;

use super::output::{DryRun, Format, OutputArgs, print, print_json};
use super::value::duration;
use super::{Error, open_store};
use crate::exit::Exit;

#[derive(Debug, clap::Args)]
pub struct ImageArgs {
    /// The image: its id, a unique start of it, or its name
    image: String,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("change").multiple(true).required(true))]
pub struct ModifyArgs {
    /// The image: its id, a unique start of it, or its name
    image: String,

    /// What the image is; empty takes the description away
    #[arg(long, value_name = "TEXT", group = "change")]
    description: Option<String>,

    /// Let this account, or all, launch the image
    #[arg(long, value_name = "ACCOUNT|all", value_parser = permission, group = "change")]
    add_permission: Vec<LaunchPermission>,

    /// No longer let this account, or all, launch the image
    #[arg(long, value_name = "ACCOUNT|all", value_parser = permission, group = "change")]
    remove_permission: Vec<LaunchPermission>,

    /// Let nobody but its owner launch the image, and then whom --add-permission names
    #[arg(long, group = "change")]
    reset_permissions: bool,

    /// Let its instances use version 2 of the metadata service only; there is no way back
    #[arg(long, value_name = "VERSION", value_parser = ["v2.0"], group = "change")]
    imds_support: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct DeprecateArgs {
    /// The image: its id, a unique start of it, or its name
    image: String,

    /// When: 2026-12-31 or 2026-12-31T23:59:59Z, in UTC, or a time from now on, such as 30d
    /// [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<SystemTime>,
}

#[derive(Debug, clap::Args)]
pub struct ProtectArgs {
    /// The image: its id, a unique start of it, or its name
    image: String,

    /// Protect it for 24 hours more once the protection is taken away
    #[arg(long)]
    with_cooldown: bool,
}

#[derive(Debug, clap::Args)]
pub struct CopyArgs {
    /// The image: its id, a unique start of it, or its name
    image: String,

    /// The copy's name
    #[arg(long)]
    name: String,

    /// What the copy is [default: the same]
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Give the copy a tag
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    tags: Vec<Tag>,

    /// Give the copy the image's tags too
    #[arg(long)]
    copy_tags: bool,
}

#[derive(Debug, clap::Args)]
pub struct DeregisterArgs {
    /// The images: their ids, unique starts of them, or names
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,

    /// Delete their snapshots too, but those that other images use
    #[arg(long)]
    delete_snapshots: bool,

    #[command(flatten)]
    dry_run: DryRun,

    #[command(flatten)]
    output: OutputArgs,
}

fn permission(text: &str) -> Result<LaunchPermission, String> {
    text.parse()
        .map_err(|_: InvalidAccount| format!("'{text}' is neither an account of 12 digits nor all"))
}

fn time(text: &str) -> Result<SystemTime, String> {
    parse_iso8601(text)
        .or_else(|| SystemTime::now().checked_add(duration(text).ok()?))
        .ok_or_else(|| format!("'{text}' is neither a time such as 2026-12-31T23:59:59Z nor 30d"))
}

impl ImageArgs {
    /// Changes the image, and prints its id.
    pub fn run(
        &self,
        change: impl FnOnce(&Store, &str) -> Result<Image, store::Error>,
    ) -> Result<Exit, Error> {
        changed(&change(&open_store()?, &self.image)?)
    }
}

fn changed(image: &Image) -> Result<Exit, Error> {
    print(&format!("{}\n", image.image_id))?;
    Ok(Exit::Done)
}

impl ModifyArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let change = ImageChange {
            description: self.description,
            reset_permissions: self.reset_permissions,
            add_permissions: self.add_permission,
            remove_permissions: self.remove_permission,
            imds_v2: self.imds_support.is_some(),
        };
        changed(&open_store()?.modify_image(&self.image, &change)?)
    }
}

impl DeprecateArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let time = self.at.unwrap_or_else(SystemTime::now);
        changed(&open_store()?.deprecate_image(&self.image, Some(time))?)
    }
}

impl ProtectArgs {
    pub fn run(self) -> Result<Exit, Error> {
        changed(&open_store()?.protect_image(&self.image, self.with_cooldown)?)
    }
}

impl CopyArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let copy = ImageCopy {
            name: self.name,
            description: self.description,
            tags: self.tags,
            copy_tags: self.copy_tags,
        };
        changed(&open_store()?.copy_image(&self.image, &copy)?)
    }
}

impl DeregisterArgs {
    /// One bad id fails the whole command, before anything is done.
    pub fn run(self) -> Result<Exit, Error> {
        let store = open_store()?;
        if self.dry_run.is_set() {
            let gone = store.would_deregister(&self.images, self.delete_snapshots)?;
            let images: Vec<_> = gone.iter().map(|gone| gone.image.image_id).collect();
            let snapshots: Vec<_> = gone.iter().flat_map(|gone| &gone.deleted).collect();
            self.dry_run.tell("deregister", &images)?;
            self.dry_run.tell("delete", &snapshots)?;
            return Ok(Exit::Done);
        }
        let gone = store.deregister_images(&self.images, self.delete_snapshots)?;
        match self.output.format {
            Format::Json => {
                let results: Vec<_> = gone.iter().flat_map(results).collect();
                print_json(&json!({ "Return": true, "DeleteSnapshotResults": results }))?;
            }
            Format::Table => {
                for gone in &gone {
                    print(&format!("{}\n", gone.image.image_id))?;
                    for (snapshot, image) in &gone.kept {
                        eprintln!("{snapshot} stays: {image} uses it");
                    }
                }
            }
        }
        Ok(Exit::Done)
    }
}

/// EC2's `DeleteSnapshotResults`.
fn results(gone: &Deregistered) -> Vec<serde_json::Value> {
    let deleted = gone.deleted.iter().map(|id| (id, "success"));
    let kept = gone.kept.iter().map(|(id, _)| (id, "skipped"));
    deleted
        .chain(kept)
        .map(|(id, code)| json!({ "SnapshotId": id, "ReturnCode": code }))
        .collect()
}
