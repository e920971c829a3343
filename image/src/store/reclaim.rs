//! The space of deleted snapshots comes back (`FORMAT.md` "Segment").
//!
//! A chunk is needed by the snapshots whose tables name it; nothing counts references. When a snapshot goes,
//! its rows go first, and the segments that it had chunks in are marked spare. Of a spare segment
//! all is then free that no table of the snapshots with chunks there names: first nobody may share it any
//! more, durably, then it is punched out of the file, or the whole file is deleted. A process
//! that is killed in between leaves the mark, and whoever comes next goes on.

use std::collections::{BTreeMap, BTreeSet};

use super::{Error, Store};
use crate::chunk::ChunkPlace;
use crate::chunk::segment::Slots;
use crate::fault;
use crate::id::SnapshotId;

/// A segment that may hold chunks that nobody needs.
struct Spare {
    segment: u64,
    /// How often that was said.
    times: i64,
    used: Slots,
    /// No snapshot has chunks in it.
    empty: bool,
}

impl Store {
    /// Gives back the space of deleted snapshots that nothing stands on, if nobody writes or reads
    /// snapshots now: else whoever is the last of them does. For after a commit that deleted
    /// snapshots or let volumes go; what it cannot do is tried again by the next one.
    pub(crate) fn release_snapshots(&self) {
        if let Err(error) = self.reclaim() {
            tracing::warn!(error = %Chain(&error), "cannot free the space of deleted snapshots");
        }
    }

    /// As [`Store::release_snapshots`]; false where others kept it from that.
    pub(super) fn reclaim(&self) -> Result<bool, Error> {
        // Asked first without the lock: most of the time there is nothing.
        if self.catalogue.released_snapshots()?.is_empty()
            && self.catalogue.spare_segments()?.is_empty()
        {
            return Ok(true);
        }
        let Some(_alone) = self.snapshots.hold_alone()? else {
            return Ok(false);
        };
        let removed = self.remove_released()?;
        fault::point("delete-snapshot.removed");
        for id in &removed {
            // Nothing names it any more: what cannot be deleted now is swept later.
            if let Err(error) = self.snapshots.delete_table(id) {
                tracing::warn!(%id, %error, "cannot delete a snapshot's table");
            }
        }
        self.free_spare()?;
        Ok(true)
    }

    fn remove_released(&self) -> Result<Vec<SnapshotId>, Error> {
        let transaction = self.durable()?;
        // Within the transaction: until now a volume may have come to stand on one.
        let mut released = Vec::new();
        for id in self.catalogue.released_snapshots()? {
            if !self.snapshots.is_read(&id)? {
                released.push(id);
            }
        }
        if !released.is_empty() {
            self.catalogue.remove_snapshots(&released)?;
            self.catalogue.commit(transaction)?;
        }
        Ok(released)
    }

    fn free_spare(&self) -> Result<(), Error> {
        let spare = self.spare()?;
        if spare.is_empty() {
            return Ok(());
        }
        let transaction = self.durable()?;
        for it in &spare {
            for offset in self.catalogue.chunks_of_segment(it.segment)? {
                if !it.used.contains(offset) {
                    self.catalogue.remove_chunk(ChunkPlace {
                        segment: it.segment,
                        offset,
                    })?;
                }
            }
            if it.empty {
                self.catalogue.remove_segment(it.segment)?;
            }
        }
        self.catalogue.commit(transaction)?;
        fault::point("delete-snapshot.unshared");

        let mut done = Vec::new();
        for it in &spare {
            let freed = match it.empty {
                true => self.snapshots.delete_segment(it.segment),
                false => self.snapshots.punch_segment(it.segment, &it.used),
            };
            match freed {
                Ok(()) => done.push(it),
                Err(error) => {
                    tracing::warn!(segment = it.segment, %error, "cannot free a segment's space");
                }
            }
        }
        fault::point("delete-snapshot.freed");
        let transaction = self.quick()?;
        for it in done {
            self.catalogue.clear_spare(it.segment, it.times)?;
        }
        Ok(self.catalogue.commit(transaction)?)
    }

    /// The spare segments with what of them is used. One that a snapshot needs whose table cannot be
    /// read is left alone: what it uses is not known.
    fn spare(&self) -> Result<Vec<Spare>, Error> {
        let mut all = BTreeMap::new();
        let mut users: BTreeMap<SnapshotId, BTreeSet<u64>> = BTreeMap::new();
        for (segment, times) in self.catalogue.spare_segments()? {
            let snapshots = self.catalogue.snapshots_of_segment(segment)?;
            let spare = Spare {
                segment,
                times,
                used: Slots::default(),
                empty: snapshots.is_empty(),
            };
            all.insert(segment, spare);
            for snapshot in snapshots {
                users.entry(snapshot).or_default().insert(segment);
            }
        }
        for (snapshot, segments) in users {
            let read = self.snapshots.each_place(&snapshot, &mut |place| {
                if let Some(spare) = all.get_mut(&place.segment) {
                    spare.used.insert(place.offset);
                }
            });
            if let Err(error) = read {
                tracing::warn!(%snapshot, %error, "cannot tell what a damaged snapshot needs");
                all.retain(|segment, _| !segments.contains(segment));
            }
        }
        Ok(all.into_values().collect())
    }
}

/// An error with all that caused it, on one line.
struct Chain<'a>(&'a Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
