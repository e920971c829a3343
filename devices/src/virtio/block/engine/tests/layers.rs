//! Freezing and rebasing under a driver that goes on: what is held, what is frozen, what is refused.

use std::sync::mpsc::Receiver;

use kami_image::volume;

use super::super::super::outside::Command;
use super::*;

impl Machine {
    pub fn hold(&self, flushes: bool) -> Receiver<()> {
        let make = |held| Command::Hold { flushes, held };
        self.inlet.ask(make).unwrap()
    }

    /// Turns until nothing is under way; returns what came back meanwhile.
    pub fn turn_until_held(&mut self, flushes: bool) -> Vec<usize> {
        let held = self.hold(flushes);
        let mut back = Vec::new();
        while held.try_recv().is_err() {
            back.extend(self.turn());
        }
        back
    }

    pub fn resume(&self) {
        self.inlet.send(Command::Resume).unwrap();
    }

    pub fn freeze(&mut self) -> Result<u32, volume::Error> {
        let answer = self.inlet.ask(Command::Freeze).unwrap();
        assert!(self.turn().is_empty(), "nothing ends while it holds");
        answer.try_recv().unwrap()
    }

    pub fn rebase(&mut self, snapshot: SnapshotId, layer: u32) -> Result<(), volume::Error> {
        let make = |answer| Command::Rebase(snapshot, layer, answer);
        let answer = self.inlet.ask(make).unwrap();
        assert!(self.turn().is_empty(), "nothing ends while it holds");
        answer.try_recv().unwrap()
    }

    /// Flushes from outside; returns what came back meanwhile.
    pub fn flush(&mut self) -> Vec<usize> {
        let answer = self.inlet.ask(Command::Flush).unwrap();
        let mut back = self.turn();
        loop {
            match answer.try_recv() {
                Ok(flushed) => break assert!(flushed),
                Err(_) => back.extend(self.turn()),
            }
        }
        back
    }
}

/// What the frozen layers below `layer` have in a sector.
fn frozen(home: &Path, id: &VolumeId, snapshot: SnapshotId, layer: u32, number: u64) -> Vec<u8> {
    let standing = Standing::new(SIZE, Some(snapshot));
    let frozen = VolumeFiles::new(home).frozen(id, &standing, layer).unwrap();
    let mut chunk = vec![0; usize::try_from(CHUNK_SECTORS * 512).unwrap()];
    frozen
        .read_chunk(number / CHUNK_SECTORS, &mut chunk)
        .unwrap();
    let at = usize::try_from(number % CHUNK_SECTORS * 512).unwrap();
    chunk[at..at + 512].to_vec()
}

#[test]
fn what_ended_before_the_hold_is_frozen_and_what_came_after_is_not() {
    let (home, snapshot) = store();
    let (volume, id, ..) = volume(home.path(), &snapshot);
    let mut machine = Machine::new(volume, Sim::new(0));
    // One write is done, one is under way, and one comes while the device holds.
    assert_eq!(
        machine.run((VIRTIO_BLK_T_OUT, 3), Data::Out(&sector(1))),
        OK
    );
    machine.sim.0.borrow_mut().hold = |op| matches!(op, Operation::Write(_));
    machine.add(1, (VIRTIO_BLK_T_OUT, 20), Data::Out(&sector(2)));
    assert!([machine.turn(), machine.turn()].concat().is_empty());
    let held = machine.hold(false);
    machine.add(2, (VIRTIO_BLK_T_OUT, 4), Data::Out(&sector(3)));
    assert!([machine.turn(), machine.turn()].concat().is_empty());
    assert!(held.try_recv().is_err(), "a write is under way");
    machine.sim.0.borrow_mut().hold = |_| false;
    assert_eq!(machine.turn(), [1]);
    held.try_recv().unwrap();
    assert_eq!(machine.freeze().unwrap(), 1);
    for _ in 0..3 {
        assert!(machine.turn().is_empty());
    }
    assert_eq!(machine.guest.status(2), PENDING);
    machine.resume();
    assert_eq!(machine.settle(), [2]);
    assert!(machine.flush().is_empty());
    let frozen = |number| frozen(home.path(), &id, snapshot, 1, number);
    assert_eq!(frozen(3), sector(1));
    assert_eq!(frozen(20), sector(2));
    assert_eq!(frozen(4), sector(snapshot_tag(4)));
    assert_eq!(frozen(2), sector(snapshot_tag(2)));
    assert_eq!(machine.read(4, 512), sector(3));
    assert_eq!(machine.read(3, 512), sector(1));
}

/// A flush after the freeze is answered when both layers are on the disk: overlays first.
#[test]
fn flush_after_a_freeze_covers_both_layers() {
    let (home, snapshot) = store();
    let (volume, id, overlay, bitmap) = volume(home.path(), &snapshot);
    let mut machine = Machine::new(volume, Sim::new(0));
    let write = |machine: &mut Machine, number, tag| {
        let request = (VIRTIO_BLK_T_OUT, number);
        assert_eq!(machine.run(request, Data::Out(&sector(tag))), OK);
    };
    write(&mut machine, 3, 1);
    machine.turn_until_held(false);
    machine.freeze().unwrap();
    machine.resume();
    write(&mut machine, 30, 2);
    assert_eq!(machine.run((VIRTIO_BLK_T_FLUSH, 0), Data::None), OK);
    let path = |kind| home.path().join(format!("volumes/{id}.1.{kind}"));
    let (top, top_bitmap) = (inode(&path("overlay")), inode(&path("bitmap")));
    let world = machine.sim.0.borrow();
    assert_eq!(world.files[&overlay].durable[3 * 512..4 * 512], sector(1));
    assert_eq!(world.files[&top].durable[30 * 512..31 * 512], sector(2));
    let when = |event| world.trace.iter().position(|it| *it == event).unwrap();
    for (bitmap, first_page) in [(bitmap, overlay), (top_bitmap, top)] {
        assert!(world.files[&bitmap].unsynced.is_empty());
        for data in [overlay, top] {
            let page = when(Event::Write { file: bitmap });
            assert!(when(Event::SyncData { file: data }) < page, "{first_page}");
        }
        // The new layer's name and header are made durable before its bitmap vouches for anything.
        let page = when(Event::Write { file: bitmap });
        assert!(when(Event::SyncAll { file: bitmap }) < page);
    }
}

