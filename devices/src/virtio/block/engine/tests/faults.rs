//! Host files that fail, operation by operation: one request fails for it, and nothing else.

use super::*;
use Failing::{Punches, Reads, SyncAll, SyncData, Writes, Zeroes};

/// What lies from here on, in the volume and in its overlay, belongs to requests that must not notice. The
/// snapshot ends before; what it has lies lower in its own file.
const OTHERS: u64 = 2 * CHUNK_SECTORS;

/// The sector at which the failing requests begin: in the middle of a block.
const AT: u64 = 11;

const ERRNOS: [i32; 4] = [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EROFS];

/// What a request changes or reads: none of it is a whole block at its ends.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Read,
    Write,
    Discard,
    Unmap,
    Zero,
}

impl Victim {
    fn add(self, machine: &mut Machine) {
        let zeroing = match self {
            Self::Read => return machine.add(0, (VIRTIO_BLK_T_IN, AT), Data::In(40 * 512)),
            Self::Write => {
                let bytes = sector(9).repeat(40);
                return machine.add(0, (VIRTIO_BLK_T_OUT, AT), Data::Out(&bytes));
            }
            Self::Discard => (VIRTIO_BLK_T_DISCARD, 0),
            Self::Unmap => (VIRTIO_BLK_T_WRITE_ZEROES, 1),
            Self::Zero => (VIRTIO_BLK_T_WRITE_ZEROES, 0),
        };
        let segment = (AT, 40, zeroing.1);
        machine.guest.add_segments((0, 0), zeroing.0, &[segment]);
        machine.guest.queues[0].kick();
    }

    /// The tag that a sector has when the request has succeeded.
    fn tag(self, number: u64, before: u32) -> u32 {
        let is_inside = (AT..AT + 40).contains(&number);
        let is_discarded = (16..48).contains(&number);
        match self {
            Self::Write if is_inside => 9,
            Self::Discard if is_discarded => 0,
            Self::Unmap | Self::Zero if is_inside => 0,
            _ => before,
        }
    }
}

/// Which operations fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failing {
    Reads,
    Writes,
    Punches,
    Zeroes,
    SyncAll,
    SyncData,
}

impl Failing {
    fn is(self, operation: &Operation) -> bool {
        match operation {
            Operation::Watch { .. } => false,
            Operation::Read(_) => self == Reads,
            Operation::Write(_) => self == Writes,
            Operation::Deallocate { .. } => self == Punches,
            Operation::Zero { .. } => self == Zeroes,
            Operation::SyncAll { .. } => self == SyncAll,
            Operation::SyncData { .. } => self == SyncData,
        }
    }
}

/// Every kind of request with every kind of operation that it needs, on blocks that the overlay holds or lacks.
const CASES: [(Victim, Failing); 10] = [
    (Victim::Read, Reads),
    // The rest of the first block and of the last.
    (Victim::Write, Reads),
    (Victim::Write, Writes),
    (Victim::Discard, Punches),
    (Victim::Unmap, Reads),
    (Victim::Unmap, Writes),
    (Victim::Unmap, Punches),
    (Victim::Zero, Reads),
    (Victim::Zero, Writes),
    (Victim::Zero, Zeroes),
];

impl Machine {
    /// Has operations on what lies below [`OTHERS`] fail; the bitmap belongs to the others' flush.
    fn fail(&self, failing: Failing, errno: i32, bitmap: u64) {
        self.sim.0.borrow_mut().fault = Box::new(move |operation| {
            let (file, offset) = match *operation {
                Operation::Read(it) | Operation::Write(it) => (it.file, it.offset),
                Operation::Deallocate { file, offset, .. }
                | Operation::Zero { file, offset, .. } => (file, offset),
                _ => return None,
            };
            let is_meant = failing.is(operation)
                && offset < OTHERS * 512
                && inode(Path::new(&format!("/proc/self/fd/{file}"))) != bitmap;
            is_meant.then_some(errno)
        });
    }

    fn fail_syncs(&self, failing: Failing, errno: i32) {
        self.sim.0.borrow_mut().fault = Box::new(move |it| failing.is(it).then_some(errno));
    }

    fn mend(&self) {
        self.sim.0.borrow_mut().fault = Box::new(|_| None);
    }

