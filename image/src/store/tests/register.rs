use super::*;
use crate::chunk::{ChunkIndex, Digest};
use crate::manifest::{Invalid, Manifest, VolumeType};
use crate::snapshot;
use crate::volume::{Extent, Place as Lives};

fn snapshot(n: u64) -> SnapshotId {
    format!("snap-{n:017x}").parse().unwrap()
}

/// A manifest with the root and /dev/sdc on the snapshots 1 and 2.
fn manifest(name: &str) -> Manifest {
    let text = serde_json::json!({
        "Name": name, "Architecture": "x86_64", "VirtualizationType": "hvm",
        "RootDeviceName": "/dev/sda1",
        "BlockDeviceMappings": [
            { "DeviceName": "/dev/sda1", "Ebs": { "SnapshotId": snapshot(1) } },
            { "DeviceName": "/dev/sdb", "VirtualName": "ephemeral0" },
            { "DeviceName": "/dev/sdc", "Ebs": { "SnapshotId": snapshot(2), "VolumeSize": 5 } },
        ],
        "EnaSupport": true,
    });
    Manifest::parse(&text.to_string()).unwrap()
}

fn files(place: &Place) -> Vec<(SnapshotId, PathBuf)> {
    vec![
        (snapshot(1), place.disk("one.raw", 3 * MIB, 1)),
        (snapshot(2), place.disk("two.raw", 2 * MIB + 512, 1)),
    ]
}

/// Registering this fails and leaves nothing.
fn refused(place: &Place, manifest: Manifest, files: &[(SnapshotId, PathBuf)]) -> Error {
    let before = place.state();
    let error = place
        .store
        .register(manifest, files, &mut go_on)
        .unwrap_err();
    assert_eq!(place.state(), before, "{error}");
    error
}

#[test]
fn a_registered_image_is_found_and_complete() {
    let place = Place::new();
    let mut heard = std::collections::BTreeSet::new();
    let mut listen = |what: &str, _: Progress| {
        heard.insert(what.to_owned());
        ControlFlow::Continue(())
    };
    let image = place
        .store
        .register(manifest("debian"), &files(&place), &mut listen)
        .unwrap();
    assert_eq!(heard.len(), 2);
    assert!(heard.contains(&snapshot(1).to_string()));
    assert_eq!(image.state.as_deref(), Some("available"));
    assert_eq!(image.owner_id.as_deref(), Some("000000000000"));
    assert!(image.creation_date.as_ref().unwrap().ends_with('Z'));
    let root = image.root_mapping().unwrap().ebs.clone().unwrap();
    assert_eq!(root.volume_size, Some(1));
    assert_eq!(root.volume_type, Some(VolumeType::Gp3));
    assert_eq!(root.delete_on_termination, Some(true));
    assert_eq!(image.other["EnaSupport"], true);

    let other = place.again();
    assert_eq!(other.image("debian").unwrap(), image);
    assert_eq!(other.images().unwrap(), std::slice::from_ref(&image));
    let sizes = other.snapshot_sizes(&image.snapshots()).unwrap();
    let expected = [(snapshot(1), 3 * MIB), (snapshot(2), 2 * MIB + 512)];
    assert_eq!(sizes, expected.into());
}

#[test]
fn snapshots_of_one_registration_share_their_chunks() {
    let place = Place::new();
    place
        .store
        .register(manifest("debian"), &files(&place), &mut go_on)
        .unwrap();
    // Both disks are chunks that begin with a page of ones, and holes.
    let rows: std::collections::HashMap<_, _> = place.rows().into_iter().collect();
    assert_eq!(rows["snapshots"], 2);
    let mut chunk = vec![0; 512 << 10];
    chunk[..4096].fill(1);
    let found = place.store.catalogue.find(&Digest::of(&chunk)).unwrap();
    assert!(found.is_some());
    // That chunk and the second disk's last one, of 512 bytes.
    assert_eq!(rows["chunks"], 2);
}

#[test]
fn a_second_image_shares_what_the_store_has() {
    let place = Place::new();
    place.import("one");
    let before = place.rows();
    let two = place.import("two");
    let after = place.rows();
    for table in ["chunks", "segments"] {
        let count = |rows: &[(&str, i64)]| rows.iter().find(|(name, _)| *name == table).unwrap().1;
        assert_eq!(count(&before), count(&after), "{table}");
    }
    // And still reads right: its chunk comes from the first one's segment.
    let mut launched = place.launch(&two, None);
    let volume = &mut launched.volumes[0].volume;
    let mut extents = Vec::<Extent>::new();
    volume.map_read(0, 4096, &mut extents).unwrap();
    let Lives::File { file, offset } = extents[0].place else {
        panic!("{extents:?}");
    };
    let file = File::from(volume.file(file).try_clone_to_owned().unwrap());
    let mut page = [0; 4096];
    file.read_exact_at(&mut page, offset).unwrap();
    assert_eq!(page, [7; 4096]);
}

