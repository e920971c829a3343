//! Snapshots of volumes, of one or of several at one moment.
//!
//! The volumes are frozen: a new layer takes what is written from then on, and what lies below
//! does not change. From that a snapshot is written, which costs what has changed since the volume's last
//! one, while a guest runs on. One transaction then names the snapshot and has the volume stand on
//! it, and the layers below go: their content is the store's now.
//!
//! Killed at any moment, what was frozen is still the volume, in one layer more.

use std::io;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::time::Duration;

use super::{Error, Store};
use crate::catalogue::NewSnapshot;
use crate::chunk::pending::{create_locked, is_at, lock, unlock};
use crate::chunk::{CHUNK_BYTES, CHUNK_LEN};
use crate::fault;
use crate::id::{SnapshotId, VolumeId};
use crate::snapshot::{self, Base, Disk, Hold, Progress, Written};
use crate::volume::{Frozen, Standing};

/// How often to ask whether another snapshot of a volume is done.
const POLL: Duration = Duration::from_millis(20);

/// A snapshot to be made of a volume.
#[derive(Clone, Debug)]
pub struct VolumeSnapshot {
    pub volume: VolumeId,
    pub snapshot: SnapshotId,
    pub description: String,
}

/// The running instance of volumes that snapshots are made of.
pub trait Live {
    /// Flushes these volumes, which are all the instance's, and has what is written later go to a new
    /// layer of each, all at one moment. Returns the layers' numbers.
    ///
    /// # Errors
    /// The instance has ended, or could not do it.
    fn freeze(&mut self, volumes: &[VolumeId]) -> io::Result<Vec<u32>>;

    /// Has the volume stand on the snapshot, and forget its layers below `layer`.
    ///
    /// # Errors
    /// As [`Live::freeze`].
    fn rebase(&mut self, volume: &VolumeId, snapshot: &SnapshotId, layer: u32) -> io::Result<()>;
}

/// Snapshots whose files are complete and that nothing names yet. Dropped, they are deleted, and
/// the volumes have a layer more.
#[derive(Debug)]
#[must_use = "dropping it deletes the snapshots"]
pub struct WrittenSnapshots<'a> {
    store: &'a Store,
    snapshots: Vec<One>,
    _turns: Vec<Turn>,
    hold: Hold,
}

#[derive(Debug)]
struct One {
    wanted: VolumeSnapshot,
    standing: Standing,
    /// The layer that later writes go to.
    top: u32,
    written: Written,
}

