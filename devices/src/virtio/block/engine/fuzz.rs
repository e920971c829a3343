//! The whole block device on one thread: its engine, a volume of two layers, and a ring that holds the files in
//! memory and ends operations in any order, cut short or failed, as the fuzzer says.

#![expect(unsafe_code, reason = "carries out operations on raw memory")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::sync_channel;

use kami_image::volume::{FileIndex, fuzz::layered};
use vm_memory::{GuestMemory as _, Permissions};
use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::super::disk::ZEROES;
use super::super::outside::{Command, Inlet, commands};
use super::super::ring::Vectors;
use super::*;
use crate::GuestMemory;
use crate::fuzz::Input;
use crate::fuzz::guest::{Driver, MEMORY, QUEUE_SIZE, QUEUES};
use crate::virtio::device::QueueInterrupt;

/// Nineteen blocks and a part of one.
const SIZE: u64 = 19 * 4096 + 1024;
/// The lower layer's file ends early; what is missing reads as zeroes.
static LOWER: [u8; 16 * 4096 + 100] = [0x5a; 16 * 4096 + 100];
/// The one page of the bitmap, behind the place of a header.
const BITMAP_BYTES: usize = 2 * 4096;
/// What one operation may be: a step of a read or write, or 1024 pieces of zeroes.
const OPERATION_BYTES_MAX: usize = 64 << 20;
const IOVECS_MAX: u32 = 1024;
/// More turns than any input has work for.
const TURNS_MAX: u32 = 10_000;

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
struct MemoryRing(Rc<RefCell<World>>);

thread_local! {
    /// Never written: what the files hold is the ring's.
    static FILES: [File; 3] = std::array::from_fn(|_| {
        let file = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        File::from(file)
    });
    static EVENT: EventFd = EventFd::new(EFD_NONBLOCK).unwrap();
}

/// Drives a block device.
pub fn block(data: &[u8]) {
    let mut input = Input::new(data);
    let mut machine = Machine::new(input.byte());
    while !input.is_empty() && !machine.engine.disk.stopping {
        machine.step(&mut input);
    }
    machine.end();
}

struct Machine {
    driver: Driver,
    engine: Engine<MemoryRing>,
    ring: MemoryRing,
    inlet: Inlet,
    resets: Arc<AtomicU32>,
    is_held: bool,
}

