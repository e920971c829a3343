//! Why a command failed, its exit status, and what the user can do about it.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use kami_image::instance::UserDataTooLong;
use kami_image::{filter, manifest, snapshot, store};
use kami_kernels::Unbootable;

use crate::arch::host;
use crate::architecture;
use crate::cli::output::Paint;
use crate::config;
use crate::doctor::checks::permission_help;
use crate::exit::Exit;
use crate::launch::{self, background};
use crate::{instance, machine, memory};

/// See the module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("cannot register {}", path.display())]
    Manifest {
        path: PathBuf,
        source: manifest::ParseError,
    },
    #[error(transparent)]
    Kernel(#[from] kami_kernels::Error),
    /// The text says what the file is.
    #[error("{} is {found}, neither a kernel nor a ramdisk", path.display())]
    NoKernel { path: PathBuf, found: String },
    #[error(transparent)]
    Launch(#[from] launch::Error),
    #[error(transparent)]
    Background(#[from] background::Error),
    #[error("an instance in the background has no terminal for --console stdio")]
    BackgroundStdio,
    #[error(transparent)]
    Instance(#[from] instance::Error),
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error(transparent)]
    Filter(#[from] filter::Error),
    #[error("{0}")]
    Usage(&'static str),
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    UserData(#[from] UserDataTooLong),
    #[error("cannot write the output")]
    Output(#[from] io::Error),
}

impl Error {
    /// The exit status that tells this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Store(error) | Self::Launch(launch::Error::Store(error)) => of_store(error),
            Self::Manifest { .. } | Self::NoKernel { .. } => Exit::BadInput,
            Self::Kernel(error) | Self::Launch(launch::Error::Kernel(error)) => of_kernel(error),
            Self::Launch(
                launch::Error::ImageArchitecture { .. }
                | launch::Error::Mismatch { .. }
                | launch::Error::NoKernel { .. }
                | launch::Error::NoSuchDisk { .. },
            ) => Exit::BadInput,
            Self::Launch(launch::Error::Machine(error)) => of_machine(error),
            Self::Launch(launch::Error::Interrupted) => Exit::Interrupted,
            Self::BackgroundStdio | Self::Filter(_) | Self::Usage(_) => Exit::Usage,
            Self::File { .. } | Self::UserData(_) => Exit::BadInput,
            Self::Config(_) => Exit::BadInput,
            Self::Launch(_) | Self::Background(_) | Self::Instance(_) | Self::Output(_) => {
                Exit::Failed
            }
        }
    }

    /// What the user can do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Store(error) | Self::Launch(launch::Error::Store(error)) => error.help(),
            Self::Kernel(error) => error.help().map(str::to_owned),
            Self::Launch(error) => of_architecture(error).or_else(|| of_launch(error)),
            Self::Config(config::Error::UnknownType { .. }) => {
                Some("kami instance types lists the types".into())
            }
            Self::BackgroundStdio => Some("`kami logs -f` follows its console".into()),
            Self::NoKernel { .. } => {
                Some("give a bzImage, an arm64 Image, an ELF vmlinux or a cpio archive".into())
            }
            _ => None,
        }
    }

    /// EC2's code for the error, where EC2 has one.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Store(error) | Self::Launch(launch::Error::Store(error)) => error.code(),
            Self::Config(config::Error::UnknownType { .. })
            | Self::Filter(_)
            | Self::UserData(_)
            | Self::Launch(launch::Error::ImageArchitecture { .. }) => {
                Some("InvalidParameterValue")
            }
            // EC2's word for an instance that no host of its has room for.
            Self::Launch(
                launch::Error::Memory(memory::Error::MoreThanHost { .. })
                | launch::Error::Machine(machine::Error::Cpus(_)),
            ) => Some("InsufficientInstanceCapacity"),
            _ => None,
        }
    }

    /// Prints the error with all that caused it and EC2's code on one line, and the help on another; in
    /// colours, if standard error is a terminal.
    pub fn print(&self) {
        let paint = Paint::of_stderr();
        let code = self.code().map(|code| format!(" ({code})"));
        eprintln!(
            "kami: {} {}{}",
            paint.error("error:"),
            chain(self),
            code.unwrap_or_default()
        );
        if let Some(help) = self.help() {
            eprintln!("{} {help}", paint.help("help:"));
        }
    }
}

/// The error and all that caused it, outermost first, on one line. A cause that only says again what
/// was said, as SQLite's do, is left out.
pub fn chain(error: &dyn StdError) -> String {
    let mut last = error.to_string();
    let mut text = last.clone();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !said.ends_with(&last) {
            text.push_str(": ");
            text.push_str(&said);
        }
        last = said;
        cause = error.source();
    }
    // What a file or a guest says of itself may hold anything.
    text.replace(|c: char| c.is_control(), " ")
}