impl Store {
    /// Writes snapshots of volumes, as they are at one moment: live those of a running instance,
    /// and without it volumes that no process has open. For each, progress is told with the
    /// snapshot's id.
    ///
    /// To be followed by a transaction with [`WrittenSnapshots::add_rows`], and after its
    /// commit [`WrittenSnapshots::finish`].
    ///
    /// # Errors
    /// [`Error::VolumeNotFound`]; [`Error::Volume`], among others for one that is in use;
    /// [`Error::Freeze`]; [`Error::Snapshot`].
    pub fn write_volume_snapshots<'a>(
        &'a self,
        wanted: &[VolumeSnapshot],
        live: Option<&mut dyn Live>,
        progress: &mut dyn FnMut(&str, Progress) -> ControlFlow<()>,
    ) -> Result<WrittenSnapshots<'a>, Error> {
        let turns = self.wait_for_turns(wanted, progress)?;
        // Since before the rows are read: what the volumes stand on stays.
        let hold = self.snapshots.hold()?;
        let standings = wanted
            .iter()
            .map(|one| self.snapshot_source(&one.volume))
            .collect::<Result<Vec<_>, _>>()?;
        let tops = match live {
            Some(live) => freeze_live(wanted, live)?,
            None => wanted
                .iter()
                .zip(&standings)
                .map(|(one, standing)| self.volumes.freeze(&one.volume, standing))
                .collect::<Result<Vec<_>, _>>()?,
        };
        fault::point("snapshot.frozen");

        let mut snapshots = Vec::new();
        for ((wanted, standing), top) in wanted.iter().zip(standings).zip(tops) {
            let view = self.volumes.frozen(&wanted.volume, &standing, top)?;
            let disk = Changes::new(&view)?;
            let base = match &standing.base {
                Some(snapshot) => Some(Base {
                    snapshot,
                    segments: self.catalogue.count_segments(snapshot)?,
                }),
                None => None,
            };
            let name = wanted.snapshot.to_string();
            let written = self.snapshots.write_on(
                &wanted.snapshot,
                base,
                &disk,
                &self.catalogue,
                &mut |done| progress(&name, done),
            )?;
            // Whoever runs the volume has it durable after its next flush; the row that is to
            // say that the volume begins with this layer must not be there before.
            self.volumes.sync_layers(&wanted.volume, top)?;
            snapshots.push(One {
                wanted: wanted.clone(),
                standing,
                top,
                written,
            });
        }
        fault::point("snapshot.written");
        Ok(WrittenSnapshots {
            store: self,
            snapshots,
            _turns: turns,
            hold,
        })
    }

    /// What the volume's row says, of one that snapshots can be made of.
    fn snapshot_source(&self, id: &VolumeId) -> Result<Standing, Error> {
        let row = self.catalogue.volume(id)?;
        // EC2 knows ephemeral disks by their names only.
        let row = row.filter(|row| !row.is_temporary());
        Ok(row.ok_or_else(|| volume_not_found(id))?.standing())
    }

    /// Waits until nobody else makes snapshots of these volumes.
    fn wait_for_turns(
        &self,
        wanted: &[VolumeSnapshot],
        progress: &mut dyn FnMut(&str, Progress) -> ControlFlow<()>,
    ) -> Result<Vec<Turn>, Error> {
        let mut ids: Vec<_> = wanted.iter().map(|one| one.volume).collect();
        // In one order everywhere: nobody waits in a circle.
        ids.sort_unstable();
        ids.dedup();
        let folder = self.snapshots.folder();
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let mut turns = Vec::new();
        for id in ids {
            let path = folder.join(format!("{id}{}", snapshot::TURN_SUFFIX));
            let turn = loop {
                if let Some(turn) = Turn::take(&path).map_err(Error::io("lock", &path))? {
                    break turn;
                }
                let waiting = Progress {
                    phase: snapshot::Phase::Wait,
                    done_bytes: 0,
                    total_bytes: 0,
                };
                if progress(&id.to_string(), waiting).is_break() {
                    return Err(snapshot::Error::Interrupted.into());
                }
                std::thread::sleep(POLL);
            };
            turns.push(turn);
        }
        Ok(turns)
    }
}

fn freeze_live(wanted: &[VolumeSnapshot], live: &mut dyn Live) -> Result<Vec<u32>, Error> {
    let ids: Vec<_> = wanted.iter().map(|one| one.volume).collect();
    let freeze = |source| Error::Freeze { source };
    let tops = live.freeze(&ids).map_err(freeze)?;
    if tops.len() != ids.len() {
        let other = "it answered for other volumes than those asked for";
        return Err(freeze(io::Error::other(other)));
    }
    Ok(tops)
}

