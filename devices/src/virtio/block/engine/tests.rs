//! The engine on a simulated ring: order, power cuts, faults, hostile drivers, stopping.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kami_image::chunk::{ChunkIndex, ChunkPlace, Digest};
use kami_image::id::{SnapshotId, VolumeId};
use kami_image::snapshot::SnapshotFiles;
use kami_image::volume::{BeginWrite, Standing, VolumeFiles};
use proptest::prelude::*;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};
use vmm_sys_util::eventfd::EFD_NONBLOCK;

use self::sim::{Event, Sim};
use super::super::outside::{self, Inlet};
use super::super::tests::guest::{Data, Guest, Shape};
use super::*;
use crate::virtio::mock::{Descriptor, INDIRECT, NEXT, WRITE};

mod faults;
mod layers;
mod medium;
mod power_cut;
mod sim;
mod throttled;
mod zeroing;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const PENDING: u8 = 0xee;

/// The snapshot: a chunk of data, then a chunk of zeroes. The volume goes on beyond it.
const CHUNK_SECTORS: u64 = 1024;
const SECTORS: u64 = 2 * CHUNK_SECTORS + 128;
const SIZE: u64 = SECTORS * 512;

/// An engine, the driver of its one queue, and the ring between them and the files.
struct Machine {
    engine: Engine<Sim>,
    guest: Guest,
    sim: Sim,
    stop: EventFd,
    inlet: Inlet,
    resets: Arc<AtomicU32>,
}

impl Machine {
    fn new(volume: Volume, sim: Sim) -> Self {
        Self::with_throttle(volume, sim, None)
    }

    fn with_throttle(volume: Volume, sim: Sim, throttle: Option<Throttle>) -> Self {
        let guest = Guest::new(1);
        let stop = EventFd::new(EFD_NONBLOCK).unwrap();
        let resets = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&resets);
        let needs_reset = NeedsReset::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let bounds = Bounds {
            capacity_bytes: volume.size_bytes(),
            read_only: false,
            chain_max: 256,
        };
        let disk = Disk::new(volume, guest.memory.clone(), *b"vol0123456789abcdef0");
        let queues = vec![Some(guest.queues[0].activate())];
        let events = Events {
            stop: stop.try_clone().unwrap(),
            needs_reset,
        };
        let (inlet, outlet) = outside::commands().unwrap();
        let events = (events, outlet);
        let engine = Engine::new(sim.clone(), disk, bounds, queues, events, throttle);
        Self {
            engine,
            guest,
            sim,
            stop,
            inlet,
            resets,
        }
    }

    /// One turn, in which the ring does as much as it chooses to. Returns the slots of the requests
    /// that came back.
    fn turn(&mut self) -> Vec<usize> {
        self.engine.turn().unwrap();
        if self.guest.queues[0].interrupts.read().is_ok() {
            self.sim.record(Event::Interrupt);
        }
        let mut back = Vec::new();
        while let Some(used) = self.guest.queues[0].poll_used() {
            back.push(self.guest.used(0, used));
        }
        back
    }

    /// Turns until nothing is under way; returns what came back.
    fn settle(&mut self) -> Vec<usize> {
        let mut back = self.turn();
        while self.sim.is_busy() || self.engine.sources.iter().flatten().any(Source::has_work) {
            back.extend(self.turn());
        }
        back
    }

    fn add(&mut self, slot: usize, request: (u32, u64), data: Data<'_>) {
        self.guest.add((0, slot), request, data, Shape::Plain);
        self.guest.queues[0].kick();
    }

    /// Carries out one request and returns its status.
    fn run(&mut self, request: (u32, u64), data: Data<'_>) -> u8 {
        self.add(0, request, data);
        assert_eq!(self.settle(), [0]);
        self.guest.status(0)
    }

    fn read(&mut self, sector: u64, len: usize) -> Vec<u8> {
        assert_eq!(self.run((VIRTIO_BLK_T_IN, sector), Data::In(len)), OK);
        self.guest.data(0, len)
    }
}

