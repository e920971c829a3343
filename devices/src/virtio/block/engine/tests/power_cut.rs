//! Property: whatever the order in which the disk does things, and whenever the power goes, every
//! flushed write is there afterwards, and every sector holds something that it once had.

use std::os::unix::fs::symlink;

use proptest::test_runner::TestRunner;

use super::*;

/// The sectors that histories touch: some of the snapshot's data and some of its zeroes.
const START: u64 = CHUNK_SECTORS - 64;
const COUNT: u64 = 128;

#[derive(Clone, Copy, Debug)]
enum Action {
    Write {
        at: u64,
        count: u64,
    },
    /// Of whole blocks, so that all of it is zeroed.
    Discard {
        block: u64,
        count: u64,
    },
    Zero {
        at: u64,
        count: u64,
        unmap: bool,
    },
    Read {
        at: u64,
        count: u64,
    },
    Flush,
    /// The ring gets on, this often.
    Turn(u8),
}

fn action() -> impl Strategy<Value = Action> {
    let run = (0..COUNT - 24, 1u64..24);
    prop_oneof![
        6 => run.clone().prop_map(|(at, count)| Action::Write { at, count }),
        1 => (0..COUNT / 8 - 3, 1u64..3).prop_map(|(block, count)| Action::Discard { block, count }),
        2 => (run.clone(), any::<bool>())
            .prop_map(|((at, count), unmap)| Action::Zero { at, count, unmap }),
        2 => run.prop_map(|(at, count)| Action::Read { at, count }),
        2 => Just(Action::Flush),
        6 => (1u8..6).prop_map(Action::Turn),
    ]
}

/// What is known of a sector.
#[derive(Clone, Debug)]
struct Sector {
    /// The tags that it was given, oldest first, the snapshot's included.
    history: Vec<u32>,
    /// A write of the last one is under way.
    changing: bool,
    /// The first tag that may still be found after a power cut.
    floor: usize,
}

impl Sector {
    /// The last tag whose write is done.
    fn settled(&self) -> usize {
        self.history.len() - 1 - usize::from(self.changing)
    }
}

/// What a request in flight will have done when it comes back.
enum InFlight {
    Change(std::ops::Range<u64>),
    Read(std::ops::Range<u64>),
    /// The floors that hold from then on.
    Flush(Vec<usize>),
}

struct Model {
    sectors: Vec<Sector>,
    in_flight: BTreeMap<usize, InFlight>,
    tag: u32,
}

impl Model {
    fn new() -> Self {
        let sector = |n| Sector {
            history: vec![snapshot_tag(START + n)],
            changing: false,
            floor: 0,
        };
        Self {
            sectors: (0..COUNT).map(sector).collect(),
            in_flight: BTreeMap::new(),
            tag: 0,
        }
    }

    fn at(&mut self, range: &std::ops::Range<u64>) -> &mut [Sector] {
        let index = |n| usize::try_from(n).unwrap();
        &mut self.sectors[index(range.start)..index(range.end)]
    }

    /// Whether no request in flight touches these sectors: then it is known what they hold.
    fn is_free(&mut self, range: &std::ops::Range<u64>) -> bool {
        let reading = self.in_flight.values().any(|it| match it {
            InFlight::Read(other) => other.start < range.end && range.start < other.end,
            _ => false,
        });
        !reading && self.at(range).iter().all(|sector| !sector.changing)
    }

    fn change(&mut self, slot: usize, range: std::ops::Range<u64>, tag: u32) {
        for sector in self.at(&range) {
            sector.history.push(tag);
            sector.changing = true;
        }
        self.in_flight.insert(slot, InFlight::Change(range));
    }

    /// Puts the request on the queue, unless others in flight make its outcome uncertain.
    fn submit(&mut self, slot: usize, action: Action, machine: &mut Machine) {
        let range = match action {
            Action::Write { at, count }
            | Action::Zero { at, count, .. }
            | Action::Read { at, count } => at..at + count,
            Action::Discard { block, count } => block * 8..(block + count) * 8,
            Action::Flush => {
                let floors = self.sectors.iter().map(Sector::settled).collect();
                self.in_flight.insert(slot, InFlight::Flush(floors));
                return machine.add(slot, (VIRTIO_BLK_T_FLUSH, 0), Data::None);
            }
            Action::Turn(_) => return,
        };
        if !self.is_free(&range) {
            return;
        }
        let sector_number = START + range.start;
        let sectors = u32::try_from(range.end - range.start).unwrap();
        match action {
            Action::Read { .. } => {
                machine.add(
                    slot,
                    (VIRTIO_BLK_T_IN, sector_number),
                    Data::In(512 * sectors as usize),
                );
                self.in_flight.insert(slot, InFlight::Read(range));
            }
            Action::Write { .. } => {
                self.tag += 1;
                let bytes = sector(self.tag).repeat(sectors as usize);
                machine.add(slot, (VIRTIO_BLK_T_OUT, sector_number), Data::Out(&bytes));
                self.change(slot, range, self.tag);
            }
            _ => {
                let (request_type, flags) = match action {
                    Action::Zero { unmap, .. } => (VIRTIO_BLK_T_WRITE_ZEROES, u32::from(unmap)),
                    _ => (VIRTIO_BLK_T_DISCARD, 0),
                };
                let segment = (sector_number, sectors, flags);
                machine
                    .guest
                    .add_segments((0, slot), request_type, &[segment]);
                machine.guest.queues[0].kick();
                self.change(slot, range, 0);
            }
        }
    }

