//! From a descriptor chain to a request: everything of the guest's that can be wrong is found here
//! (virtio 1.3 §5.2.6).
//!
//! The header and the discard segments are copied in before they are looked at; what comes out is
//! plain data that a later change of guest memory can no longer reach.
//! Left out on purpose: SCSI passthrough, secure erase, lifetime and zones, which answer
//! `VIRTIO_BLK_S_UNSUPP`.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::GuestAddress;

use super::memory;
use crate::GuestMemory;

/// The unit of every address and length of the protocol, whatever the block size.
pub(super) const SECTOR_BYTES: u64 = 512;

/// The most data in one request. The protocol knows no limit; drivers stay below 4 MiB.
pub(super) const DATA_BYTES_MAX: u64 = 128 << 20;

/// The most ranges in one discard or write-zeroes request.
pub(super) const SEGMENTS_MAX: u32 = 32;

/// The most sectors in one of those ranges: 1 GiB.
pub(super) const SEGMENT_SECTORS_MAX: u32 = 1 << 21;

/// `struct virtio_blk_req` up to its data: type, reserved, sector.
const HEADER_BYTES: usize = 16;

/// `struct virtio_blk_discard_write_zeroes`: sector, number of sectors, flags.
const SEGMENT_BYTES: usize = 16;

/// What the device tells the driver of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    IoError,
    Unsupported,
}

impl Status {
    pub fn byte(self) -> u8 {
        let value = match self {
            Self::Ok => VIRTIO_BLK_S_OK,
            Self::IoError => VIRTIO_BLK_S_IOERR,
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP,
        };
        value.to_le_bytes()[0]
    }
}

/// A run of guest memory, checked to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buffer {
    pub address: GuestAddress,
    /// In bytes, never 0.
    pub len: u32,
}

/// A run of the disk, in bytes, checked to lie inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub offset: u64,
    pub len: u64,
    /// Zeroing may give the space back.
    pub unmap: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// From the byte at `offset` into the data buffers.
    Read {
        offset: u64,
    },
    /// From the data buffers to the byte at `offset`.
    Write {
        offset: u64,
    },
    Flush,
    Identify,
    Discard(Vec<Segment>),
    WriteZeroes(Vec<Segment>),
}

impl Kind {
    pub fn failure(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read failed",
            Self::Write { .. } => "write failed",
            Self::Flush => "flush failed",
            Self::Identify => "identification failed",
            Self::Discard(_) => "discard failed",
            Self::WriteZeroes(_) => "zeroing failed",
        }
    }
}

/// A request that may be carried out as it stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub kind: Kind,
    /// What to read into or to write from; empty for requests without.
    pub data: Vec<Buffer>,
    pub data_bytes: u64,
    /// Where the status byte goes.
    pub status: GuestAddress,
}

/// A request that may not be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reject {
    /// The driver is told so in the status byte.
    Status {
        address: GuestAddress,
        status: Status,
    },
    /// There is no place for a status; the chain goes back without.
    Unusable,
}

/// What a request must keep to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub capacity_bytes: u64,
    pub read_only: bool,
    /// Descriptors in a chain, those of an indirect table included.
    pub chain_max: usize,
}

/// Reads the request out of `chain`.
///
/// # Errors
/// What the driver got wrong, as the device answers it.
pub(super) fn parse(
    chain: DescriptorChain<&GuestMemory>,
    memory: &GuestMemory,
    bounds: Bounds,
) -> Result<Request, Reject> {
    let mut layout = Layout::read(chain, bounds.chain_max)?;
    let address = layout.take_status().ok_or(Reject::Unusable)?;
    if !memory::is_there(memory, address, 1) {
        return Err(Reject::Unusable);
    }
    layout
        .into_request(address, memory, bounds)
        .map_err(|status| Reject::Status { address, status })
}