fn plain() -> (File, Volume) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(SIZE).unwrap();
    (file.try_clone().unwrap(), Volume::plain(file, SIZE))
}

/// No chunk is known.
struct Empty;

impl ChunkIndex for Empty {
    fn find(
        &self,
        _digest: &Digest,
    ) -> Result<Option<ChunkPlace>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(None)
    }
}

/// What a sector holds: this tag, over and over.
fn sector(tag: u32) -> Vec<u8> {
    tag.to_le_bytes().repeat(128)
}

/// The snapshot's tag of a sector.
fn snapshot_tag(number: u64) -> u32 {
    match number < CHUNK_SECTORS {
        true => 0x1_0000 + u32::try_from(number).unwrap(),
        false => 0,
    }
}

/// A store with one snapshot.
fn store() -> (tempfile::TempDir, SnapshotId) {
    let home = tempfile::tempdir().unwrap();
    let content = (0..2 * CHUNK_SECTORS).flat_map(|n| sector(snapshot_tag(n)));
    let id = import(home.path(), &content.collect::<Vec<_>>());
    (home, id)
}

/// Makes a snapshot of these bytes.
fn import(home: &Path, bytes: &[u8]) -> SnapshotId {
    let raw = home.join("disk.raw");
    fs::write(&raw, bytes).unwrap();
    let id = SnapshotId::generate();
    let mut source = kami_image::format::open(&raw).unwrap();
    let files = SnapshotFiles::new(home);
    let written = files
        .write(&id, &mut source, &Empty, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    written.keep();
    id
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// A volume of the store's snapshot, and the inodes of its overlay and its bitmap.
fn volume(home: &Path, snapshot: &SnapshotId) -> (Volume, VolumeId, u64, u64) {
    let id = VolumeId::generate();
    let volume = VolumeFiles::new(home)
        .create(&id, SIZE, Some(snapshot))
        .unwrap();
    let file = |kind| inode(&home.join(format!("volumes/{id}.{kind}")));
    let (overlay, bitmap) = (file("overlay"), file("bitmap"));
    (volume, id, overlay, bitmap)
}

/// Issue: a guest's FLUSH that is answered before its data, or before the bitmap that vouches for
/// it, is on the disk loses data in a power cut.
#[test]
fn flush_is_answered_after_data_then_bitmap_are_synced() {
    let (home, snapshot) = store();
    let (volume, _, overlay, bitmap) = volume(home.path(), &snapshot);
    let mut machine = Machine::new(volume, Sim::new(0));
    assert_eq!(
        machine.run((VIRTIO_BLK_T_OUT, 3), Data::Out(&sector(7))),
        OK
    );
    machine.add(0, (VIRTIO_BLK_T_FLUSH, 0), Data::None);
    while machine.guest.status(0) == PENDING {
        let syncs = [overlay, bitmap].map(|file| Event::SyncData { file });
        let answered = machine.turn() == [0];
        let synced = syncs
            .iter()
            .all(|sync| machine.sim.0.borrow().trace.contains(sync));
        assert_eq!(answered, synced);
    }
    assert_eq!(machine.guest.status(0), OK);
    let world = machine.sim.0.borrow();
    let once = |event: &Event| matches!(event, Event::SyncAll { .. });
    let trace: Vec<_> = world
        .trace
        .iter()
        .filter(|event| !once(event))
        .copied()
        .collect();
    assert!(
        trace.len() < world.trace.len(),
        "the volume's own files are synced first"
    );
    let expected = [
        Event::Write { file: overlay },
        Event::Interrupt,
        Event::SyncData { file: overlay },
        Event::Write { file: bitmap },
        Event::SyncData { file: bitmap },
        Event::Interrupt,
    ];
    // The two parts of the block that the guest did not write are one read.
    assert_eq!(trace[1..], expected);
    assert!(matches!(trace[0], Event::Read { .. }));
    assert_eq!(world.files[&overlay].durable[3 * 512..4 * 512], sector(7));
    assert!(world.files[&bitmap].unsynced.is_empty());
}

#[test]
fn flush_that_arrives_during_another_covers_what_the_other_does_not() {
    let (file, volume) = plain();
    let overlay = file.metadata().unwrap().ino();
    let mut machine = Machine::new(volume, Sim::new(0));
    let flush = (VIRTIO_BLK_T_FLUSH, 0);
    let write = |machine: &mut Machine, number| {
        machine.run((VIRTIO_BLK_T_OUT, number), Data::Out(&sector(9)))
    };
    assert_eq!(write(&mut machine, 0), OK);
    machine.sim.0.borrow_mut().hold = |op| matches!(op, Operation::SyncData { .. });
    machine.add(1, flush, Data::None);
    assert!(machine.turn().is_empty());
    // Reads and writes do not wait for it.
    machine.add(2, (VIRTIO_BLK_T_OUT, 1), Data::Out(&sector(9)));
    assert_eq!([machine.turn(), machine.turn()].concat(), [2]);
    machine.add(3, flush, Data::None);
    machine.add(4, flush, Data::None);
    assert!([machine.turn(), machine.turn()].concat().is_empty());

    machine.sim.0.borrow_mut().hold = |_| false;
    assert_eq!(machine.turn(), [1], "its sync is done, and no other's");
    assert_eq!(
        machine.sim.0.borrow().files[&overlay].durable[512..1024],
        [0; 512]
    );
    assert_eq!(machine.settle(), [3, 4]);
    let world = machine.sim.0.borrow();
    assert_eq!(world.files[&overlay].durable[512..1024], sector(9));
    let syncs = world
        .trace
        .iter()
        .filter(|e| matches!(e, Event::SyncData { .. }));
    assert_eq!(syncs.count(), 2, "requests that wait share a sync");
}

/// virtio 1.3 §5.2.6.2: where the driver knows no FLUSH, a completed write is stable.
#[test]
fn write_without_the_flush_feature_is_answered_after_its_sync() {
    let (_file, volume) = plain();
    let mut machine = Machine::new(volume, Sim::new(0));
    machine.engine.disk.write_through = true;
    machine.sim.0.borrow_mut().hold = |op| matches!(op, Operation::SyncData { .. });
    machine.add(0, (VIRTIO_BLK_T_OUT, 0), Data::Out(&sector(1)));
    assert!(
        [machine.turn(), machine.turn(), machine.turn()]
            .concat()
            .is_empty()
    );
    machine.sim.0.borrow_mut().hold = |_| false;
    assert_eq!(machine.settle(), [0]);
    assert_eq!(machine.guest.status(0), OK);
}

#[test]
fn file_system_without_holes_still_zeroes_and_brings_nothing_back() {
    let (home, snapshot) = store();
    let (volume, ..) = volume(home.path(), &snapshot);
    let mut machine = Machine::new(volume, Sim::new(0));
    machine.sim.0.borrow_mut().fault = Box::new(|op| match op {
        Operation::Deallocate { .. } | Operation::Zero { .. } => Some(libc::EOPNOTSUPP),
        _ => None,
    });
    for flags in [0, 1] {
        let at = 64 * u64::from(flags);
        let segment = (at + 3, 30, flags);
        machine
            .guest
            .add_segments((0, 0), VIRTIO_BLK_T_WRITE_ZEROES, &[segment]);
        machine.guest.queues[0].kick();
        assert_eq!(machine.settle(), [0]);
        assert_eq!(machine.guest.status(0), OK);
        let expected = |n| {
            if (3..33).contains(&n) {
                0
            } else {
                snapshot_tag(at + n)
            }
        };
        let expected: Vec<u8> = (0..64).flat_map(|n| sector(expected(n))).collect();
        assert!(machine.read(at, 64 * 512) == expected);
    }
    // A discard is a hint: what was there stays, be it the snapshot's or the overlay's.
    let before = machine.read(0, 128 * 512);
    machine
        .guest
        .add_segments((0, 0), VIRTIO_BLK_T_DISCARD, &[(0, 128, 0)]);
    machine.guest.queues[0].kick();
    assert_eq!(machine.settle(), [0]);
    assert_eq!(machine.guest.status(0), OK);
    assert!(machine.read(0, 128 * 512) == before);
}

#[test]
fn discard_never_brings_snapshot_content_back() {
    let (home, snapshot) = store();
    let (volume, ..) = volume(home.path(), &snapshot);
    let mut machine = Machine::new(volume, Sim::new(0));
    let write = (VIRTIO_BLK_T_OUT, 8);
    assert_eq!(machine.run(write, Data::Out(&sector(5).repeat(8))), OK);
    machine
        .guest
        .add_segments((0, 0), VIRTIO_BLK_T_DISCARD, &[(0, 24, 0)]);
    machine.guest.queues[0].kick();
    assert_eq!(machine.settle(), [0]);
    assert_eq!(machine.read(0, 24 * 512), [0; 24 * 512]);
    assert_eq!(machine.read(24, 512), sector(snapshot_tag(24)));
}

/// The rest of a block that the guest writes in part is read once, whatever part it is, and written with the data.
#[test]
fn first_write_of_part_of_a_block_reads_once_and_writes_once() {
    let (home, snapshot) = store();
    let (volume, ..) = volume(home.path(), &snapshot);
    let mut machine = Machine::new(volume, Sim::new(0));
    for (block, (from, count)) in [(0, 3), (3, 2), (5, 3)].into_iter().enumerate() {
        let first = 8 * block as u64;
        let data = sector(9).repeat(count);
        assert_eq!(
            machine.run((VIRTIO_BLK_T_OUT, first + from), Data::Out(&data)),
            OK
        );
        let trace: Vec<_> = machine.sim.0.borrow_mut().trace.drain(..).collect();
        assert!(
            matches!(
                trace[..],
                [Event::Read { .. }, Event::Write { .. }, Event::Interrupt]
            ),
            "{trace:?}"
        );
        let expected = (0..8).flat_map(|n| match (from..from + count as u64).contains(&n) {
            true => sector(9),
            false => sector(snapshot_tag(first + n)),
        });
        assert_eq!(machine.read(first, 4096), expected.collect::<Vec<_>>());
        machine.sim.0.borrow_mut().trace.clear();
    }
}

#[test]
fn write_to_blocks_that_are_being_copied_waits_its_turn() {
    let (home, snapshot) = store();
    let (volume, ..) = volume(home.path(), &snapshot);
    let mut machine = Machine::new(volume, Sim::new(0));
    for slot in 0..8 {
        let tag = u32::try_from(slot).unwrap() + 1;
        machine.add(
            slot,
            (VIRTIO_BLK_T_OUT, slot as u64),
            Data::Out(&sector(tag)),
        );
    }
    let mut back = machine.settle();
    back.sort_unstable();
    assert_eq!(back, (0..8).collect::<Vec<_>>());
    let expected: Vec<u8> = (1..=8).flat_map(sector).collect();
    assert!(machine.read(0, 4096) == expected);
}

/// Issue: a worker that clears all memory that it is asked to in one go does not see its stop event for seconds.
#[test]
fn reads_of_zeroes_alone_leave_others_their_turn() {
    let (home, snapshot) = store();
    let (volume, ..) = volume(home.path(), &snapshot);
    let mut machine = Machine::new(volume, Sim::new(0));
    machine.engine.disk.cleared_bytes_max = 8192;
    for slot in 0..4 {
        let request = (VIRTIO_BLK_T_IN, CHUNK_SECTORS + slot as u64);
        machine.add(slot, request, Data::In(8192));
    }
    assert_eq!(machine.turn(), [0]);
    assert_eq!(machine.turn(), [1]);
    machine.stop.write(1).unwrap();
    assert!(machine.turn().is_empty());
    assert!(machine.engine.disk.stopping);
}

/// Issue: guest memory that is written after `reset()` is memory that the guest uses for
/// something else by then.
#[test]
fn stop_waits_for_what_is_under_way_and_gives_the_volume_back_free() {
    let (home, snapshot) = store();
    for turns in 0..12 {
        let (volume, ..) = volume(home.path(), &snapshot);
        let mut machine = Machine::new(volume, Sim::new(turns + 1));
        for slot in 0..24 {
            let at = 3 * slot as u64;
            match slot % 4 {
                0 => machine.add(slot, (VIRTIO_BLK_T_FLUSH, 0), Data::None),
                1 => machine.add(slot, (VIRTIO_BLK_T_IN, at), Data::In(8192)),
                _ => machine.add(slot, (VIRTIO_BLK_T_OUT, at), Data::Out(&[1; 8192])),
            }
        }
        for _ in 0..turns {
            machine.turn();
        }
        machine.stop.write(1).unwrap();
        let Machine {
            engine,
            mut guest,
            sim,
            ..
        } = machine;
        let mut volume = engine.run().unwrap();
        assert!(!sim.is_busy());
        let answered = (0..24)
            .filter(|&slot| guest.status(slot) != PENDING)
            .count();
        let mut back = 0;
        while guest.queues[0].poll_used().is_some() {
            back += 1;
        }
        assert!(back <= answered, "{back} {answered}");
        let free = volume.begin_write(0, SIZE).unwrap();
        assert!(
            matches!(free, BeginWrite::Ready(_)),
            "no block is left busy"
        );
    }
}

#[test]
fn driver_is_interrupted_when_the_used_index_passes_its_event() {
    let (_file, volume) = plain();
    let mut machine = Machine::new(volume, Sim::new(0));
    let source = machine.engine.sources[0].as_mut().unwrap();
    source.active.queue.set_event_idx(true);
    machine.guest.queues[0].set_used_event(2);
    let mut interrupts = || {
        assert_eq!(machine.run((VIRTIO_BLK_T_IN, 0), Data::In(512)), OK);
        let trace = &machine.sim.0.borrow().trace;
        trace.iter().filter(|e| **e == Event::Interrupt).count()
    };
    let counts = [interrupts(), interrupts(), interrupts(), interrupts()];
    assert_eq!(counts, [0, 0, 1, 1]);
}

/// The driver may offer more as soon as its chains are taken off the avail ring, long before they
/// come back; what the device holds must not grow with that.
#[test]
fn no_more_requests_are_taken_than_the_queue_has_entries() {
    let (_file, volume) = plain();
    let mut machine = Machine::new(volume, Sim::new(0));
    machine.sim.0.borrow_mut().hold = |op| matches!(op, Operation::Read(_));
    machine.add(0, (VIRTIO_BLK_T_IN, 0), Data::In(512));
    for _ in 0..600 {
        machine.engine.turn().unwrap();
        let taken = machine.engine.sources[0]
            .as_ref()
            .unwrap()
            .active
            .queue
            .next_avail();
        if taken == machine.guest.queues[0].offered() {
            machine.guest.queues[0].offer(0);
            machine.guest.queues[0].kick();
        }
    }
    assert_eq!(machine.engine.sources[0].as_ref().unwrap().in_flight, 256);
    machine.sim.0.borrow_mut().hold = |_| false;
    machine.engine.turn().unwrap();
    while machine.sim.is_busy() {
        machine.engine.turn().unwrap();
    }
    let back = std::iter::from_fn(|| machine.guest.queues[0].poll_used()).count();
    assert_eq!(back, usize::from(machine.guest.queues[0].offered()));
}

/// A descriptor that no driver of good will writes. Those that `spare_rings` name no memory of the
/// queue's own.
fn hostile(spare_rings: bool) -> impl Strategy<Value = Descriptor> {
    let rings = if spare_rings {
        0x30_0000u64..0x30_8000
    } else {
        0..0x8000
    };
    let address = prop_oneof![
        4 => 0x10_0000u64..0x10_0100,
        4 => 0x20_0000u64..0x20_4000,
        2 => rings,
        1 => (1u64 << 32)..,
    ];
    let len = prop_oneof![
        Just(16u32),
        Just(1),
        Just(512),
        Just(4096),
        0u32..100,
        1u32 << 25..,
    ];
    let flags = prop_oneof![
        Just(0),
        Just(NEXT),
        Just(WRITE),
        Just(NEXT | WRITE),
        Just(INDIRECT),
        any::<u16>(),
    ];
    (address, len, flags, 0u16..20).prop_map(|(address, len, flags, next)| Descriptor {
        address,
        len,
        flags,
        next,
    })
}

/// What a hostile driver puts into memory.
#[derive(Clone, Debug)]
struct Hostility {
    table: Vec<Descriptor>,
    heads: Vec<u16>,
    /// Types and sectors.
    headers: Vec<(u32, u64)>,
    random: u64,
}

fn hostility(spare_rings: bool) -> impl Strategy<Value = Hostility> {
    let table = prop::collection::vec(hostile(spare_rings), 16);
    let heads = prop::collection::vec(0u16..18, 0..40);
    let headers = prop::collection::vec((0u32..16, 0u64..SECTORS + 8), 16);
    (table, heads, headers, any::<u64>()).prop_map(|(table, heads, headers, random)| Hostility {
        table,
        heads,
        headers,
        random,
    })
}

impl Machine {
    fn under(attack: &Hostility) -> Self {
        let mut machine = Self::new(plain().1, Sim::new(attack.random));
        let guest = &mut machine.guest;
        for (n, (request_type, sector)) in attack.headers.iter().enumerate() {
            let header = 0x10_0000 + 16 * n as u64;
            guest
                .memory
                .write_obj(*request_type, GuestAddress(header))
                .unwrap();
            guest
                .memory
                .write_obj(*sector, GuestAddress(header + 8))
                .unwrap();
        }
        for (index, descriptor) in attack.table.iter().enumerate() {
            guest.queues[0].put(u16::try_from(index).unwrap(), *descriptor);
        }
        for &head in &attack.heads {
            guest.queues[0].offer(head);
        }
        guest.queues[0].kick();
        machine
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever chains a driver offers, each comes back exactly once, and a good request works
    /// afterwards.
    #[test]
    fn hostile_chains_come_back_once_and_harm_nobody(attack in hostility(true)) {
        let mut machine = Machine::under(&attack);
        machine.engine.turn().unwrap();
        while machine.sim.is_busy() {
            machine.engine.turn().unwrap();
        }
        let mut out = BTreeMap::new();
        for head in attack.heads {
            *out.entry(u32::from(head)).or_insert(0) += 1;
        }
        while let Some((head, _)) = machine.guest.queues[0].poll_used() {
            *out.get_mut(&head).unwrap() -= 1;
        }
        prop_assert!(out.values().all(|count| *count == 0), "{out:?}");
        prop_assert_eq!(machine.run((VIRTIO_BLK_T_OUT, 0), Data::Out(&sector(3))), OK);
        prop_assert_eq!(machine.read(0, 512), sector(3));
    }

    /// Not even a driver that has the device overwrite its own queue keeps it from stopping.
    #[test]
    fn queue_that_overwrites_itself_does_not_keep_the_device(attack in hostility(false)) {
        let mut machine = Machine::under(&attack);
        for _ in 0..100 {
            if let Err(error) = machine.engine.turn() {
                machine.engine.give_up(&error);
            }
        }
        prop_assert_eq!(machine.engine.broken, machine.resets.load(Ordering::SeqCst) == 1);
        machine.stop.write(1).unwrap();
        prop_assert!(machine.engine.run().is_some());
        prop_assert!(!machine.sim.is_busy());
    }
}
