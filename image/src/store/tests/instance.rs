use super::*;

fn volume_files(place: &Place) -> Vec<String> {
    let files = place.files().into_iter();
    files.filter(|name| name.starts_with("volumes/")).collect()
}

fn holds(files: &[String], id: &VolumeId) -> bool {
    files.iter().any(|name| name.contains(&id.to_string()))
}

#[test]
fn an_instance_lives_through_its_states() {
    let place = Place::new();
    let image = place.import("debian");
    let launched = place.launch(&image, None);
    let id = launched.instance.id;
    let ids: Vec<VolumeId> = launched.volumes.iter().map(|v| v.id).collect();
    let other = place.again();
    let state = || other.instance(&id.to_string()).unwrap().state;
    assert_eq!(state(), InstanceState::Pending);
    place.store.set_running(&id).unwrap();
    assert_eq!(state(), InstanceState::Running);
    assert_eq!(other.instances().unwrap()[0].end_time, None);

    drop(launched.volumes);
    place.store.end_instance(&id, &POWERED_OFF).unwrap();
    drop(launched.lock);
    let instance = other.instance(&id.to_string()).unwrap();
    assert_eq!(instance.state, InstanceState::Stopped);
    assert_eq!(
        instance.state_reason.as_deref(),
        Some("the guest powered off")
    );
    assert_eq!(instance.exit_status, Some(0));
    assert_eq!(instance.pid, None);
    assert!(instance.end_time.unwrap() >= instance.launch_time);
    // The ephemeral disk is gone with the stop, the volumes stay.
    let files = volume_files(&place);
    assert!(holds(&files, &ids[0]) && !holds(&files, &ids[1]) && holds(&files, &ids[2]));
    assert_eq!(other.instance_volumes(&id).unwrap().len(), 2);
}

#[test]
fn instances_are_found_by_id_name_and_unique_beginning() {
    let place = Place::new();
    let image = place.import("debian");
    let one = place.launch(&image, Some("web"));
    let two = place.launch(&image, Some("abc"));
    let find = |reference: &str| place.store.instance(reference).map(|instance| instance.id);
    let (id, other) = (one.instance.id.to_string(), two.instance.id.to_string());
    assert_eq!(find(&id).unwrap(), one.instance.id);
    assert_eq!(find("web").unwrap(), one.instance.id);
    assert_eq!(find("abc").unwrap(), two.instance.id);
    let differ = id
        .bytes()
        .zip(other.bytes())
        .position(|(a, b)| a != b)
        .unwrap();
    assert_eq!(find(&id[..=differ]).unwrap(), one.instance.id);
    assert!(matches!(find("i-"), Err(Error::IdMalformed { .. })));
    let error = find("nobody").unwrap_err();
    assert_eq!(error.to_string(), "The instance ID 'nobody' does not exist");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let unknown = InstanceId::generate();
    assert!(matches!(
        find(&unknown.to_string()),
        Err(Error::InstanceNotFound { .. })
    ));
    for error in [
        place.store.end_instance(&unknown, &POWERED_OFF).map(|_| ()),
        place.store.terminate(&unknown),
        place.store.start_instance(&unknown, None).map(|_| ()),
    ] {
        assert!(matches!(error, Err(Error::InstanceNotFound { .. })));
    }
    let error = place.store.remove_instance(&unknown);
    assert!(matches!(error, Err(Error::InstanceNotFound { .. })));
}

#[test]
fn removing_deletes_what_terminates_with_the_instance() {
    let place = Place::new();
    let image = place.import("debian");
    let before = place.files();
    let launched = place.launch(&image, None);
    let id = launched.instance.id;
    let kept = launched.volumes[2].id;
    let error = place.again().remove_instance(&id).unwrap_err();
    assert!(matches!(error, Error::InstanceRuns { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Other);
    assert_eq!(place.store.instances().unwrap().len(), 1);
    drop(launched.volumes);
    place.store.end_instance(&id, &POWERED_OFF).unwrap();
    drop(launched.lock);

    place.store.remove_instance(&id).unwrap();
    assert!(place.store.instances().unwrap().is_empty());
    let left: Vec<_> = place
        .files()
        .into_iter()
        .filter(|f| !before.contains(f))
        .collect();
    assert_eq!(left, [format!("volumes/{kept}.overlay")]);
    assert!(matches!(
        place.store.remove_instance(&id),
        Err(Error::InstanceNotFound { .. })
    ));
    // A volume without an instance is no leftover.
    place.store.sweep().unwrap();
    assert!(holds(&volume_files(&place), &kept));
}

/// Looking whether an instance lives takes its lock for a moment; that must not look like life.
#[test]
fn removing_and_looking_do_not_disturb_each_other() {
    let place = Place::new();
    let image = place.import("debian");
    let home = place.store.home();
    let ids: Vec<InstanceId> = (0..40)
        .map(|_| place.launch(&image, None).instance.id)
        .collect();
    std::thread::scope(|scope| {
        let lookers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let store = Store::open(home).unwrap();
                    loop {
                        let instances = store.instances().unwrap();
                        assert!(instances.iter().all(|i| i.state == InstanceState::Stopped));
                        if instances.is_empty() {
                            break;
                        }
                    }
                })
            })
            .collect();
        for ids in [&ids[..], &ids[..]] {
            scope.spawn(move || {
                let store = Store::open(home).unwrap();
                for id in ids {
                    match store.remove_instance(id) {
                        Ok(()) | Err(Error::InstanceNotFound { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        for looker in lookers {
            looker.join().unwrap();
        }
    });
}

/// Not a test of its own: what `a_killed_process_is_told_of_truthfully` kills.
#[test]
fn child_that_launches_and_waits() {
    let Some(store) = child::store() else {
        return;
    };
    let image = store.image("debian").unwrap();
    let overrides = ["/dev/sdb=ephemeral0".parse().unwrap()];
    let disks = store.resolve(&image, &overrides, EPHEMERAL).unwrap();
    let launched = store
        .launch(&new_instance(&image, Some("doomed"), &disks))
        .unwrap();
    store.set_running(&launched.instance.id).unwrap();
    child::report_and_wait();
}

#[test]
fn a_killed_process_is_told_of_truthfully() {
    let place = Place::new();
    place.import("debian");
    let mut child = child::start(
        &place,
        "store::tests::instance::child_that_launches_and_waits",
    );
    let instance = place.store.instance("doomed").unwrap();
    assert_eq!(instance.state, InstanceState::Running);
    assert_eq!(instance.pid, Some(child.id()));

    child.kill().unwrap();
    child.wait().unwrap();
    for _ in 0..2 {
        let instance = place.store.instance("doomed").unwrap();
        assert_eq!(instance.state, InstanceState::Stopped);
        assert_eq!(instance.exit_status, Some(137));
        assert!(instance.state_reason.unwrap().starts_with("killed"));
        assert_eq!(instance.pid, None);
        // The second time it stands in the catalogue.
        place.store.sweep().unwrap();
    }
    let volumes = place.store.instance_volumes(&instance.id).unwrap();
    assert_eq!(volumes.len(), 1);
    place.store.remove_instance(&instance.id).unwrap();
    assert!(volume_files(&place).is_empty());
}
