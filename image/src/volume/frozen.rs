//! The lower layers of a volume as they stay, for a snapshot to be made of them.

use super::Error;
use super::bitmap;
use super::layer::Layer;
use super::plan::{BLOCK_BYTES, Place};
use super::stack::{Files, Stack};
use crate::chunk::CHUNK_BYTES;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// A volume as it was when a layer was begun ([`Volume::freeze`]): a view for reading, whatever is
/// written to the volume meanwhile.
///
/// [`Volume::freeze`]: super::Volume::freeze
#[derive(Debug)]
pub struct Frozen {
    size_bytes: u64,
    /// Threads that read chunks contend for where these lie, not for their content.
    stack: Mutex<Stack>,
}

impl Frozen {
    pub(super) fn new(size_bytes: u64, stack: Stack) -> Self {
        Self {
            size_bytes,
            stack: Mutex::new(stack),
        }
    }

    /// The size of the volume.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The indices of the 512 KiB chunks that a layer holds any block of, ascending: those in which
    /// the volume may differ from the snapshot that it stands on. What this costs follows what was
    /// written, not the size.
    ///
    /// # Errors
    /// [`Error::Files`] where a file cannot be read.
    pub fn changed_chunks(&self) -> Result<Vec<u64>, Error> {
        let mut stack = self.stack.lock().unwrap_or_else(PoisonError::into_inner);
        let Stack { files, layers, .. } = &mut *stack;
        let mut runs = Vec::new();
        for layer in layers {
            match layer.has_bitmap() {
                true => held_runs(layer, files, self.size_bytes, &mut runs)?,
                false => data_runs(layer, files, &mut runs)?,
            }
        }
        let chunks = self.size_bytes.div_ceil(CHUNK_BYTES);
        runs.sort_unstable_by_key(|run: &Range<u64>| (run.start, run.end));
        let mut indices = Vec::new();
        let mut next = 0;
        for run in runs {
            let first = (run.start / CHUNK_BYTES).max(next);
            next = next.max(run.end.div_ceil(CHUNK_BYTES).min(chunks));
            indices.extend(first..next);
        }
        Ok(indices)
    }

    /// Reads what the volume has at `buffer.len()` bytes from the start of chunk `index` on, and
    /// zeroes beyond its end.
    ///
    /// # Errors
    /// [`Error::Files`] where a file cannot be read or is damaged; [`Error::TooManySegments`].
    pub fn read_chunk(&self, index: u64, buffer: &mut [u8]) -> Result<(), Error> {
        buffer.fill(0);
        let start = index.saturating_mul(CHUNK_BYTES).min(self.size_bytes);
        let end = start.saturating_add(buffer.len() as u64);
        let mut extents = Vec::new();
        let mut places = Vec::new();
        {
            let mut stack = self.stack.lock().unwrap_or_else(PoisonError::into_inner);
            stack.map(start..end.min(self.size_bytes), &mut extents)?;
            places.extend(extents.iter().map(|extent| match extent.place {
                Place::Zeroes => None,
                Place::File { file, offset } => Some((stack.files.file(file).clone(), offset)),
            }));
        }
        let mut rest = buffer;
        for (extent, place) in extents.iter().zip(places) {
            let len = usize::try_from(extent.len).unwrap_or(usize::MAX);
            let Some((bytes, after)) = rest.split_at_mut_checked(len) else {
                break;
            };
            if let Some((file, offset)) = place {
                bitmap::read(&file, offset, bytes)
                    .map_err(|source| Error::ReadChunk { index, source })?;
            }
            rest = after;
        }
        Ok(())
    }
}

/// Adds the runs of bytes that a layer's bitmap says it holds.
fn held_runs(
    layer: &mut Layer,
    files: &Files,
    size_bytes: u64,
    runs: &mut Vec<Range<u64>>,
) -> Result<(), Error> {
    const PAGE: u64 = bitmap::PAGE_BLOCKS * BLOCK_BYTES;
    let mut number = 0;
    while let Some((bitmap, file)) = layer.bitmap()
        && let Some(found) = bitmap.next_page(files.file(file), number)?
        && found < size_bytes.div_ceil(PAGE)
    {
        let mut at = found * PAGE;
        let end = (at + PAGE).min(size_bytes);
        while at < end {
            let (held, run_end) = layer.run(files, at..end)?;
            if held {
                runs.push(at..run_end);
            }
            at = run_end;
        }
        layer.trim();
        number = found + 1;
    }
    Ok(())
}

/// Adds the runs of bytes that the overlay of a layer without a bitmap has and that are no holes.
fn data_runs(layer: &Layer, files: &Files, runs: &mut Vec<Range<u64>>) -> Result<(), Error> {
    let mut start = 0;
    while let Some(part) = layer.spot(start) {
        let file = files.file(part.file);
        let failed = |source| Error::Search { source };
        let mut at = 0;
        while let Some(data) = bitmap::next_data(file, at).map_err(failed)? {
            let hole = bitmap::next_hole(file, data).map_err(failed)?;
            runs.push(start + data..start + hole);
            at = hole;
        }
        start = part.end;
    }
    Ok(())
}
