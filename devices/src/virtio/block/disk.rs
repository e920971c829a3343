//! What all requests of a device share: the volume, guest memory, and what the host turned out to
//! lack.

use std::sync::Arc;

use kami_image::volume::{Extent, Volume, WritePlan};
use vm_memory::{Bytes, GuestAddress, GuestMemory as _, GuestMemoryError, Permissions};

use super::memory;
use super::request::Buffer;
use super::steps::Zeroing;
use crate::GuestMemory;
use crate::rate::RateLimit;

/// `VIRTIO_BLK_ID_BYTES`
pub(super) const SERIAL_BYTES: usize = 20;

/// Some milliseconds' worth.
const CLEARED_BYTES_MAX: u64 = 16 << 20;

/// Where zeroes are written from, also to files without a page cache.
pub(super) static ZEROES: &[u8; 64 << 10] = &ALIGNED_ZEROES.0;

#[repr(align(4096))]
struct AlignedZeroes([u8; 64 << 10]);

static ALIGNED_ZEROES: AlignedZeroes = AlignedZeroes([0; 64 << 10]);

pub(super) type BoxedError = Box<dyn std::error::Error>;

#[derive(Debug)]
pub(super) struct Disk {
    pub volume: Volume,
    /// Keeps the memory mapped that the iovecs of operations under way point into.
    pub memory: GuestMemory,
    pub serial: [u8; SERIAL_BYTES],
    /// A write is done only when it is durable.
    pub write_through: bool,
    /// The driver has reset the device: nothing new starts, nothing more is told to the guest.
    pub stopping: bool,
    /// Nothing new starts until that is taken back; what is under way ends.
    pub holding: bool,
    /// A write ended since the engine last looked, so that a busy one may find its blocks free.
    pub write_ended: bool,
    /// Bytes of guest memory that were cleared in this turn of the engine, and after how many of them a request goes
    /// on in the next one: a guest that reads zeroes only would keep all others, and its own reset, waiting.
    pub cleared_bytes: u64,
    pub cleared_bytes_max: u64,
    /// A request goes on in the next turn.
    pub put_off: bool,
    /// Scratch for [`Volume::map_read`].
    pub extents: Vec<Extent>,
    /// The file system can punch holes, as far as is known.
    can_punch: bool,
    /// The file system can zero a range and keep it allocated, as far as is known.
    can_zero: bool,
    /// The device's: a guest that resets it again and again gets no new one each time.
    pub log: Arc<RateLimit>,
}

impl Disk {
    pub fn new(volume: Volume, memory: GuestMemory, serial: [u8; SERIAL_BYTES]) -> Self {
        Self {
            volume,
            memory,
            serial,
            write_through: false,
            stopping: false,
            holding: false,
            write_ended: false,
            cleared_bytes: 0,
            cleared_bytes_max: CLEARED_BYTES_MAX,
            put_off: false,
            extents: Vec::new(),
            can_punch: true,
            can_zero: true,
            log: Arc::new(RateLimit::new()),
        }
    }

    pub fn end_write(&mut self, plan: WritePlan, written: bool) {
        self.volume.end_write(plan, written);
        self.write_ended = true;
    }

    /// Whether the file system may be asked to zero blocks in this way.
    pub fn supports(&self, how: Zeroing) -> bool {
        match how {
            Zeroing::Discard | Zeroing::Unmap => self.can_punch,
            Zeroing::Keep => self.can_zero,
        }
    }

    /// The file system has refused to zero blocks in this way, and will again.
    pub fn lacks(&mut self, how: Zeroing) {
        match how {
            Zeroing::Discard | Zeroing::Unmap => self.can_punch = false,
            Zeroing::Keep => self.can_zero = false,
        }
    }

    /// Tells the operator of a failure, unless that was done often enough lately.
    pub fn warn(&mut self, failure: &str, error: &(dyn std::error::Error + 'static)) {
        if let Some(suppressed) = self.log.admit() {
            let serial = String::from_utf8_lossy(&self.serial);
            let serial = serial.trim_end_matches('\0');
            tracing::warn!(serial, suppressed, error, "block device: {failure}");
        }
    }
}

/// A position in the buffers of a request.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    buffers: &'a [Buffer],
    /// Bytes of the first buffer that lie behind.
    behind: u32,
}

impl<'a> Cursor<'a> {
    /// The position `skip` bytes into `buffers`.
    pub fn new(mut buffers: &'a [Buffer], mut skip: u64) -> Self {
        while let Some((first, rest)) = buffers.split_first() {
            match u32::try_from(skip) {
                Ok(behind) if behind < first.len => return Self { buffers, behind },
                _ => skip -= u64::from(first.len),
            }
            buffers = rest;
        }
        Self { buffers, behind: 0 }
    }

    /// Passes the next `len` bytes to `each`, as pieces that are contiguous in this process. They
    /// stay valid as long as `memory` does.
    pub fn take(
        &mut self,
        memory: &GuestMemory,
        len: u64,
        mut each: impl FnMut((*mut u8, usize)),
    ) -> Result<(), GuestMemoryError> {
        self.runs(len, |address, len| {
            memory::pieces(memory, address, len, &mut each)
        })
    }

    /// Writes zeroes to the next `len` bytes.
    pub fn clear(&mut self, memory: &GuestMemory, len: u64) -> Result<(), GuestMemoryError> {
        self.runs(len, |address, len| {
            for piece in memory.get_slices(address, len, Permissions::Write)? {
                let mut piece = piece?;
                while !piece.is_empty() {
                    piece.copy_from(ZEROES);
                    piece = piece.offset(piece.len().min(ZEROES.len()))?;
                }
            }
            Ok(())
        })
    }

    /// Copies `bytes` to the next bytes, as far as there are buffers.
    pub fn copy(&mut self, memory: &GuestMemory, bytes: &[u8]) -> Result<(), GuestMemoryError> {
        let mut rest = bytes;
        self.runs(bytes.len() as u64, |address, len| {
            let (now, later) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            rest = later;
            memory.write_slice(now, address)
        })
    }

    /// Moves on by `len` bytes, or to the end, and passes each run of guest memory on the way.
    fn runs(
        &mut self,
        mut len: u64,
        mut each: impl FnMut(GuestAddress, usize) -> Result<(), GuestMemoryError>,
    ) -> Result<(), GuestMemoryError> {
        while len > 0
            && let Some((first, rest)) = self.buffers.split_first()
        {
            let left = first.len - self.behind;
            let count = u32::try_from(len).map_or(left, |len| len.min(left));
            let address = first.address.0.saturating_add(self.behind.into());
            each(GuestAddress(address), count as usize)?;
            len -= u64::from(count);
            self.behind += count;
            if self.behind == first.len {
                (self.buffers, self.behind) = (rest, 0);
            }
        }
        Ok(())
    }
}
