//! Writes the built-in test guest, an ELF file, to standard output: for booting it with other tools.

use std::io::{self, Write};

fn main() -> io::Result<()> {
    io::stdout().write_all(kami_kernels::guest::TEST_GUEST)
}
