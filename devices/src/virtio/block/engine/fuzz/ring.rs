//! A ring that holds the files of a volume in memory, and checks what each operation names.

#![expect(unsafe_code, reason = "carries out operations on raw memory")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;

use kami_image::volume::{Alignment, FileIndex, Volume};
use vm_memory::{GuestAddress, GuestMemory as _, Permissions};

use super::super::super::bounce;
use super::super::super::disk::ZEROES;
use super::super::super::ring::{Completion, Operation, Ring, Vectors};
use super::super::super::token::Token;
use super::SIZE;
use crate::GuestMemory;
use crate::fuzz::guest::{Driver, MEMORY};

/// The lower layer's file ends early; what is missing reads as zeroes.
static LOWER: [u8; 16 * 4096 + 100] = [0x5a; 16 * 4096 + 100];
/// The one page of the bitmap, behind the place of a header.
const BITMAP_BYTES: usize = 2 * 4096;
/// What one operation may be: a step of a read or write, or 1024 pieces of zeroes.
const OPERATION_BYTES_MAX: usize = 64 << 20;
const IOVECS_MAX: u32 = 1024;
const BOUNCE_BYTES_MAX: usize = 16 << 10;
/// What I/O on an overlay without a page cache keeps to.
pub(super) const DIRECT: Alignment = Alignment {
    memory: 512,
    len: 512,
};

/// The kernel's part: files in memory, operations under way.
struct World {
    /// The lower layer's, which nobody writes; the overlay's; the bitmap's.
    lower: RawFd,
    overlay: (RawFd, Vec<u8>),
    bitmap: (RawFd, Vec<u8>),
    memory: GuestMemory,
    pending: Vec<(u64, Operation)>,
    watched: Vec<u64>,
    signalled: Vec<u64>,
    /// Which operation ends next, and how.
    choices: VecDeque<(u8, u8)>,
    /// Nothing fails and all ends.
    kind: bool,
}

#[derive(Clone)]
pub(super) struct MemoryRing(Rc<RefCell<World>>);

impl MemoryRing {
    pub fn new(volume: &Volume, is_plain: bool, driver: &Driver) -> Self {
        Self(Rc::new(RefCell::new(World::new(volume, is_plain, driver))))
    }

    /// Has one more operation end in the next turn, and how.
    pub fn choose(&self, which: u8, how: u8) {
        self.0.borrow_mut().choices.push_back((which, how));
    }

    /// From now on nothing fails and all ends.
    pub fn be_kind(&self) {
        self.0.borrow_mut().kind = true;
    }

    /// Has the event complete that `token` watches.
    pub fn signal(&self, token: Token) {
        let mut world = self.0.borrow_mut();
        let token = token.pack();
        if world.watched.contains(&token) {
            world.signalled.push(token);
        }
    }

    /// Whether operations are under way.
    pub fn is_busy(&self) -> bool {
        !self.0.borrow().pending.is_empty()
    }
}

impl Ring for MemoryRing {
    unsafe fn push(&mut self, token: u64, operation: Operation) {
        let mut world = self.0.borrow_mut();
        match operation {
            Operation::Watch { .. } => world.watched.push(token),
            _ => world.pending.push((token, operation)),
        }
    }

    fn wait(&mut self, _block: bool, completions: &mut Vec<Completion>) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        for token in std::mem::take(&mut world.signalled) {
            let (result, more) = (1, true);
            completions.push(Completion {
                token,
                result,
                more,
            });
        }
        while !world.pending.is_empty() {
            let (which, how) = match world.choices.pop_front() {
                Some(choice) => choice,
                None if world.kind => (0, 0),
                None => break,
            };
            let index = usize::from(which) % world.pending.len();
            let (token, operation) = world.pending.remove(index);
            let result = world.carry_out(operation, how);
            let more = false;
            completions.push(Completion {
                token,
                result,
                more,
            });
        }
        world.choices.clear();
        Ok(())
    }
}

impl World {
    fn new(volume: &Volume, is_plain: bool, driver: &Driver) -> Self {
        let raw = |index| volume.file(FileIndex(index)).as_raw_fd();
        let overlay = vec![0; usize::try_from(SIZE).unwrap()];
        let (lower, upper, bitmap) = match is_plain {
            true => (-1, raw(0), -1),
            false => (raw(0), raw(1), raw(2)),
        };
        Self {
            lower,
            overlay: (upper, overlay),
            bitmap: (bitmap, vec![0; BITMAP_BYTES]),
            memory: driver.memory.clone(),
            pending: Vec::new(),
            watched: Vec::new(),
            signalled: Vec::new(),
            choices: VecDeque::new(),
            kind: false,
        }
    }

