//! Snapshots of volumes against a model, stopped and running.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::chunk::{CHUNK_BYTES, CHUNK_LEN};
use crate::manifest::Ebs;
use crate::volume::{BeginWrite, Place as Lives, Volume};

/// What is looked at of each disk: five chunks.
const PAGES: usize = 5 * CHUNK_LEN / 4096;

/// The byte that each page is full of.
type Content = Vec<u8>;

fn add_volume(store: &Store, snapshot: Option<SnapshotId>) -> VolumeId {
    let ebs = Ebs {
        volume_size: Some(1),
        snapshot_id: snapshot,
        ..Ebs::default()
    };
    store.add_volume(&ebs, &[]).unwrap().id
}

fn open(store: &Store, id: &VolumeId) -> Volume {
    let row = store.catalogue.volume(id).unwrap().unwrap();
    store.volumes.open(id, &row.standing()).unwrap()
}

fn write_page(volume: &mut Volume, page: usize, byte: u8) {
    let BeginWrite::Ready(plan) = volume.begin_write(page as u64 * 4096, 4096).unwrap() else {
        panic!("nothing is in flight");
    };
    let file = volume.file(plan.file);
    rustix::io::pwrite(file, &[byte; 4096], plan.offset).unwrap();
    volume.end_write(plan, true);
}

fn read_volume(volume: &mut Volume) -> Content {
    let mut extents = Vec::new();
    volume
        .map_read(0, PAGES as u64 * 4096, &mut extents)
        .unwrap();
    let mut bytes = Vec::new();
    for extent in extents {
        let mut part = vec![0; usize::try_from(extent.len).unwrap()];
        if let Lives::File { file, offset } = extent.place {
            rustix::io::pread(volume.file(file), &mut part[..], offset).unwrap();
        }
        bytes.extend(part);
    }
    pages(&bytes)
}

fn read_snapshot(store: &Store, id: &SnapshotId) -> Content {
    let mut reader = store.snapshots.read(id).unwrap();
    let mut bytes = vec![0; PAGES * 4096];
    let (entries, chunks) = reader.split();
    for entry in entries {
        let (index, chunk) = entry.unwrap();
        let start = usize::try_from(index * CHUNK_BYTES).unwrap();
        chunks
            .read(&chunk, &mut bytes[start..start + CHUNK_LEN])
            .unwrap();
    }
    pages(&bytes)
}

fn pages(bytes: &[u8]) -> Content {
    let (pages, _) = bytes.as_chunks::<4096>();
    let full_of_one = |page: &[u8; 4096]| page.iter().all(|byte| *byte == page[0]);
    assert!(pages.iter().all(full_of_one));
    pages.iter().map(|page| page[0]).collect()
}

/// A running instance: the process that has its volumes open.
#[derive(Default)]
struct Running {
    volumes: BTreeMap<VolumeId, Volume>,
    /// What the guest does while its volumes are frozen.
    meanwhile: Vec<(usize, u8)>,
    /// Its process does not answer when the snapshot is done.
    is_deaf: bool,
}

impl Live for Running {
    fn freeze(&mut self, volumes: &[VolumeId]) -> std::io::Result<Vec<u32>> {
        let layers = volumes
            .iter()
            .map(|id| {
                let volume = self.volumes.get_mut(id).unwrap();
                volume.sync().unwrap();
                volume.freeze().unwrap()
            })
            .collect();
        for volume in self.volumes.values_mut() {
            for (page, byte) in &self.meanwhile {
                write_page(volume, *page, *byte);
            }
        }
        Ok(layers)
    }

    fn rebase(
        &mut self,
        volume: &VolumeId,
        snapshot: &SnapshotId,
        layer: u32,
    ) -> std::io::Result<()> {
        if self.is_deaf {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.volumes
            .get_mut(volume)
            .unwrap()
            .rebase(snapshot, layer)
            .unwrap();
        Ok(())
    }
}

fn new_snapshot(volume: VolumeId) -> VolumeSnapshot {
    VolumeSnapshot {
        volume,
        snapshot: SnapshotId::generate(),
        description: "a test".to_owned(),
    }
}

fn snapshot(store: &Store, volume: VolumeId, live: Option<&mut dyn Live>) -> SnapshotRecord {
    store
        .create_snapshot(&new_snapshot(volume), &[], live, &mut go_on)
        .unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(usize, u8)>),
    Snapshot,
    /// While the guest writes, and with a process that may not hear of the end.
    LiveSnapshot(Vec<(usize, u8)>, bool),
    Delete(usize),
    /// A new volume of a snapshot, to go on with.
    Restore(usize),
    /// The store's processes are killed and it is tidied up.
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let writes = || prop::collection::vec((0..PAGES, 0..6_u8), 1..6);
    prop_oneof![
        4 => writes().prop_map(Step::Write),
        3 => Just(Step::Snapshot),
        2 => (writes(), any::<bool>()).prop_map(|(writes, deaf)| Step::LiveSnapshot(writes, deaf)),
        2 => any::<usize>().prop_map(Step::Delete),
        1 => any::<usize>().prop_map(Step::Restore),
        1 => Just(Step::Sweep),
    ]
}

