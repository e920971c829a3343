//! Property: whatever the order in which the disk does things, and whenever the power goes, every
//! flushed write is there afterwards, and every sector holds something that it once had.

use std::os::unix::fs::symlink;

use std::sync::mpsc::Receiver;

use proptest::test_runner::TestRunner;

use super::super::super::outside::Command;
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
    /// A layer is begun while the driver goes on.
    Freeze,
    /// A snapshot takes the place of what there is.
    Rebase,
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
        1 => Just(Action::Freeze),
        1 => Just(Action::Rebase),
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
            Action::Turn(_) | Action::Freeze | Action::Rebase => return,
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

/// The machine with the driver that the model knows, and what the catalogue says of the volume.
struct Lab<'a> {
    home: &'a Path,
    id: VolumeId,
    standing: Standing,
    machine: Machine,
    model: Model,
}

impl Lab<'_> {
    fn turn(&mut self) {
        for slot in self.machine.turn() {
            self.model.came_back(slot, &self.machine);
        }
    }

    /// Turns until there is an answer.
    fn answer<T>(&mut self, answer: &Receiver<T>) -> T {
        loop {
            match answer.try_recv() {
                Ok(answer) => return answer,
                Err(_) => self.turn(),
            }
        }
    }

    fn freeze(&mut self) -> u32 {
        let held = self.machine.hold(false);
        self.answer(&held);
        let frozen = self.machine.inlet.ask(Command::Freeze).unwrap();
        let layer = self.answer(&frozen).unwrap();
        self.machine.resume();
        layer
    }

    fn rebase(&mut self) {
        let layer = self.freeze();
        let known = self.model.sectors.clone();
        let flushed = self.machine.inlet.ask(Command::Flush).unwrap();
        assert!(self.answer(&flushed));
        let files = VolumeFiles::new(self.home);
        let view = files.frozen(&self.id, &self.standing, layer).unwrap();
        let len = usize::try_from(CHUNK_SECTORS * 512).unwrap();
        let mut content = vec![0; 3 * len];
        for (index, chunk) in (0..).zip(content.chunks_mut(len)) {
            view.read_chunk(index, chunk).unwrap();
        }
        let start = usize::try_from(START * 512).unwrap();
        for (bytes, known) in content[start..].chunks(512).zip(known) {
            let legal = &known.history[known.settled().max(known.floor)..];
            assert!(legal.iter().any(|tag| sector(*tag) == bytes), "{legal:x?}");
        }
        content.truncate(usize::try_from(SIZE).unwrap());
        let snapshot = import(self.home, &content);
        (self.standing.base, self.standing.layer) = (Some(snapshot), layer);
        let held = self.machine.hold(true);
        self.answer(&held);
        let make = |answer| Command::Rebase(snapshot, layer, answer);
        let rebased = self.machine.inlet.ask(make).unwrap();
        self.answer(&rebased).unwrap();
        self.machine.resume();
        files.delete_below(&self.id, layer).unwrap();
        // New files may get the inodes of those that are gone.
        let volumes = fs::read_dir(self.home.join("volumes")).unwrap();
        let left: Vec<_> = volumes.map(|it| inode(&it.unwrap().path())).collect();
        let mut world = self.machine.sim.0.borrow_mut();
        world.files.retain(|inode, _| left.contains(inode));
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
    let mut runner = TestRunner::new(ProptestConfig::with_cases(96));
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
    let mut lab = Lab {
        home,
        id,
        standing: Standing::new(SIZE, Some(*snapshot)),
        machine: Machine::new(volume, Sim::new(random)),
        model: Model::new(),
    };
    for (slot, action) in history.into_iter().enumerate() {
        lab.model.submit(slot, action, &mut lab.machine);
        match action {
            Action::Turn(count) => (0..count).for_each(|_| lab.turn()),
            Action::Freeze => drop(lab.freeze()),
            Action::Rebase => lab.rebase(),
            _ => {}
        }
    }
    let Lab {
        mut machine,
        mut model,
        standing,
        ..
    } = lab;
    let copy = copy_after_power_cut(home, &machine.sim);
    let reopened = VolumeFiles::new(copy.path()).open(&id, &standing);
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
