//! Damage is found, put out of the way, and not found again.

use super::*;
use crate::id::VolumeId;
use crate::store::check::{CheckReport, Finding};

fn check(place: &Place) -> CheckReport {
    place
        .again()
        .check(&mut |_| ControlFlow::Continue(()))
        .unwrap()
}

fn found(place: &Place) -> Vec<String> {
    let report = check(place);
    report.findings.iter().map(ToString::to_string).collect()
}

fn clean(place: &Place) {
    let report = check(place);
    assert_eq!(report.findings, []);
    assert_eq!(report.leftovers, Vec::<PathBuf>::new());
}

fn repair(place: &Place) -> Vec<Finding> {
    let report = check(place);
    let left = place.store.repair(&report).unwrap();
    assert_eq!(check(place).findings, left);
    left
}

fn quarantined(place: &Place) -> usize {
    std::fs::read_dir(place.store.home().join("quarantine")).map_or(0, Iterator::count)
}

fn file(place: &Place, ending: &str) -> PathBuf {
    let name = place
        .files()
        .into_iter()
        .find(|name| name.ends_with(ending));
    place.store.home().join(name.unwrap())
}

fn overwrite(path: &Path, offset: u64) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(b"damage", offset).unwrap();
}

#[test]
fn a_store_in_use_is_clean() {
    let place = Place::new();
    clean(&place);
    let image = place.import("debian");
    let launched = place.launch(&image, Some("one"));
    clean(&place);
    let volume = launched.volumes[2].id;
    drop(launched);
    let snapshot = VolumeSnapshot {
        volume,
        snapshot: SnapshotId::generate(),
        description: String::new(),
    };
    let snapshot = place
        .store
        .create_snapshot(&snapshot, &[], None, &mut go_on)
        .unwrap();
    clean(&place);
    place.store.delete_snapshot(&snapshot.id).unwrap();
    clean(&place);
    let report = check(&place);
    assert_eq!((report.images, report.snapshots, report.volumes), (1, 2, 2));
    assert_eq!(report.chunks, 1);
}

#[test]
fn a_damaged_chunk_is_found_with_all_that_needs_it() {
    let place = Place::new();
    let image = place.import("debian");
    let other = place.import("sharing");
    let snapshots = [&image, &other].map(|image| *image.snapshots().first().unwrap());
    overwrite(&file(&place, ".seg"), 512 << 10);
    let told = found(&place);
    for what in [
        "what it has at byte 524288 is not what was stored there",
        &format!("{}: 2 of its chunks are damaged", snapshots[0]),
        &format!("{}: 2 of its chunks are damaged", snapshots[1]),
        &format!("{}: {} is damaged", image.image_id, snapshots[0]),
        &format!("{}: {} is damaged", other.image_id, snapshots[1]),
    ] {
        assert!(
            told.iter().any(|told| told.contains(what)),
            "{what}: {told:?}"
        );
    }
    assert_eq!(told.len(), 5);

    assert_eq!(repair(&place), []);
    assert_eq!(quarantined(&place), 1);
    assert!(place.store.snapshots().unwrap().iter().all(|it| it.damaged));
    let shown = place.store.image("debian").unwrap();
    assert_eq!(shown.state.as_deref(), Some("invalid"));
    let error = place.store.launchable_image("debian").unwrap_err();
    assert!(matches!(error, Error::ImageUnavailable { .. }), "{error}");
    // The same content is stored anew, and launched.
    let again = place.import("again");
    clean(&place);
    place.launch(&again, None);
    // What is damaged can be deleted.
    for image in [image, other] {
        let id = image.image_id.to_string();
        place.store.deregister_image(&id, true).unwrap();
    }
    clean(&place);
}

#[test]
fn a_damaged_table_is_quarantined() {
    let place = Place::new();
    let image = place.import("debian");
    let table = file(&place, ".table");
    overwrite(&table, 4096);
    assert_eq!(found(&place).len(), 3, "{:?}", found(&place));
    assert_eq!(repair(&place), []);
    assert!(!table.exists());
    assert_eq!(quarantined(&place), 1);
    let id = image.image_id.to_string();
    place.store.deregister_image(&id, true).unwrap();
    clean(&place);
    assert!(place.files().is_empty(), "{:?}", place.files());
}

