use super::*;
use crate::instance::ShutdownBehavior;
use crate::store::{Hardware, InstanceChange};
use crate::volume;

const KILLED: GuestEnd<'static> = GuestEnd {
    powered_off: false,
    reason: "the guest was ended by force",
    exit_status: 137,
};

impl Place {
    fn state_of(&self, id: &InstanceId) -> InstanceState {
        self.store.instance(&id.to_string()).unwrap().state
    }

    fn end(&self, launched: Launched, end: &GuestEnd<'_>) -> InstanceState {
        drop(launched.volumes);
        let state = self.store.end_instance(&launched.instance.id, end).unwrap();
        drop(launched.lock);
        state
    }

    /// A launched instance with those settings, whose guest runs.
    fn running(&self, image: &Image, settings: InstanceSettings) -> Launched {
        let disks = self.disks(image, &["/dev/sdb=ephemeral0", "/dev/sdc=:1"]);
        let new = NewInstance {
            settings,
            ..new_instance(image, None, &disks)
        };
        let launched = self.store.launch(&new).unwrap();
        self.store.set_running(&launched.instance.id).unwrap();
        launched
    }

    fn set_state(&self, id: &InstanceId, state: &str) {
        let path = self.store.home().join("catalogue.db");
        let connection = rusqlite::Connection::open(path).unwrap();
        let changed = connection.execute(
            "UPDATE instances SET state = ?2 WHERE id = ?1",
            [&id.to_string(), state],
        );
        assert_eq!(changed.unwrap(), 1);
    }
}

fn devices(launched: &Launched) -> Vec<(&str, VolumeId)> {
    let volumes = launched.volumes.iter();
    volumes
        .map(|it| (it.disk.device_name.as_str(), it.id))
        .collect()
}

#[test]
fn a_start_opens_the_volumes_and_makes_the_ephemeral_disks_anew() {
    let place = Place::new();
    let image = place.import("debian");
    let first = place.running(&image, InstanceSettings::default());
    let id = first.instance.id;
    let before: Vec<(String, VolumeId)> = devices(&first)
        .into_iter()
        .map(|(name, id)| (name.to_owned(), id))
        .collect();
    assert_eq!(place.end(first, &POWERED_OFF), InstanceState::Stopped);
    let files = place.files();

    let again = place.store.start_instance(&id, None).unwrap();
    let after = devices(&again);
    let names: Vec<_> = after.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["/dev/sda1", "/dev/sdb", "/dev/sdc"]);
    assert_eq!((after[0].1, after[2].1), (before[0].1, before[2].1));
    assert_ne!(after[1].1, before[1].1);
    assert_eq!(again.volumes[1].volume.size_bytes(), 3 * MIB);
    let now = place.store.instance(&id.to_string()).unwrap();
    assert_eq!(now.state, InstanceState::Pending);
    assert_eq!(now.pid, Some(std::process::id()));
    assert_eq!(
        (now.exit_status, now.end_time, now.state_reason),
        (None, None, None)
    );

    // Nobody else can start it meanwhile.
    let error = place.again().start_instance(&id, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("The instance '{id}' is not in a state from which it can be started.")
    );
    place.end(again, &POWERED_OFF);
    assert_eq!(place.files(), files);
}

#[test]
fn a_start_takes_the_ephemeral_disks_that_its_type_has_now() {
    let place = Place::new();
    let image = place.import("debian");
    let id = place
        .running(&image, InstanceSettings::default())
        .instance
        .id;
    for (count, size_bytes) in [(0, 0), (1, 7 * MIB)] {
        let ephemeral = Ephemeral { count, size_bytes };
        let started = place.store.start_instance(&id, Some(ephemeral)).unwrap();
        assert_eq!(started.volumes.len(), 2 + usize::from(count));
        if count > 0 {
            assert_eq!(started.volumes[1].volume.size_bytes(), 7 * MIB);
        }
        place.end(started, &POWERED_OFF);
    }
}