fn of_store(error: &store::Error) -> Exit {
    match (error, error.kind()) {
        (store::Error::Snapshot(snapshot::Error::Interrupted), _) => Exit::Interrupted,
        (_, store::ErrorKind::Input) => Exit::BadInput,
        (_, store::ErrorKind::NotFound) => Exit::NotFound,
        (_, store::ErrorKind::Other) => Exit::Failed,
    }
}

fn of_kernel(error: &kami_kernels::Error) -> Exit {
    match error {
        kami_kernels::Error::Write { .. } => Exit::Failed,
        _ => Exit::BadInput,
    }
}

fn of_machine(error: &machine::Error) -> Exit {
    if error.is_kvm_giving_up() {
        Exit::KvmError
    } else if error.is_bad_file() {
        Exit::BadInput
    } else {
        Exit::Failed
    }
}

fn of_architecture(error: &launch::Error) -> Option<String> {
    match error {
        launch::Error::ImageArchitecture { word, .. } => Some(format!(
            "launch it on a host for {word}; this one runs images for {}",
            architecture::all_of_host()
        )),
        launch::Error::Kernel(kami_kernels::Error::Unbootable {
            source: Unbootable::WrongMachine { .. },
            ..
        }) => Some(format!(
            "give a kernel for {} with --kernel FILE",
            architecture::all_of_host()
        )),
        launch::Error::Mismatch { word, .. } => {
            Some(format!("give a kernel for {word} with --kernel FILE"))
        }
        _ => None,
    }
}

fn of_launch(error: &launch::Error) -> Option<String> {
    let help = match error {
        launch::Error::NoKernel { .. } => {
            "give one with --kernel FILE, or put one into the store with `kami kernel import` and \
             name its id as KernelId in the manifest"
        }
        launch::Error::Kernel(error) => error.help()?,
        launch::Error::NoSuchDisk { disks, .. } => {
            return Some(format!("its disks are {}", disks.join(", ")));
        }
        launch::Error::Cache { .. } => "leave out --cache none for it",
        launch::Error::Memory(_) => "give the guest less with --memory",
        launch::Error::Machine(machine::Error::OpenKvm(error)) => permission_help(error),
        launch::Error::Machine(error) if error.is_kvm_giving_up() => of_kvm(),
        _ => return None,
    };
    Some(help.to_owned())
}

/// What is known of a host whose KVM cannot run a guest.
fn of_kvm() -> &'static str {
    if host::emulates_kernels() {
        "this host's KVM has neither VMX nor SVM and emulates kernel code, so that stock Linux \
         kernels may not boot: use a host with either (see `kami doctor`)"
    } else {
        "`kami doctor` tells whether this host's KVM runs its own test guest"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_is_one_line_from_the_outermost_error_to_its_cause() {
        let error = Error::Manifest {
            path: "m.json".into(),
            source: manifest::ParseError::Read(io::Error::other("disk\nfull")),
        };
        let text = chain(&error);
        assert_eq!(text, "cannot register m.json: cannot read: disk full");
    }

    #[test]
    fn errors_that_ec2_knows_have_its_code() {
        let reference = "web".to_owned();
        let unknown = Error::Store(store::Error::ImageNotFound { reference });
        assert_eq!(unknown.code(), Some("InvalidAMIID.NotFound"));
        assert_eq!(Error::BackgroundStdio.code(), None);
        let large = Error::Launch(machine::Error::Cpus(96).into());
        assert_eq!(large.code(), Some("InsufficientInstanceCapacity"));
    }

    #[test]
    fn chain_does_not_say_a_thing_twice_and_a_folder_that_takes_no_more_has_its_help() {
        let store = tempfile::tempdir().unwrap();
        std::fs::write(store.path().join("catalogue.db"), "x".repeat(5000)).unwrap();
        let error = store::Store::open(store.path()).unwrap_err();
        let text = chain(&error);
        assert_eq!(text.matches("not a database").count(), 1, "{text}");
        for (kind, help) in [
            (io::ErrorKind::ReadOnlyFilesystem, "writable"),
            (io::ErrorKind::StorageFull, "kami store gc"),
        ] {
            let error = store::Error::Io {
                action: "create",
                path: "home".into(),
                source: kind.into(),
            };
            assert!(Error::Store(error).help().unwrap().contains(help));
        }
    }

    #[test]
    fn kvm_that_gives_up_has_its_own_status_and_what_is_known_of_the_host() {
        let kvm = machine::Error::InternalError {
            vcpu: 0,
            suberror: 1,
            at: 0x1000,
            bytes: vec![0xcc],
        };
        let error = Error::Launch(kvm.into());
        assert_eq!(error.exit(), Exit::KvmError);
        assert!(error.to_string().contains("0x1000, instruction bytes cc"));
        assert!(error.help().unwrap().contains("kami doctor"));
        let absent = machine::Error::OpenKvm(io::ErrorKind::NotFound.into());
        assert_eq!(Error::Launch(absent.into()).exit(), Exit::Failed);
    }
}
