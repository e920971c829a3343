//! For files without a page cache ([`Volume::bypass_cache`](kami_image::volume::Volume::bypass_cache)): memory that
//! they can be read to and written from, in the place of a guest's that they cannot.
//!
//! A buffer is small and a request has one at most, so that no guest has us hold much by asking for it at odd
//! addresses: it is served piece by piece.

#![expect(unsafe_code, reason = "copies from and to memory that iovecs name")]

use kami_image::volume::Alignment;
use libc::iovec;
use vm_memory::volatile_memory::VolatileSlice;

use super::transfer::Direction;

/// The size of a buffer: 2048 requests, the most that a guest can have in flight, take 40 MiB.
const BYTES: usize = 16 << 10;

/// What suits every file.
const ALIGNMENT: usize = 4096;

/// Whether the kernel takes all `iovecs` as they are.
pub(super) fn suits(alignment: Alignment, iovecs: &[iovec]) -> bool {
    let is_multiple = |value: usize, unit: usize| value & (unit - 1) == 0;
    iovecs.iter().all(|it| {
        is_multiple(it.iov_base.addr(), alignment.memory) && is_multiple(it.iov_len, alignment.len)
    })
}

#[derive(Debug)]
pub(super) struct Bounce {
    /// Larger than it need be, for there is an aligned run of [`BYTES`] in it. Never grows.
    memory: Vec<u8>,
    /// The buffer, or as much of it as is used: the kernel reads this.
    iovec: Vec<iovec>,
}

impl Bounce {
    pub fn new() -> Self {
        Self {
            memory: vec![0; BYTES + ALIGNMENT],
            iovec: Vec::new(),
        }
    }

    fn start(&self) -> usize {
        self.memory.as_ptr().align_offset(ALIGNMENT)
    }

    /// Makes ready for the next piece of what `iovecs` name, and returns it in one iovec.
    ///
    /// # Safety
    /// The memory of `iovecs` is there and may be read.
    pub unsafe fn load(&mut self, direction: Direction, iovecs: &[iovec]) -> &[iovec] {
        let total: usize = iovecs.iter().map(|it| it.iov_len).sum();
        let len = total.min(BYTES);
        let start = self.start();
        let buffer = self.memory.get_mut(start..start + len);
        let buffer = buffer.unwrap_or_default();
        if direction == Direction::Write {
            let mut rest = &mut *buffer;
            for iovec in iovecs {
                let now = iovec.iov_len.min(rest.len());
                let (part, later) = rest.split_at_mut(now);
                // SAFETY: as this function's; a guest may change it meanwhile, which a volatile slice allows.
                unsafe { VolatileSlice::new(iovec.iov_base.cast(), now) }.copy_to(part);
                rest = later;
            }
        }
        self.iovec.clear();
        self.iovec.push(iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        });
        &self.iovec
    }

    /// Passes the first `len` bytes, which were read, on to `iovecs`.
    ///
    /// # Safety
    /// The memory of `iovecs` is there and may be written.
    pub unsafe fn store(&self, len: u64, iovecs: &[iovec]) {
        let len = usize::try_from(len).unwrap_or(BYTES).min(BYTES);
        let start = self.start();
        let mut rest = self.memory.get(start..start + len).unwrap_or_default();
        for iovec in iovecs {
            let (part, later) = rest.split_at(iovec.iov_len.min(rest.len()));
            // SAFETY: as this function's.
            unsafe { VolatileSlice::new(iovec.iov_base.cast(), part.len()) }.copy_from(part);
            rest = later;
        }
    }
}