#[test]
fn a_start_that_fails_changes_nothing() {
    let place = Place::new();
    let image = place.import("debian");
    let launched = place.running(&image, InstanceSettings::default());
    let (id, data) = (launched.instance.id, launched.volumes[2].id);
    place.end(launched, &POWERED_OFF);
    let before = place.state();
    // Somebody reads a volume.
    let record = place.store.volume(&data.to_string()).unwrap();
    let held = place.store.volumes.open(&data, &record.standing()).unwrap();
    let error = place.store.start_instance(&id, None).unwrap_err();
    assert!(
        matches!(error, Error::Volume(volume::Error::InUse { .. })),
        "{error}"
    );
    drop(held);
    assert_eq!(
        (place.state(), place.state_of(&id)),
        (before, InstanceState::Stopped)
    );

    let root = place.store.instance_volumes(&id).unwrap()[0].id;
    place.store.detach_volumes(&[root], None).unwrap();
    let error = place.store.start_instance(&id, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("Instance '{id}' does not have a volume attached at root (/dev/sda1)")
    );
    assert_eq!(error.code(), Some("IncorrectInstanceState"));
    // Swapped for another one.
    place
        .store
        .attach_volume(&data, &id, "/dev/sdf")
        .unwrap_err();
    place.store.detach_volumes(&[data], None).unwrap();
    place.store.attach_volume(&data, &id, "/dev/sda1").unwrap();
    let started = place.store.start_instance(&id, None).unwrap();
    assert_eq!(devices(&started)[0], ("/dev/sda1", data));
}

/// Whatever the row of a process that is gone says, it is told truthfully, and what can start starts.
#[test]
fn every_state_of_a_killed_process_comes_to_its_end() {
    let place = Place::new();
    let image = place.import("debian");
    let store = InstanceSettings::default();
    for state in ["pending", "running", "stopping"] {
        let id = place.running(&image, store.clone()).instance.id;
        place.set_state(&id, state);
        assert_eq!(place.state_of(&id), InstanceState::Stopped, "{state}");
        // As it is, and once that is written down.
        let started = place.store.start_instance(&id, None).unwrap();
        assert_eq!(started.volumes.len(), 3);
        drop(started);
        place.store.sweep().unwrap();
        let row = place.store.catalogue.instance(&id).unwrap().unwrap();
        assert_eq!(row.state, InstanceState::Stopped);
        drop(place.store.start_instance(&id, None).unwrap());
        place.store.terminate(&id).unwrap();
    }
    let id = place.running(&image, store).instance.id;
    place.set_state(&id, "shutting-down");
    assert_eq!(place.state_of(&id), InstanceState::Terminated);
    let error = place.store.start_instance(&id, None).unwrap_err();
    assert!(matches!(error, Error::InstanceState { .. }), "{error}");
    place.store.sweep().unwrap();
    assert!(place.store.instance_volumes(&id).unwrap().is_empty());
}

/// A crash of the host may lose what nothing has synced: the folder with the lock.
#[test]
fn an_instance_whose_folder_is_lost_starts() {
    let place = Place::new();
    let image = place.import("debian");
    let id = place
        .running(&image, InstanceSettings::default())
        .instance
        .id;
    std::fs::remove_dir_all(place.store.instance_folder(&id)).unwrap();
    assert_eq!(place.state_of(&id), InstanceState::Stopped);
    let started = place.store.start_instance(&id, None).unwrap();
    place.store.set_running(&id).unwrap();
    assert_eq!(place.state_of(&id), InstanceState::Running);
    drop(started);
}

#[test]
fn what_ends_the_guest_and_who_asked_decide_what_becomes_of_the_instance() {
    use InstanceState::{Stopped, Terminated};
    let place = Place::new();
    let image = place.import("debian");
    let settings = |shutdown_behavior| InstanceSettings {
        shutdown_behavior,
        ..InstanceSettings::default()
    };
    let (stop, terminate) = (ShutdownBehavior::Stop, ShutdownBehavior::Terminate);
    for (behavior, asked, end, state, reason) in [
        (stop, "", POWERED_OFF, Stopped, "the guest powered off"),
        (
            terminate,
            "",
            POWERED_OFF,
            Terminated,
            "the guest powered off",
        ),
        (
            terminate,
            "stop",
            POWERED_OFF,
            Stopped,
            "stopped on request",
        ),
        (terminate, "", KILLED, Stopped, KILLED.reason),
        (
            stop,
            "terminate",
            POWERED_OFF,
            Terminated,
            "terminated on request",
        ),
        (stop, "terminate", KILLED, Terminated, KILLED.reason),
    ] {
        let launched = place.running(&image, settings(behavior));
        let instance = place
            .store
            .instance(&launched.instance.id.to_string())
            .unwrap();
        match asked {
            "stop" => place.store.begin_stop(&instance).unwrap(),
            "terminate" => place.store.begin_termination(&instance).unwrap(),
            _ => {}
        }
        // A guest that comes to run after that was asked changes nothing.
        place.store.set_running(&instance.id).unwrap();
        assert_eq!(place.end(launched, &end), state);
        let instance = place.store.instance(&instance.id.to_string()).unwrap();
        assert_eq!(instance.state_reason.as_deref(), Some(reason));
        let volumes = place.store.instance_volumes(&instance.id).unwrap().len();
        assert_eq!(volumes, if state == Stopped { 2 } else { 0 });
    }
}

