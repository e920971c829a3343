//! `kami run`.

use std::path::PathBuf;
use std::time::Duration;

use kami_image::account::Account;
use kami_image::manifest::BlockDeviceMapping;
use kami_image::mapping::SyntaxError;
use kami_image::store::Store;

use super::output::print;
use super::value::{duration, memory_bytes, size_bytes};
use super::{Error, chain};
use crate::config;
use crate::exit::Exit;
use crate::launch::background::{self, Started};
use crate::launch::{self, Request};

/// How `kami run` is called.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true, after_long_help = after_long_help(), after_help = Exit::table())]
pub struct Args {
    /// The image: its id, a unique start of it, its name, or resolve:ssm:PARAMETER[:VERSION]
    image: String,

    /// Boot this kernel instead of the image's: bzImage or ELF, on arm64 Image, compressed or not
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Give the kernel this initial ramdisk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// Add to the end of the kernel's command line
    #[arg(long, value_name = "STR", allow_hyphen_values = true)]
    append: Option<String>,

    /// Number of virtual CPUs, 1 to 32
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32))]
    cpus: u32,

    /// Size of the guest's memory, such as 512M or 2G
    #[arg(long, short, value_name = "SIZE", default_value = "1G", value_parser = memory_bytes)]
    memory: u64,

    /// Add to or change the image's block device mapping, in EC2's short syntax or JSON:
    /// /dev/sdb=ephemeral0, /dev/sdc=:20, /dev/sdd=snap-ID:30:true, /dev/sdb=none
    #[arg(long, short, value_name = "MAPPING", value_parser = mapping)]
    block_device: Vec<BlockDeviceMapping>,

    /// Size of each ephemeral disk
    #[arg(long, value_name = "SIZE", default_value = "8G", value_parser = size_bytes)]
    ephemeral_size: u64,

    /// Name the instance
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Remove the instance when it has ended
    #[arg(long)]
    rm: bool,

    /// Leave the instance in the background and print its id
    #[arg(long, short)]
    detach: bool,

    /// Where the guest's console goes, besides the log: stdio, file=PATH or none [default: stdio,
    /// with -d none]
    #[arg(long, value_name = "WHERE", value_parser = console)]
    console: Option<launch::Console>,

    /// End the guest by force after this time, such as 90s or 1m30s
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,

    /// This process is what a `run -d` started
    #[arg(long, hide = true)]
    background: bool,
}

fn after_long_help() -> String {
    format!(
        "Default command line: {}\n\
         {:22} and root=/dev/vda1, or root=/dev/vda where the root disk has no partition table.\n\
         --append comes last, so it overrides.\n\n\
         Ctrl-] on a terminal opens a menu: power button, reset, quit.\n\n{}",
        launch::command_line::default(),
        "",
        Exit::table()
    )
}

fn mapping(text: &str) -> Result<BlockDeviceMapping, String> {
    text.parse().map_err(|error: SyntaxError| chain(&error))
}

fn console(text: &str) -> Result<launch::Console, String> {
    match text.split_once('=') {
        None if text == "stdio" => Ok(launch::Console::Stdio),
        None if text == "none" => Ok(launch::Console::None),
        Some(("file", path)) if !path.is_empty() => Ok(launch::Console::File(path.into())),
        _ => Err(format!("'{text}' is none of stdio, file=PATH, none")),
    }
}

impl Args {
    pub fn run(self) -> Result<Exit, Error> {
        if self.detach && !self.background {
            return in_background(&self);
        }
        if self.background {
            background::leave_session()?;
        }
        let account = config::account()?;
        Ok(launch::launch(
            &Store::default_home(),
            self.into_request(account),
        )?)
    }

    fn into_request(self, account: Option<Account>) -> Request {
        let console = match self.console {
            Some(console) => console,
            None if self.detach => launch::Console::None,
            None => launch::Console::Stdio,
        };
        Request {
            account,
            image: self.image,
            name: self.name,
            kernel: self.kernel,
            initrd: self.initrd,
            append: self.append.unwrap_or_default(),
            cpus: self.cpus,
            memory_bytes: self.memory,
            block_devices: self.block_device,
            ephemeral_bytes: self.ephemeral_size,
            console,
            timeout: self.timeout,
            remove: self.rm,
            in_background: self.background,
        }
    }
}

fn in_background(args: &Args) -> Result<Exit, Error> {
    if args.console == Some(launch::Console::Stdio) {
        return Err(Error::BackgroundStdio);
    }
    match background::start(std::env::args_os().skip(1))? {
        Started::Running(id) => {
            print(&format!("{id}\n"))?;
            Ok(Exit::Done)
        }
        // It has said why.
        Started::Ended(code) => Ok(Exit::from_code(code)),
    }
}