/// The buffers of a chain: first the readable ones, then the writable ones.
struct Layout {
    buffers: Vec<Buffer>,
    /// How many of them are readable.
    readable: usize,
    /// A readable buffer came after a writable one (against virtio 1.3 §2.7.4.2).
    disordered: bool,
}

impl Layout {
    fn read(chain: DescriptorChain<&GuestMemory>, chain_max: usize) -> Result<Self, Reject> {
        let mut layout = Self {
            buffers: Vec::new(),
            readable: 0,
            disordered: false,
        };
        let mut ended = false;
        for (count, descriptor) in chain.enumerate() {
            // virtio 1.3 §2.7.5.3.1: not longer than the queue, indirect or not.
            if count >= chain_max {
                return Err(Reject::Unusable);
            }
            ended = !descriptor.has_next();
            layout.add(&descriptor);
        }
        // The iterator stops early at a loop, at a bad index and at a bad table.
        if ended {
            Ok(layout)
        } else {
            Err(Reject::Unusable)
        }
    }

    fn add(&mut self, descriptor: &Descriptor) {
        let buffer = Buffer {
            address: descriptor.addr(),
            len: descriptor.len(),
        };
        if buffer.len == 0 {
            return;
        }
        if descriptor.is_write_only() {
            self.buffers.push(buffer);
        } else if self.buffers.len() == self.readable {
            self.buffers.push(buffer);
            self.readable += 1;
        } else {
            // Such a request fails, but where its status goes must be found.
            self.disordered = true;
        }
    }

    /// Takes the last writable byte, where the status goes (virtio 1.3 §5.2.6).
    fn take_status(&mut self) -> Option<GuestAddress> {
        let last = self.buffers.get_mut(self.readable..)?.last_mut()?;
        last.len -= 1;
        let address = last.address.0.checked_add(last.len.into())?;
        if last.len == 0 {
            self.buffers.pop();
        }
        Some(GuestAddress(address))
    }

    fn into_request(
        mut self,
        status: GuestAddress,
        memory: &GuestMemory,
        bounds: Bounds,
    ) -> Result<Request, Status> {
        self.check(memory)?;
        let mut header = [0; HEADER_BYTES];
        self.readable -= take_front(&mut self.buffers, self.readable, memory, &mut header)?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let offset = u64::from_le_bytes(sector)
            .checked_mul(SECTOR_BYTES)
            .ok_or(Status::IoError);
        let request_type = u32::from_le_bytes([t0, t1, t2, t3]);
        // virtio 1.3 §5.2.6.2: a read-only device fails every request that would change it.
        let changing = matches!(
            request_type,
            VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES
        );
        if changing && bounds.read_only {
            return Err(Status::IoError);
        }
        let (kind, data) = match request_type {
            VIRTIO_BLK_T_IN => (Kind::Read { offset: offset? }, self.into_writable()),
            VIRTIO_BLK_T_OUT => (Kind::Write { offset: offset? }, self.into_readable()),
            VIRTIO_BLK_T_FLUSH => (Kind::Flush, Vec::new()),
            VIRTIO_BLK_T_GET_ID => (Kind::Identify, self.into_writable()),
            VIRTIO_BLK_T_DISCARD => {
                let segments = segments(self.into_readable(), memory, bounds, 0)?;
                (Kind::Discard(segments), Vec::new())
            }
            VIRTIO_BLK_T_WRITE_ZEROES => {
                let flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
                let segments = segments(self.into_readable(), memory, bounds, flags)?;
                (Kind::WriteZeroes(segments), Vec::new())
            }
            _ => return Err(Status::Unsupported),
        };
        let data_bytes = total(&data);
        if let Kind::Read { offset } | Kind::Write { offset } = kind {
            let whole = data_bytes.is_multiple_of(SECTOR_BYTES) && data_bytes <= DATA_BYTES_MAX;
            if !whole || !inside(offset, data_bytes, bounds) {
                return Err(Status::IoError);
            }
        }
        Ok(Request {
            kind,
            data,
            data_bytes,
            status,
        })
    }

