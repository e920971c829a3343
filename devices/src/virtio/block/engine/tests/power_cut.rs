//! Property: whatever the order in which the disk does things, and whenever the power goes, every
//! flushed write is there afterwards, and every sector holds something that it once had.
//!
//! Histories of requests, freezes, rebases, failures, resets, kills and power cuts are chosen at
//! random. All that reaches the files goes through the [`Medium`](super::medium), and at each power cut
//! and at the end the real code reopens each state that the cut may leave.
//! `KAMI_HISTORIES` says how many histories, for a run of its own.

use std::ops::Range;
use std::os::unix::fs::FileExt;

use kami_image::volume::Place;
use proptest::test_runner::TestRunner;

use super::*;
use lab::Lab;

mod lab;
mod model;

/// The sectors that histories touch: some of the snapshot's, its end in the middle of a block, and the
/// volume's end in the middle of another.
const START: u64 = CHUNK_SECTORS - 64;
const COUNT: u64 = 125;
const SECTORS: u64 = START + COUNT;
const SNAPSHOT_SECTORS: u64 = CHUNK_SECTORS + 21;

/// Histories in a run of the tests.
const HISTORIES: u32 = 200;

/// What the snapshot has in a sector.
fn snapshot_tag(number: u64) -> u32 {
    match number < SNAPSHOT_SECTORS {
        true => 0x1_0000 + u32::try_from(number).unwrap(),
        false => 0,
    }
}

#[derive(Clone, Debug)]
enum Action {
    Write(Range<usize>),
    /// A discard where it is none.
    Zero(Vec<Range<usize>>, Option<bool>),
    Read(Range<usize>),
    Flush,
    /// A layer is begun while the driver goes on.
    Freeze,
    /// A snapshot takes the place of what there is, and the device may be told.
    Rebase(bool),
    /// An operation will fail: a sync or one that changes a file.
    Fail(bool, i32),
    Reset,
    Kill,
    Cut,
    /// The ring gets on, this often.
    Turn(u8),
}

/// What stays the same in a history.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// The volume stands on a snapshot.
    snapshot: bool,
    /// The driver knows no FLUSH.
    write_through: bool,
    /// Requests are sent to sectors that others in flight change.
    overlapping: bool,
    /// Overlays are written without a page cache, so most of it through a buffer of the device's.
    direct: bool,
}

fn kind() -> impl Strategy<Value = Kind> {
    let often = prop::bool::weighted(0.8);
    let seldom = || prop::bool::weighted(0.2);
    (often, seldom(), seldom(), any::<bool>()).prop_map(
        |(snapshot, write_through, overlapping, direct)| Kind {
            snapshot,
            write_through,
            overlapping,
            direct,
        },
    )
}

fn run() -> impl Strategy<Value = Range<usize>> {
    let count = usize::try_from(COUNT).unwrap();
    prop_oneof![
        2 => (0..count, 1..24usize).prop_map(move |(at, len)| at..count.min(at + len)),
        // Whole blocks.
        1 => (0..count / 8, 1..4usize).prop_map(move |(at, len)| 8 * at..count.min(8 * (at + len))),
        // The same few, again and again.
        1 => (0..20usize, 1..12usize).prop_map(|(at, len)| 50 + at..50 + at + len),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let runs = || prop::collection::vec(run(), 1..3);
    let errno = prop_oneof![Just(libc::ENOSPC), Just(libc::EIO)];
    prop_oneof![
        24 => run().prop_map(Action::Write),
        6 => runs().prop_map(|it| Action::Zero(it, None)),
        6 => (runs(), any::<bool>()).prop_map(|(it, unmap)| Action::Zero(it, Some(unmap))),
        6 => run().prop_map(Action::Read),
        10 => Just(Action::Flush),
        3 => Just(Action::Freeze),
        2 => any::<bool>().prop_map(Action::Rebase),
        2 => (prop::bool::weighted(0.3), errno).prop_map(|(sync, errno)| Action::Fail(sync, errno)),
        1 => Just(Action::Reset),
        2 => Just(Action::Kill),
        2 => Just(Action::Cut),
        24 => (1u8..6).prop_map(Action::Turn),
    ]
}

/// What a volume has in these sectors, without a device.
fn visible(volume: &mut Volume, start: u64, count: u64) -> Vec<u8> {
    let mut extents = Vec::new();
    volume
        .map_read(start * 512, count * 512, &mut extents)
        .unwrap();
    let bytes = extents.iter().map(|it| bytes_at(volume, it.place, it.len));
    bytes.collect::<Vec<_>>().concat()
}

/// Past a file's end there are zeroes.
fn bytes_at(volume: &Volume, place: Place, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    if let Place::File { file, offset } = place {
        let file = File::from(volume.file(file).try_clone_to_owned().unwrap());
        let mut done = 0;
        while let read @ 1.. = file
            .read_at(&mut bytes[done..], offset + done as u64)
            .unwrap()
        {
            done += read;
        }
    }
    bytes
}

#[test]
fn power_cut_leaves_every_flushed_write() {
    let count = std::env::var("KAMI_HISTORIES").map_or(HISTORIES, |it| it.parse().unwrap());
    let mut runner = TestRunner::new(ProptestConfig {
        cases: count,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let histories = (kind(), prop::collection::vec(action(), 1..60), 1u64..);
    let content = (0..SNAPSHOT_SECTORS).flat_map(|n| sector(snapshot_tag(n)));
    let content: Vec<_> = content.collect();
    let (states, cut_short) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let result = runner.run(&histories, |(kind, history, random)| {
        let home = lab::folder();
        let snapshot = import(home.path(), &content);
        let lab = Lab::new(home.path(), &snapshot, kind, random);
        if let Some(mut lab) = carry_out(lab, history) {
            lab.look_at_states();
            // Without the power cut, all goes on and nothing is left undone.
            lab.settle();
            let bytes = visible(&mut lab.machine.engine.disk.volume, START, COUNT);
            lab.model.check_live(&bytes);
            states.set(states.get() + lab.states);
            cut_short.set(cut_short.get() + lab.cut_short);
        }
        Ok(())
    });
    result.unwrap();
    println!(
        "{count} histories, {} states reopened; {} cuts had more",
        states.get(),
        cut_short.get()
    );
}

/// None where the power was cut before the volume was sure to be there, and it is not.
fn carry_out(mut lab: Lab, history: Vec<Action>) -> Option<Lab> {
    for (slot, action) in history.into_iter().enumerate() {
        match action {
            Action::Write(range) => lab.write(slot, range),
            Action::Zero(ranges, unmap) => lab.zero(slot, &ranges, unmap),
            Action::Read(range) => lab.read(slot, range),
            Action::Flush => lab.flush(slot),
            Action::Freeze => drop(lab.freeze()),
            Action::Rebase(told) => lab.rebase(told),
            Action::Fail(sync, errno) => lab.fail(sync, errno),
            // Who opens the volume anew reads what the disk has, as after a power cut: the cached pages
            // are given up, which this test's files know nothing of.
            Action::Kill if lab.has_lost.get() => {}
            Action::Reset => lab = lab.reset(),
            Action::Kill => lab = lab.kill(),
            Action::Cut => lab = lab.cut()?,
            Action::Turn(count) => (0..count).for_each(|_| lab.turn()),
        }
    }
    Some(lab)
}
