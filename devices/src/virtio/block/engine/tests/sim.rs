//! A ring that a test controls: it carries operations out in any order, cuts them short, fails
//! them, holds them back, records them, and knows what of the files a power cut would leave.

#![expect(unsafe_code, reason = "carries out operations on raw memory")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::rc::Rc;

use super::super::super::ring::{Completion, Operation, Ring, Vectors};

const SECTOR: usize = 512;

/// What happened, in this order. Files go by their inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Read {
        file: u64,
    },
    Write {
        file: u64,
    },
    Punch {
        file: u64,
    },
    SyncData {
        file: u64,
    },
    SyncAll {
        file: u64,
    },
    /// The driver was interrupted.
    Interrupt,
}

/// A file of the simulated disk.
#[derive(Clone, Debug, Default)]
pub struct Shadow {
    /// What a power cut surely leaves.
    pub durable: Vec<u8>,
    /// What it may leave beside: (number, offset, bytes) of the sectors written since.
    pub unsynced: Vec<(u64, usize, Vec<u8>)>,
}

/// Decides what becomes of an operation: `Some(errno)` fails it.
pub type Fault = Box<dyn FnMut(&Operation) -> Option<i32>>;

pub struct World {
    pending: Vec<Pending>,
    watches: Vec<(u64, RawFd)>,
    /// The state of the random choices; 0 makes none: all is done in order and whole.
    random: u64,
    /// How many sectors were written.
    writes: u64,
    pub trace: Vec<Event>,
    pub files: HashMap<u64, Shadow>,
    pub fault: Fault,
    /// Operations that this is true of are held back.
    pub hold: fn(&Operation) -> bool,
}

struct Pending {
    token: u64,
    operation: Operation,
    /// The sectors written before it began: all that a sync covers for certain.
    covers: u64,
}

/// Shared by the engine and the test.
#[derive(Clone)]
pub struct Sim(pub Rc<RefCell<World>>);

impl Sim {
    /// `random` 0 keeps to the order; anything else chooses one.
    pub fn new(random: u64) -> Self {
        Self(Rc::new(RefCell::new(World {
            pending: Vec::new(),
            watches: Vec::new(),
            random,
            writes: 0,
            trace: Vec::new(),
            files: HashMap::new(),
            fault: Box::new(|_| None),
            hold: |_| false,
        })))
    }

    /// Whether operations are under way.
    pub fn is_busy(&self) -> bool {
        !self.0.borrow().pending.is_empty()
    }

    pub fn record(&self, event: Event) {
        self.0.borrow_mut().trace.push(event);
    }
}

impl Ring for Sim {
    unsafe fn push(&mut self, token: u64, operation: Operation) {
        let mut world = self.0.borrow_mut();
        match operation {
            Operation::Watch { event } => world.watches.push((token, event)),
            _ => {
                let covers = world.writes;
                world.pending.push(Pending {
                    token,
                    operation,
                    covers,
                });
            }
        }
    }

    /// Never blocks: where nothing can happen, nothing does.
    fn wait(&mut self, _block: bool, completions: &mut Vec<Completion>) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        for &(token, event) in &world.watches {
            let mut count = [0; 8];
            // Tests make their events non-blocking.
            if io::Read::read(&mut &*borrow(event), &mut count).is_ok() {
                let (result, more) = (1, true);
                completions.push(Completion {
                    token,
                    result,
                    more,
                });
            }
        }
        let hold = world.hold;
        let (held, mut free): (Vec<_>, Vec<_>) = std::mem::take(&mut world.pending)
            .into_iter()
            .partition(|it| hold(&it.operation));
        world.pending = held;
        let count = match free.len() {
            0 => 0,
            all if world.random == 0 => all,
            all => 1 + world.choose(all),
        };
        for _ in 0..count {
            let index = world.choose(free.len());
            let pending = free.remove(index);
            let result = world.carry_out(&pending);
            let (token, more) = (pending.token, false);
            completions.push(Completion {
                token,
                result,
                more,
            });
        }
        world.pending.append(&mut free);
        Ok(())
    }
}

impl World {
    /// A number below `bound`; 0 where no choices are made.
    fn choose(&mut self, bound: usize) -> usize {
        // xorshift64 (Marsaglia 2003); stays 0 at 0.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 16).unwrap() % bound
    }

