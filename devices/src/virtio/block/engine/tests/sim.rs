//! A ring that a test controls: it carries operations out in any order, cuts them short, fails
//! them, holds them back, records them, and tells the [`Medium`] what was written and synced.

#![expect(unsafe_code, reason = "carries out operations on raw memory")]

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use super::super::super::ring::{Completion, Operation, Ring, Vectors};
use super::medium::{Medium, SECTOR};

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

/// Decides what becomes of an operation: `Some(errno)` fails it.
pub type Fault = Box<dyn FnMut(&Operation) -> Option<i32>>;

pub struct World {
    pending: Vec<Pending>,
    watches: Vec<(u64, RawFd)>,
    /// The state of the random choices; 0 makes none: all is done in order and whole.
    random: u64,
    pub trace: Vec<Event>,
    pub files: Medium,
    pub fault: Fault,
    /// Operations that this is true of are held back.
    pub hold: fn(&Operation) -> bool,
}

struct Pending {
    token: u64,
    operation: Operation,
    /// The changes made before it began: all that a sync covers for certain.
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
            trace: Vec::new(),
            files: Medium::default(),
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
                world.files.look();
                let covers = world.files.changes();
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
    /// The process that had the operations under way is killed: some are carried out yet, and none fails
    /// without anybody's knowledge.
    pub fn kill(&mut self) {
        self.stop_watching();
        self.fault = Box::new(|_| None);
        for pending in std::mem::take(&mut self.pending) {
            if self.choose(2) == 0 {
                self.carry_out(&pending);
            }
        }
    }

    /// Forgets the events that an engine had watched.
    pub fn stop_watching(&mut self) {
        self.watches.clear();
    }

    /// A number below `bound`; 0 where no choices are made.
    pub fn choose(&mut self, bound: usize) -> usize {
        // xorshift64 (Marsaglia 2003); stays 0 at 0.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random >> 16).unwrap() % bound
    }

    fn carry_out(&mut self, pending: &Pending) -> i32 {
        if let Some(errno) = (self.fault)(&pending.operation) {
            if let Operation::SyncData { file } | Operation::SyncAll { file } = pending.operation {
                let inode = self.files.inode(&borrow(file));
                self.files.forget(inode);
            }
            return -errno;
        }
        if self.random != 0 && self.choose(8) == 0 {
            return -[libc::EINTR, libc::EAGAIN][self.choose(2)];
        }
        match pending.operation {
            Operation::Watch { .. } => 0,
            Operation::Read(vectors) => {
                let file = self.files.inode(&borrow(vectors.file));
                self.trace.push(Event::Read { file });
                self.transfer(vectors, |file, bytes, offset| file.read_at(bytes, offset))
            }
            Operation::Write(vectors) => {
                let file = borrow(vectors.file);
                let inode = self.files.inode(&file);
                self.trace.push(Event::Write { file: inode });
                let done =
                    self.transfer(vectors, |file, bytes, offset| file.write_at(bytes, offset));
                let len = u64::from(done.unsigned_abs());
                self.files.written(&file, vectors.offset, len);
                done
            }
            Operation::SyncData { file } => {
                let file = self.files.inode(&borrow(file));
                self.trace.push(Event::SyncData { file });
                self.files.sync(file, pending.covers);
                0
            }
            Operation::SyncAll { file } => {
                let file = self.files.inode(&borrow(file));
                self.trace.push(Event::SyncAll { file });
                self.files.sync(file, pending.covers);
                0
            }
            Operation::Deallocate { file, offset, len } | Operation::Zero { file, offset, len } => {
                let file = borrow(file);
                let inode = self.files.inode(&file);
                self.trace.push(Event::Punch { file: inode });
                let zeroes = vec![0; usize::try_from(len).unwrap()];
                file.write_all_at(&zeroes, offset).unwrap();
                self.files.written(&file, offset, len);
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
}

/// The file behind a descriptor that stays another's.
fn borrow(fd: RawFd) -> ManuallyDrop<File> {
    // SAFETY: who pushed the operation keeps it open until it completes; this never closes it.
    ManuallyDrop::new(unsafe { File::from_raw_fd(fd) })
}