#[test]
fn an_image_may_name_snapshots_that_the_store_has() {
    let place = Place::new();
    place
        .store
        .register(manifest("one"), &files(&place), &mut go_on)
        .unwrap();
    place
        .store
        .register(manifest("two"), &[], &mut go_on)
        .unwrap();
    assert_eq!(place.store.images().unwrap().len(), 2);
    let error = refused(&place, manifest("three"), &files(&place)[..1]);
    assert!(matches!(error, Error::SnapshotExists { .. }), "{error}");
}

#[test]
fn snapshots_without_content_are_refused() {
    let place = Place::new();
    let error = refused(&place, manifest("debian"), &files(&place)[..1]);
    assert_eq!(
        error.to_string(),
        format!("The snapshot '{}' does not exist.", snapshot(2))
    );
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.help().unwrap().contains("--snapshot snap-"),
        "{error}"
    );
}

#[test]
fn files_that_nothing_asks_for_are_refused() {
    let place = Place::new();
    let mut given = files(&place);
    given.push((snapshot(3), given[0].1.clone()));
    let error = refused(&place, manifest("debian"), &given);
    assert!(matches!(error, Error::SnapshotUnnamed { snapshot: s } if s == snapshot(3)));
    given[2].0 = snapshot(1);
    let error = refused(&place, manifest("debian"), &given);
    assert!(matches!(error, Error::SnapshotTwice { snapshot: s } if s == snapshot(1)));
}

#[test]
fn names_and_ids_are_unique() {
    let place = Place::new();
    let first = place
        .store
        .register(manifest("debian"), &files(&place), &mut go_on)
        .unwrap();
    let error = refused(&place, manifest("debian"), &[]);
    assert_eq!(
        error.to_string(),
        format!(
            "AMI name debian is already in use by AMI {}",
            first.image_id
        )
    );
    let mut same_id = manifest("other");
    same_id.image.image_id = first.image_id;
    let error = refused(&place, same_id, &[]);
    assert!(matches!(error, Error::ImageExists { .. }), "{error}");

    // The name is unique per owner only, and then no longer says which image is meant.
    let mut other_owner = manifest("debian");
    other_owner.image.owner_id = Some("123456789012".to_owned());
    place.store.register(other_owner, &[], &mut go_on).unwrap();
    let error = place.store.image("debian").unwrap_err();
    assert!(matches!(error, Error::Ambiguous { .. }), "{error}");
}

#[test]
fn a_volume_below_its_snapshot_is_refused_before_anything_is_read() {
    let place = Place::new();
    let mut given = files(&place);
    given[1].1 = place.disk("large.raw", 0, 0);
    File::options()
        .write(true)
        .open(&given[1].1)
        .unwrap()
        .set_len(6 * GIB)
        .unwrap();
    let mut never = |_: &str, _: Progress| panic!("something is being read");
    let error = place
        .store
        .register(manifest("debian"), &given, &mut never)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "Volume of size 5GB is smaller than snapshot '{}', expect size >= 6GB",
            snapshot(2)
        )
    );
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(place.files().is_empty());
}

#[test]
fn rules_are_checked_first() {
    let place = Place::new();
    let mut bad = manifest("x");
    let error = refused(&place, bad.clone(), &files(&place));
    assert!(
        matches!(error, Error::Invalid(Invalid::Name { .. })),
        "{error}"
    );
    bad.image.name = "debian".to_owned();
    bad.image.architecture = Architecture::Arm64Mac;
    let error = refused(&place, bad, &files(&place));
    assert!(
        matches!(error, Error::Invalid(Invalid::Architecture(_))),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Input);
}

#[test]
fn kernels_that_the_store_lacks_are_refused() {
    let place = Place::new();
    let mut kernel = manifest("debian");
    kernel.image.kernel_id = Some("aki-0123456789abcdef0".parse().unwrap());
    let error = refused(&place, kernel, &files(&place));
    assert_eq!(
        error.to_string(),
        "The kernel id '[aki-0123456789abcdef0]' does not exist"
    );
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let mut ramdisk = manifest("debian");
    ramdisk.image.ramdisk_id = Some("ari-0123456789abcdef0".parse().unwrap());
    let error = refused(&place, ramdisk, &files(&place));
    assert!(error.to_string().contains("ramdisk id '[ari-"), "{error}");
}

#[test]
fn a_missing_disk_file_leaves_nothing() {
    let place = Place::new();
    let mut given = files(&place);
    std::fs::remove_file(&given[1].1).unwrap();
    let error = refused(&place, manifest("debian"), &given);
    assert!(
        matches!(error, Error::Snapshot(snapshot::Error::Source(_))),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Input);
    given[1].1 = place.folder.path().to_owned();
    let error = refused(&place, manifest("debian"), &given);
    assert_eq!(error.kind(), ErrorKind::Input);
}

