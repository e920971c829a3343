//! `kami run`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use kami_image::account::Account;
use kami_image::instance::{BootFile, CacheChoice, InstanceSettings, ShutdownBehavior, UserData};
use kami_image::manifest::{BlockDeviceMapping, Tag};
use kami_image::mapping::{Ephemeral, SyntaxError};
use kami_image::store::{ClientToken, Reservation, Store};
use serde_json::json;

use super::output::print;
use super::run_several;
use super::value::{duration, memory_bytes, size_bytes};
use super::{Error, chain, open_store};
use crate::config::{self, Config};
use crate::exit::Exit;
use crate::launch::background;
use crate::launch::{self, Attendance, Request};

const DEFAULT_MEMORY: u64 = 1 << 30;

/// Of an instance without a type: all that EC2 has names for, of 8 GiB.
const DEFAULT_EPHEMERAL: Ephemeral = Ephemeral {
    count: 24,
    size_bytes: 8 << 30,
};

/// How `kami run` is called.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true, after_long_help = after_long_help(), after_help = Exit::table())]
pub struct Args {
    /// The image: its id, a unique start of it, its name, or resolve:ssm:PARAMETER[:VERSION]
    image: String,

    /// Boot this kernel instead of the image's: an aki-ID, or a file: bzImage or ELF, on arm64 Image,
    /// compressed or not
    #[arg(long, value_name = "FILE|ID", help_heading = "Machine")]
    kernel: Option<PathBuf>,

    /// Give the kernel this initial ramdisk: a file or an ari-ID
    #[arg(long, value_name = "FILE|ID", help_heading = "Machine")]
    initrd: Option<PathBuf>,

    /// Add to the end of the kernel's command line
    #[arg(
        long,
        value_name = "STR",
        allow_hyphen_values = true,
        help_heading = "Machine"
    )]
    append: Option<String>,

    /// An instance type, such as m5d.large: its processors, memory and ephemeral disks
    #[arg(
        long = "type",
        short = 't',
        value_name = "TYPE",
        help_heading = "Machine"
    )]
    instance_type: Option<String>,

    /// Number of virtual CPUs, 1 to 32 [default: the type's, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32), help_heading = "Machine")]
    cpus: Option<u32>,

    /// Size of the guest's memory, such as 512M or 2G [default: the type's, else 1G]
    #[arg(long, short, value_name = "SIZE", value_parser = memory_bytes, help_heading = "Machine")]
    memory: Option<u64>,

    /// Add to or change the image's block device mapping, in EC2's short syntax or JSON:
    /// /dev/sdb=ephemeral0, /dev/sdc=:20, /dev/sdd=snap-ID:30:true, /dev/sdb=none
    #[arg(long, short, value_name = "MAPPING", value_parser = mapping, help_heading = "Disks")]
    block_device: Vec<BlockDeviceMapping>,

    /// Size of each ephemeral disk [default: the type's, else 8G]
    #[arg(long, value_name = "SIZE", value_parser = size_bytes, help_heading = "Disks")]
    ephemeral_size: Option<u64>,

    /// Whether a disk, or every disk, uses the host's page cache: writeback (the default), or none for direct I/O
    #[arg(long, value_name = "[DEVICE=]MODE", help_heading = "Disks")]
    cache: Vec<CacheChoice>,

    /// Name the instance
    #[arg(long, value_name = "NAME", help_heading = "Instance")]
    name: Option<String>,

    /// Give the instance a tag
    #[arg(long = "tag", value_name = "KEY=VALUE", help_heading = "Instance")]
    tags: Vec<Tag>,

    /// Give the guest this user data, at most 16 KiB
    #[arg(long, value_name = "FILE", help_heading = "Instance")]
    user_data: Option<PathBuf>,

    /// What becomes of the instance when its guest powers off: stop or terminate
    #[arg(
        long,
        value_name = "BEHAVIOR",
        default_value = "stop",
        hide_default_value = true,
        help_heading = "Instance"
    )]
    shutdown_behavior: ShutdownBehavior,

    /// Refuse to terminate or remove the instance, until it is modified
    #[arg(long, help_heading = "Instance")]
    disable_api_termination: bool,

    /// Launch so many instances, or at least MIN and up to MAX; with -d
    #[arg(long, value_name = "N|MIN:MAX", value_parser = count, help_heading = "Instance")]
    count: Option<RangeInclusive<u32>>,

    /// Launch once: asked again with the same token, print what was launched
    #[arg(long, value_name = "TOKEN", help_heading = "Instance")]
    client_token: Option<String>,

    /// Remove the instance when it has ended
    #[arg(long, help_heading = "Instance")]
    rm: bool,

    /// Leave the instance in the background and print its id
    #[arg(long, short, help_heading = "Console and end")]
    detach: bool,

    /// Where the guest's console goes, besides the log: stdio, file=PATH or none [default: stdio,
    /// with -d none]
    #[arg(long, value_name = "WHERE", value_parser = console, help_heading = "Console and end")]
    console: Option<launch::Console>,

    /// End the guest by force after this time, such as 90s or 1m30s
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Console and end")]
    timeout: Option<Duration>,

    /// This process is what a `run -d` started
    #[arg(long, hide = true)]
    background: bool,

    /// Of what a `run -d` started: the launch and the instance's place in it
    #[arg(long, hide = true, requires = "launch_index")]
    reservation: Option<String>,

    #[arg(long, hide = true)]
    launch_index: Option<u32>,
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

