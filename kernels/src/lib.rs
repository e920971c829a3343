//! Which kernel boots, and from where: recognises kernel files by their content, unpacks a bzImage once into a
//! cache, and says as plain data what goes where in guest memory. Also carries the bare-metal test guest.
//!
//! Implements the file formats of Linux `Documentation/arch/x86/boot.rst` (bzImage), the ELF-64 object file
//! format and Xen's `docs/misc/pvh.pandoc` (the PVH entry). Left out on purpose: guest memory, boot parameters and
//! registers, which are the machine's.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)
)]

mod bzimage;
mod cache;
mod compression;
mod elf;
mod error;
#[cfg(test)]
mod fixture;
pub mod guest;
mod kind;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

pub use bzimage::unpack;
pub use cache::Cache;
pub use compression::Compression;
pub use elf::{open_elf, open_elf_file};
pub use error::{Error, Unbootable};
pub use kind::{FileKind, identify};

/// A kernel ready to be copied into guest memory.
#[derive(Debug)]
pub struct Kernel {
    /// The ELF file that the segments' offsets speak of.
    pub file: File,
    /// Where `file` was opened; for a bzImage, the unpacked vmlinux in the cache.
    pub path: PathBuf,
    /// What to copy where, in ascending order of guest address, free of overlaps.
    pub segments: Vec<Segment>,
    /// Where the first vCPU starts: the PVH entry where the kernel has one.
    pub entry: Entry,
    /// The 64-bit entry point (ELF `e_entry`, a guest-physical address), where it lies within a segment.
    pub linux64_entry: Option<u64>,
    /// The machine that the kernel's instructions are for.
    pub architecture: Architecture,
    /// A bzImage's setup header: the file's bytes from 0x1f1 to the end that the header itself gives, to be put
    /// at 0x1f1 of the zero page. At most 0x9f bytes, so that it ends before the zero page's next field (0x290).
    pub setup_header: Option<Vec<u8>>,
}

impl Kernel {
    /// The same kernel, to be started by the 64-bit boot protocol. A kernel without that entry stays as it is.
    #[must_use]
    pub fn by_linux64_entry(mut self) -> Self {
        if let Some(address) = self.linux64_entry {
            self.entry = Entry::Linux64(address);
        }
        self
    }

    /// The guest-physical address after the last byte of the last segment, bss included.
    #[must_use]
    pub fn end_address(&self) -> u64 {
        let ends = self.segments.iter().map(Segment::end_address);
        ends.max().unwrap_or(0)
    }
}

/// A part of a kernel file and its place in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Offset of the first byte in the file.
    pub file_offset: u64,
    /// Bytes that the file holds; never more than `memory_bytes`.
    pub file_bytes: u64,
    /// Guest-physical address of the first byte.
    pub guest_address: u64,
    /// Bytes in guest memory; those beyond `file_bytes` are zero.
    pub memory_bytes: u64,
}

impl Segment {
    /// The guest-physical address after the last byte. Does not overflow for the segments of a [`Kernel`].
    #[must_use]
    pub fn end_address(&self) -> u64 {
        self.guest_address.saturating_add(self.memory_bytes)
    }
}

/// Where and how the first vCPU starts. Addresses are guest-physical.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// 32-bit protected mode, paging off, `ebx` = `hvm_start_info` (Xen `docs/misc/pvh.pandoc`).
    Pvh(u64),
    /// 64-bit mode, identity-mapped, `rsi` = `boot_params` (Linux `boot.rst` "64-bit Boot Protocol").
    Linux64(u64),
    /// 32-bit protected mode, paging off, `esi` = `boot_params` (Linux `boot.rst` "32-bit Boot Protocol").
    Linux32(u64),
    /// MMU off, `x0` = the devicetree (Linux `arm64/booting.rst`). This address and those of the segments count
    /// from a base that the machine chooses: any multiple of 2 MiB, best the start of RAM.
    Arm64(u64),
}

/// The machines whose kernels are known here. Displayed in Amazon EC2's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    X86_64,
    I386,
    Aarch64,
}

impl Architecture {
    /// The machine that this program was built for.
    pub const HOST: Self = match std::env::consts::ARCH.as_bytes() {
        b"aarch64" => Self::Aarch64,
        _ => Self::X86_64,
    };

    /// Whether `host` runs kernels for this machine.
    #[must_use]
    pub fn runs_on(self, host: Self) -> bool {
        self == host || (self, host) == (Self::I386, Self::X86_64)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86_64",
            Self::I386 => "i386",
            Self::Aarch64 => "arm64",
        })
    }
}

/// The first bytes of `file`, up to `limit`, without moving its position.
fn head(file: &File, limit: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; limit];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match std::os::unix::fs::FileExt::read_at(file, rest, filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Opens `path` for reading.
fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| Error::read(path, source))
}