    fn flush_status(&mut self) -> u8 {
        self.run((VIRTIO_BLK_T_FLUSH, 0), Data::None)
    }

    /// The tags of the sectors around the failing requests.
    fn tags(&mut self) -> Vec<u32> {
        let bytes = self.read(0, 64 * 512);
        let tag = |it: &[u8]| {
            let tag = u32::from_le_bytes(it[..4].try_into().unwrap());
            assert!(it == sector(tag));
            tag
        };
        bytes.chunks(512).map(tag).collect()
    }
}

/// Other requests of the same moment, each of its own kind, in the slots from 1 on.
fn add_others(machine: &mut Machine, tag: u32) {
    machine.add(1, (VIRTIO_BLK_T_IN, OTHERS + 3), Data::In(512));
    machine.add(2, (VIRTIO_BLK_T_OUT, OTHERS + 8), Data::Out(&sector(tag)));
    machine.add(3, (VIRTIO_BLK_T_FLUSH, 0), Data::None);
    let segment = (OTHERS + 64, 16, 1);
    let zeroing = VIRTIO_BLK_T_WRITE_ZEROES;
    machine.guest.add_segments((0, 4), zeroing, &[segment]);
    machine.guest.queues[0].kick();
}

fn check(
    (home, snapshot): (&Path, &SnapshotId),
    (victim, failing): (Victim, Failing),
    (is_held, errno): (bool, i32),
) {
    let (volume, _, _, bitmap) = volume(home, snapshot);
    let mut machine = Machine::new(volume, Sim::new(0));
    let write = |machine: &mut Machine, number, count| {
        let bytes = sector(7).repeat(count);
        assert_eq!(
            machine.run((VIRTIO_BLK_T_OUT, number), Data::Out(&bytes)),
            OK
        );
    };
    write(&mut machine, OTHERS, 80);
    if is_held {
        write(&mut machine, 8, 48);
    }
    let before = machine.tags();
    machine.fail(failing, errno, bitmap);
    victim.add(&mut machine);
    add_others(&mut machine, 21);
    let mut back = machine.settle();
    back.sort_unstable();
    assert_eq!(back, [0, 1, 2, 3, 4]);
    // What the overlay holds needs nothing read.
    let is_needed = !(is_held && failing == Reads && !matches!(victim, Victim::Read));
    assert_eq!(machine.guest.status(0), u8::from(is_needed));
    for other in 1..=4 {
        assert_eq!(machine.guest.status(other), OK, "{other}");
    }
    assert!(machine.guest.data(1, 512) == sector(7));
    machine.mend();
    assert!(machine.read(OTHERS + 8, 512) == sector(21));
    assert!(machine.read(OTHERS + 64, 512) == sector(0));

    let wanted: Vec<_> = (0..)
        .zip(&before)
        .map(|(n, it)| victim.tag(n, *it))
        .collect();
    if is_needed {
        // Zeroing has several steps, the earlier of which may have been done.
        let now = machine.tags();
        let legal = now.iter().zip(&before).zip(&wanted);
        assert!(
            legal
                .clone()
                .all(|((now, old), new)| now == old || now == new)
        );
        assert!(now != wanted || before == wanted);
    }
    victim.add(&mut machine);
    assert_eq!(machine.settle(), [0]);
    assert_eq!(machine.guest.status(0), OK);
    assert_eq!(machine.tags(), wanted);
    assert_eq!(machine.flush_status(), OK);
    assert_eq!(machine.resets.load(Ordering::SeqCst), 0);
    machine.stop.write(1).unwrap();
    let mut volume = machine.engine.run().unwrap();
    let all = volume.begin_write(0, SIZE).unwrap();
    assert!(matches!(all, BeginWrite::Ready(_)), "no block is left busy");
}

#[test]
fn each_kind_of_operation_fails_its_request_alone_and_its_blocks_can_be_written_later() {
    let (home, snapshot) = store();
    for (number, case) in CASES.into_iter().enumerate() {
        for is_held in [false, true] {
            for errno in ERRNOS {
                println!("case {number}, held: {is_held}, errno {errno}");
                check((home.path(), &snapshot), case, (is_held, errno));
            }
        }
    }
}

