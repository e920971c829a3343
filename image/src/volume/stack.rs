//! The layers of a volume over its snapshot: which of them has the bytes.
//!
//! A block is where the highest layer that holds it has it, else the snapshot's, else zeroes.

use super::Error;
use super::base::Base;
use super::direct::Alignment;
use super::layer::Layer;
use super::plan::{Extent, FileIndex, Place};
use crate::chunk::pending::unlock;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

/// The open files of a volume, by [`FileIndex`].
#[derive(Debug, Default)]
pub(super) struct Files {
    slots: Vec<Arc<File>>,
    /// Of those whose I/O passes the page cache by.
    alignments: Vec<Option<Alignment>>,
    /// Those whose file is gone.
    free: Vec<FileIndex>,
}

impl Files {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a process has far fewer descriptors"
    )]
    #[expect(clippy::indexing_slicing, reason = "free slots are slots")]
    pub(super) fn add(&mut self, file: File) -> FileIndex {
        let file = Arc::new(file);
        if let Some(index) = self.free.pop() {
            self.slots[index.0 as usize] = file;
            return index;
        }
        self.slots.push(file);
        FileIndex(self.slots.len() as u32 - 1)
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "indices are made here and slots are never removed"
    )]
    pub(super) fn file(&self, index: FileIndex) -> &Arc<File> {
        &self.slots[index.0 as usize]
    }

    pub(super) fn alignment(&self, index: FileIndex) -> Option<Alignment> {
        self.alignments.get(index.0 as usize).copied().flatten()
    }

    #[expect(clippy::indexing_slicing, reason = "as for `file`")]
    pub(super) fn set_alignment(&mut self, index: FileIndex, alignment: Alignment) {
        self.alignments.resize(self.slots.len(), None);
        self.alignments[index.0 as usize] = Some(alignment);
    }

    /// How many indices name a file of their own.
    #[cfg(test)]
    pub(super) fn open_count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    #[cfg(test)]
    pub(super) fn duplicates(&self) -> Vec<std::io::Result<File>> {
        self.slots.iter().map(|file| file.try_clone()).collect()
    }

    /// Closes the file at `index`. What still names it meets `folder`, which no data goes to.
    #[expect(clippy::indexing_slicing, reason = "as for `file`")]
    pub(super) fn close(&mut self, index: FileIndex, folder: FileIndex) {
        unlock(self.file(index));
        if let Some(alignment) = self.alignments.get_mut(index.0 as usize) {
            *alignment = None;
        }
        self.slots[index.0 as usize] = Arc::clone(self.file(folder));
        self.free.push(index);
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.slots.iter().for_each(|file| unlock(file));
    }
}

#[derive(Debug)]
pub(super) struct Stack {
    pub(super) files: Files,
    /// Lowest first.
    pub(super) layers: Vec<Layer>,
    pub(super) base: Option<Base>,
}

impl Stack {
    /// Where the first of `bytes`, which are not none, lives: so many of them, at least one, as
    /// live on there. Layers from `number` on count as absent.
    pub(super) fn locate(&mut self, bytes: Range<u64>, number: u32) -> Result<Extent, Error> {
        let start = bytes.start;
        let mut end = bytes.end;
        let below = self.layers.iter_mut().rev();
        for layer in below.filter(|layer| layer.number < number) {
            let (held, run_end) = layer.run(&self.files, start..end)?;
            end = run_end;
            if !held {
                continue;
            }
            // Nowhere: a damaged bitmap that holds blocks beyond its layer's end.
            let Some(spot) = layer.spot(start) else {
                let place = Place::Zeroes;
                return Ok(Extent {
                    len: end - start,
                    place,
                });
            };
            let place = Place::File {
                file: spot.file,
                offset: spot.offset,
            };
            return Ok(Extent {
                len: end.min(spot.end) - start,
                place,
            });
        }
        let len = end - start;
        match &mut self.base {
            Some(base) => base.extent(&mut self.files, start, len),
            None => Ok(Extent {
                len,
                place: Place::Zeroes,
            }),
        }
    }

    /// Appends to `out` where the bytes of `range` live, in order.
    pub(super) fn map(&mut self, range: Range<u64>, out: &mut Vec<Extent>) -> Result<(), Error> {
        // What earlier calls appended is not extended.
        let first = out.len();
        let mut at = range.start;
        while at < range.end {
            let extent = self.locate(at..range.end, u32::MAX)?;
            at += extent.len;
            append(out, first, extent);
        }
        Ok(())
    }
}

/// Appends `extent`, as one with the last of those from `first` on where it continues that.
fn append(out: &mut Vec<Extent>, first: usize, extent: Extent) {
    if let Some(last) = out.get_mut(first..).and_then(<[Extent]>::last_mut) {
        let continues = match (last.place, extent.place) {
            (Place::Zeroes, Place::Zeroes) => true,
            (
                Place::File { file, offset },
                Place::File {
                    file: next,
                    offset: at,
                },
            ) => file == next && offset + last.len == at,
            _ => false,
        };
        if continues {
            last.len += extent.len;
            return;
        }
    }
    out.push(extent);
}
