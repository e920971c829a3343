use super::*;
use crate::manifest::Manifest;

#[test]
fn what_a_killed_process_left_is_deleted_and_nothing_else() {
    let place = Place::new();
    let image = place.import("debian");
    let launched = place.launch(&image, None);
    let kept = place.files();
    let home = place.store.home();

    // Killed between its files and its rows: a registration, a launch, a kernel's import.
    let snapshot = SnapshotId::generate();
    let mut source = crate::format::open(&place.disk("x.raw", MIB, 99)).unwrap();
    let mut report = |_| ControlFlow::Continue(());
    place
        .store
        .snapshots
        .write(&snapshot, &mut source, &(), &mut report)
        .unwrap()
        .keep();
    place
        .store
        .volumes
        .create(&VolumeId::generate(), GIB, None)
        .unwrap();
    let root = image.snapshots().into_iter().next();
    place
        .store
        .volumes
        .create(&VolumeId::generate(), GIB, root.as_ref())
        .unwrap();
    let folder = place.store.instance_folder(&InstanceId::generate());
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("lock"), "").unwrap();
    std::fs::write(folder.join("console.log"), "x").unwrap();
    std::fs::create_dir(home.join("kernels")).unwrap();
    let kernel = KernelFileId::generate(KernelKind::Ramdisk).to_string();
    std::fs::write(home.join("kernels").join(kernel), "x").unwrap();
    assert!(place.files().len() >= kept.len() + 9);

    // What is not the store's own is left alone.
    std::fs::write(home.join("kernels/note.txt"), "x").unwrap();
    std::fs::create_dir(home.join("instances/mine")).unwrap();

    place.store.sweep().unwrap();
    let mut expected = kept;
    expected.extend(["kernels/note.txt".to_owned(), "instances/mine".to_owned()]);
    expected.sort();
    assert_eq!(place.files(), expected);
    drop(launched);
}

/// A segment that only a snapshot needs whose chunks another one was faster to store.
#[test]
fn segments_of_content_that_is_stored_twice_stay() {
    let place = Place::new();
    let file = place.disk("disk.raw", MIB, 7);
    // Two imports of the same content at the same time, neither of which sees the other's.
    let mut inner = None;
    let mut once = |_: &str, _: Progress| {
        if inner.is_none() {
            let store = place.again();
            inner = Some(store.import(&request(&file, "faster"), &mut go_on).unwrap());
        }
        ControlFlow::Continue(())
    };
    place
        .store
        .import(&request(&file, "slower"), &mut once)
        .unwrap();
    let files = place.files();
    place.store.sweep().unwrap();
    assert_eq!(place.files(), files);
    for name in ["faster", "slower"] {
        let image = place.store.image(name).unwrap();
        place.launch(&image, None);
    }
}

#[test]
fn killed_instances_are_ended_and_those_to_be_removed_removed() {
    let place = Place::new();
    let image = place.import("debian");
    let disks = place.disks(&image, &["/dev/sdb=ephemeral0"]);
    let launch = |name, remove_at_end| {
        let new = NewInstance {
            remove_at_end,
            ..new_instance(&image, Some(name), &disks)
        };
        place.store.launch(&new).unwrap()
    };
    let alive = launch("alive", true);
    drop(launch("killed", false));
    drop(launch("removed", true));
    place.store.sweep().unwrap();

    let instances = place.store.catalogue.instances().unwrap();
    let mut states: Vec<_> = instances
        .iter()
        .map(|i| {
            (
                i.name.as_deref().unwrap(),
                i.state,
                i.exit_status,
                i.end_time,
            )
        })
        .collect();
    states.sort_by_key(|state| state.0);
    assert_eq!(
        states,
        [
            ("alive", InstanceState::Pending, None, None),
            ("killed", InstanceState::Stopped, Some(137), None),
        ]
    );
    // The living one's two disks (three files), and the killed one's root.
    let files = place.files();
    let volumes = files
        .iter()
        .filter(|name| name.starts_with("volumes/"))
        .count();
    assert_eq!(volumes, 3 + 2, "{files:?}");
    drop(alive);
}

/// An instance's process that is killed between its end and its removal.
#[test]
fn an_ended_instance_that_was_to_be_removed_is() {
    let place = Place::new();
    let image = place.import("debian");
    let disks = place.disks(&image, &[]);
    let new = NewInstance {
        remove_at_end: true,
        ..new_instance(&image, None, &disks)
    };
    let launched = place.store.launch(&new).unwrap();
    drop(launched.volumes);
    place
        .store
        .end_instance(&launched.instance.id, &POWERED_OFF)
        .unwrap();
    place.store.sweep().unwrap();
    assert_eq!(
        place.store.instances().unwrap().len(),
        1,
        "its process lives"
    );
    drop(launched.lock);
    place.store.sweep().unwrap();
    assert!(place.store.instances().unwrap().is_empty());
}

#[test]
fn a_registration_sweeps_first() {
    let place = Place::new();
    place
        .store
        .volumes
        .create(&VolumeId::generate(), GIB, None)
        .unwrap();
    place.import("debian");
    assert!(
        place
            .files()
            .iter()
            .all(|name| !name.starts_with("volumes/"))
    );
    // One that is refused does not even do that.
    place
        .store
        .volumes
        .create(&VolumeId::generate(), GIB, None)
        .unwrap();
    let text = "{\"Name\": \"x\"}";
    let manifest = Manifest::parse(text).unwrap();
    assert!(place.store.register(manifest, &[], &mut go_on).is_err());
    assert!(
        place
            .files()
            .iter()
            .any(|name| name.starts_with("volumes/"))
    );
}