/// Issue: `fsync(2)` says of data that could not be written only once, and the host has dropped it by then: a later
/// flush that succeeded, after a reset of the device too, vouched for what no disk had. The errno is no excuse.
#[test]
fn failed_sync_of_data_fails_every_later_flush_and_no_bitmap_vouches_for_it() {
    let (home, snapshot) = store();
    for (failing, errno) in [SyncAll, SyncData]
        .into_iter()
        .flat_map(|it| ERRNOS.map(|errno| (it, errno)))
    {
        let (volume, id, overlay, bitmap) = volume(home.path(), &snapshot);
        let mut machine = Machine::new(volume, Sim::new(0));
        let write = (VIRTIO_BLK_T_OUT, 3);
        assert_eq!(machine.run(write, Data::Out(&sector(1))), OK);
        machine.fail_syncs(failing, errno);
        assert_eq!(machine.flush_status(), IO_ERROR);
        machine.mend();
        assert_eq!(machine.flush_status(), IO_ERROR);
        // Reads and writes go on.
        assert_eq!(machine.run(write, Data::Out(&sector(2))), OK);
        assert_eq!(machine.read(3, 512), sector(2));
        assert_eq!(machine.flush_status(), IO_ERROR);

        machine.stop.write(1).unwrap();
        let mut volume = machine.engine.run().unwrap();
        assert!(matches!(
            volume.sync(),
            Err(kami_image::volume::Error::LostWrites)
        ));
        let mut machine = Machine::new(volume, Sim::new(0));
        assert_eq!(machine.flush_status(), IO_ERROR, "a reset mends nothing");
        machine.engine.disk.write_through = true;
        assert_eq!(machine.run(write, Data::Out(&sector(3))), IO_ERROR);
        let trace = machine.sim.0.borrow().trace.clone();
        assert!(!trace.contains(&Event::Write { file: bitmap }));
        drop(machine);

        // Whoever opens the volume anew starts from what is on the disk.
        let standing = Standing::new(SIZE, Some(snapshot));
        let volume = VolumeFiles::new(home.path()).open(&id, &standing).unwrap();
        let mut machine = Machine::new(volume, Sim::new(0));
        assert_eq!(machine.read(3, 512), sector(snapshot_tag(3)));
        assert_eq!(machine.run(write, Data::Out(&sector(4))), OK);
        assert_eq!(machine.flush_status(), OK);
        let world = machine.sim.0.borrow();
        assert_eq!(world.files[&overlay].durable[3 * 512..4 * 512], sector(4));
    }
}

/// The bitmap's pages are kept until they are on the disk, and written again, so its failures pass.
#[test]
fn failure_to_write_or_to_sync_a_bitmap_is_made_good_by_the_next_flush() {
    let (home, snapshot) = store();
    for (syncs_that_work, errno) in [0, 1].into_iter().flat_map(|it| ERRNOS.map(|e| (it, e))) {
        let (volume, id, _, bitmap) = volume(home.path(), &snapshot);
        let mut machine = Machine::new(volume, Sim::new(0));
        assert_eq!(machine.flush_status(), OK);
        let write = (VIRTIO_BLK_T_OUT, 3);
        assert_eq!(machine.run(write, Data::Out(&sector(1))), OK);
        let mut syncs = 0;
        machine.sim.0.borrow_mut().fault = Box::new(move |operation| {
            syncs += u32::from(matches!(operation, Operation::SyncData { .. }));
            match operation {
                // After the data's sync nothing but the bitmap is written.
                Operation::Write(_) if syncs_that_work == 0 => Some(errno),
                Operation::SyncData { .. } if syncs > syncs_that_work && syncs_that_work > 0 => {
                    Some(errno)
                }
                _ => None,
            }
        });
        assert_eq!(machine.flush_status(), IO_ERROR);
        machine.mend();
        assert_eq!(machine.flush_status(), OK);
        assert!(machine.sim.0.borrow().files[&bitmap].unsynced.is_empty());
        drop(machine);
        let standing = Standing::new(SIZE, Some(snapshot));
        let volume = VolumeFiles::new(home.path()).open(&id, &standing).unwrap();
        let mut machine = Machine::new(volume, Sim::new(0));
        assert_eq!(machine.read(3, 512), sector(1));
    }
}
