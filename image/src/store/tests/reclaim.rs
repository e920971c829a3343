//! Snapshots deleted in any order: what remains reads right, and nothing else takes space.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::catalogue::NewSnapshot;
use crate::chunk::{CHUNK_BYTES, CHUNK_LEN};
use crate::snapshot::{self, Base, Disk};

/// The content of each chunk: a number that is in its first page, 0 for one of zeroes.
type Content = Vec<u8>;

/// Where a disk differs from another one.
#[derive(Debug)]
struct Changed {
    chunks: usize,
    changes: BTreeMap<u64, u8>,
}

impl Disk for Changed {
    fn size_bytes(&self) -> u64 {
        self.chunks as u64 * CHUNK_BYTES
    }

    fn next_data(&self, offset: u64) -> Result<Option<std::ops::Range<u64>>, snapshot::Error> {
        let next = self.changes.range(offset.div_ceil(CHUNK_BYTES)..).next();
        Ok(next.map(|(index, _)| index * CHUNK_BYTES..(index + 1) * CHUNK_BYTES))
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), snapshot::Error> {
        buffer.fill(0);
        buffer[..4096].fill(self.changes[&(offset / CHUNK_BYTES)]);
        Ok(())
    }
}

/// Adds a snapshot that differs from `base`.
fn create(store: &Store, base: Option<&SnapshotId>, disk: &Changed) -> SnapshotId {
    let id = SnapshotId::generate();
    let of = |snapshot| Base {
        snapshot,
        segments: store.catalogue.count_segments(snapshot).unwrap(),
    };
    let written = store
        .snapshots
        .write_on(&id, base.map(of), disk, &store.catalogue, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
    let transaction = store.durable().unwrap();
    store
        .catalogue
        .add_snapshot(&NewSnapshot {
            id,
            owner: store.owner(),
            volume: None,
            size_bytes: written.size_bytes,
            stored_bytes: written.stored_bytes,
            full_bytes: written.full_bytes,
            description: "",
            started: written.started,
            chunks: &written.chunks,
            segments: &written.needs,
        })
        .unwrap();
    store.catalogue.commit(transaction).unwrap();
    written.keep();
    id
}

fn read(store: &Store, id: &SnapshotId) -> Content {
    let mut reader = store.snapshots.read(id).unwrap();
    let chunks = usize::try_from(reader.size_bytes() / CHUNK_BYTES).unwrap();
    let mut content = vec![0; chunks];
    let (entries, chunks) = reader.split();
    let mut buffer = vec![0; CHUNK_LEN];
    for entry in entries {
        let (index, chunk) = entry.unwrap();
        chunks.read(&chunk, &mut buffer).unwrap();
        content[usize::try_from(index).unwrap()] = buffer[0];
    }
    content
}

/// The files and slots that take space are those that the snapshots name, and what may be shared is
/// among them.
fn nothing_is_left_over(place: &Place, snapshots: &BTreeMap<SnapshotId, Content>) {
    let mut needed: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for id in snapshots.keys() {
        let add = &mut |place: crate::chunk::ChunkPlace| {
            needed
                .entry(place.segment)
                .or_default()
                .insert(place.offset);
        };
        place.store.snapshots.each_place(id, add).unwrap();
    }
    let mut files: Vec<_> = needed
        .keys()
        .map(|segment| format!("segments/{segment:016x}.seg"))
        .chain(snapshots.keys().map(|id| format!("snapshots/{id}.table")))
        .collect();
    files.sort();
    assert_eq!(place.files(), files);
    for (segment, slots) in &needed {
        let path = place
            .store
            .home()
            .join(format!("segments/{segment:016x}.seg"));
        let taken: u64 = data(&path).map(|run| run.end - run.start).sum();
        // The header's page, and one page a chunk.
        assert_eq!(taken, 4096 + slots.len() as u64 * 4096);
        let shared = place.store.catalogue.chunks_of_segment(*segment).unwrap();
        assert!(shared.iter().all(|offset| slots.contains(offset)));
    }
    assert!(place.store.catalogue.spare_segments().unwrap().is_empty());
}

/// The runs of a file that take space.
fn data(path: &Path) -> impl Iterator<Item = std::ops::Range<u64>> {
    use rustix::fs::{SeekFrom, seek};
    let file = File::open(path).unwrap();
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = seek(&file, SeekFrom::Data(at)).ok()?;
        at = seek(&file, SeekFrom::Hole(start)).unwrap();
        Some(start..at)
    })
}

