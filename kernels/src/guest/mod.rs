//! The bare-metal test guest: a program of a few dozen kilobytes that boots as a kernel does and tests the
//! machine that it finds itself in.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use rustix::fs::MemfdFlags;

use crate::{Error, Kernel, elf};

/// The test guest, an ELF file with a PVH entry and a 64-bit entry. It lies at 1 MiB and needs 2 MiB of memory.
pub const TEST_GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/test-guest.elf"));

/// What errors call the test guest.
const NAME: &str = "the built-in test guest";

/// The test guest as a kernel, in a file without a name.
///
/// # Errors
/// Where the host has no memory for the file.
pub fn open() -> Result<Kernel, Error> {
    let path = Path::new(NAME);
    let file = rustix::fs::memfd_create("kami-test-guest", MemfdFlags::CLOEXEC)
        .map_err(|source| Error::write(path, source.into()))?;
    let mut file = File::from(file);
    file.write_all(TEST_GUEST)
        .map_err(|source| Error::write(path, source))?;
    elf::open_elf_file(file, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Entry;

    #[test]
    fn test_guest_has_both_entries_and_fits_into_2_mib() {
        let kernel = open().unwrap();
        assert!(matches!(kernel.entry, Entry::Pvh(_)), "{:?}", kernel.entry);
        assert!(kernel.linux64_entry.is_some());
        assert!(
            kernel.end_address() <= 2 << 20,
            "{:#x}",
            kernel.end_address()
        );
        let kernel = kernel.by_linux64_entry();
        assert!(matches!(kernel.entry, Entry::Linux64(_)));
    }
}