#[test]
fn terminated_instances_are_listed_for_an_hour() {
    let place = Place::new();
    let image = place.import("debian");
    let id = place
        .running(&image, InstanceSettings::default())
        .instance
        .id;
    place.store.terminate(&id).unwrap();
    let listed = || place.store.instances().unwrap().len();
    place.store.sweep().unwrap();
    assert_eq!(
        (listed(), place.state_of(&id)),
        (1, InstanceState::Terminated)
    );
    let path = place.store.home().join("catalogue.db");
    let connection = rusqlite::Connection::open(path).unwrap();
    let hour_ago = "UPDATE instances SET ended = ended - 3600 * 1000";
    connection.execute(hour_ago, []).unwrap();
    assert_eq!(listed(), 0);
    assert!(matches!(
        place.store.instance(&id.to_string()),
        Err(Error::InstanceNotFound { .. })
    ));
    place.store.sweep().unwrap();
    assert!(!place.store.instance_folder(&id).exists());
    assert!(!place.store.catalogue.has_instance(&id).unwrap());
}

#[test]
fn a_change_that_needs_a_stopped_instance_waits_for_none() {
    let place = Place::new();
    let image = place.import("debian");
    let launched = place.running(&image, InstanceSettings::default());
    let id = launched.instance.id;
    let bigger = InstanceChange {
        hardware: Some(Hardware {
            instance_type: None,
            cpus: 4,
            memory_bytes: 2 * GIB,
        }),
        ..InstanceChange::default()
    };
    let error = place.again().modify_instance(&id, &bigger).unwrap_err();
    assert!(matches!(error, Error::InstanceNotStopped { .. }), "{error}");
    let protect = InstanceChange {
        disable_api_termination: Some(true),
        delete_on_termination: vec![("/dev/sdc".to_owned(), true)],
        ..InstanceChange::default()
    };
    place.again().modify_instance(&id, &protect).unwrap();
    let instance = place.store.instance(&id.to_string()).unwrap();
    let error = place.store.begin_termination(&instance).unwrap_err();
    assert_eq!(error.code(), Some("OperationNotPermitted"));
    place.end(launched, &POWERED_OFF);
    place.store.modify_instance(&id, &bigger).unwrap();
    let instance = place.store.instance(&id.to_string()).unwrap();
    assert_eq!((instance.cpus, instance.memory_bytes), (4, 2 * GIB));
    assert!(instance.settings.disable_api_termination);

    // An ephemeral disk has nothing to delete it by.
    let temporary = InstanceChange {
        delete_on_termination: vec![("/dev/sdb".to_owned(), false)],
        ..InstanceChange::default()
    };
    let error = place.store.modify_instance(&id, &temporary).unwrap_err();
    assert_eq!(
        error.to_string(),
        "No device is currently mapped at /dev/sdb"
    );
    place.store.terminate(&id).unwrap();
    let error = place.store.modify_instance(&id, &protect).unwrap_err();
    assert!(
        matches!(
            error,
            Error::InstanceState {
                done: "modified",
                ..
            }
        ),
        "{error}"
    );
    assert!(
        place.store.volumes().unwrap().is_empty(),
        "the data volume went too"
    );
}

