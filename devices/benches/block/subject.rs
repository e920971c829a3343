//! The volumes that are measured.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use kami_image::chunk::{ChunkIndex, ChunkPlace, Digest};
use kami_image::id::{SnapshotId, VolumeId};
use kami_image::snapshot::SnapshotFiles;
use kami_image::volume::{BLOCK_BYTES, BeginWrite, Volume, VolumeFiles};

use super::Result;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Held,
    Snapshot,
    Zero,
}

impl FromStr for Kind {
    type Err = Box<dyn std::error::Error>;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "plain" => Ok(Self::Plain),
            "held" => Ok(Self::Held),
            "snapshot" => Ok(Self::Snapshot),
            "zero" => Ok(Self::Zero),
            _ => Err(format!("no kind of volume: {name}").into()),
        }
    }
}

impl Kind {
    pub fn has_snapshot(self) -> bool {
        matches!(self, Self::Held | Self::Snapshot)
    }
}

/// A volume, and a file of the host with as many bytes that lie as those do.
pub struct Subject {
    pub volume: Volume,
    pub host_file: PathBuf,
}

/// No chunk is known.
struct Empty;

impl ChunkIndex for Empty {
    fn find(
        &self,
        _digest: &Digest,
    ) -> std::result::Result<Option<ChunkPlace>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(None)
    }
}

/// Makes a snapshot of bytes that no two blocks have alike.
pub fn snapshot(home: &Path, size_bytes: u64) -> Result<SnapshotId> {
    let raw = home.join("disk.raw");
    fill(File::create(&raw)?, size_bytes)?;
    let id = SnapshotId::generate();
    let mut source = kami_image::format::open(&raw)?;
    let files = SnapshotFiles::new(home);
    let mut report = |_| ControlFlow::Continue(());
    files.write(&id, &mut source, &Empty, &mut report)?.keep();
    Ok(id)
}

fn fill(file: File, size_bytes: u64) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, file);
    for word in 1..=size_bytes / 8 {
        let mixed = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        file.write_all(&mixed.to_le_bytes())?;
    }
    file.into_inner()?.sync_all()?;
    Ok(())
}

impl Subject {
    pub fn new(
        home: &Path,
        kind: Kind,
        snapshot: Option<SnapshotId>,
        size_bytes: u64,
    ) -> Result<Self> {
        let _ = fs::remove_dir_all(home.join("volumes"));
        let id = VolumeId::generate();
        let base = snapshot.as_ref().filter(|_| kind.has_snapshot());
        let mut volume = VolumeFiles::new(home).create(&id, size_bytes, base)?;
        let overlay = home.join(format!("volumes/{id}.overlay"));
        let host_file = match kind {
            Kind::Snapshot => home.join("disk.raw"),
            _ => overlay.clone(),
        };
        if matches!(kind, Kind::Plain | Kind::Held) {
            fill(File::options().write(true).open(&overlay)?, size_bytes)?;
        }
        if kind == Kind::Held {
            hold_all(&mut volume, size_bytes)?;
        }
        Ok(Self { volume, host_file })
    }
}

/// Has the overlay hold every block, as it does when all were written.
fn hold_all(volume: &mut Volume, size_bytes: u64) -> Result<()> {
    for block in 0..size_bytes / BLOCK_BYTES {
        match volume.begin_write(block * BLOCK_BYTES, BLOCK_BYTES)? {
            BeginWrite::Ready(plan) => volume.end_write(plan, true),
            BeginWrite::Busy => return Err("a block is being written".into()),
        }
    }
    Ok(volume.sync()?)
}
