use super::*;
use crate::volume;

#[test]
fn a_launch_makes_an_instance_with_its_volumes() {
    let place = Place::new();
    let image = place.import("debian");
    let launched = place.launch(&image, Some("web"));
    let instance = &launched.instance;
    assert_eq!(instance.state, InstanceState::Pending);
    assert_eq!(instance.image_id, image.image_id);
    assert_eq!(instance.image_name, "debian");
    assert_eq!(instance.pid, Some(std::process::id()));
    assert_eq!((instance.cpus, instance.memory_bytes), (2, GIB));
    assert_eq!(launched.folder, place.store.instance_folder(&instance.id));
    assert!(launched.folder.is_dir());

    let names = launched.volumes.iter().map(|v| v.disk.device_name.as_str());
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["/dev/sda1", "/dev/sdb", "/dev/sdc"]
    );
    let sizes = launched.volumes.iter().map(|v| v.volume.size_bytes());
    assert_eq!(sizes.collect::<Vec<_>>(), [GIB, 3 * MIB, GIB]);

    let other = place.again();
    let mut shown = other.instance("web").unwrap();
    // Rows hold milliseconds.
    shown.launch_time = instance.launch_time;
    assert_eq!(shown, *instance);
    let volumes = other.instance_volumes(&instance.id).unwrap();
    assert_eq!(
        volumes.iter().map(|v| v.id).collect::<Vec<_>>(),
        launched.volumes.iter().map(|v| v.id).collect::<Vec<_>>()
    );
    assert_eq!(volumes[0].snapshot, image.snapshots().into_iter().next());
    assert_eq!(
        volumes
            .iter()
            .map(|v| (v.ephemeral, v.delete_on_termination))
            .collect::<Vec<_>>(),
        [(None, true), (Some(0), true), (None, false)]
    );
}

/// A crash of the host after a guest's flush must find the rows that name the volume.
#[test]
fn the_first_flush_syncs_the_catalogue_too() {
    use std::os::fd::AsRawFd;
    let place = Place::new();
    let image = place.import("debian");
    let mut launched = place.launch(&image, None);
    let mut synced = |at: usize| {
        let volume: &mut volume::Volume = &mut launched.volumes[at].volume;
        let plan = volume.begin_flush();
        let name = |index: &volume::FileIndex| {
            let fd = volume.file(*index).as_raw_fd();
            let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
            path.strip_prefix(place.folder.path())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        };
        let names: Vec<String> = plan.once.iter().map(name).collect();
        volume.end_flush(plan, true);
        names
    };
    let has = |names: &[String], name: &str| names.iter().any(|n| n == name);
    let root = synced(0);
    assert!(
        has(&root, "home/catalogue.db-wal") && has(&root, "home"),
        "{root:?}"
    );
    assert!(has(&root, "home/volumes"), "{root:?}");
    let ephemeral = synced(1);
    assert!(!has(&ephemeral, "home/catalogue.db-wal"), "{ephemeral:?}");
    assert!(synced(0).is_empty());
}

#[test]
fn names_of_instances_are_unique_and_well_formed() {
    let place = Place::new();
    let image = place.import("debian");
    let first = place.launch(&image, Some("web"));
    let before = place.state();
    let disks = place.disks(&image, &[]);
    let error = place
        .store
        .launch(&new_instance(&image, Some("web"), &disks))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the name web is already in use by the instance {}",
            first.instance.id
        )
    );
    let longest = "x".repeat(129);
    for bad in [
        "", "-x", ".x", "a b", "a/b", "ä", "i-abc", "aki-1", "ari-1", &longest,
    ] {
        let error = place
            .store
            .launch(&new_instance(&image, Some(bad), &disks))
            .unwrap_err();
        assert!(matches!(error, Error::Name { .. }), "{bad}: {error}");
        assert_eq!(error.kind(), ErrorKind::Input);
    }
    assert_eq!(place.state(), before);
    for good in ["a", "0", "web-1.x_Y", &longest[1..]] {
        place.launch(&image, Some(good));
    }
}

#[test]
fn a_killed_instance_that_was_to_be_removed_frees_its_name() {
    let place = Place::new();
    let image = place.import("debian");
    let disks = place.disks(&image, &[]);
    let new = NewInstance {
        remove_at_end: true,
        ..new_instance(&image, Some("ci"), &disks)
    };
    let first = place.store.launch(&new).unwrap();
    let error = place.store.launch(&new).unwrap_err();
    assert!(matches!(error, Error::InstanceNameInUse { .. }), "{error}");
    drop(first);
    let second = place.store.launch(&new).unwrap();
    let instances = place.store.instances().unwrap();
    assert_eq!(instances.len(), 1);
    assert_eq!(instances[0].id, second.instance.id);
}