    fn came_back(&mut self, slot: usize, machine: &Machine) {
        assert_eq!(machine.guest.status(slot), OK);
        match self.in_flight.remove(&slot).unwrap() {
            InFlight::Change(range) => {
                for sector in self.at(&range) {
                    sector.changing = false;
                }
            }
            InFlight::Read(range) => {
                let expected: Vec<u8> = self
                    .at(&range)
                    .iter()
                    .flat_map(|it| sector(*it.history.last().unwrap()))
                    .collect();
                assert!(machine.guest.data(slot, expected.len()) == expected);
            }
            InFlight::Flush(floors) => {
                for (sector, floor) in self.sectors.iter_mut().zip(floors) {
                    sector.floor = sector.floor.max(floor);
                }
            }
        }
    }
}

/// The store's volume as a power cut leaves it. Snapshots are on the disk already.
fn copy_after_power_cut(home: &Path, sim: &Sim) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for folder in ["segments", "snapshots"] {
        symlink(home.join(folder), copy.path().join(folder)).unwrap();
    }
    let volumes = copy.path().join("volumes");
    fs::create_dir(&volumes).unwrap();
    for entry in fs::read_dir(home.join("volumes")).unwrap() {
        let path = entry.unwrap().path();
        let left = sim.0.borrow_mut().power_cut(inode(&path));
        let left = left.unwrap_or_else(|| fs::read(&path).unwrap());
        fs::write(volumes.join(path.file_name().unwrap()), left).unwrap();
    }
    copy
}

#[test]
fn power_cut_leaves_every_flushed_write() {
    let (home, snapshot) = store();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(128));
    let histories = (prop::collection::vec(action(), 1..60), 1u64..);
    let result = runner.run(&histories, |(history, random)| {
        check(home.path(), &snapshot, history, random)
    });
    result.unwrap();
}

/// Carries out `history`, cuts the power, and looks at what is left.
fn check(
    home: &Path,
    snapshot: &SnapshotId,
    history: Vec<Action>,
    random: u64,
) -> Result<(), TestCaseError> {
    let (volume, id, ..) = volume(home, snapshot);
    let mut machine = Machine::new(volume, Sim::new(random));
    let mut model = Model::new();
    for (slot, action) in history.into_iter().enumerate() {
        model.submit(slot, action, &mut machine);
        if let Action::Turn(count) = action {
            for _ in 0..count {
                for slot in machine.turn() {
                    model.came_back(slot, &machine);
                }
            }
        }
    }
    let copy = copy_after_power_cut(home, &machine.sim);
    let reopened = VolumeFiles::new(copy.path()).open(&id, &Standing::new(SIZE, Some(*snapshot)));
    let mut after = Machine::new(reopened.unwrap(), Sim::new(0));
    let bytes = after.read(START, usize::try_from(COUNT * 512).unwrap());
    for (n, (bytes, known)) in bytes.chunks(512).zip(&model.sectors).enumerate() {
        let legal = &known.history[known.floor..];
        let tag = legal.iter().find(|tag| sector(**tag) == bytes);
        prop_assert!(tag.is_some(), "sector {n} is none of {legal:x?}");
    }
    // Without the power cut, all goes on and nothing is left undone.
    for slot in machine.settle() {
        model.came_back(slot, &machine);
    }
    prop_assert!(model.in_flight.is_empty());
    let last = |it: &Sector| sector(*it.history.last().unwrap());
    let expected: Vec<u8> = model.sectors.iter().flat_map(last).collect();
    prop_assert!(machine.read(START, expected.len()) == expected);
    drop(machine);
    VolumeFiles::new(home).delete(&id).unwrap();
    Ok(())
}