#[test]
fn a_launch_carries_on_its_image_s_product_codes_and_has_its_own_tags() {
    let place = Place::new();
    let mut image = place.import("debian");
    image.product_codes = vec![crate::manifest::ProductCode {
        product_code_id: "abc".to_owned(),
        product_code_type: "marketplace".to_owned(),
    }];
    let disks = place.disks(&image, &[]);
    let tags = ["role=web".parse().unwrap()];
    let new = NewInstance {
        tags: &tags,
        ..new_instance(&image, None, &disks)
    };
    let id = place.store.launch(&new).unwrap().instance.id;
    let instance = place.store.instance(&id.to_string()).unwrap();
    assert_eq!(instance.settings.product_codes, image.product_codes);
    assert_eq!(place.store.tags(&id.to_string()).unwrap(), tags);
    place.store.remove_instance(&id).unwrap();
    assert!(place.store.tags(&id.to_string()).unwrap().is_empty());
}

/// The root of an instance-store image is a disk like an ephemeral one, whatever its mapping says.
#[test]
fn a_temporary_root_is_no_volume_and_goes_with_its_instance() {
    let place = Place::new();
    let mut image = place.import("debian");
    image.root_device_type = crate::manifest::RootDeviceType::InstanceStore;
    let before = place.files();
    let launched = place.running(&image, InstanceSettings::default());
    let (id, root) = (launched.instance.id, launched.volumes[0].id);
    let listed: Vec<_> = place.store.volumes().unwrap();
    assert_eq!(listed.len(), 1, "the data volume");
    assert!(matches!(
        place.store.volume(&root.to_string()),
        Err(Error::VolumeNotFound { .. })
    ));
    let instance = place.store.instance(&id.to_string()).unwrap();
    let error = place.store.begin_stop(&instance).unwrap_err();
    assert_eq!(error.code(), Some("UnsupportedOperation"));
    assert_eq!(place.end(launched, &KILLED), InstanceState::Terminated);
    let left = place
        .files()
        .into_iter()
        .filter(|file| !before.contains(file));
    let volumes: Vec<_> = left.filter(|file| file.starts_with("volumes/")).collect();
    assert_eq!(volumes, [format!("volumes/{}.overlay", listed[0].id)]);
}

#[test]
fn a_client_token_stands_for_one_launch_as_long_as_it_is_listed() {
    let place = Place::new();
    let image = place.import("debian");
    let disks = place.disks(&image, &[]);
    let token = |request: &str| ClientToken {
        token: "once".to_owned(),
        request: request.to_owned(),
    };
    let asked = token("two web servers");
    let launch = |asked: &ClientToken, reservation: &str| {
        place.store.launch(&NewInstance {
            client_token: Some(asked),
            reservation: Some(Reservation {
                id: reservation.to_owned(),
                index: 0,
            }),
            ..new_instance(&image, None, &disks)
        })
    };
    assert_eq!(place.store.launched_with(&asked, "").unwrap(), None);
    let ids = [(); 2].map(|()| launch(&asked, "r-1").unwrap().instance.id);
    let before = place.state();
    let error = launch(&asked, "r-2").unwrap_err();
    assert!(matches!(error, Error::TokenUsed { .. }), "{error}");
    let error = launch(&token("three"), "r-2").unwrap_err();
    assert_eq!(error.code(), Some("IdempotentParameterMismatch"));
    assert_eq!(place.state(), before);
    let found = place.again().launched_with(&asked, "").unwrap().unwrap();
    assert_eq!(found.len(), 2);
    // Somebody else's token of that name is another one.
    let other = place
        .again()
        .with_account(Some("123456789012".parse().unwrap()));
    assert_eq!(other.launched_with(&token("x"), "").unwrap(), None);
    place.store.remove_instance(&ids[0]).unwrap();
    place.store.terminate(&ids[1]).unwrap();
    assert_eq!(
        place
            .store
            .launched_with(&asked, "")
            .unwrap()
            .unwrap()
            .len(),
        1
    );
    place.store.remove_instance(&ids[1]).unwrap();
    assert_eq!(
        place.store.launched_with(&token("three"), "").unwrap(),
        None
    );
    place.store.sweep().unwrap();
    assert_eq!(
        place
            .store
            .catalogue
            .client_token(place.store.owner(), "once")
            .unwrap(),
        None
    );
}