#[derive(Clone, Debug)]
enum Step {
    Create {
        base: Option<usize>,
        grown: usize,
        changes: BTreeMap<u64, u8>,
    },
    Delete(usize),
    /// Delete while somebody writes or exports another snapshot.
    DeleteLater(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let changes = prop::collection::btree_map(0..9_u64, 0..7_u8, 0..5);
    let base = prop::option::weighted(0.8, any::<usize>());
    prop_oneof![
        4 => (base, 0..2_usize, changes).prop_map(|(base, grown, changes)| Step::Create {
            base, grown, changes
        }),
        3 => any::<usize>().prop_map(Step::Delete),
        1 => any::<usize>().prop_map(Step::DeleteLater),
    ]
}

fn pick(snapshots: &BTreeMap<SnapshotId, Content>, number: usize) -> Option<SnapshotId> {
    let position = number.checked_rem(snapshots.len())?;
    snapshots.keys().nth(position).copied()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_remains_reads_right_and_nothing_else_takes_space(
        steps in prop::collection::vec(step(), 1..25), max_segments in 1..5_usize
    ) {
        let mut place = Place::new();
        place.store.snapshots.max_segments = max_segments;
        let mut snapshots = BTreeMap::new();
        for step in steps {
            match step {
                Step::Create { base, grown, changes } => {
                    let base = base.and_then(|number| pick(&snapshots, number));
                    let mut content = base.map_or_else(|| vec![0; 5], |id| snapshots[&id].clone());
                    content.resize(content.len() + grown, 0);
                    let chunks = content.len();
                    let changes: BTreeMap<_, _> = changes
                        .into_iter()
                        .filter(|(index, _)| *index < chunks as u64)
                        .collect();
                    for (index, value) in &changes {
                        content[usize::try_from(*index).unwrap()] = *value;
                    }
                    let id = create(&place.store, base.as_ref(), &Changed { chunks, changes });
                    snapshots.insert(id, content);
                }
                Step::Delete(number) => {
                    if let Some(id) = pick(&snapshots, number) {
                        place.store.delete_snapshot(&id).unwrap();
                        snapshots.remove(&id);
                    }
                }
                Step::DeleteLater(number) => {
                    if let Some(id) = pick(&snapshots, number) {
                        let hold = place.store.snapshots.hold().unwrap();
                        let expected = snapshots.remove(&id);
                        place.store.delete_snapshot(&id).unwrap();
                        prop_assert!(place.store.snapshot(&id.to_string()).is_err());
                        // Who has found something to share or to export there still has it.
                        prop_assert_eq!(Some(read(&place.store, &id)), expected);
                        drop(hold);
                        place.store.release_snapshots();
                    }
                }
            }
            for (id, content) in &snapshots {
                prop_assert_eq!(&read(&place.store, id), content);
            }
            nothing_is_left_over(&place, &snapshots);
        }
    }
}

/// Each snapshot of a volume has a segment of its own, and a volume opens all that its snapshot has
/// chunks in.
#[test]
fn a_chain_of_snapshots_does_not_spread_over_ever_more_segments() {
    let mut place = Place::new();
    place.store.snapshots.max_segments = 4;
    let mut last = None;
    let mut content = vec![0; 60];
    for number in 0..60 {
        let changes = BTreeMap::from([(number, 1 + u8::try_from(number).unwrap())]);
        let changed = Changed {
            chunks: content.len(),
            changes,
        };
        let id = create(&place.store, last.as_ref(), &changed);
        content[usize::try_from(number).unwrap()] = 1 + u8::try_from(number).unwrap();
        assert_eq!(read(&place.store, &id), content);
        assert!(place.store.catalogue.count_segments(&id).unwrap() <= 5);
        if let Some(last) = last.replace(id) {
            place.store.delete_snapshot(&last).unwrap();
        }
    }
    nothing_is_left_over(
        &place,
        &last.into_iter().map(|id| (id, content.clone())).collect(),
    );
}

#[test]
fn a_snapshot_that_an_image_names_is_not_deleted() {
    let place = Place::new();
    let image = place.import("debian");
    let id = *image.snapshots().first().unwrap();
    let before = place.state();
    let error = place.store.delete_snapshot(&id).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "The snapshot {id} is currently in use by {}",
            image.image_id
        )
    );
    assert_eq!(place.state(), before);
    let unknown = SnapshotId::generate();
    let error = place.store.delete_snapshot(&unknown).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("The snapshot '{unknown}' does not exist.")
    );
}