#[test]
fn request_of_many_steps_stops_between_two_of_them() {
    let (home, snapshot) = store();
    let (volume, id, ..) = volume(home.path(), &snapshot);
    let mut machine = Machine::new(volume, Sim::new(0));
    machine.sim.0.borrow_mut().hold = |op| matches!(op, Operation::Deallocate { .. });
    let segments = [(0, 8, 1), (16, 8, 1), (32, 8, 1)];
    machine
        .guest
        .add_segments((0, 5), VIRTIO_BLK_T_WRITE_ZEROES, &segments);
    machine.guest.queues[0].kick();
    assert!(machine.turn().is_empty());
    let held = machine.hold(false);
    assert!(machine.turn().is_empty());
    machine.sim.0.borrow_mut().hold = |_| false;
    while held.try_recv().is_err() {
        assert!(machine.turn().is_empty());
    }
    machine.freeze().unwrap();
    machine.resume();
    assert_eq!(machine.settle(), [5]);
    assert_eq!(machine.guest.status(5), OK);
    machine.flush();
    let frozen = |number| frozen(home.path(), &id, snapshot, 1, number);
    assert_eq!(frozen(0), [0; 512]);
    assert_eq!(frozen(16), sector(snapshot_tag(16)));
    for at in [0, 16, 32] {
        assert_eq!(machine.read(at, 4096), [0; 4096]);
        assert_eq!(machine.read(at + 8, 512), sector(snapshot_tag(at + 8)));
    }
}

#[test]
fn rebase_waits_for_the_flush_and_the_guest_does_not() {
    let (home, snapshot) = store();
    let (volume, ..) = volume(home.path(), &snapshot);
    let mut machine = Machine::new(volume, Sim::new(0));
    assert_eq!(
        machine.run((VIRTIO_BLK_T_OUT, 3), Data::Out(&sector(1))),
        OK
    );
    machine.turn_until_held(false);
    assert_eq!(machine.freeze().unwrap(), 1);
    // It would close files that operations name: only a device that holds flushes too may.
    let error = machine.rebase(snapshot, 1).unwrap_err();
    assert!(matches!(error, volume::Error::NotHeld), "{error}");
    machine.resume();
    machine.turn();
    let error = machine.freeze().unwrap_err();
    assert!(matches!(error, volume::Error::NotHeld), "{error}");
    let error = machine.rebase(snapshot, 1).unwrap_err();
    assert!(matches!(error, volume::Error::NotHeld), "{error}");

    machine.sim.0.borrow_mut().hold =
        |op| matches!(op, Operation::SyncAll { .. } | Operation::SyncData { .. });
    machine.add(1, (VIRTIO_BLK_T_FLUSH, 0), Data::None);
    assert!(machine.turn().is_empty());
    let held = machine.hold(true);
    machine.add(2, (VIRTIO_BLK_T_OUT, 40), Data::Out(&sector(2)));
    machine.add(3, (VIRTIO_BLK_T_FLUSH, 0), Data::None);
    assert_eq!(
        [machine.turn(), machine.turn(), machine.turn()].concat(),
        [2]
    );
    assert!(held.try_recv().is_err());
    machine.sim.0.borrow_mut().hold = |_| false;
    let mut back = Vec::new();
    while held.try_recv().is_err() {
        back.extend(machine.turn());
    }
    assert_eq!(back, [1], "the other flush waits");
    machine.rebase(snapshot, 1).unwrap();
    machine.resume();
    assert_eq!(machine.settle(), [3]);
    // The test's snapshot lacks what the layer had; the device is to believe what it is told.
    assert_eq!(machine.read(3, 512), sector(snapshot_tag(3)));
    assert_eq!(machine.read(40, 512), sector(2));
}

#[test]
fn device_that_is_reset_while_it_holds_gives_its_volume_back() {
    let (home, snapshot) = store();
    let (volume, ..) = volume(home.path(), &snapshot);
    let mut machine = Machine::new(volume, Sim::new(0));
    assert_eq!(
        machine.run((VIRTIO_BLK_T_OUT, 3), Data::Out(&sector(1))),
        OK
    );
    machine.turn_until_held(true);
    let flushed = machine.inlet.ask(Command::Flush).unwrap();
    machine.add(1, (VIRTIO_BLK_T_OUT, 4), Data::Out(&sector(2)));
    machine.turn();
    machine.stop.write(1).unwrap();
    let Machine { engine, inlet, .. } = machine;
    let mut volume = engine.run().unwrap();
    flushed.recv().unwrap_err();
    assert!(inlet.send(Command::Resume).is_err());
    assert_eq!(volume.freeze().unwrap(), 1);
}