#[test]
fn an_interrupted_registration_leaves_nothing() {
    let place = Place::new();
    let given = files(&place);
    // At every moment at which somebody could ask for it.
    for moment in 0.. {
        let mut left = moment;
        let mut interrupt = |_: &str, _: Progress| {
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            ControlFlow::Continue(())
        };
        let result = place
            .store
            .register(manifest("debian"), &given, &mut interrupt);
        match result {
            Err(error) => assert!(
                matches!(error, Error::Snapshot(snapshot::Error::Interrupted)),
                "{error}"
            ),
            Ok(_) => {
                assert!(moment > 2, "only {moment} moments");
                return;
            }
        }
        assert!(place.files().is_empty(), "{:?}", place.files());
        assert!(place.rows().iter().all(|(_, count)| *count == 0));
    }
}

#[test]
fn a_name_that_is_taken_during_the_import_leaves_nothing_of_the_slower_one() {
    let place = Place::new();
    let given = files(&place);
    let before = std::cell::RefCell::new(None);
    let mut once = |_: &str, _: Progress| {
        let mut before = before.borrow_mut();
        if before.is_none() {
            let disk = place.disk("faster.raw", MIB, 9);
            place
                .again()
                .import(&request(&disk, "debian"), &mut go_on)
                .unwrap();
            *before = Some(place.rows());
        }
        ControlFlow::Continue(())
    };
    let error = place
        .store
        .register(manifest("debian"), &given, &mut once)
        .unwrap_err();
    assert!(matches!(error, Error::ImageNameInUse { .. }), "{error}");
    assert_eq!(Some(place.rows()), before.into_inner());
    assert_eq!(place.files().len(), 2, "{:?}", place.files());
}

#[test]
fn an_imported_disk_is_an_image_with_that_root() {
    let place = Place::new();
    let file = place.disk("disk.raw", GIB + 1, 3);
    let image = place
        .store
        .import(
            &ImportRequest {
                description: Some("a disk".to_owned()),
                architecture: Architecture::Arm64,
                ..request(&file, "imported disk")
            },
            &mut go_on,
        )
        .unwrap();
    assert_eq!(image.name, "imported disk");
    assert_eq!(image.description.as_deref(), Some("a disk"));
    assert_eq!(image.architecture, Architecture::Arm64);
    let disks = place.disks(&image, &[]);
    assert_eq!(disks.len(), 1);
    assert_eq!(disks[0].size_bytes(), 2 * GIB);
    // What is shown can be registered again elsewhere.
    let text = serde_json::to_string_pretty(&image).unwrap();
    assert_eq!(Manifest::parse(&text).unwrap().image, image);
}

#[test]
fn many_register_at_once() {
    let place = Place::new();
    let disk = place.disk("disk.raw", 4 * MIB, 5);
    let home = place.store.home();
    let names: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let disk = &disk;
                // Two of each name.
                let name = format!("image-{}", n / 2);
                scope.spawn(move || {
                    let store = Store::open(home).unwrap();
                    match store.import(&request(disk, &name), &mut go_on) {
                        Ok(image) => Some(image.name),
                        Err(Error::ImageNameInUse { .. }) => None,
                        Err(error) => panic!("{error}"),
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(names.len(), 4, "{names:?}");
    let images = place.store.images().unwrap();
    assert_eq!(images.len(), 4);
    let tables = place
        .files()
        .iter()
        .filter(|name| name.starts_with("snapshots/"))
        .count();
    assert_eq!(tables, 4);
    // Nobody has swept what another one was about to name.
    place.store.sweep().unwrap();
    for image in &images {
        place.launch(image, None);
    }
}

/// Not a test of its own: what `a_killed_import_leaves_nothing` kills.
#[test]
fn child_that_imports_and_waits() {
    let Some(store) = child::store() else {
        return;
    };
    let file = store.home().with_file_name("disk.raw");
    let mut wait = |_: &str, progress: Progress| {
        if progress.phase == snapshot::Phase::Verify {
            child::report_and_wait();
        }
        ControlFlow::Continue(())
    };
    let _ = store.import(&request(&file, "doomed"), &mut wait);
}

#[test]
fn a_killed_import_leaves_nothing() {
    let place = Place::new();
    let file = place.disk("disk.raw", 4 * MIB, 8);
    let mut child = child::start(
        &place,
        "store::tests::register::child_that_imports_and_waits",
    );
    // A sweep does not take from it what it is writing.
    place.store.sweep().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(place.rows().iter().all(|(_, count)| *count == 0));
    place.store.sweep().unwrap();
    assert!(place.files().is_empty(), "{:?}", place.files());
    place
        .store
        .import(&request(&file, "doomed"), &mut go_on)
        .unwrap();
}