fn pick(snapshots: &BTreeMap<SnapshotId, Content>, number: usize) -> Option<SnapshotId> {
    let position = number.checked_rem(snapshots.len())?;
    snapshots.keys().nth(position).copied()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn volumes_and_all_their_snapshots_read_right(steps in prop::collection::vec(step(), 1..16)) {
        let place = Place::new();
        let store = &place.store;
        let mut volume = add_volume(store, None);
        let mut content = vec![0; PAGES];
        let mut snapshots = BTreeMap::new();
        for step in steps {
            match step {
                Step::Write(writes) => {
                    let mut open = open(store, &volume);
                    for (page, byte) in writes {
                        write_page(&mut open, page, byte);
                        content[page] = byte;
                    }
                    open.sync().unwrap();
                }
                Step::Snapshot => {
                    let record = snapshot(store, volume, None);
                    snapshots.insert(record.id, content.clone());
                }
                Step::LiveSnapshot(meanwhile, is_deaf) => {
                    let mut running = Running { is_deaf, meanwhile, ..Running::default() };
                    running.volumes.insert(volume, open(store, &volume));
                    let record = snapshot(store, volume, Some(&mut running));
                    snapshots.insert(record.id, content.clone());
                    for (page, byte) in running.meanwhile {
                        content[page] = byte;
                    }
                    let open = running.volumes.get_mut(&volume).unwrap();
                    prop_assert_eq!(&read_volume(open), &content);
                    open.sync().unwrap();
                }
                Step::Delete(number) => {
                    if let Some(id) = pick(&snapshots, number) {
                        store.delete_snapshot(&id).unwrap();
                        snapshots.remove(&id);
                    }
                }
                Step::Restore(number) => {
                    if let Some(id) = pick(&snapshots, number) {
                        volume = add_volume(store, Some(id));
                        content.clone_from(&snapshots[&id]);
                    }
                }
                Step::Sweep => store.sweep().unwrap(),
            }
            prop_assert_eq!(&read_volume(&mut open(store, &volume)), &content);
            for (id, content) in &snapshots {
                prop_assert_eq!(&read_snapshot(store, id), content);
            }
        }
        // Nothing is left when all is deleted.
        let volumes: Vec<_> = store.volumes().unwrap().iter().map(|it| it.id).collect();
        store.delete_volumes(&volumes).unwrap();
        for id in snapshots.keys() {
            store.delete_snapshot(id).unwrap();
        }
        store.sweep().unwrap();
        prop_assert_eq!(place.files(), Vec::<String>::new());
    }
}

#[test]
fn a_snapshot_stores_what_has_changed_since_the_last_one() {
    let place = Place::new();
    let image = place.import("debian");
    let base = *image.snapshots().first().unwrap();
    let volume = add_volume(&place.store, Some(base));
    let mut disk = open(&place.store, &volume);
    write_page(&mut disk, 3, 100);
    write_page(&mut disk, 300, 101);
    // As it is already: found by its digest.
    write_page(&mut disk, 0, 7);
    disk.sync().unwrap();
    drop(disk);
    let first = snapshot(&place.store, volume, None);
    assert_eq!(first.volume, Some(volume));
    assert_eq!(first.description, "a test");
    // Chunk 0 has the image's page and the new one; chunk 2 the image's and the new one.
    assert_eq!(first.stored_bytes, 4 * 4096);
    assert_eq!(first.full_bytes, 2 * CHUNK_BYTES);
    let row = place.store.catalogue.volume(&volume).unwrap().unwrap();
    assert_eq!(row.snapshot, Some(base), "what it was made of");
    assert_eq!(row.base, Some(first.id));
    let second = snapshot(&place.store, volume, None);
    assert_eq!(second.stored_bytes, 0);
    assert_eq!(
        read_snapshot(&place.store, &second.id),
        read_snapshot(&place.store, &first.id)
    );
}