pub fn mapping(text: &str) -> Result<BlockDeviceMapping, String> {
    text.parse().map_err(|error: SyntaxError| chain(&error))
}

pub fn console(text: &str) -> Result<launch::Console, String> {
    match text.split_once('=') {
        None if text == "stdio" => Ok(launch::Console::Stdio),
        None if text == "none" => Ok(launch::Console::None),
        Some(("file", path)) if !path.is_empty() => Ok(launch::Console::File(path.into())),
        _ => Err(format!("'{text}' is none of stdio, file=PATH, none")),
    }
}

fn count(text: &str) -> Result<RangeInclusive<u32>, String> {
    let number = |text: &str| text.parse().ok().filter(|&n: &u32| n > 0);
    let (min, max) = text.split_once(':').unwrap_or((text, text));
    match (number(min), number(max)) {
        (Some(min), Some(max)) if min <= max => Ok(min..=max),
        _ => Err(format!("'{text}' is not a number above 0, or MIN:MAX")),
    }
}

impl Args {
    pub fn run(self) -> Result<Exit, Error> {
        if self.detach && !self.background {
            return self.run_in_background();
        }
        if !self.background && self.count.as_ref().is_some_and(|count| *count.end() > 1) {
            return Err(Error::Usage(
                "several instances run in the background only: give -d",
            ));
        }
        if self.background {
            background::leave_session()?;
        }
        let account = config::account()?;
        let request = self.into_request(account)?;
        let Some(token) = request.client_token.clone() else {
            return Ok(launch::launch(&Store::default_home(), request)?);
        };
        let reservation = request.reservation.clone().map(|it| it.id);
        launch_once(&token, &reservation.unwrap_or_default(), request)
    }

    fn run_in_background(self) -> Result<Exit, Error> {
        if self.console == Some(launch::Console::Stdio) {
            return Err(Error::BackgroundStdio);
        }
        let count = self.count.unwrap_or(1..=1);
        if *count.end() > 1 && self.name.is_some() {
            return Err(Error::Usage(
                "several instances cannot have one name: give --tag Name=NAME",
            ));
        }
        run_several::launch(count)
    }

