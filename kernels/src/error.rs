//! What can be wrong with a kernel file, in words for the person who gave it.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Architecture, Compression, FileKind, Machine};

/// What to give on this host.
const KERNELS_HELP: &str = match Architecture::HOST {
    Architecture::Aarch64 => "give an arm64 Image (/boot/vmlinuz-…), compressed or not",
    _ => "give a bzImage (/boot/vmlinuz-…) or an ELF vmlinux",
};

/// Why a kernel file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be opened or read.
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    /// The file is not a kernel that boots here.
    #[error("cannot boot {path}")]
    Unbootable { path: PathBuf, source: Unbootable },
    /// The unpacked kernel could not be written: a full disk, a folder without permission.
    #[error("cannot keep the unpacked kernel in {path}")]
    Write { path: PathBuf, source: io::Error },
}

/// What about the file's content keeps it from booting.
#[derive(Debug, thiserror::Error)]
pub enum Unbootable {
    #[error("a kernel for {found}, this host is {host}")]
    WrongMachine { found: Machine, host: Architecture },
    #[error("{0}, not a kernel that boots here")]
    NotKernel(FileKind),
    #[error("truncated: its header promises {promised_bytes} bytes, the file holds {holds_bytes}")]
    Truncated {
        promised_bytes: u64,
        holds_bytes: u64,
    },
    #[error(
        "its boot protocol is {}.{:02}, at least 2.08 (Linux 2.6.26) is needed", .version >> 8, .version & 0xff
    )]
    OldProtocol { version: u16 },
    #[error("malformed bzImage: {0}")]
    BadSetupHeader(&'static str),
    #[error("malformed ELF: {0}")]
    BadElf(String),
    #[error("malformed arm64 Image: {0}")]
    BadImageHeader(&'static str),
    #[error("a big-endian kernel, this host's guests are little-endian")]
    BigEndian,
    #[error("an ELF file for arm64, whose kernels start as an Image only")]
    Arm64Elf,
    #[error("it holds no compressed kernel")]
    NoPayload,
    #[error("what it holds is {0}, not a kernel that boots here")]
    HoldsNoKernel(FileKind),
    #[error("an ELF {0}, not a kernel")]
    NotKernelElf(&'static str),
    #[error(
        "its kernel is compressed in a way that is not known here (first bytes {first_bytes:02x?})"
    )]
    UnknownCompression { first_bytes: Vec<u8> },
    #[error("corrupt {compression} data")]
    Corrupt {
        compression: Compression,
        source: io::Error,
    },
    #[error("corrupt: {unpacked_bytes} bytes unpacked where {promised_bytes} are promised")]
    WrongSize {
        unpacked_bytes: u64,
        promised_bytes: u64,
    },
    #[error("it unpacks to {promised_bytes} bytes, more than the {limit_bytes} allowed")]
    TooLarge {
        promised_bytes: u64,
        limit_bytes: u64,
    },
    #[error("it unpacks to more than the {limit_bytes} bytes allowed")]
    Unbounded { limit_bytes: u64 },
}

impl Unbootable {
    /// The architecture of a kernel for `machine`, if `host` runs it, or if it is known here where there is no host.
    pub(crate) fn check_machine(
        machine: &Machine,
        host: Option<Architecture>,
    ) -> Result<Architecture, Self> {
        match (machine, host) {
            (Machine::Known(known), None) => Ok(*known),
            (Machine::Known(known), Some(host)) if known.runs_on(host) => Ok(*known),
            _ => Err(Self::WrongMachine {
                found: machine.clone(),
                host: host.unwrap_or(Architecture::HOST),
            }),
        }
    }
}

impl Error {
    /// The same error, said of the file that the person gave.
    pub(crate) fn about(self, given: &Path) -> Self {
        match self {
            Self::Unbootable { source, .. } => Self::unbootable(given, source),
            other => other,
        }
    }

    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Read { path, source }
    }

    pub(crate) fn unbootable(path: &Path, source: Unbootable) -> Self {
        let path = path.to_owned();
        Self::Unbootable { path, source }
    }

    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Write { path, source }
    }

    /// What the person can do about it, where there is something.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        let Self::Unbootable { source, .. } = self else {
            return None;
        };
        match source {
            Unbootable::NotKernel(FileKind::Ramdisk { .. }) => {
                Some("this looks like an initial ramdisk: give it with --initrd")
            }
            Unbootable::NotKernel(_) | Unbootable::NotKernelElf(_) => Some(KERNELS_HELP),
            Unbootable::Arm64Elf => {
                Some("give the Image that was built from it (arch/arm64/boot/Image)")
            }
            Unbootable::Truncated { .. }
            | Unbootable::Corrupt { .. }
            | Unbootable::WrongSize { .. } => Some("copy the kernel file again from where it came"),
            Unbootable::UnknownCompression { .. } => {
                Some("give the kernel's uncompressed vmlinux instead")
            }
            _ => None,
        }
    }
}