#[test]
fn volumes_of_an_instance_are_frozen_together() {
    let place = Place::new();
    let ids = [0; 3].map(|_| add_volume(&place.store, None));
    let mut running = Running {
        meanwhile: vec![(1, 9)],
        ..Running::default()
    };
    for id in ids {
        let mut volume = open(&place.store, &id);
        write_page(&mut volume, 0, 8);
        running.volumes.insert(id, volume);
    }
    let wanted = ids.map(new_snapshot);
    let written = place
        .store
        .write_volume_snapshots(&wanted, Some(&mut running), &mut go_on)
        .unwrap();
    assert!(place.store.snapshots().unwrap().is_empty());
    let transaction = place.store.durable().unwrap();
    written.add_rows().unwrap();
    place.store.catalogue.commit(transaction).unwrap();
    written.finish(Some(&mut running));
    for one in &wanted {
        let content = read_snapshot(&place.store, &one.snapshot);
        assert_eq!(content[..2], [8, 0]);
        let volume = running.volumes.get_mut(&one.volume).unwrap();
        assert_eq!(read_volume(volume)[..2], [8, 9]);
    }
}

#[test]
fn a_volume_of_16_tib_costs_what_is_written_at_its_ends() {
    let place = Place::new();
    let ebs = Ebs {
        volume_size: Some(16 << 10),
        ..Ebs::default()
    };
    let volume = place.store.add_volume(&ebs, &[]).unwrap().id;
    let last = (16 << 40) / 4096 - 1;
    let mut disk = open(&place.store, &volume);
    write_page(&mut disk, 0, 1);
    write_page(&mut disk, last, 2);
    disk.sync().unwrap();
    drop(disk);
    let record = snapshot(&place.store, volume, None);
    assert_eq!(record.stored_bytes, 2 * 4096);
    assert_eq!(record.full_bytes, 2 * CHUNK_BYTES);
    let mut reader = place.store.snapshots.read(&record.id).unwrap();
    let indices = reader.split().0.map(|entry| entry.unwrap().0);
    let chunks = (16 << 40) / CHUNK_BYTES;
    assert_eq!(indices.collect::<Vec<_>>(), [0, chunks - 1]);
    drop(reader);
    place.store.delete_volumes(&[volume]).unwrap();
    place.store.delete_snapshot(&record.id).unwrap();
    assert!(place.files().is_empty(), "{:?}", place.files());
}

#[test]
fn changed_blocks_are_those_that_differ() {
    let place = Place::new();
    let volume = add_volume(&place.store, None);
    let write = |pages: &[(usize, u8)]| {
        let mut disk = open(&place.store, &volume);
        for (page, byte) in pages {
            write_page(&mut disk, *page, *byte);
        }
        disk.sync().unwrap();
        drop(disk);
        snapshot(&place.store, volume, None).id
    };
    // Pages 0, 128, 256, … begin chunks.
    let one = write(&[(0, 1), (128, 2), (256, 3)]);
    let two = write(&[(128, 4), (256, 0), (512, 5), (0, 1)]);
    let compare = |first, second| {
        let blocks = place.store.changed_blocks(first, second).unwrap();
        let known = |it: &ChangedBlock| (it.index, it.first.is_some(), it.second.is_some());
        blocks.iter().map(known).collect::<Vec<_>>()
    };
    assert_eq!(
        compare(&one, &two),
        [(1, true, true), (2, true, false), (4, false, true)]
    );
    assert_eq!(
        compare(&two, &one),
        [(1, true, true), (2, false, true), (4, true, false)]
    );
    assert_eq!(compare(&one, &one), []);
    let unknown = SnapshotId::generate();
    let error = place.store.changed_blocks(&one, &unknown).unwrap_err();
    assert!(matches!(error, Error::SnapshotNotFound { .. }), "{error}");
}

/// The table of the base is what a running volume reads by until it is told of the snapshot.
#[test]
fn a_running_volume_that_was_not_told_keeps_what_it_reads() {
    let place = Place::new();
    let volume = add_volume(&place.store, None);
    let mut disk = open(&place.store, &volume);
    write_page(&mut disk, 0, 1);
    disk.sync().unwrap();
    drop(disk);
    let first = snapshot(&place.store, volume, None);
    let mut running = Running {
        is_deaf: true,
        meanwhile: vec![(1, 2)],
        ..Running::default()
    };
    running.volumes.insert(volume, open(&place.store, &volume));
    let second = snapshot(&place.store, volume, Some(&mut running));
    for id in [first.id, second.id] {
        place.store.delete_snapshot(&id).unwrap();
    }
    place.store.sweep().unwrap();
    let disk = running.volumes.get_mut(&volume).unwrap();
    disk.sync().unwrap();
    assert_eq!(read_volume(disk)[..2], [1, 2]);
    drop(running);
    place.store.sweep().unwrap();
    assert_eq!(
        read_volume(&mut open(&place.store, &volume))[..2],
        [1, 2],
        "the second one stays for it"
    );
    let tables = place.files();
    let tables = tables.iter().filter(|name| name.ends_with(".table"));
    assert_eq!(tables.count(), 1);
}

