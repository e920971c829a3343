//! The `kami` command line: arguments into validated requests, results into text or JSON.
//!
//! Follows the habits of docker and podman. Each file holds one family of commands: its arguments
//! and what it does with them.

pub mod completion;
mod error;
mod filter;
mod image;
mod image_change;
mod image_create;
mod image_prune;
mod instance_types;
mod instances;
mod instances_describe;
mod instances_modify;
mod instances_verbs;
mod kernel;
mod output;
mod parameter;
mod progress;
mod run;
mod run_several;
mod snapshot;
mod store;
mod tag;
pub mod value;
mod volume;

use std::fmt::Write as _;

use clap::{Args as _, CommandFactory, FromArgMatches, Parser, Subcommand};
use kami_image::store::Store;

pub use error::{Error, chain};

use self::instances_verbs as verbs;
use crate::config;
use crate::exit::Exit;

/// Launch virtual machines from machine images.
#[derive(Debug, Parser)]
#[command(
    name = "kami",
    version,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Machine images
    #[command(subcommand)]
    Image(image::Command),
    /// Snapshots of volumes
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    /// Volumes
    #[command(subcommand)]
    Volume(volume::Command),
    /// Instances; the commands below are short for some of these
    #[command(subcommand)]
    Instance(instances::Command),
    /// Names for images, with versions to roll back to
    #[command(subcommand)]
    Parameter(parameter::Command),
    /// Kernels and ramdisks that images name
    #[command(subcommand)]
    Kernel(kernel::Command),
    /// The store itself: check it, collect garbage
    #[command(subcommand)]
    Store(store::Command),
    /// Launch an instance from an image
    Run(Box<run::Args>),
    /// List instances
    Ps(instances::PsArgs),
    /// Print what an instance wrote to its console
    Logs(verbs::LogsArgs),
    /// Start stopped instances again
    Start(verbs::StartArgs),
    /// Stop instances: press the power button, after a grace time end them by force
    Stop(verbs::StopArgs),
    /// Reboot instances
    Reboot(verbs::RebootArgs),
    /// End instances for good, with the volumes that go with them
    Terminate(verbs::TerminateArgs),
    /// Terminate instances that have ended, and list them no more
    Rm(verbs::RmArgs),
    /// Check this host, and boot a built-in test guest on it
    Doctor,
    /// Print the completions for a shell
    Completion(completion::Args),
}

/// Opens the user's store, as the account that the user acts as.
fn open_store() -> Result<Store, Error> {
    let account = config::account()?;
    Ok(Store::open(&Store::default_home())?.with_account(account))
}

/// The commands as their help groups them.
const GROUPS: [(&str, &[&str]); 3] = [
    (
        "Objects",
        &[
            "image",
            "snapshot",
            "volume",
            "instance",
            "parameter",
            "kernel",
            "store",
        ],
    ),
    (
        "Instances, in short",
        &[
            "run",
            "ps",
            "logs",
            "start",
            "stop",
            "reboot",
            "terminate",
            "rm",
        ],
    ),
    ("This host", &["doctor", "completion"]),
];

impl Cli {
    /// The process's own command line. Ends the process where that is wrong, or asks for help.
    pub fn of_process() -> Self {
        // A launch does not wait for the definitions of all the other commands.
        let command = match std::env::args_os().nth(1) {
            Some(first) if first == "run" => return Self::of_run(only_run().get_matches()),
            _ => grouped(Self::command()),
        };
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }

    /// What [`only_run`] has matched.
    fn of_run(matches: clap::ArgMatches) -> Self {
        let run = matches.subcommand_matches("run").unwrap_or(&matches);
        let args = run::Args::from_arg_matches(run).unwrap_or_else(|error| error.exit());
        Self {
            command: Command::Run(Box::new(args)),
        }
    }

    /// Does what was asked.
    ///
    /// # Errors
    /// What kept the command from it; nothing was printed yet.
    pub fn run(self) -> Result<Exit, Error> {
        match self.command {
            Command::Image(command) => command.run(),
            Command::Kernel(command) => command.run(),
            Command::Volume(command) => command.run(),
            Command::Parameter(command) => command.run(),
            Command::Snapshot(command) => command.run(),
            Command::Store(command) => command.run(),
            Command::Instance(command) => command.run(),
            Command::Run(args) => args.run(),
            Command::Ps(args) => args.run(),
            Command::Logs(args) => args.run(),
            Command::Start(args) => args.run(),
            Command::Stop(args) => args.run(),
            Command::Reboot(args) => args.run(),
            Command::Terminate(args) => args.run(),
            Command::Rm(args) => args.run(),
            Command::Completion(args) => args.run(),
            Command::Doctor => {
                let print = &mut |text: &str| drop(output::print(text));
                Ok(crate::doctor::run(&Store::default_home(), print))
            }
        }
    }
}

/// `kami run` as in the whole definition, without the rest of it: that is most of what clap takes of a launch.
fn only_run() -> clap::Command {
    let run = run::Args::augment_args(clap::Command::new("run"));
    clap::Command::new("kami")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .max_term_width(100)
        .subcommand_required(true)
        .subcommand(run.about("Launch an instance from an image"))
}

/// clap knows headings for options only.
fn grouped(command: clap::Command) -> clap::Command {
    let header = *command.get_styles().get_header();
    let literal = *command.get_styles().get_literal();
    let mut help = String::from("{about}\n\n{usage-heading} {usage}\n");
    for (title, names) in GROUPS {
        let _ = writeln!(help, "\n{header}{title}:{header:#}");
        for name in names {
            let about = command.find_subcommand(name).and_then(|it| it.get_about());
            let about = about.map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(help, "  {literal}{name:10}{literal:#}  {about}");
        }
    }
    let _ = write!(help, "\n{header}Options:{header:#}\n{{options}}");
    command.help_template(help)
}

#[cfg(test)]
mod tests;
