//! `kami store`: check the store, and collect what crashes have left.

use std::fmt::Write as _;

use kami_image::store::CheckReport;

use super::output::{DryRun, print};
use super::progress::Meter;
use super::value::show_size;
use super::{Error, open_store};
use crate::exit::Exit;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Compare all content with its digests, and all references with what they name
    ///
    /// Fails, with status 1, when anything is found. Nothing is changed without --repair.
    Check(CheckArgs),
    /// Delete what crashes have left, and free the space of deleted snapshots
    Gc(GcArgs),
}

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Move what is damaged to quarantine/ in the store's folder, and mark the snapshots and images
    /// that used it
    #[arg(long)]
    repair: bool,
}

#[derive(Debug, clap::Args)]
pub struct GcArgs {
    #[command(flatten)]
    dry_run: DryRun,
}

impl Command {
    pub fn run(self) -> Result<Exit, Error> {
        match self {
            Self::Check(args) => check(&args),
            Self::Gc(args) => collect(&args),
        }
    }
}

fn check(args: &CheckArgs) -> Result<Exit, Error> {
    let store = open_store()?;
    let mut progress = Meter::on_stderr()?;
    let report = store.check(&mut |p| progress.show("chunks", p))?;
    progress.finish();
    let mut text = String::new();
    for finding in &report.findings {
        let _ = writeln!(text, "{finding}");
    }
    text.push_str(&summary(&report));
    print(&text)?;
    if report.findings.is_empty() {
        return Ok(Exit::Done);
    }
    if !args.repair {
        eprintln!("help: kami store check --repair puts what is damaged out of the way");
        return Ok(Exit::Failed);
    }
    let left = store.repair(&report)?;
    let repaired = report.findings.len() - left.len();
    let mut text = format!("{repaired} of {} dealt with", report.findings.len());
    for finding in &left {
        let _ = write!(text, "\nleft as it is: {finding}");
    }
    text.push('\n');
    print(&text)?;
    Ok(if left.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn summary(report: &CheckReport) -> String {
    let mut text = format!(
        "checked {} images, {} snapshots with {} chunks, {} volumes: {} problems\n",
        report.images,
        report.snapshots,
        report.chunks,
        report.volumes,
        report.findings.len()
    );
    if !report.leftovers.is_empty() {
        let _ = writeln!(
            text,
            "{} files are what crashes have left: kami store gc deletes them",
            report.leftovers.len()
        );
    }
    text
}

fn collect(args: &GcArgs) -> Result<Exit, Error> {
    let store = open_store()?;
    if args.dry_run.is_set() {
        let leftovers = store.leftovers()?;
        let paths: Vec<_> = leftovers.iter().map(|path| path.display()).collect();
        args.dry_run.tell("delete", &paths)?;
        return Ok(Exit::Done);
    }
    let collected = store.collect_garbage()?;
    let mut text = format!(
        "deleted {} files, freed {}\n",
        collected.leftovers,
        show_size(collected.freed_bytes)
    );
    if !collected.is_complete {
        text.push_str("snapshots are being written or exported: more is freed when that is done\n");
    }
    print(&text)?;
    Ok(Exit::Done)
}