    fn into_readable(mut self) -> Vec<Buffer> {
        self.buffers.truncate(self.readable);
        self.buffers
    }

    fn into_writable(mut self) -> Vec<Buffer> {
        self.buffers.drain(..self.readable);
        self.buffers
    }

    fn check(&self, memory: &GuestMemory) -> Result<(), Status> {
        let is_there = |b: &Buffer| memory::is_there(memory, b.address, b.len as usize);
        if self.buffers.iter().all(is_there) && !self.disordered {
            Ok(())
        } else {
            Err(Status::IoError)
        }
    }
}

fn total(buffers: &[Buffer]) -> u64 {
    buffers.iter().map(|b| u64::from(b.len)).sum()
}

fn inside(offset: u64, len: u64, bounds: Bounds) -> bool {
    let end = offset.checked_add(len);
    end.is_some_and(|end| end <= bounds.capacity_bytes)
}

/// Copies the first bytes of the first `count` of `buffers` into `out`, all of it, and leaves the rest there.
/// Returns how many buffers are gone.
fn take_front(
    buffers: &mut Vec<Buffer>,
    count: usize,
    memory: &GuestMemory,
    out: &mut [u8],
) -> Result<usize, Status> {
    let mut filled = 0;
    let mut emptied = 0;
    for buffer in buffers.iter_mut().take(count) {
        let Some(rest) = out.get_mut(filled..).filter(|rest| !rest.is_empty()) else {
            break;
        };
        let count = rest.len().min(buffer.len as usize);
        let target = rest.get_mut(..count).unwrap_or_default();
        memory::read(memory, buffer.address, target).map_err(|_| Status::IoError)?;
        filled += count;
        // `count` is at most `buffer.len`, so it fits and the address does not wrap.
        buffer.len -= u32::try_from(count).unwrap_or(buffer.len);
        buffer.address = GuestAddress(buffer.address.0.saturating_add(count as u64));
        emptied += usize::from(buffer.len == 0);
    }
    buffers.drain(..emptied);
    if filled == out.len() {
        Ok(emptied)
    } else {
        Err(Status::IoError)
    }
}

/// Reads the ranges of a discard or write-zeroes request (virtio 1.3 §5.2.6.2).
fn segments(
    mut buffers: Vec<Buffer>,
    memory: &GuestMemory,
    bounds: Bounds,
    known_flags: u32,
) -> Result<Vec<Segment>, Status> {
    let mut bytes = [0; SEGMENT_BYTES * SEGMENTS_MAX as usize];
    let len = usize::try_from(total(&buffers)).map_err(|_| Status::IoError)?;
    let bytes = bytes.get_mut(..len).ok_or(Status::IoError)?;
    let count = buffers.len();
    take_front(&mut buffers, count, memory, bytes)?;
    let (segments, rest) = bytes.as_chunks::<SEGMENT_BYTES>();
    if segments.is_empty() || !rest.is_empty() {
        return Err(Status::IoError);
    }
    let segment = |&[sector @ .., n0, n1, n2, n3, f0, f1, f2, f3]: &[u8; SEGMENT_BYTES]| {
        let flags = u32::from_le_bytes([f0, f1, f2, f3]);
        if flags & !known_flags != 0 {
            return Err(Status::Unsupported);
        }
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        let len = u64::from(sectors) * SECTOR_BYTES;
        let offset = u64::from_le_bytes(sector)
            .checked_mul(SECTOR_BYTES)
            .filter(|&offset| sectors <= SEGMENT_SECTORS_MAX && inside(offset, len, bounds))
            .ok_or(Status::IoError)?;
        Ok(Segment {
            offset,
            len,
            unmap: flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0,
        })
    };
    segments.iter().map(segment).collect()
}

#[cfg(test)]
mod tests;
