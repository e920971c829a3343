//! Cuts a request into steps of bounded size, so that what a request takes of this process does
//! not grow with what the guest asks for.

use kami_image::volume::{BLOCK_BYTES, Error, Extent, Place};

use super::disk::Disk;
use super::request::{Kind, Request, Segment};

/// The most bytes in one step of a read or a write: bounds extents and iovecs.
const DATA_STEP_BYTES: u64 = 2 << 20;

/// The most bytes in one step of zeroing: 1024 times the source of zeroes, one `writev`.
const ZERO_STEP_BYTES: u64 = 64 << 20;

/// How far ahead a step of zeroing looks for what is stored: a run of it is one hole, so that a volume in small pieces
/// would be looked over again for each of them.
const LOOK_BYTES: u64 = 4 << 20;

/// A part of a request, in bytes of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Read { offset: u64, len: u64 },
    Write { offset: u64, len: u64 },
    Zero { offset: u64, len: u64, how: Zeroing },
}

/// How a run is brought to read as zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zeroing {
    /// A hole where that can be had, else left as it is.
    Discard,
    /// A hole where that can be had, else written.
    Unmap,
    /// Kept allocated.
    Keep,
}

/// How far a request has come.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Which segment of a discard or a zeroing the next step is of.
    segment: usize,
    /// Bytes of the request, or of that segment, that are done.
    done: u64,
}

impl Steps {
    /// Bytes of the request's data that are done.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Takes note that `len` more bytes are done.
    pub fn advance(&mut self, len: u64) {
        self.done += len;
    }

    /// The step that comes next; `None` when all is done.
    ///
    /// # Errors
    /// As [`kami_image::volume::Volume::map_read`].
    pub fn next(&mut self, request: &Request, disk: &mut Disk) -> Result<Option<Step>, Error> {
        let left = request.data_bytes.saturating_sub(self.done);
        let window = left.min(DATA_STEP_BYTES);
        match &request.kind {
            Kind::Discard(segments) => self.next_zero(segments, true, disk),
            Kind::WriteZeroes(segments) => self.next_zero(segments, false, disk),
            Kind::Read { offset } if left > 0 => Ok(Some(Step::Read {
                offset: offset + self.done,
                len: window,
            })),
            Kind::Write { offset } if left > 0 => Ok(Some(Step::Write {
                offset: offset + self.done,
                len: cut(offset + self.done, window, left),
            })),
            Kind::Read { .. } | Kind::Write { .. } | Kind::Flush | Kind::Identify => Ok(None),
        }
    }

    fn next_zero(
        &mut self,
        segments: &[Segment],
        discard: bool,
        disk: &mut Disk,
    ) -> Result<Option<Step>, Error> {
        while let Some(&segment) = segments.get(self.segment) {
            // A discard is a hint: the parts of blocks at its ends are not worth a write.
            let Segment { offset, len, unmap } = match discard {
                true => blocks_inside(segment),
                false => segment,
            };
            let how = match (discard, unmap) {
                (true, _) => Zeroing::Discard,
                (false, true) => Zeroing::Unmap,
                (false, false) => Zeroing::Keep,
            };
            let left = len.saturating_sub(self.done);
            if left == 0 || how == Zeroing::Discard && !disk.supports(how) {
                self.segment += 1;
                self.done = 0;
                continue;
            }
            let offset = offset + self.done;
            let window = match how {
                Zeroing::Keep => ZERO_STEP_BYTES,
                Zeroing::Discard | Zeroing::Unmap => LOOK_BYTES,
            };
            let mut run = 0..cut(offset, left.min(window), left);
            if how != Zeroing::Keep {
                run = stored(offset, run.end, disk)?;
            }
            self.done += run.start;
            if !run.is_empty() {
                return Ok(Some(Step::Zero {
                    offset: offset + run.start,
                    len: run.end - run.start,
                    how,
                }));
            }
        }
        Ok(None)
    }
}

/// Ends a step that starts at `offset` at a block boundary, so that a block is not written twice:
/// a step within a block ends with it, a longer one with its last whole block.
fn cut(offset: u64, window: u64, left: u64) -> u64 {
    let to_boundary = offset.next_multiple_of(BLOCK_BYTES) - offset;
    if to_boundary > 0 {
        return to_boundary.min(left);
    }
    match window - window % BLOCK_BYTES {
        0 => window,
        whole => whole,
    }
}

fn blocks_inside(segment: Segment) -> Segment {
    let start = segment.offset.next_multiple_of(BLOCK_BYTES);
    let end = segment.offset + segment.len;
    Segment {
        offset: start,
        len: (end - end % BLOCK_BYTES).saturating_sub(start),
        ..segment
    }
}

/// The first part of the `len` bytes from `offset` on that does not read as zeroes anyway,
/// relative to `offset`; empty and at the end when all of it does.
fn stored(offset: u64, len: u64, disk: &mut Disk) -> Result<std::ops::Range<u64>, Error> {
    disk.extents.clear();
    disk.volume.map_read(offset, len, &mut disk.extents)?;
    let is_zero = |extent: &&Extent| extent.place == Place::Zeroes;
    let zero = disk.extents.iter().take_while(is_zero).map(|e| e.len).sum();
    let rest = disk.extents.iter().skip_while(is_zero);
    let stored: u64 = rest.take_while(|e| !is_zero(e)).map(|e| e.len).sum();
    Ok(zero..zero + stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_end_at_block_boundaries_where_they_can() {
        assert_eq!(cut(0, 8192, 8192), 8192);
        assert_eq!(cut(0, 8192 + 512, 8192 + 512), 8192);
        assert_eq!(cut(8192, 512, 512), 512);
        assert_eq!(cut(512, 8192, 8192), 3584);
        assert_eq!(cut(512, 1024, 1024), 1024);
    }

    #[test]
    fn discard_keeps_to_whole_blocks() {
        let inside = |offset, len| {
            let unmap = false;
            let s = blocks_inside(Segment { offset, len, unmap });
            (s.offset, s.len)
        };
        assert_eq!(inside(0, 4096), (0, 4096));
        assert_eq!(inside(512, 8192), (4096, 4096));
        assert_eq!(inside(512, 512).1, 0);
        assert_eq!(inside(512, 4096).1, 0);
    }
}
