//! The whole block device on one thread: its engine, a volume of two layers, and a ring that ends operations in any
//! order, cut short or failed, as the fuzzer says.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::sync_channel;

use kami_image::volume::fuzz::layered;
use vmm_sys_util::eventfd::EFD_NONBLOCK;

use self::ring::{DIRECT, MemoryRing};
use super::super::outside::{Command, Inlet, commands};
use super::*;
use crate::fuzz::Input;
use crate::fuzz::guest::{Driver, QUEUE_SIZE, QUEUES};
use crate::virtio::device::QueueInterrupt;

mod ring;

/// Nineteen blocks and a part of one.
const SIZE: u64 = 19 * 4096 + 1024;
/// More turns than any input has work for.
const TURNS_MAX: u32 = 10_000;

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
        let direct = (flags & 0x20 != 0).then_some(DIRECT);
        let volume = match is_plain {
            true => Volume::plain(overlay, SIZE),
            false => layered(lower, overlay, bitmap, SIZE, direct),
        };
        let ring = MemoryRing::new(&volume, is_plain, &driver);
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
                for _ in 0..what % 4 {
                    let [which, how] = input.array();
                    self.ring.choose(which, how);
                }
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
        self.ring.be_kind();
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
