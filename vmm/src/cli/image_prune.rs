//! `kami image prune`: by rules from the command line or from the user's settings.

use std::time::Duration;

use kami_image::store::{PruneRule, Pruned};
use serde_json::{Value, json};

use super::output::{Format, OutputArgs, print, print_json, table};
use super::value::duration;
use super::{Error, open_store};
use crate::config::{Config, PrunePolicy};
use crate::exit::Exit;

#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("which").required(true).args(["name", "policies"]),
    group = clap::ArgGroup::new("rule").multiple(true).args(["keep", "older_than"]),
)]
pub struct PruneArgs {
    /// Delete images with such names, with * for any text and ? for one character or none
    #[arg(long, value_name = "PATTERN", requires = "rule")]
    name: Option<String>,

    /// Keep the newest N of them
    #[arg(long, value_name = "N", requires = "name")]
    keep: Option<usize>,

    /// Keep those younger than this, such as 12h or 30d
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "name")]
    older_than: Option<Duration>,

    /// Apply the [[prune]] policies of config.toml
    #[arg(long, conflicts_with_all = ["keep", "older_than"])]
    policies: bool,

    /// Delete them; without this, only tell which
    #[arg(long, short)]
    yes: bool,

    #[command(flatten)]
    output: OutputArgs,
}

impl PruneArgs {
    pub fn run(self) -> Result<Exit, Error> {
        let rules = match self.name {
            Some(name) => vec![PruneRule {
                name,
                keep: self.keep.unwrap_or(0),
                older_than: self.older_than,
            }],
            None => Config::load()?.prune.into_iter().map(rule).collect(),
        };
        let pruned = open_store()?.prune(&rules, self.yes)?;
        match self.output.format {
            Format::Json => {
                let images: Vec<_> = pruned.iter().map(shown).collect();
                print_json(&json!({ "DryRun": !self.yes, "Images": images }))?;
            }
            Format::Table => {
                let rows: Vec<_> = pruned.iter().map(|it| row(it, self.yes)).collect();
                print(&table(
                    ["IMAGE ID", "NAME", "CREATED", "SNAPSHOTS", "DECISION"],
                    &rows,
                ))?;
                if !self.yes {
                    eprintln!("nothing was deleted: --yes does it");
                }
            }
        }
        Ok(Exit::Done)
    }
}

fn rule(policy: PrunePolicy) -> PruneRule {
    PruneRule {
        name: policy.name,
        keep: policy.keep,
        older_than: policy.older_than,
    }
}

fn row(pruned: &Pruned, real: bool) -> [String; 5] {
    let Pruned {
        image,
        obstacle,
        snapshots,
    } = pruned;
    [
        image.image_id.to_string(),
        image.name.clone(),
        image.creation_date.clone().unwrap_or_default(),
        snapshots.len().to_string(),
        match (obstacle, real) {
            (Some(why), _) => format!("kept: {why}"),
            (None, true) => "deleted".to_owned(),
            (None, false) => "to be deleted".to_owned(),
        },
    ]
}

fn shown(pruned: &Pruned) -> Value {
    let mut shown = json!({
        "ImageId": pruned.image.image_id,
        "Name": pruned.image.name,
        "CreationDate": pruned.image.creation_date,
        "Snapshots": pruned.snapshots,
    });
    if let Some(why) = &pruned.obstacle {
        shown["KeptBecause"] = json!(why.to_string());
    }
    shown
}