impl Machine {
    fn new(flags: u8) -> Self {
        let driver = Driver::new();
        let files = FILES.with(|files| files.each_ref().map(|it| it.try_clone().unwrap()));
        let [lower, overlay, bitmap] = files;
        let is_plain = flags & 1 != 0;
        let volume = match is_plain {
            true => Volume::plain(overlay, SIZE),
            false => layered(lower, overlay, bitmap, SIZE),
        };
        let world = World::new(&volume, is_plain, &driver);
        let ring = MemoryRing(Rc::new(RefCell::new(world)));
        let mut disk = Disk::new(volume, driver.memory.clone(), *b"fuzz0123456789abcdef");
        disk.write_through = flags & 2 != 0;
        let bounds = Bounds {
            capacity_bytes: SIZE - SIZE % 512,
            read_only: flags & 12 == 12,
            chain_max: 64,
        };
        let resets = Arc::new(AtomicU32::new(0));
        let count = resets.clone();
        let events = Events {
            stop: event(),
            needs_reset: NeedsReset::new(move || {
                count.fetch_add(1, Ordering::Relaxed);
            }),
        };
        let active = |index| {
            Some(ActiveQueue {
                queue: driver.queue(index, flags & 16 != 0),
                doorbell: event(),
                interrupt: QueueInterrupt::new(|| Ok(())),
            })
        };
        let queues = (0..QUEUES).map(active).collect();
        let (inlet, outlet) = commands().unwrap();
        let engine = Engine::new(ring.clone(), disk, bounds, queues, (events, outlet), None);
        Self {
            driver,
            engine,
            ring,
            inlet,
            resets,
            is_held: false,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() {
            what @ 0..=0x9f => self.driver.step(what, input),
            what @ 0xa0..=0xdf => {
                let mut world = self.ring.0.borrow_mut();
                for _ in 0..what % 4 {
                    let [which, how] = input.array();
                    world.choices.push_back((which, how));
                }
                drop(world);
                self.turn();
            }
            what @ 0xe0..=0xef => {
                let queue = usize::from(what) % QUEUES;
                self.ring.signal(Token::new(Target::Doorbell, queue));
            }
            what => self.command(what),
        }
    }

    /// What is asked from outside.
    fn command(&mut self, what: u8) {
        let (answer, _) = sync_channel(1);
        let command = match what % 4 {
            0 => {
                let flushes = what & 4 != 0;
                self.is_held = true;
                let held = sync_channel(1).0;
                Command::Hold { flushes, held }
            }
            1 => {
                self.is_held = false;
                Command::Resume
            }
            2 => Command::Flush(answer),
            _ => return self.ring.signal(Token::new(Target::Stop, 0)),
        };
        self.inlet.send(command).unwrap();
        self.ring.signal(Token::new(Target::Command, 0));
    }

    /// As [`Engine::run`] does.
    fn turn(&mut self) {
        match self.engine.turn() {
            Ok(()) => {}
            Err(Error::Ring(error)) => panic!("the ring failed: {error}"),
            Err(error) => self.engine.give_up(&error),
        }
        for source in self.engine.sources.iter().flatten() {
            assert!(source.in_flight <= QUEUE_SIZE, "more in flight than fit");
        }
        let most = QUEUES * usize::from(QUEUE_SIZE);
        assert!(self.engine.tasks.len() <= most);
        assert!(self.resets.load(Ordering::Relaxed) <= 1);
    }

    /// Lets all end, and stops the device.
    fn end(mut self) {
        self.ring.0.borrow_mut().kind = true;
        if self.is_held {
            self.command(1);
        }
        let is_done = |it: &Self| {
            let has_work = it.engine.sources.iter().flatten().any(Source::has_work);
            let is_over = it.engine.broken || it.engine.disk.stopping || !has_work;
            is_over
                && it.engine.tasks.is_empty()
                && it.engine.flushes.is_idle()
                && !it.ring.is_busy()
        };
        let mut turns = 0;
        while !self.engine.disk.stopping && !is_done(&self) {
            self.turn();
            turns += 1;
            assert!(turns < TURNS_MAX, "work without an end");
        }
        if !self.engine.disk.stopping {
            let left = self.engine.sources.iter().flatten().map(|it| it.in_flight);
            assert_eq!(left.sum::<u16>(), 0, "a request never came back");
            assert!(self.engine.busy.is_empty());
        }
        self.engine.drain().unwrap();
        assert!(
            !self.ring.is_busy(),
            "the device let go of memory too early"
        );
    }
}

fn event() -> EventFd {
    EVENT.with(|it| it.try_clone().unwrap())
}

impl MemoryRing {
    fn signal(&self, token: Token) {
        let mut world = self.0.borrow_mut();
        let token = token.pack();
        if world.watched.contains(&token) {
            world.signalled.push(token);
        }
    }

    fn is_busy(&self) -> bool {
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
    unsafe { std::slice::from_raw_parts(vectors.iovecs, vectors.count as usize) }
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

/// Memory that an operation may have: the guest's, a bounce buffer, a page of a bitmap, the source of zeroes.
fn assert_place(guest: &[Range<usize>; 2], base: *const u8, len: usize, is_source: bool) {
    let (start, end) = (base.addr(), base.addr() + len);
    if let Some(piece) = guest.iter().find(|it| it.contains(&start)) {
        assert!(end <= piece.end, "beyond the end of guest memory");
    } else if len > 4096 {
        let zeroes = ZEROES.as_ptr_range();
        assert!(is_source && zeroes.start.addr() <= start && end <= zeroes.end.addr());
    }
}
