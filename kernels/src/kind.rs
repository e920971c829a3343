//! What a file is, told from its first bytes: the kernels that can be booted, those that cannot, ramdisks, and
//! what is neither, named so that an error can say it.
//!
//! Implements the magic numbers of `Documentation/arch/x86/boot.rst`, `Documentation/arch/arm64/booting.rst`,
//! ELF, PE/COFF and `Documentation/driver-api/early-userspace/buffer-format.rst` (cpio).

use std::fmt;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::{Compression, Error, bzimage, elf, head};

/// Bytes that the recognition of a file needs: the bzImage setup header and the PE header are the farthest.
pub(crate) const HEAD_BYTES: usize = 4096;

/// What a file's content says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileKind {
    /// A Linux kernel for x86 that unpacks itself.
    BzImage,
    /// An ELF file, with the name of the machine that it is for.
    Elf { machine: String },
    /// An uncompressed Linux kernel for aarch64.
    Arm64Image,
    /// An EFI program that unpacks a compressed kernel; `machine` as its PE header says.
    EfiZboot { machine: String },
    /// Another EFI or Windows program; a unified kernel image is one.
    Pe { machine: String },
    /// A cpio archive, bare or compressed: an initial ramdisk.
    Ramdisk { compression: Option<Compression> },
    /// Compressed data that is no cpio archive within.
    Compressed(Compression),
    /// No bytes at all.
    Empty,
    /// None of the above.
    Unknown,
}

/// Says what the file at `path` is.
///
/// # Errors
/// Where the file cannot be opened or read.
pub fn identify(path: &Path) -> Result<FileKind, Error> {
    let file = crate::open(path)?;
    let first = head(&file, HEAD_BYTES).map_err(|source| Error::read(path, source))?;
    let kind = of_head(&first);
    if let FileKind::Compressed(compression) = kind
        && holds_cpio(compression, BufReader::new(file))
    {
        let compression = Some(compression);
        return Ok(FileKind::Ramdisk { compression });
    }
    Ok(kind)
}

/// What a file that begins with `head` is. Does not look into compressed data.
pub(crate) fn of_head(head: &[u8]) -> FileKind {
    if head.is_empty() {
        FileKind::Empty
    } else if bzimage::is_bzimage(head) {
        FileKind::BzImage
    } else if let Some(machine) = elf::machine_of(head) {
        FileKind::Elf { machine }
    } else if head.get(0x38..0x3c) == Some(b"ARM\x64") {
        // booting.rst: the magic stands after code0/code1, whether or not these spell "MZ" for EFI.
        FileKind::Arm64Image
    } else if let Some(machine) = pe_machine(head) {
        match head.get(4..8) {
            Some(b"zimg") => FileKind::EfiZboot { machine },
            _ => FileKind::Pe { machine },
        }
    } else if is_cpio(head) {
        FileKind::Ramdisk { compression: None }
    } else {
        Compression::detect(head).map_or(FileKind::Unknown, FileKind::Compressed)
    }
}

/// buffer-format.rst: newc, without and with checksums.
fn is_cpio(head: &[u8]) -> bool {
    head.starts_with(b"070701") || head.starts_with(b"070702")
}

fn holds_cpio(compression: Compression, packed: BufReader<std::fs::File>) -> bool {
    let Ok(Some(mut reader)) = compression.reader(packed) else {
        return false;
    };
    let mut first = [0; 6];
    reader.read_exact(&mut first).is_ok() && is_cpio(&first)
}

/// The machine of a PE/COFF file: "MZ", the PE header's offset at 0x3c, "PE\0\0", a u16.
fn pe_machine(head: &[u8]) -> Option<String> {
    if !head.starts_with(b"MZ") {
        return None;
    }
    let at = usize::try_from(bzimage::read_u32(head, 0x3c)?).ok()?;
    let header = head.get(at..)?;
    if !header.starts_with(b"PE\0\0") {
        return None;
    }
    Some(match bzimage::read_u16(header, 4)? {
        0x014c => "i386".to_owned(),
        0x8664 => "x86_64".to_owned(),
        0xaa64 => "arm64".to_owned(),
        0x01c2 => "arm".to_owned(),
        0x5064 => "riscv64".to_owned(),
        0x6264 => "loongarch64".to_owned(),
        other => format!("machine type {other:#x}"),
    })
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BzImage => f.write_str("a bzImage"),
            Self::Elf { machine } => write!(f, "an ELF file for {machine}"),
            Self::Arm64Image => f.write_str("an arm64 Image"),
            Self::EfiZboot { machine } => write!(f, "an EFI zboot program for {machine}"),
            Self::Pe { machine } => write!(f, "an EFI (PE) program for {machine}"),
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
