//! Which kernel boots, and from where: recognises kernel files by their content, unpacks a packed one once into a
//! cache, and says as plain data what goes where in guest memory. Also carries the bare-metal test guest.
//!
//! Implements the file formats of Linux `Documentation/arch/x86/boot.rst` (bzImage), `Documentation/arch/arm64/booting.rst`
//! (Image) and EFI zboot, the ELF object file formats and Xen's `docs/misc/pvh.pandoc` (the PVH entry). Left out on
//! purpose: guest memory, boot parameters and registers, which are the machine's.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)
)]

mod architecture;
mod arm64_image;
mod bzimage;
mod cache;
mod compression;
mod elf;
mod error;
#[cfg(test)]
mod fixture;
pub mod guest;
mod input;
mod kind;
mod lzo;
mod packed;
mod pe;
mod zboot;

use std::fs::File;
use std::path::{Path, PathBuf};

pub use architecture::{Architecture, Machine};
pub use cache::Cache;
pub use compression::Compression;
pub use error::{Error, Unbootable};
pub use kind::{FileKind, identify};

/// A kernel ready to be copied into guest memory.
#[derive(Debug)]
pub struct Kernel {
    /// The ELF file or Image that the segments' offsets speak of.
    pub file: File,
    /// Where `file` was opened; for a packed kernel, the unpacked one in the cache.
    pub path: PathBuf,
    /// What to copy where, in ascending order of guest address, free of overlaps.
    pub segments: Vec<Segment>,
    /// How and where the first vCPU starts: the PVH entry where the kernel has one.
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
    /// Guest-physical address of the first byte; with [`Entry::Arm64`] it counts from the machine's base.
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

/// Opens a kernel that is not packed, an ELF file or an Image, to be run on this host; `path` is what errors call it.
///
/// # Errors
/// Where the file cannot be read, is no such kernel, is malformed or truncated, or is for another machine.
pub fn open_unpacked(file: File, path: &Path) -> Result<Kernel, Error> {
    open_unpacked_for(file, path, Some(Architecture::HOST))
}

/// The same for `host`, or for any machine known here.
fn open_unpacked_for(file: File, path: &Path, host: Option<Architecture>) -> Result<Kernel, Error> {
    match kind::of_head(&input::Input { file: &file, path }.head()?) {
        FileKind::Arm64Image => arm64_image::open_file(file, path, host),
        _ => elf::open_file(file, path, host),
    }
}
