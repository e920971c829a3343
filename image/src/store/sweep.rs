//! Sweeping: deleting what killed processes have left, and writing down that they were killed.
//!
//! Files come to be before the rows that name them, so a file without a row may belong to a process
//! that is still at it. Files of snapshots and kernels get their names locked, and stay so until their
//! rows are committed. Volumes and folders of instances come to be within the transaction of a
//! launch, which holds the catalogue's write lock: so a name that was seen before waiting for that
//! lock, and has no row after, has no launch either. Ids are random and never come again.

use std::cell::Cell;
use std::io;
use std::path::PathBuf;

use super::{Error, KernelFileId, Store};
use crate::catalogue;
use crate::id::{InstanceId, VolumeId};
use crate::snapshot::{self, sweep_folder};

/// What was collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collected {
    /// Files that crashes had left.
    pub leftovers: u64,
    /// What snapshots, volumes and kernels take less on the disk.
    pub freed_bytes: u64,
    /// Nobody who wrote or exported snapshots kept it from freeing those that were deleted.
    pub is_complete: bool,
}

impl Store {
    /// Deletes what no row names and no process works on; ends, in the catalogue, the instances
    /// whose processes were killed.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Snapshot`] or [`Error::Volume`] for what cannot be deleted;
    /// [`Error::Catalogue`].
    pub fn sweep(&self) -> Result<(), Error> {
        self.settle_instances()?;
        let doubt = Doubt::default();
        self.snapshots.sweep(
            &|id| doubt.named(self.catalogue.has_table(id)),
            &|segment| doubt.named(self.catalogue.has_segment(segment)),
        )?;
        self.volumes
            .sweep(&|id| doubt.lowest_layer(self.lowest_layer(id)))?;
        sweep_folder(&self.kernels_folder(), &|name| {
            let id: KernelFileId = name.parse().ok()?;
            Some(doubt.named(self.catalogue.has_kernel(&id)))
        })
        .map_err(snapshot::Error::Files)?;
        doubt.resolve()?;
        self.sweep_folders()?;
        self.release_snapshots();
        self.catalogue.tidy();
        Ok(())
    }

    /// Sweeps, and frees the space of deleted snapshots.
    ///
    /// # Errors
    /// As [`Store::sweep`].
    pub fn collect_garbage(&self) -> Result<Collected, Error> {
        let before = self.taken_bytes();
        let leftovers = self.leftovers()?.len() as u64;
        self.sweep()?;
        let is_complete = self.reclaim()?;
        Ok(Collected {
            leftovers,
            freed_bytes: before.saturating_sub(self.taken_bytes()),
            is_complete,
        })
    }

    /// The files that no row names and no process works on.
    ///
    /// # Errors
    /// As [`Store::sweep`].
    pub fn leftovers(&self) -> Result<Vec<PathBuf>, Error> {
        let doubt = Doubt::default();
        let mut found = self.snapshots.leftovers(
            &|id| doubt.named(self.catalogue.has_table(id)),
            &|segment| doubt.named(self.catalogue.has_segment(segment)),
        )?;
        found.extend(
            self.volumes
                .leftovers(&|id| doubt.lowest_layer(self.lowest_layer(id)))?,
        );
        let kernels = snapshot::leftovers(&self.kernels_folder(), &|name| {
            let id: KernelFileId = name.parse().ok()?;
            Some(doubt.named(self.catalogue.has_kernel(&id)))
        });
        found.extend(kernels.map_err(snapshot::Error::Files)?);
        doubt.resolve()?;
        Ok(found)
    }

    /// What the content of snapshots and volumes takes on the disk.
    fn taken_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let folders = ["segments", "snapshots", "volumes", "kernels"];
        let entries = folders
            .into_iter()
            .flat_map(|name| std::fs::read_dir(self.home.join(name)))
            .flatten()
            .flatten();
        let files = entries.filter_map(|entry| entry.metadata().ok());
        files.map(|file| file.blocks() * 512).sum()
    }

    fn sweep_folders(&self) -> Result<(), Error> {
        let folder = self.instances_folder();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("read", &folder)(error)),
        };
        for entry in entries {
            let name = entry.map_err(Error::io("read", &folder))?.file_name();
            let Some(id) = name
                .to_str()
                .and_then(|name| name.parse::<InstanceId>().ok())
            else {
                continue;
            };
            if self.is_launched(|| self.catalogue.has_instance(&id))? {
                continue;
            }
            let path = self.instance_folder(&id);
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("delete", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The lowest layer of a volume that has a row, once the launches that are under way have ended.
    fn lowest_layer(&self, id: &VolumeId) -> Result<Option<u32>, catalogue::Error> {
        if !self.is_launched(|| self.catalogue.has_volume(id))? {
            return Ok(None);
        }
        Ok(self.catalogue.volume(id)?.map(|volume| volume.layer))
    }

    /// Whether `has_row`, once the launches that are under way have ended.
    fn is_launched(
        &self,
        has_row: impl Fn() -> Result<bool, catalogue::Error>,
    ) -> Result<bool, catalogue::Error> {
        if has_row()? {
            return Ok(true);
        }
        self.catalogue.barrier()?;
        has_row()
    }
}

/// What a sweep cannot look up counts as named; the first such failure is told at the end.
#[derive(Default)]
struct Doubt(Cell<Option<catalogue::Error>>);

impl Doubt {
    fn named(&self, answer: Result<bool, catalogue::Error>) -> bool {
        answer.unwrap_or_else(|error| {
            self.0.set(Some(self.0.take().unwrap_or(error)));
            true
        })
    }

    /// The lowest layer of a volume: of one that cannot be looked up, none is too low.
    fn lowest_layer(&self, answer: Result<Option<u32>, catalogue::Error>) -> Option<u32> {
        answer.unwrap_or_else(|error| {
            self.named(Err(error));
            Some(0)
        })
    }

    fn resolve(self) -> Result<(), Error> {
        match self.0.into_inner() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}
