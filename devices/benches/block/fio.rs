//! fio on the host's file of the same bytes: what the host's io_uring does by itself.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{Job, Kind, Result};

/// Where fio's terse line (version 3) has the operations a second.
const READ_IOPS: usize = 7;
const WRITE_IOPS: usize = 48;

/// Operations a second; none of a job that fio has no name for.
pub fn run(job: &Job, file: &Path, size_bytes: u64, time: Duration) -> Result<Option<f64>> {
    let (rw, field) = match job.kind {
        Kind::Read => ("read", READ_IOPS),
        Kind::Write => ("write", WRITE_IOPS),
        Kind::RandRead => ("randread", READ_IOPS),
        // What a first write is measured by: rewriting a file that has all of its blocks.
        Kind::RandWrite | Kind::First => ("randwrite", WRITE_IOPS),
    };
    let output = Command::new("fio")
        .args([
            "--name=bench",
            "--ioengine=io_uring",
            "--time_based",
            "--norandommap",
        ])
        .args([
            "--invalidate=0",
            "--overwrite=1",
            "--minimal",
            "--terse-version=3",
        ])
        .arg(format!("--filename={}", file.display()))
        .arg(format!("--rw={rw}"))
        .arg(format!("--bs={}", job.block_bytes))
        .arg(format!("--iodepth={}", job.depth))
        .arg(format!("--size={size_bytes}"))
        .arg(format!("--runtime={}ms", time.as_millis()))
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().find(|it| it.starts_with("3;"));
    let value = line.and_then(|it| it.split(';').nth(field));
    match value {
        Some(value) => Ok(Some(value.parse()?)),
        None => Err(format!(
            "fio failed: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        )
        .into()),
    }
}