    fn carry_out(&mut self, pending: &Pending) -> i32 {
        if let Some(errno) = (self.fault)(&pending.operation) {
            return -errno;
        }
        if self.random != 0 && self.choose(8) == 0 {
            return -[libc::EINTR, libc::EAGAIN][self.choose(2)];
        }
        match pending.operation {
            Operation::Watch { .. } => 0,
            Operation::Read(vectors) => {
                let file = self.shadow(vectors.file);
                self.trace.push(Event::Read { file });
                self.transfer(vectors, |file, bytes, offset| file.read_at(bytes, offset))
            }
            Operation::Write(vectors) => {
                let file = self.shadow(vectors.file);
                self.trace.push(Event::Write { file });
                let done =
                    self.transfer(vectors, |file, bytes, offset| file.write_at(bytes, offset));
                self.written(vectors.file, vectors.offset, u64::from(done.unsigned_abs()));
                done
            }
            Operation::SyncData { file } => {
                let inode = self.shadow(file);
                self.trace.push(Event::SyncData { file: inode });
                self.sync(inode, pending.covers)
            }
            Operation::SyncAll { file } => {
                let inode = self.shadow(file);
                self.trace.push(Event::SyncAll { file: inode });
                self.sync(inode, pending.covers)
            }
            Operation::Deallocate { file, offset, len } | Operation::Zero { file, offset, len } => {
                let inode = self.shadow(file);
                self.trace.push(Event::Punch { file: inode });
                let zeroes = vec![0; usize::try_from(len).unwrap()];
                borrow(file).write_all_at(&zeroes, offset).unwrap();
                self.written(file, offset, len);
                0
            }
        }
    }

    /// Moves bytes by `each`, as far as a random choice has it: to a sector's end.
    fn transfer(
        &mut self,
        vectors: Vectors,
        each: fn(&File, &mut [u8], u64) -> io::Result<usize>,
    ) -> i32 {
        // SAFETY: who pushed the operation keeps the iovecs until it completes.
        let iovecs = unsafe { std::slice::from_raw_parts(vectors.iovecs, vectors.count as usize) };
        let total: usize = iovecs.iter().map(|v| v.iov_len).sum();
        let mut left = match self.random {
            0 => total,
            _ => ((1 + self.choose(total.div_ceil(SECTOR))) * SECTOR).min(total),
        };
        let mut done = 0;
        for iovec in iovecs {
            let len = iovec.iov_len.min(left);
            // SAFETY: and the memory, which nothing else in this thread's test touches meanwhile.
            let bytes = unsafe { std::slice::from_raw_parts_mut(iovec.iov_base.cast(), len) };
            let moved = each(&borrow(vectors.file), bytes, vectors.offset + done).unwrap();
            done += moved as u64;
            left -= moved;
            if moved < len {
                break;
            }
        }
        i32::try_from(done).unwrap()
    }

    /// The inode of the file, whose shadow begins with its present content.
    fn shadow(&mut self, file: RawFd) -> u64 {
        let metadata = borrow(file).metadata().unwrap();
        self.files.entry(metadata.ino()).or_insert_with(|| {
            let mut durable = Vec::new();
            if metadata.is_file() {
                durable.resize(usize::try_from(metadata.len()).unwrap(), 0);
                borrow(file).read_exact_at(&mut durable, 0).unwrap();
            }
            let unsynced = Vec::new();
            Shadow { durable, unsynced }
        });
        metadata.ino()
    }

    /// Takes note of what was written, sector by sector: a power cut may leave any of them.
    fn written(&mut self, file: RawFd, offset: u64, len: u64) {
        let inode = self.shadow(file);
        let shadow = self.files.get_mut(&inode).unwrap();
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        borrow(file).read_exact_at(&mut bytes, offset).unwrap();
        let mut offset = usize::try_from(offset).unwrap();
        for sector in bytes.chunks(SECTOR) {
            self.writes += 1;
            shadow.unsynced.push((self.writes, offset, sector.to_vec()));
            offset += sector.len();
        }
    }

    fn sync(&mut self, inode: u64, covers: u64) -> i32 {
        let shadow = self.files.get_mut(&inode).unwrap();
        for (_, offset, bytes) in shadow.unsynced.extract_if(.., |it| it.0 <= covers) {
            apply(&mut shadow.durable, offset, &bytes);
        }
        0
    }

    /// What a power cut leaves of the file: all that was synced and some of the rest.
    pub fn power_cut(&mut self, inode: u64) -> Option<Vec<u8>> {
        let Shadow {
            mut durable,
            unsynced,
        } = self.files.get(&inode)?.clone();
        for (_, offset, bytes) in unsynced {
            if self.choose(2) == 0 {
                apply(&mut durable, offset, &bytes);
            }
        }
        Some(durable)
    }
}

fn apply(to: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    to.resize(to.len().max(offset + bytes.len()), 0);
    to[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// The file behind a descriptor that stays another's.
fn borrow(fd: RawFd) -> ManuallyDrop<File> {
    // SAFETY: who pushed the operation keeps it open until it completes; this never closes it.
    ManuallyDrop::new(unsafe { File::from_raw_fd(fd) })
}