#[test]
fn a_snapshot_that_a_volume_reads_is_hidden_and_goes_with_the_volume() {
    let place = Place::new();
    let image = place.import("debian");
    let id = *image.snapshots().first().unwrap();
    let launched = place.launch(&image, Some("one"));
    let instance = launched.instance.id;
    place
        .store
        .deregister_image(&image.image_id.to_string(), false)
        .unwrap();
    place.store.delete_snapshot(&id).unwrap();
    assert!(place.store.snapshots().unwrap().is_empty());
    assert!(place.store.snapshot(&id.to_string()).is_err());
    let table = format!("snapshots/{id}.table");
    assert!(place.files().contains(&table));
    place.store.sweep().unwrap();
    assert!(place.files().contains(&table));

    drop(launched);
    place.store.sweep().unwrap();
    assert!(place.files().contains(&table), "the volume is still there");
    place.store.remove_instance(&instance).unwrap();
    assert!(!place.files().contains(&table), "{:?}", place.files());
}

/// What a running volume reads from goes when the last process lets go of it, whatever the rows
/// say of the volume by then.
#[test]
fn a_snapshot_whose_table_is_open_stays() {
    let place = Place::new();
    let changes = BTreeMap::from([(0, 5)]);
    let id = create(&place.store, None, &Changed { chunks: 1, changes });
    let reader = place.again().snapshots.read(&id).unwrap();
    place.store.delete_snapshot(&id).unwrap();
    assert_eq!(read(&place.store, &id), [5]);
    drop(reader);
    place.store.release_snapshots();
    assert!(place.files().is_empty(), "{:?}", place.files());
}

/// A damaged table says nothing of what its snapshot needs, so nothing near it is taken for spare.
#[test]
fn nothing_is_freed_that_a_damaged_snapshot_may_need() {
    let place = Place::new();
    let changes = BTreeMap::from([(0, 5), (1, 6)]);
    let one = create(&place.store, None, &Changed { chunks: 2, changes });
    let changes = BTreeMap::from([(0, 0)]);
    let two = create(&place.store, Some(&one), &Changed { chunks: 2, changes });
    let path = place.store.home().join(format!("snapshots/{two}.table"));
    std::fs::write(path, "nonsense").unwrap();
    let segment = place
        .files()
        .into_iter()
        .find(|name| name.starts_with("segments/"));
    let segment = place.store.home().join(segment.unwrap());
    let before: Vec<_> = data(&segment).collect();
    place.store.delete_snapshot(&one).unwrap();
    assert_eq!(data(&segment).collect::<Vec<_>>(), before);
    // Once that one is gone too there is no doubt.
    place.store.delete_snapshot(&two).unwrap();
    assert!(place.files().is_empty(), "{:?}", place.files());
}
