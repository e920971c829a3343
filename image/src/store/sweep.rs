//! Sweeping: deleting what killed processes have left, and writing down that they were killed.
//!
//! Files come to be before the rows that name them, so a file without a row may belong to a process
//! that is still at it. Files of snapshots, volumes and kernels are locked until their rows are
//! committed. An instance's folder comes to be within the transaction of its launch, so that
//! after waiting for the transactions under way a folder without a row has no launch either. Ids are
//! random and never come again.

use std::cell::Cell;
use std::io;

use super::{Error, KernelFileId, Store};
use crate::catalogue;
use crate::id::InstanceId;
use crate::snapshot::{self, sweep_folder};

impl Store {
    /// Deletes what no row names and no process works on; ends, in the catalogue, the instances
    /// whose processes were killed.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Snapshot`] or [`Error::Volume`] for what cannot be deleted;
    /// [`Error::Catalogue`].
    pub fn sweep(&self) -> Result<(), Error> {
        self.end_killed()?;
        let doubt = Doubt::default();
        self.snapshots.sweep(
            &|id| doubt.named(self.catalogue.snapshot_size(id).map(|size| size.is_some())),
            &|segment| doubt.named(self.catalogue.has_segment(segment)),
        )?;
        self.volumes
            .sweep(&|id| doubt.named(self.catalogue.has_volume(id)))?;
        sweep_folder(&self.kernels_folder(), &|name| {
            let id: KernelFileId = name.parse().ok()?;
            Some(doubt.named(self.catalogue.has_kernel(&id)))
        })
        .map_err(snapshot::Error::Files)?;
        doubt.resolve()?;
        self.sweep_folders()?;
        self.catalogue.tidy();
        Ok(())
    }

    fn sweep_folders(&self) -> Result<(), Error> {
        let folder = self.instances_folder();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("read", &folder)(error)),
        };
        let mut unnamed = Vec::new();
        for entry in entries {
            let name = entry.map_err(Error::io("read", &folder))?.file_name();
            if let Some(id) = name
                .to_str()
                .and_then(|name| name.parse::<InstanceId>().ok())
                && self.catalogue.instance(&id)?.is_none()
            {
                unnamed.push(id);
            }
        }
        if unnamed.is_empty() {
            return Ok(());
        }
        self.catalogue.barrier()?;
        for id in unnamed {
            if self.catalogue.instance(&id)?.is_some() {
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

    fn resolve(self) -> Result<(), Error> {
        match self.0.into_inner() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}