#[test]
fn what_fails_leaves_no_snapshot() {
    let place = Place::new();
    let volume = add_volume(&place.store, None);
    let mut disk = open(&place.store, &volume);
    write_page(&mut disk, 0, 1);
    // In use by another process.
    let new = new_snapshot(volume);
    let create = |progress: &mut dyn FnMut(&str, Progress) -> ControlFlow<()>| {
        place.store.create_snapshot(&new, &[], None, progress)
    };
    let error = create(&mut go_on).unwrap_err();
    assert!(matches!(error, Error::Volume(_)), "{error}");
    disk.sync().unwrap();
    drop(disk);
    create(&mut |_, _| ControlFlow::Break(())).unwrap_err();
    assert!(place.store.snapshots().unwrap().is_empty());
    let gone = |name: &String| !name.starts_with("snapshots/") && !name.starts_with("segments/");
    assert!(place.files().iter().all(gone), "{:?}", place.files());
    let record = create(&mut go_on).unwrap();
    assert_eq!(read_snapshot(&place.store, &record.id)[0], 1);
    let unknown = new_snapshot(VolumeId::generate());
    let error = place
        .store
        .create_snapshot(&unknown, &[], None, &mut go_on)
        .unwrap_err();
    assert!(matches!(error, Error::VolumeNotFound { .. }), "{error}");
}

/// What a process killed in the middle has left: its turn's file, and layers.
#[test]
fn many_snapshots_of_one_volume_take_turns() {
    let place = Place::new();
    let volume = add_volume(&place.store, None);
    let folder = place.store.home().join("snapshots");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{volume}.turn")), "").unwrap();
    let home = place.store.home();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let store = Store::open(home).unwrap();
                snapshot(&store, volume, None);
            });
        }
    });
    assert_eq!(place.store.snapshots().unwrap().len(), 6);
    let left = |name: &&String| name.ends_with(".turn");
    assert_eq!(place.files().iter().filter(left).count(), 0);
}

/// What each step costs follows what is written: of 16 TiB, a chunk at each end.
#[test]
fn a_volume_of_16_tib_is_written_at_both_ends_snapshotted_and_deleted() {
    let place = Place::new();
    let before = place.state();
    let ebs = Ebs {
        volume_size: Some(16 << 10),
        ..Ebs::default()
    };
    let volume = place.store.add_volume(&ebs, &[]).unwrap().id;
    let last = (16 << 40) / 4096 - 1;
    let mut disk = open(&place.store, &volume);
    write_page(&mut disk, 0, 1);
    write_page(&mut disk, last, 2);
    disk.sync().unwrap();
    drop(disk);
    let first = snapshot(&place.store, volume, None);
    assert_eq!((first.size_bytes, first.full_bytes), (16 << 40, 2 << 19));
    let mut disk = open(&place.store, &volume);
    write_page(&mut disk, last, 3);
    disk.sync().unwrap();
    drop(disk);
    let second = snapshot(&place.store, volume, None);
    assert!((1..=1 << 19).contains(&second.stored_bytes));
    let changed = place.store.changed_blocks(&first.id, &second.id).unwrap();
    assert_eq!(changed.len(), 1);
    place.store.delete_snapshot(&first.id).unwrap();

    let ebs = Ebs {
        snapshot_id: Some(second.id),
        ..Ebs::default()
    };
    let copy = place.store.add_volume(&ebs, &[]).unwrap().id;
    let mut disk = open(&place.store, &copy);
    for (page, byte) in [(0, 1), (1, 0), (last, 3)] {
        let mut extents = Vec::new();
        disk.map_read(page as u64 * 4096, 4096, &mut extents)
            .unwrap();
        let mut bytes = [0; 4096];
        if let Lives::File { file, offset } = extents[0].place {
            rustix::io::pread(disk.file(file), &mut bytes[..], offset).unwrap();
        }
        assert_eq!(bytes, [byte; 4096]);
    }
    drop(disk);
    place.store.delete_volumes(&[volume, copy]).unwrap();
    place.store.delete_snapshot(&second.id).unwrap();
    place.store.sweep().unwrap();
    assert_eq!(place.state(), before);
}
