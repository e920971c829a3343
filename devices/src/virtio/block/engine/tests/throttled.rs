//! A disk with limits, on a clock that stands still until the test moves it.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::super::super::throttle::Limits;
use super::*;

thread_local! {
    static START: Instant = Instant::now();
    static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

fn clock() -> Instant {
    START.with(|start| *start) + PASSED.get()
}

fn pass(milliseconds: u64) {
    PASSED.set(PASSED.get() + Duration::from_millis(milliseconds));
}

/// Ten operations a second.
fn machine() -> (tempfile::TempDir, SnapshotId, Machine) {
    let (home, snapshot) = store();
    let (volume, ..) = volume(home.path(), &snapshot);
    let limits = Limits {
        iops: NonZeroU32::new(10),
        throughput: None,
    };
    let throttle = Throttle::new(limits, clock).unwrap();
    let machine = Machine::with_throttle(volume, Sim::new(0), throttle);
    (home, snapshot, machine)
}

#[test]
fn requests_come_back_as_fast_as_the_limit_lets_them_and_in_order() {
    let (_home, _, mut machine) = machine();
    for slot in 0..3 {
        machine.add(slot, (VIRTIO_BLK_T_IN, 0), Data::In(512));
    }
    machine.add(3, (VIRTIO_BLK_T_FLUSH, 0), Data::None);
    let mut turns =
        |count: usize| -> Vec<usize> { (0..count).flat_map(|_| machine.turn()).collect() };
    assert_eq!(turns(4), [0]);
    pass(49);
    assert!(turns(3).is_empty());
    // A burst is 50 ms.
    pass(1);
    assert_eq!(turns(3), [1]);
    pass(99);
    assert!(turns(3).is_empty());
    pass(1);
    assert_eq!(
        turns(8),
        [2, 3],
        "a flush is no operation, but keeps its place"
    );
}

#[test]
fn freeze_does_not_wait_for_a_limit_nor_let_anything_past_it() {
    let (_home, snapshot, mut machine) = machine();
    let write = |slot| (VIRTIO_BLK_T_OUT, 8 * slot as u64);
    for slot in 0..3 {
        machine.add(slot, write(slot), Data::Out(&sector(9)));
    }
    let back: Vec<_> = (0..4).flat_map(|_| machine.turn()).collect();
    assert_eq!(back, [0]);
    assert!(machine.turn_until_held(false).is_empty());
    assert_eq!(machine.freeze().unwrap(), 1);
    pass(10_000);
    assert!([machine.turn(), machine.turn()].concat().is_empty());
    machine.resume();
    let mut back = Vec::new();
    while back.len() < 2 {
        back.extend(machine.turn());
        pass(10);
    }
    assert_eq!(back, [1, 2]);
    machine.add(4, write(4), Data::Out(&sector(9)));
    machine.add(5, write(5), Data::Out(&sector(9)));
    machine.turn();
    machine.stop.write(1).unwrap();
    let Machine { engine, .. } = machine;
    let mut volume = engine.run().unwrap();
    volume.rebase(&snapshot, 1).unwrap();
}
