//! What a file is, told from its first bytes: the kernels that can be booted, those that cannot, ramdisks, and
//! what is neither, named so that an error can say it.
//!
//! Implements the magic numbers of `Documentation/arch/x86/boot.rst`, `Documentation/arch/arm64/booting.rst`,
//! ELF, PE/COFF and `Documentation/driver-api/early-userspace/buffer-format.rst` (cpio).

use std::fmt;
use std::path::Path;

use crate::input::{self, Input};
use crate::packed::Packed;
use crate::{Architecture, Compression, Error, Machine, arm64_image, bzimage, elf, pe, zboot};

/// What a file's content says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A Linux kernel for x86 that unpacks itself. Before boot protocol 2.12 its header does not tell for which.
    BzImage { architecture: Option<Architecture> },
    /// An ELF file.
    Elf { machine: Machine },
    /// An uncompressed Linux kernel for arm64.
    Arm64Image,
    /// An EFI program that unpacks a compressed kernel; `machine` as its PE header says.
    EfiZboot { machine: Machine },
    /// Another EFI or Windows program; a unified kernel image is one.
    Pe { machine: Machine },
    /// A kernel of another kind, compressed as a whole: `Image.gz`.
    CompressedKernel {
        compression: Compression,
        kernel: Box<Self>,
    },
    /// A cpio archive, bare or compressed: an initial ramdisk.
    Ramdisk { compression: Option<Compression> },
    /// Compressed data that is neither kernel nor cpio archive within.
    Compressed(Compression),
    /// No bytes at all.
    Empty,
    /// None of the above.
    Unknown,
}

impl FileKind {
    /// The machine that a program of this kind is for, as far as its headers tell.
    #[must_use]
    pub fn machine(&self) -> Option<Machine> {
        match self {
            Self::BzImage { architecture } => architecture.map(Machine::Known),
            Self::Arm64Image => Some(Architecture::Aarch64.into()),
            Self::Elf { machine } | Self::EfiZboot { machine } | Self::Pe { machine } => {
                Some(machine.clone())
            }
            Self::CompressedKernel { kernel, .. } => kernel.machine(),
            Self::Ramdisk { .. } | Self::Compressed(_) | Self::Empty | Self::Unknown => None,
        }
    }
}

/// Says what the file at `path` is. Looks into compressed data, at the first bytes.
///
/// # Errors
/// Where the file cannot be opened or read.
pub fn identify(path: &Path) -> Result<FileKind, Error> {
    let file = input::open(path)?;
    let input = Input { file: &file, path };
    let head = input.head()?;
    Ok(match of_head(&head) {
        FileKind::Compressed(compression) => {
            match Packed::whole(input, compression)?.content(input) {
                Some(content) => compressed(compression, content),
                None => FileKind::Compressed(compression),
            }
        }
        FileKind::BzImage { architecture: None } => FileKind::BzImage {
            architecture: bzimage_content(input, &head),
        },
        other => other,
    })
}

/// The machine of the ELF file within a bzImage; nothing where it cannot be told.
fn bzimage_content(input: Input<'_>, head: &[u8]) -> Option<Architecture> {
    let content = Packed::in_bzimage(input, head).ok()?.content(input)?;
    match content.machine()? {
        Machine::Known(architecture) => Some(architecture),
        Machine::Other(_) => None,
    }
}

/// What a file that begins with `head` is. Does not look into compressed data.
pub(crate) fn of_head(head: &[u8]) -> FileKind {
    if head.is_empty() {
        FileKind::Empty
    } else if bzimage::is_bzimage(head) {
        let architecture = bzimage::architecture(head);
        FileKind::BzImage { architecture }
    } else if let Some(machine) = elf::machine_of(head) {
        FileKind::Elf { machine }
    } else if arm64_image::is_image(head) {
        FileKind::Arm64Image
    } else if let Some(machine) = pe::machine_of(head) {
        match zboot::is_zboot(head) {
            true => FileKind::EfiZboot { machine },
            false => FileKind::Pe { machine },
        }
    } else if is_cpio(head) {
        FileKind::Ramdisk { compression: None }
    } else {
        Compression::detect(head).map_or(FileKind::Unknown, FileKind::Compressed)
    }
}

/// What a file is that `compression` as a whole unpacks to `content`.
pub(crate) fn compressed(compression: Compression, content: FileKind) -> FileKind {
    match content {
        FileKind::Elf { .. } | FileKind::Arm64Image => FileKind::CompressedKernel {
            compression,
            kernel: Box::new(content),
        },
        FileKind::Ramdisk { compression: None } => FileKind::Ramdisk {
            compression: Some(compression),
        },
        _ => FileKind::Compressed(compression),
    }
}

/// buffer-format.rst: newc, without and with checksums.
fn is_cpio(head: &[u8]) -> bool {
    head.starts_with(b"070701") || head.starts_with(b"070702")
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BzImage { .. } => f.write_str("a bzImage"),
            Self::Elf { machine } => write!(f, "an ELF file for {machine}"),
            Self::Arm64Image => f.write_str("an arm64 Image"),
            Self::EfiZboot { machine } => write!(f, "an EFI zboot program for {machine}"),
            Self::Pe { machine } => write!(f, "an EFI (PE) program for {machine}"),
            Self::CompressedKernel {
                compression,
                kernel,
            } => write!(f, "{compression}-compressed data, {kernel} within"),
            Self::Ramdisk { compression: None } => f.write_str("an initial ramdisk (cpio)"),
            Self::Ramdisk {
                compression: Some(compression),
            } => write!(f, "an initial ramdisk ({compression}-compressed cpio)"),
            Self::Compressed(compression) => write!(f, "{compression}-compressed data"),
            Self::Empty => f.write_str("an empty file"),
            Self::Unknown => f.write_str("a file of a format that is not known here"),
        }
    }
}

#[cfg(test)]
mod tests;