    fn into_request(self, account: Option<Account>) -> Result<Request, Error> {
        let console = match self.console {
            Some(console) => console,
            None if self.detach => launch::Console::None,
            None => launch::Console::Stdio,
        };
        let named = self.instance_type.as_deref();
        let of_type = match named {
            Some(name) => Some(Config::load()?.instance_type(name)?),
            None => None,
        };
        let of_type = of_type.as_ref();
        let ephemeral = of_type.map_or(DEFAULT_EPHEMERAL, |it| it.ephemeral);
        let mut request = Request {
            account,
            image: self.image,
            name: self.name,
            cpus: self.cpus.or(of_type.map(|it| it.vcpus)).unwrap_or(1),
            memory_bytes: self
                .memory
                .or(of_type.map(|it| it.memory_bytes))
                .unwrap_or(DEFAULT_MEMORY),
            block_devices: self.block_device,
            ephemeral: Ephemeral {
                size_bytes: self.ephemeral_size.unwrap_or(ephemeral.size_bytes),
                ..ephemeral
            },
            settings: InstanceSettings {
                instance_type: self.instance_type,
                kernel: boot_file(self.kernel)?,
                ramdisk: boot_file(self.initrd)?,
                append: self.append.unwrap_or_default(),
                cache: self.cache,
                user_data: self.user_data.map(user_data).transpose()?,
                shutdown_behavior: self.shutdown_behavior,
                disable_api_termination: self.disable_api_termination,
                ..InstanceSettings::default()
            },
            reservation: self.reservation.map(|id| Reservation {
                id,
                index: self.launch_index.unwrap_or(0),
            }),
            tags: self.tags,
            client_token: None,
            attendance: Attendance {
                console,
                timeout: self.timeout,
                in_background: self.background,
            },
            remove: self.rm,
        };
        if let Some(token) = self.client_token {
            let asked = fingerprint(&request, self.count);
            request.client_token = Some(ClientToken {
                token,
                request: asked,
            });
        }
        Ok(request)
    }
}

/// All that is asked of the launch itself, for its client token: not where its console goes.
fn fingerprint(request: &Request, count: Option<RangeInclusive<u32>>) -> String {
    let count = count.unwrap_or(1..=1);
    json!({
        "image": request.image,
        "name": request.name,
        "cpus": request.cpus,
        "memory": request.memory_bytes,
        "mappings": request.block_devices,
        "ephemeral": [u64::from(request.ephemeral.count), request.ephemeral.size_bytes],
        "settings": request.settings,
        "tags": request.tags,
        "count": [count.start(), count.end()],
        "remove": request.remove,
    })
    .to_string()
}

/// Launches, unless that was done before with the same token: then says which instances came of it.
fn launch_once(token: &ClientToken, reservation: &str, request: Request) -> Result<Exit, Error> {
    use kami_image::store::Error::TokenUsed;
    if let Some(exit) = tell_launched(token, reservation)? {
        return Ok(exit);
    }
    match launch::launch(&Store::default_home(), request) {
        // Another launch was faster.
        Err(error @ launch::Error::Store(TokenUsed { .. })) => {
            tell_launched(token, reservation)?.ok_or(Error::Launch(error))
        }
        ended => Ok(ended?),
    }
}

fn tell_launched(token: &ClientToken, reservation: &str) -> Result<Option<Exit>, Error> {
    let Some(instances) = open_store()?.launched_with(token, reservation)? else {
        return Ok(None);
    };
    for instance in instances {
        print(&format!("{}\n", instance.id))?;
    }
    Ok(Some(Exit::Done))
}

pub fn boot_file(path: Option<PathBuf>) -> Result<Option<BootFile>, Error> {
    let of = |path: PathBuf| {
        BootFile::of(&path).map_err(|source| Error::File {
            action: "find",
            path,
            source,
        })
    };
    path.map(of).transpose()
}

pub fn user_data(path: PathBuf) -> Result<UserData, Error> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(&path).and_then(|file| {
        let limit = kami_image::instance::USER_DATA_BYTES as u64 + 1;
        file.take(limit).read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => Ok(UserData::new(bytes)?),
        Err(source) => Err(Error::File {
            action: "read",
            path,
            source,
        }),
    }
}