    fn carry_out(&mut self, operation: Operation, how: u8) -> i32 {
        match how {
            0xff => return -libc::EINTR,
            0xfe => return -libc::EAGAIN,
            0xfd => return -libc::EIO,
            0xfc => return -libc::ENOSPC,
            0xfb => return -libc::EOPNOTSUPP,
            _ => {}
        }
        match operation {
            Operation::Watch { .. } => 0,
            Operation::Read(vectors) => self.read(vectors, how),
            Operation::Write(vectors) => self.write(vectors, how),
            Operation::SyncData { file } | Operation::SyncAll { file } => {
                self.file(file);
                0
            }
            Operation::Deallocate { file, offset, len } | Operation::Zero { file, offset, len } => {
                assert_eq!(file, self.overlay.0, "a hole elsewhere than in the overlay");
                let bytes = &mut self.overlay.1;
                let start = usize::try_from(offset).unwrap();
                let end = start + usize::try_from(len).unwrap();
                assert!(start < end && end <= bytes.len().next_multiple_of(4096));
                let end = end.min(bytes.len());
                bytes[start..end].fill(0);
                0
            }
        }
    }

    /// A file that may be written.
    fn file(&mut self, file: RawFd) -> &mut Vec<u8> {
        [&mut self.overlay, &mut self.bitmap]
            .into_iter()
            .find_map(|(raw, bytes)| (*raw == file).then_some(bytes))
            .expect("no file of the volume's, or the lower layer's, which stays as it is")
    }

    fn read(&mut self, vectors: Vectors, how: u8) -> i32 {
        let (guest, offset) = (self.guest(), usize::try_from(vectors.offset).unwrap());
        let file = match vectors.file == self.lower {
            true => &LOWER[..],
            false => self.file(vectors.file),
        };
        let mut left = shortened(&vectors, how);
        let mut from = file.get(offset..).unwrap_or_default();
        let mut done = 0;
        for iovec in iovecs(&vectors) {
            let base = iovec.iov_base.cast::<u8>();
            assert_place(&guest, base, iovec.iov_len, false);
            let len = iovec.iov_len.min(left).min(from.len());
            // SAFETY: whoever pushed the operation keeps the memory, and no other thread has it.
            unsafe { std::ptr::copy(from.as_ptr(), base, len) };
            (from, left, done) = (&from[len..], left - len, done + len);
        }
        i32::try_from(done).unwrap()
    }

    fn write(&mut self, vectors: Vectors, how: u8) -> i32 {
        let (guest, offset) = (self.guest(), usize::try_from(vectors.offset).unwrap());
        let mut left = shortened(&vectors, how);
        let file = self.file(vectors.file);
        let mut done = 0;
        for iovec in iovecs(&vectors) {
            let base = iovec.iov_base.cast::<u8>();
            assert_place(&guest, base, iovec.iov_len, true);
            let len = iovec.iov_len.min(left);
            let to = file.get_mut(offset + done..offset + done + len);
            let to = to.expect("a write beyond the end of the file");
            // SAFETY: as in `read`.
            unsafe { std::ptr::copy(base, to.as_mut_ptr(), len) };
            (left, done) = (left - len, done + len);
        }
        i32::try_from(done).unwrap()
    }

    /// Where guest memory is mapped.
    fn guest(&self) -> [Range<usize>; 2] {
        MEMORY.map(|piece| {
            let len = usize::try_from(piece.end - piece.start).unwrap();
            let mut slices = self
                .memory
                .get_slices(GuestAddress(piece.start), len, Permissions::Read)
                .unwrap();
            let slice = slices.next().unwrap().unwrap();
            let start = slice.ptr_guard().as_ptr().addr();
            start..start + len
        })
    }
}

fn iovecs(vectors: &Vectors) -> &[libc::iovec] {
    assert!((1..=IOVECS_MAX).contains(&vectors.count));
    // SAFETY: whoever pushed the operation keeps the iovecs until it completes.
    let iovecs = unsafe { std::slice::from_raw_parts(vectors.iovecs, vectors.count as usize) };
    let total: u64 = iovecs.iter().map(|it| it.iov_len as u64).sum();
    assert_eq!(vectors.bytes, total);
    if !vectors.is_cached {
        assert!(bounce::suits(DIRECT, iovecs) && vectors.offset.is_multiple_of(512));
    }
    iovecs
}

/// How many bytes of an operation are moved: all, or so many sectors, one at least.
fn shortened(vectors: &Vectors, how: u8) -> usize {
    let all: usize = iovecs(vectors).iter().map(|it| it.iov_len).sum();
    assert!(all > 0 && all <= OPERATION_BYTES_MAX);
    match how {
        0 => all,
        sectors => all.min(512 * usize::from(sectors)),
    }
}

/// Memory that an operation may have: the guest's, the source of zeroes, a page of a bitmap, a bounce buffer, which is
/// larger where a request is carried out without the page cache.
fn assert_place(guest: &[Range<usize>; 2], base: *const u8, len: usize, is_source: bool) {
    let (start, end) = (base.addr(), base.addr() + len);
    if let Some(piece) = guest.iter().find(|it| it.contains(&start)) {
        assert!(end <= piece.end, "beyond the end of guest memory");
    } else if len > 4096 && (ZEROES.as_ptr_range().contains(&base) || len > BOUNCE_BYTES_MAX) {
        let zeroes = ZEROES.as_ptr_range();
        assert!(is_source && zeroes.start.addr() <= start && end <= zeroes.end.addr());
    }
}
