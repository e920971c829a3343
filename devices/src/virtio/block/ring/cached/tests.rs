//! Which writes are carried out on the spot, and when none are.

use super::*;
use std::cell::Cell;
use std::fs::File;
use std::os::fd::AsRawFd;

use libc::iovec;

thread_local! {
    static START: Instant = Instant::now();
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// How long each look at the clock takes.
    static STEP: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static SLEEPS: Cell<i64> = const { Cell::new(0) };
}

fn clock() -> Instant {
    NOW.set(NOW.get() + STEP.get());
    START.with(|it| *it) + NOW.get()
}

fn sleeps() -> i64 {
    SLEEPS.set(SLEEPS.get() + 1);
    SLEEPS.get()
}

fn never() -> i64 {
    0
}

fn writes(sleeps: fn() -> i64) -> CachedWrites {
    CachedWrites {
        clock,
        sleeps,
        ..CachedWrites::new()
    }
}

fn run(writes: &mut CachedWrites) -> Vec<(u64, i32)> {
    let mut completions = Vec::new();
    // SAFETY: `Write` keeps everything.
    unsafe { writes.carry_out(&mut completions) };
    completions.iter().map(|it| (it.token, it.result)).collect()
}

/// Two pages, one of ones and one of twos, in two pieces of memory.
struct Write {
    file: File,
    memory: Vec<Vec<u8>>,
    iovecs: Vec<iovec>,
}

impl Write {
    fn new() -> Self {
        let mut memory: Vec<_> = (1..=2).map(|it| vec![it; 4096]).collect();
        let iovec = |it: &mut Vec<u8>| iovec {
            iov_base: it.as_mut_ptr().cast(),
            iov_len: it.len(),
        };
        Self {
            file: tempfile::tempfile().unwrap(),
            iovecs: memory.iter_mut().map(iovec).collect(),
            memory,
        }
    }

    fn vectors(&self, offset: u64) -> Vectors {
        Vectors {
            file: self.file.as_raw_fd(),
            offset,
            iovecs: self.iovecs.as_ptr(),
            count: 2,
            bytes: 8192,
            is_cached: true,
        }
    }
}

#[test]
fn whole_pages_are_written_at_once_and_others_are_for_the_ring() {
    let write = Write::new();
    let mut writes = writes(never);
    let whole = write.vectors(4096);
    let direct = Vectors {
        is_cached: false,
        ..whole
    };
    let part = Vectors {
        bytes: 8192 - 512,
        ..whole
    };
    let askew = Vectors {
        offset: 512,
        ..whole
    };
    let large = Vectors {
        bytes: 128 << 10,
        ..whole
    };
    for vectors in [direct, part, askew, large] {
        assert!(!writes.takes(0, vectors), "{vectors:?}");
    }
    assert!(writes.takes(7, whole));
    assert!(writes.divert().is_none());
    assert_eq!(run(&mut writes), [(7, 8192)]);
    assert!(writes.is_empty());
    let mut read = vec![0; 12288];
    std::os::unix::fs::FileExt::read_exact_at(&write.file, &mut read, 0).unwrap();
    assert_eq!(read, [vec![0; 4096], write.memory.concat()].concat());
}

#[test]
fn failure_is_the_operations_own() {
    let write = Write::new();
    let file = File::open("/dev/null").unwrap();
    let mut writes = writes(never);
    let read_only = Vectors {
        file: file.as_raw_fd(),
        ..write.vectors(0)
    };
    assert!(writes.takes(1, read_only) && writes.takes(2, write.vectors(0)));
    assert_eq!(run(&mut writes), [(1, -libc::EBADF), (2, 8192)]);
}

#[test]
fn one_turn_writes_so_much_and_no_more() {
    let write = Write::new();
    let mut writes = writes(never);
    for token in 0..20 {
        assert!(writes.takes(token, write.vectors(0)));
    }
    assert_eq!(run(&mut writes).len(), 8);
    assert_eq!(run(&mut writes).len(), 8);
    assert_eq!(run(&mut writes).len(), 4);
}

/// A disk that makes writers wait must not make everything else wait with them.
#[test]
fn after_a_write_that_waited_others_take_the_ring_for_a_while() {
    let write = Write::new();
    let mut writes = writes(sleeps);
    STEP.set(SLOW);
    for detour in [DETOUR, 2 * DETOUR, 4 * DETOUR] {
        assert!(writes.takes(1, write.vectors(0)));
        assert!(writes.takes(2, write.vectors(0)));
        assert_eq!(run(&mut writes), [(1, 8192)]);
        let diverted = writes.divert().map(|(token, _)| token);
        assert_eq!((diverted, writes.divert().is_none()), (Some(2), true));
        assert!(!writes.takes(3, write.vectors(0)));
        NOW.set(NOW.get() + detour - 2 * SLOW);
        run(&mut writes);
        assert!(!writes.takes(3, write.vectors(0)));
        run(&mut writes);
    }
    // One that does not wait ends it.
    STEP.set(Duration::ZERO);
    assert!(writes.takes(4, write.vectors(0)));
    assert_eq!(run(&mut writes), [(4, 8192)]);
    assert_eq!(writes.last_detour, None);
}

#[test]
fn loss_of_the_processor_is_no_wait() {
    let write = Write::new();
    let mut writes = writes(never);
    STEP.set(Duration::from_secs(1));
    assert!(writes.takes(1, write.vectors(0)) && writes.takes(2, write.vectors(0)));
    assert_eq!(run(&mut writes).len(), 2);
    assert!(writes.takes(3, write.vectors(0)));
}