#[test]
fn a_launch_that_fails_leaves_nothing() {
    let place = Place::new();
    let image = place.import("debian");
    place.launch(&image, Some("other"));
    let before = place.state();

    // The last disk cannot be made: its snapshot is unknown to the catalogue, or of no use.
    let mut disks = place.disks(&image, &["/dev/sdb=ephemeral0", "/dev/sdc=:1"]);
    disks[2].kind = mapping::DiskKind::Ephemeral {
        index: 1,
        size_bytes: u64::MAX / 4,
    };
    let error = place
        .store
        .launch(&new_instance(&image, Some("web"), &disks))
        .unwrap_err();
    assert!(
        matches!(error, Error::Volume(volume::Error::Size { .. })),
        "{error}"
    );
    assert_eq!(place.state(), before);

    let unknown = mapping::DiskKind::Volume {
        snapshot: Some(SnapshotId::generate()),
        size_bytes: GIB,
        volume_type: crate::manifest::VolumeType::Gp3,
        iops: None,
        throughput: None,
        delete_on_termination: true,
        root: false,
    };
    disks[2].kind = unknown;
    let error = place
        .store
        .launch(&new_instance(&image, Some("web"), &disks))
        .unwrap_err();
    assert!(matches!(error, Error::Catalogue(_)), "{error}");
    assert_eq!(place.state(), before);

    // The snapshot's table is gone, after the first volumes were made.
    let tables = place.store.home().join("snapshots");
    std::fs::rename(&tables, place.folder.path().join("away")).unwrap();
    disks.rotate_left(1);
    disks.remove(1);
    let error = place
        .store
        .launch(&new_instance(&image, Some("web"), &disks))
        .unwrap_err();
    assert!(
        matches!(error, Error::Volume(volume::Error::Files(_))),
        "{error}"
    );
    std::fs::rename(place.folder.path().join("away"), &tables).unwrap();
    assert_eq!(place.state(), before);

    // The instance's folder cannot be made.
    let folder = place.store.home().join("instances");
    std::fs::rename(&folder, place.folder.path().join("away")).unwrap();
    std::fs::write(&folder, "in the way").unwrap();
    let error = place
        .store
        .launch(&new_instance(&image, Some("web"), &disks))
        .unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(place.folder.path().join("away"), &folder).unwrap();
    assert_eq!(place.state(), before);

    place.launch(&image, Some("web"));
}

#[test]
fn many_launch_register_and_sweep_at_once() {
    let place = Place::new();
    let image = place.import("debian");
    let home = place.store.home();
    let disk = place.disk("other.raw", MIB, 4);
    let disks = place.disks(&image, &["/dev/sdb=ephemeral0"]);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (image, disks, disk) = (&image, &disks, &disk);
            scope.spawn(move || {
                let store = Store::open(home).unwrap();
                for round in 0..10 {
                    let name = format!("web-{n}-{round}");
                    let launched = store
                        .launch(&new_instance(image, Some(&name), disks))
                        .unwrap();
                    let id = launched.instance.id;
                    assert_eq!(store.instance(&name).unwrap().state, InstanceState::Pending);
                    drop(launched.volumes);
                    drop(launched.lock);
                    if round % 2 == 0 {
                        store.remove_instance(&id).unwrap();
                    }
                }
            });
            scope.spawn(move || {
                let store = Store::open(home).unwrap();
                for round in 0..3 {
                    let name = format!("image-{n}-{round}");
                    store.import(&request(disk, &name), &mut go_on).unwrap();
                }
            });
        }
    });
    assert_eq!(place.store.images().unwrap().len(), 13);
    let instances = place.store.instances().unwrap();
    assert_eq!(instances.len(), 20);
    for instance in &instances {
        assert_eq!(instance.state, InstanceState::Stopped);
        assert!(place.store.instance_folder(&instance.id).exists());
        place.store.remove_instance(&instance.id).unwrap();
    }
    let left = place.files();
    assert!(
        left.iter().all(|name| !name.starts_with("volumes/")),
        "{left:?}"
    );
    assert!(
        left.iter().all(|name| !name.starts_with("instances/")),
        "{left:?}"
    );
}

/// A launch that fails later, in making the machine, takes back what the store made for it: the
/// volumes too that would have survived the instance.
#[test]
fn an_undone_launch_leaves_nothing() {
    let place = Place::new();
    let image = place.import("debian");
    place.launch(&image, Some("other"));
    let before = place.state();
    let launched = place.launch(&image, Some("web"));
    let id = launched.instance.id;
    let error = place.store.undo_launch(&id).unwrap_err();
    assert!(matches!(error, Error::InstanceRuns { .. }), "{error}");
    drop(launched);
    place.store.undo_launch(&id).unwrap();
    assert_eq!(place.state(), before);
}
