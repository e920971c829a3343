//! What benchmarks measure with: medians, the time of a command, the space of a folder.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The middle value, the upper one of an even count.
///
/// # Panics
/// There is no value, or one that cannot be compared.
pub fn median<T: PartialOrd + Copy>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<T> = values.collect();
    values.sort_by(|a, b| a.partial_cmp(b).expect("no measure is not a number"));
    values[values.len() / 2]
}

/// Runs a command, with its output thrown away, from just before it is made to its end.
///
/// # Errors
/// It cannot be run, or fails; the message ends with what it wrote to its standard error.
pub fn time(command: &mut Command) -> io::Result<Duration> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null());
    let start = Instant::now();
    let output = command.stderr(Stdio::piped()).output()?;
    let took = start.elapsed();
    if output.status.success() {
        return Ok(took);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "{command:?}: {}: {said}",
        output.status
    )))
}

/// The KiB that a file, or all in a folder and the folder itself, take on the disk.
///
/// # Errors
/// A part of it cannot be read.
pub fn disk_kib(path: &Path) -> io::Result<u64> {
    let metadata = path.symlink_metadata()?;
    // stat(2): blocks are 512 bytes, whatever the file system's are.
    let mut kib = metadata.blocks() / 2;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            kib += disk_kib(&entry?.path())?;
        }
    }
    Ok(kib)
}