impl WrittenSnapshots<'_> {
    /// Adds the rows of the snapshots and has the volumes stand on them, in the caller's
    /// transaction, which must be a durable one.
    ///
    /// # Errors
    /// [`Error::VolumeNotFound`] for a volume that was deleted meanwhile; [`Error::Catalogue`].
    pub(super) fn add_rows(&self) -> Result<(), Error> {
        let catalogue = &self.store.catalogue;
        for one in &self.snapshots {
            let VolumeSnapshot {
                volume, snapshot, ..
            } = &one.wanted;
            if self.store.snapshot_source(volume)?.base != one.standing.base {
                return Err(volume_not_found(volume));
            }
            catalogue.add_snapshot(&NewSnapshot {
                id: *snapshot,
                owner: self.store.owner(),
                volume: Some(*volume),
                size_bytes: one.written.size_bytes,
                stored_bytes: one.written.stored_bytes,
                full_bytes: one.written.full_bytes,
                description: &one.wanted.description,
                started: one.written.started,
                chunks: &one.written.chunks,
                segments: &one.written.needs,
            })?;
            catalogue.rebase_volume(volume, snapshot, one.top)?;
        }
        Ok(())
    }

    /// Lets go of what the snapshots have taken the place of, once the transaction has committed. `live`
    /// is the one of [`Store::write_volume_snapshots`].
    ///
    /// Nothing here can fail the snapshots: what cannot be done is left to the next open of the volume or
    /// the next sweep.
    pub fn finish(self, mut live: Option<&mut dyn Live>) {
        fault::point("snapshot.committed");
        for one in self.snapshots {
            one.written.keep();
            let VolumeSnapshot {
                volume, snapshot, ..
            } = &one.wanted;
            if let Some(live) = &mut live
                && let Err(error) = live.rebase(volume, snapshot, one.top)
            {
                // It has ended meanwhile, or it reads on from files and a snapshot that stay
                // as long as it has them open.
                tracing::debug!(%volume, %error, "cannot rebase a running volume");
            }
            fault::point("snapshot.rebased");
            if let Err(error) = self.store.volumes.delete_below(volume, one.top) {
                tracing::debug!(%volume, %error, "cannot delete the layers below a snapshot");
            }
        }
        drop(self.hold);
        self.store.release_snapshots();
        self.store.catalogue.tidy();
    }
}

/// The volume as it was when it was frozen, where it differs from its base.
struct Changes<'a> {
    frozen: &'a Frozen,
    /// Ascending.
    chunks: Vec<u64>,
}

impl<'a> Changes<'a> {
    fn new(frozen: &'a Frozen) -> Result<Self, Error> {
        Ok(Self {
            frozen,
            chunks: frozen.changed_chunks()?,
        })
    }
}

impl Disk for Changes<'_> {
    fn size_bytes(&self) -> u64 {
        self.frozen.size_bytes()
    }

    fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>, snapshot::Error> {
        let first = offset.div_ceil(CHUNK_BYTES);
        let position = self.chunks.partition_point(|chunk| *chunk < first);
        Ok(self.chunks.get(position).map(|chunk| {
            let start = chunk * CHUNK_BYTES;
            start..start + CHUNK_BYTES
        }))
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), snapshot::Error> {
        debug_assert_eq!(buffer.len(), CHUNK_LEN);
        let index = offset / CHUNK_BYTES;
        let read = self.frozen.read_chunk(index, buffer);
        read.map_err(|error| snapshot::Error::Volume(Box::new(error)))
    }

    fn work_bytes(&self) -> u64 {
        self.chunks.len() as u64 * CHUNK_BYTES
    }

    fn done_bytes(&self, number: u64, _: u64) -> u64 {
        (number + 1) * CHUNK_BYTES
    }
}

/// Held by the one process that makes a snapshot of a volume: a lock file, gone when it is done.
#[derive(Debug)]
struct Turn {
    file: std::fs::File,
    path: PathBuf,
}

impl Turn {
    /// None while another has it.
    fn take(path: &std::path::Path) -> io::Result<Option<Self>> {
        let file = match create_locked(path)? {
            Some(file) => file,
            // Another's, or what a killed process has left.
            None => match std::fs::File::open(path) {
                Ok(file) if lock(&file)? && is_at(&file, path)? => file,
                Ok(_) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        Ok(Some(Self {
            file,
            path: path.to_owned(),
        }))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // While it is locked: nobody takes the name for theirs in between.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "cannot delete a lock file");
        }
        unlock(&self.file);
    }
}

fn volume_not_found(id: &VolumeId) -> Error {
    Error::VolumeNotFound {
        reference: id.to_string(),
    }
}
