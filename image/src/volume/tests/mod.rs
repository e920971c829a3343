//! A volume driven with plain reads and writes, as the block device drives it with io_uring.

mod crash;
mod files;
mod layers;
mod model;

use super::*;
use crate::format;
use crate::snapshot::SnapshotFiles;
use rustix::fs::FallocateFlags;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// A store with one snapshot, whose bytes are known.
struct Home {
    folder: tempfile::TempDir,
    snapshot: SnapshotId,
    content: Vec<u8>,
}

impl Home {
    /// The snapshot has data in the middle of its first chunk, a zero chunk, one chunk twice and
    /// an end that is no multiple of anything but the sector.
    fn new() -> Self {
        let chunk = usize::try_from(chunk::CHUNK_BYTES).unwrap();
        let mut content = vec![0; 4 * chunk + 3 * 4096 + 512];
        for (number, sector) in content.chunks_mut(512).enumerate() {
            let zero = (256..300).contains(&number) || (chunk..2 * chunk).contains(&(number * 512));
            if !zero {
                sector.fill(u8::try_from(1 + number % 100).unwrap());
            }
        }
        content.copy_within(2 * chunk..3 * chunk, 3 * chunk);
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk.raw");
        std::fs::write(&disk, &content).unwrap();
        let snapshot = SnapshotId::generate();
        let mut source = format::open(&disk).unwrap();
        SnapshotFiles::new(folder.path())
            .write(&snapshot, &mut source, &(), &mut |_| {
                ControlFlow::Continue(())
            })
            .unwrap()
            .keep();
        Self {
            folder,
            snapshot,
            content,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn volumes(&self) -> VolumeFiles {
        VolumeFiles::new(self.path())
    }

    fn file(&self, name: String) -> PathBuf {
        self.path().join("volumes").join(name)
    }
}

impl Home {
    /// Makes a snapshot of these bytes.
    fn import(&self, bytes: &[u8]) -> SnapshotId {
        let disk = self.path().join("import.raw");
        std::fs::write(&disk, bytes).unwrap();
        let id = SnapshotId::generate();
        let mut source = format::open(&disk).unwrap();
        SnapshotFiles::new(self.path())
            .write(&id, &mut source, &(), &mut |_| ControlFlow::Continue(()))
            .unwrap()
            .keep();
        id
    }
}

/// The whole content of a frozen volume, chunk by chunk.
fn content(frozen: &Frozen) -> Vec<u8> {
    let len = usize::try_from(chunk::CHUNK_BYTES).unwrap();
    let chunks = frozen.size_bytes().div_ceil(chunk::CHUNK_BYTES);
    let mut bytes = vec![0xaa; usize::try_from(chunks).unwrap() * len];
    for (index, chunk) in (0..).zip(bytes.chunks_mut(len)) {
        frozen.read_chunk(index, chunk).unwrap();
    }
    let size = usize::try_from(frozen.size_bytes()).unwrap();
    assert!(bytes[size..].iter().all(|byte| *byte == 0));
    bytes.truncate(size);
    bytes
}

/// Reads as the device does.
fn read(volume: &mut Volume, offset: u64, len: usize) -> Vec<u8> {
    let mut extents = Vec::new();
    volume.map_read(offset, len as u64, &mut extents).unwrap();
    let mut bytes = Vec::new();
    for extent in extents {
        bytes.extend(bytes_at(volume, extent.place, extent.len));
    }
    assert_eq!(bytes.len(), len);
    bytes
}

fn bytes_at(volume: &Volume, place: Place, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    if let Place::File { file, offset } = place {
        let mut at = 0;
        // Past a file's end there are zeroes, as the device has it.
        while let count @ 1.. =
            rustix::io::pread(volume.file(file), &mut bytes[at..], offset + at as u64).unwrap()
        {
            at += count;
        }
    }
    bytes
}

/// What a request does to its range.
#[derive(Clone, Copy, Debug)]
enum Change {
    Write(u8),
    Punch,
}

impl Change {
    fn byte(self) -> u8 {
        match self {
            Self::Write(byte) => byte,
            Self::Punch => 0,
        }
    }
}

fn ready(volume: &mut Volume, offset: u64, len: u64) -> WritePlan {
    match volume.begin_write(offset, len).unwrap() {
        BeginWrite::Ready(plan) => plan,
        BeginWrite::Busy => panic!("nothing is in flight"),
    }
}

fn fill(volume: &Volume, plan: &WritePlan) {
    for fill in plan.fills.iter().flatten() {
        assert!(fill.len < BLOCK_BYTES);
        let bytes = bytes_at(volume, fill.from, fill.len);
        pwrite(volume, plan.file, fill.to_offset, &bytes);
    }
}

fn change(volume: &Volume, plan: &WritePlan, change: Change) {
    match change {
        Change::Write(byte) => {
            let bytes = vec![byte; usize::try_from(plan.len).unwrap()];
            pwrite(volume, plan.file, plan.offset, &bytes);
        }
        Change::Punch => rustix::fs::fallocate(
            volume.file(plan.file),
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            plan.offset,
            plan.len,
        )
        .unwrap(),
    }
}

fn pwrite(volume: &Volume, file: FileIndex, offset: u64, bytes: &[u8]) {
    let count = rustix::io::pwrite(volume.file(file), bytes, offset).unwrap();
    assert_eq!(count, bytes.len());
}

/// Writes the whole range, plan by plan.
fn write(volume: &mut Volume, mut offset: u64, len: u64, what: Change) {
    let end = offset + len;
    while offset < end {
        let plan = ready(volume, offset, end - offset);
        assert!(plan.len > 0);
        fill(volume, &plan);
        change(volume, &plan, what);
        offset += plan.len;
        volume.end_write(plan, true);
    }
}

fn flush(volume: &mut Volume) {
    let plan = volume.begin_flush();
    for page in &plan.pages {
        pwrite(volume, page.file, page.offset, &page.bytes[..]);
    }
    volume.end_flush(plan, true);
}