#[test]
fn missing_and_foreign_segments_are_found_once_each() {
    for is_missing in [true, false] {
        let place = Place::new();
        place.import("debian");
        let segment = file(&place, ".seg");
        match is_missing {
            true => std::fs::remove_file(&segment).unwrap(),
            false => overwrite(&segment, 0),
        }
        // The segment, the snapshot, the image.
        assert_eq!(found(&place).len(), 3, "{:?}", found(&place));
        assert_eq!(repair(&place), []);
        assert_eq!(quarantined(&place), usize::from(!is_missing));
        place.launch(&place.import("again"), None);
    }
}

#[test]
fn rows_that_say_too_much_or_too_little_are_put_right() {
    let place = Place::new();
    place.import("debian");
    let path = place.store.home().join("catalogue.db");
    let connection = rusqlite::Connection::open(path).unwrap();
    connection
        .execute_batch(
            "DELETE FROM snapshot_segments;
             INSERT INTO chunks SELECT randomblob(32), id, 524288 * 7 FROM segments;",
        )
        .unwrap();
    let told = found(&place);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].contains("the catalogue lacks its segment"),
        "{told:?}"
    );
    assert!(told[1].contains("no snapshot has what may be shared there"));
    assert_eq!(repair(&place), []);
    let rows: i64 = connection
        .query_row("SELECT count(*) FROM snapshot_segments", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(rows, 1);
}

#[test]
fn volumes_that_cannot_be_opened_are_told_and_left_alone() {
    let place = Place::new();
    let image = place.import("debian");
    let launched = place.launch(&image, None);
    let volume = launched.volumes[0].id;
    drop(launched);
    let bitmap = place.store.home().join(format!("volumes/{volume}.bitmap"));
    overwrite(&bitmap, 16);
    let left = repair(&place);
    assert!(
        matches!(&left[..], [Finding::Volume { volume: id, .. }] if *id == volume),
        "{left:?}"
    );
    assert!(bitmap.exists());
}

#[test]
fn kernels_are_compared_with_their_digests() {
    let place = Place::new();
    let source = place.folder.path().join("vmlinuz");
    std::fs::write(&source, "a kernel").unwrap();
    let new = NewKernel {
        kind: KernelKind::Kernel,
        name: None,
        architecture: None,
    };
    let kernel = place.store.add_kernel(&new, &source).unwrap();
    clean(&place);
    std::fs::write(&kernel.path, "a kernal").unwrap();
    assert_eq!(found(&place).len(), 1);
    assert_eq!(repair(&place), []);
    assert_eq!(quarantined(&place), 1);
    assert!(place.store.kernels().unwrap().is_empty());
}

#[test]
fn what_crashes_left_is_told_and_collected() {
    let place = Place::new();
    place.import("debian");
    let kept = place.files();
    let home = place.store.home();
    let volume = VolumeId::generate();
    drop(place.store.volumes.create(&volume, GIB, None).unwrap());
    for name in [
        "segments/00000000000000aa.seg".to_owned(),
        format!("snapshots/{}.table", SnapshotId::generate()),
        format!("snapshots/{volume}.turn"),
    ] {
        std::fs::write(home.join(name), [1; 100_000]).unwrap();
    }
    let report = check(&place);
    assert_eq!(report.findings, []);
    assert_eq!(report.leftovers.len(), 4, "{:?}", report.leftovers);
    let collected = place.store.collect_garbage().unwrap();
    assert_eq!(collected.leftovers, 4);
    assert!(collected.freed_bytes >= 300_000, "{collected:?}");
    assert!(collected.is_complete);
    assert_eq!(place.files(), kept);
    clean(&place);
}

#[test]
fn a_check_can_be_interrupted() {
    let place = Place::new();
    place.import("debian");
    let error = place
        .store
        .check(&mut |_| ControlFlow::Break(()))
        .unwrap_err();
    let interrupted = crate::snapshot::Error::Interrupted;
    assert_eq!(error.to_string(), interrupted.to_string());
}
