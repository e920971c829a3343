//! Property: whatever fails, and whatever the file system lacks, a sector reads as what it was given last, or, where a
//! request for it failed, as before; what was discarded or zeroed is never again as the snapshot has it.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use proptest::test_runner::TestRunner;

use super::*;

/// The sectors that histories touch: some of the snapshot's data and some of its zeroes.
const START: u64 = CHUNK_SECTORS - 64;
const COUNT: u64 = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Write,
    Discard,
    Zero { unmap: bool },
}

/// Requests of one moment, and which of the operations for them fails how.
#[derive(Clone, Debug)]
struct Moment {
    /// Each with the sectors that it is for. One that overlaps an earlier one is left out.
    requests: Vec<(Kind, Range<u64>)>,
    flush: bool,
    fault: Option<(u32, i32)>,
    /// A layer is begun afterwards.
    freeze: bool,
}

/// What the file system refuses, and how.
#[derive(Clone, Copy, Debug)]
struct Lacks {
    punch: bool,
    zero: bool,
    errno: i32,
}

fn moment() -> impl Strategy<Value = Moment> {
    let kind = prop_oneof![
        4 => Just(Kind::Write),
        3 => Just(Kind::Discard),
        3 => any::<bool>().prop_map(|unmap| Kind::Zero { unmap }),
    ];
    let run = (0..COUNT - 40, 1u64..40).prop_map(|(at, count)| at..at + count);
    let errno = prop::sample::select(vec![libc::EIO, libc::ENOSPC]);
    let fault = prop::option::weighted(0.4, (0u32..6, errno));
    let requests = prop::collection::vec((kind, run), 1..4);
    let flags = (any::<bool>(), prop::bool::weighted(0.1));
    (requests, fault, flags).prop_map(|(requests, fault, (flush, freeze))| Moment {
        requests,
        flush,
        fault,
        freeze,
    })
}

fn lacks() -> impl Strategy<Value = Lacks> {
    let errno = prop::sample::select(vec![libc::EOPNOTSUPP, libc::ENODEV]);
    (any::<bool>(), any::<bool>(), errno).prop_map(|(punch, zero, errno)| Lacks {
        punch,
        zero,
        errno,
    })
}

impl Lacks {
    fn errno(self, operation: &Operation) -> Option<i32> {
        let refused = match operation {
            Operation::Deallocate { .. } => self.punch,
            Operation::Zero { .. } => self.zero,
            _ => false,
        };
        refused.then_some(self.errno)
    }
}

/// The tags that each sector may have.
struct Model {
    legal: Vec<Vec<u32>>,
    tag: u32,
}

impl Model {
    fn new() -> Self {
        Self {
            legal: (START..START + COUNT)
                .map(|n| vec![snapshot_tag(n)])
                .collect(),
            tag: 0,
        }
    }

    /// Takes note of how a request ended.
    fn ended(&mut self, (kind, run): (Kind, Range<u64>), tag: u32, is_ok: bool, lacks: Lacks) {
        // The parts of blocks at its ends are not worth a discard.
        let run = match kind {
            Kind::Discard if lacks.punch => 0..0,
            Kind::Discard => run.start.next_multiple_of(8)..run.end - run.end % 8,
            _ => run,
        };
        for number in run {
            let legal = &mut self.legal[usize::try_from(number).unwrap()];
            if is_ok {
                legal.clear();
            }
            legal.push(tag);
        }
    }

    /// Compares the sectors with what they may be, which they stay from now on.
    fn check(&mut self, bytes: &[u8]) -> Result<(), TestCaseError> {
        for (number, (legal, bytes)) in self.legal.iter_mut().zip(bytes.chunks(512)).enumerate() {
            let found = legal.iter().copied().find(|tag| sector(*tag) == bytes);
            prop_assert!(found.is_some(), "sector {number} is none of {legal:x?}");
            *legal = found.into_iter().collect();
        }
        Ok(())
    }
}

fn submit(machine: &mut Machine, slot: usize, (kind, run): (Kind, Range<u64>), tag: u32) {
    let at = START + run.start;
    let count = u32::try_from(run.end - run.start).unwrap();
    let (request_type, flags) = match kind {
        Kind::Write => {
            let bytes = sector(tag).repeat(count as usize);
            return machine.add(slot, (VIRTIO_BLK_T_OUT, at), Data::Out(&bytes));
        }
        Kind::Discard => (VIRTIO_BLK_T_DISCARD, 0),
        Kind::Zero { unmap } => (VIRTIO_BLK_T_WRITE_ZEROES, u32::from(unmap)),
    };
    let segment = (at, count, flags);
    machine
        .guest
        .add_segments((0, slot), request_type, &[segment]);
    machine.guest.queues[0].kick();
}

fn pass(
    machine: &mut Machine,
    model: &mut Model,
    moment: Moment,
    lacks: Lacks,
) -> Result<(), TestCaseError> {
    let fired = Rc::new(Cell::new(false));
    let (mut fault, fires) = (moment.fault, Rc::clone(&fired));
    machine.sim.0.borrow_mut().fault = Box::new(move |operation| {
        let is_sync = matches!(
            operation,
            Operation::SyncAll { .. } | Operation::SyncData { .. }
        );
        let refused = lacks.errno(operation);
        if refused.is_some() || is_sync {
            return refused;
        }
        let (left, errno) = fault?;
        fault = left.checked_sub(1).map(|left| (left, errno));
        (left == 0).then(|| {
            fires.set(true);
            errno
        })
    });
    let mut asked: Vec<(Kind, Range<u64>, u32)> = Vec::new();
    for (kind, run) in moment.requests {
        if asked
            .iter()
            .any(|(_, it, _)| it.start < run.end && run.start < it.end)
        {
            continue;
        }
        model.tag += 1;
        let tag = if kind == Kind::Write { model.tag } else { 0 };
        submit(machine, asked.len(), (kind, run.clone()), tag);
        asked.push((kind, run, tag));
    }
    if moment.flush {
        machine.add(asked.len(), (VIRTIO_BLK_T_FLUSH, 0), Data::None);
    }
    let back = machine.settle().len();
    prop_assert_eq!(back, asked.len() + usize::from(moment.flush));
    let failed = (0..back)
        .filter(|slot| machine.guest.status(*slot) != OK)
        .count();
    prop_assert_eq!(
        failed,
        usize::from(fired.get()),
        "each fault fails one request"
    );
    for (slot, (kind, run, tag)) in asked.into_iter().enumerate() {
        model.ended((kind, run), tag, machine.guest.status(slot) == OK, lacks);
    }
    machine.sim.0.borrow_mut().fault = Box::new(move |it| lacks.errno(it));
    if moment.freeze {
        prop_assert!(machine.turn_until_held(false).is_empty());
        machine.freeze().unwrap();
        machine.resume();
    }
    model.check(&machine.read(START, 512 * usize::try_from(COUNT).unwrap()))
}

#[test]
fn zeroed_sector_is_never_the_snapshots_again() {
    let (home, snapshot) = store();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(128));
    let histories = (
        prop::collection::vec(moment(), 1..24),
        lacks(),
        any::<u64>(),
    );
    let result = runner.run(&histories, |(history, lacks, random)| {
        check(home.path(), &snapshot, history, (lacks, random))
    });
    result.unwrap();
}

fn check(
    home: &Path,
    snapshot: &SnapshotId,
    history: Vec<Moment>,
    (lacks, random): (Lacks, u64),
) -> Result<(), TestCaseError> {
    let (volume, id, ..) = volume(home, snapshot);
    let mut machine = Machine::new(volume, Sim::new(random));
    let mut model = Model::new();
    for moment in history {
        pass(&mut machine, &mut model, moment, lacks)?;
    }
    prop_assert_eq!(machine.run((VIRTIO_BLK_T_FLUSH, 0), Data::None), OK);
    prop_assert_eq!(machine.resets.load(Ordering::SeqCst), 0);
    drop(machine);
    let standing = Standing::new(SIZE, Some(*snapshot));
    let reopened = VolumeFiles::new(home).open(&id, &standing).unwrap();
    let mut machine = Machine::new(reopened, Sim::new(0));
    model.check(&machine.read(START, 512 * usize::try_from(COUNT).unwrap()))?;
    drop(machine);
    VolumeFiles::new(home).delete(&id).unwrap();
    Ok(())
}
