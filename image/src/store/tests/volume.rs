use super::*;
use crate::id::InstanceId;
use crate::manifest::{Ebs, VolumeType};

fn gib(size: u64) -> Ebs {
    Ebs {
        volume_size: Some(size),
        ..Ebs::default()
    }
}

fn said<T: std::fmt::Debug>(result: Result<T, Error>) -> (&'static str, String) {
    let error = result.unwrap_err();
    (error.code().unwrap(), error.to_string())
}

impl Place {
    /// A stopped instance with a root, and a volume at /dev/sdc that survives it.
    fn stopped(&self) -> (InstanceId, Vec<VolumeRecord>) {
        let image = self.import("debian");
        let launched = self.launch(&image, None);
        let id = launched.instance.id;
        drop(launched.volumes);
        self.store.end_instance(&id, &POWERED_OFF).unwrap();
        drop(launched.lock);
        let volumes = self.store.instance_volumes(&id).unwrap();
        (id, volumes)
    }

    fn devices(&self, instance: &InstanceId) -> Vec<String> {
        let volumes = self.store.instance_volumes(instance).unwrap();
        volumes
            .into_iter()
            .map(|volume| volume.device_name)
            .collect()
    }
}

#[test]
fn a_volume_is_made_empty_or_of_a_snapshot_and_deleted() {
    let place = Place::new();
    let before = place.files();
    let ebs = Ebs {
        volume_type: Some(VolumeType::Io2),
        iops: Some(4000),
        ..gib(4)
    };
    let made = place.store.add_volume(&ebs, &[]).unwrap();
    assert_eq!(made.state(), VolumeState::Available);
    assert_eq!((made.size_bytes, made.iops), (4 * GIB, Some(4000)));
    assert_eq!(made.volume_type, Some(VolumeType::Io2));
    assert_eq!(
        (made.snapshot, made.base, made.instance),
        (None, None, None)
    );
    assert_eq!(made.owner.to_string(), "000000000000");
    assert_eq!(place.again().volume(&made.id.to_string()).unwrap(), made);
    let short = &made.id.to_string()[4..12];
    assert_eq!(place.store.volume(short).unwrap(), made);
    place.store.delete_volumes(&[made.id]).unwrap();
    assert_eq!(place.files(), before);

    let image = place.import("debian");
    let snapshot = image.snapshots().pop_first().unwrap();
    let of_snapshot = Ebs {
        snapshot_id: Some(snapshot),
        ..Ebs::default()
    };
    let made = place.store.add_volume(&of_snapshot, &[]).unwrap();
    // Whole GiB, and as large as the snapshot.
    assert_eq!(made.size_bytes, GIB);
    assert_eq!((made.snapshot, made.base), (Some(snapshot), Some(snapshot)));
    assert_eq!(place.store.volumes().unwrap(), std::slice::from_ref(&made));
    let id = made.id.to_string();
    let tag = "Name=data".parse().unwrap();
    place
        .store
        .add_tags(std::slice::from_ref(&id), &[tag])
        .unwrap();
    place.store.delete_volumes(&[made.id]).unwrap();
    assert!(place.store.tags(&id).unwrap().is_empty());
    let gone = said(place.store.delete_volumes(&[made.id]));
    let message = format!("The volume '{}' does not exist.", made.id);
    assert_eq!(gone, ("InvalidVolume.NotFound", message));
}

#[test]
fn a_volume_that_cannot_be_made_leaves_nothing() {
    let place = Place::new();
    let before = place.state();
    let unknown = Ebs {
        snapshot_id: Some(SnapshotId::generate()),
        ..Ebs::default()
    };
    let (code, _) = said(place.store.add_volume(&unknown, &[]));
    assert_eq!(code, "InvalidSnapshot.NotFound");
    let (code, message) = said(place.store.add_volume(&Ebs::default(), &[]));
    assert_eq!(code, "MissingParameter");
    assert_eq!(
        message,
        "The request must contain a SnapshotId or a VolumeSize"
    );
    let (code, message) = said(place.store.add_volume(&gib(65_537), &[]));
    assert_eq!(code, "InvalidParameterValue");
    assert!(
        message.ends_with("for volume type gp3; maximum is 65536GiB"),
        "{message}"
    );
    let slow = Ebs {
        iops: Some(99),
        volume_type: Some(VolumeType::Io1),
        ..gib(4)
    };
    let (_, message) = said(place.store.add_volume(&slow, &[]));
    assert_eq!(message, "Volume iops of 99 is too low; minimum is 100");
    assert_eq!(place.state(), before);
}

#[test]
fn a_volume_is_attached_to_a_stopped_instance_and_detached() {
    let place = Place::new();
    let (instance, _) = place.stopped();
    let store = &place.store;
    let volume = store.add_volume(&gib(1), &[]).unwrap().id;
    store.attach_volume(&volume, &instance, "/dev/sdf").unwrap();
    let record = store.volume(&volume.to_string()).unwrap();
    assert_eq!(record.state(), VolumeState::InUse);
    assert_eq!(record.instance, Some(instance));
    assert!(!record.delete_on_termination && record.attach_time.is_some());
    assert_eq!(
        place.devices(&instance),
        ["/dev/sda1", "/dev/sdc", "/dev/sdf"]
    );

    let again = said(store.attach_volume(&volume, &instance, "/dev/sdg"));
    let message = format!("{volume} is already attached to an instance");
    assert_eq!(again, ("VolumeInUse", message));
    let deleted = said(store.delete_volumes(&[volume]));
    let message = format!("Volume {volume} is currently attached to {instance}");
    assert_eq!(deleted, ("VolumeInUse", message));

    let other = InstanceId::generate();
    let (code, _) = said(store.detach_volumes(&[volume], Some(&other)));
    assert_eq!(code, "InvalidAttachment.NotFound");
    store.detach_volumes(&[volume], Some(&instance)).unwrap();
    let detached = said(store.detach_volumes(&[volume], None));
    let message = format!("Volume '{volume}' is in the 'available' state.");
    assert_eq!(detached, ("IncorrectState", message));
    store.delete_volumes(&[volume]).unwrap();
}

#[test]
fn a_device_has_one_volume_and_a_proper_name() {
    let place = Place::new();
    let (instance, _) = place.stopped();
    let volume = place.store.add_volume(&gib(1), &[]).unwrap().id;
    let attach = |device| said(place.store.attach_volume(&volume, &instance, device));
    // The ephemeral disk of /dev/sdb comes back with the next start.
    for used in ["/dev/sdc", "sdc", "/dev/sda1", "/dev/sdb", "sdb"] {
        let message = format!(
            "Invalid value '{used}' for unixDevice. Attachment point {used} is already in use"
        );
        assert_eq!(attach(used), ("InvalidParameterValue", message));
    }
    for bad in ["/dev/sdf1", "/dev/sdaa", "/dev/vda", "", "/dev/sda2"] {
        let (code, message) = attach(bad);
        assert_eq!(code, "InvalidParameterValue");
        assert!(message.starts_with(&format!("the device name '{bad}' is invalid")));
    }
    let nobody = InstanceId::generate();
    let (code, _) = said(place.store.attach_volume(&volume, &nobody, "/dev/sdf"));
    assert_eq!(code, "InvalidInstanceID.NotFound");
}

#[test]
fn the_root_can_be_swapped_for_another() {
    let place = Place::new();
    let (instance, volumes) = place.stopped();
    let store = &place.store;
    store.detach_volumes(&[volumes[0].id], None).unwrap();
    let other = store.add_volume(&gib(2), &[]).unwrap().id;
    store.attach_volume(&other, &instance, "/dev/sdh").unwrap();
    store.detach_volumes(&[other], None).unwrap();
    store.attach_volume(&other, &instance, "/dev/sda1").unwrap();
    store
        .attach_volume(&volumes[0].id, &instance, "/dev/sdh")
        .unwrap();
    let ids: Vec<_> = store.instance_volumes(&instance).unwrap();
    let ids: Vec<_> = ids
        .iter()
        .map(|volume| (volume.id, volume.position))
        .collect();
    assert_eq!(ids[0], (other, 0));
    assert_eq!(ids[2].0, volumes[0].id);
}

#[test]
fn nothing_changes_while_the_instance_runs() {
    let place = Place::new();
    let image = place.import("debian");
    let launched = place.launch(&image, None);
    let instance = launched.instance.id;
    let store = &place.store;
    let volume = store.add_volume(&gib(1), &[]).unwrap().id;
    let attached = launched.volumes[2].id;
    let message = format!("The instance '{instance}' is not in the 'stopped' state.");
    for refused in [
        said(store.attach_volume(&volume, &instance, "/dev/sdf")),
        said(store.detach_volumes(&[attached], None)),
        said(store.modify_volume(&attached, &gib(2))),
    ] {
        assert_eq!(refused, ("IncorrectInstanceState", message.clone()));
    }
    // Its process is gone without a word: it has stopped.
    drop((launched.volumes, launched.lock));
    store.detach_volumes(&[attached], None).unwrap();
}

#[test]
fn a_volume_grows_and_changes_its_type() {
    let place = Place::new();
    let (_, volumes) = place.stopped();
    let store = &place.store;
    let change = Ebs {
        volume_type: Some(VolumeType::Io1),
        iops: Some(200),
        ..gib(10)
    };
    let modified = store.modify_volume(&volumes[1].id, &change).unwrap();
    assert_eq!(modified.size_bytes, 10 * GIB);
    assert_eq!(
        (modified.volume_type, modified.iops),
        (Some(VolumeType::Io1), Some(200))
    );
    assert_eq!(modified.instance, volumes[1].instance);
    let (code, message) = said(store.modify_volume(&volumes[1].id, &gib(9)));
    assert_eq!(code, "InvalidParameterValue");
    assert!(message.starts_with("New size cannot be smaller than existing size"));
    let to_gp2 = Ebs {
        volume_type: Some(VolumeType::Gp2),
        ..Ebs::default()
    };
    let modified = store.modify_volume(&volumes[1].id, &to_gp2).unwrap();
    assert_eq!((modified.iops, modified.size_bytes), (None, 10 * GIB));
    let (code, _) = said(store.modify_volume(&volumes[1].id, &gib(20_000)));
    assert_eq!(code, "InvalidParameterValue");
    // The root stands on a snapshot, and grows with it.
    let root = store.modify_volume(&volumes[0].id, &gib(3)).unwrap();
    assert_eq!((root.size_bytes, root.base), (3 * GIB, volumes[0].base));
}

#[test]
fn an_ephemeral_disk_is_no_volume_to_others() {
    let place = Place::new();
    let image = place.import("debian");
    let launched = place.launch(&image, None);
    let ephemeral = launched.volumes[1].id;
    let (code, _) = said(place.store.volume(&ephemeral.to_string()));
    assert_eq!(code, "InvalidVolume.NotFound");
    assert_eq!(place.store.volumes().unwrap().len(), 2);
}

#[test]
fn what_looks_like_an_id_and_is_none_is_malformed() {
    let place = Place::new();
    let message = |text: &str, prefix| format!("Invalid id: {text:?} (expecting \"{prefix}...\")");
    let (code, said_of) = said(place.store.volume("vol-XYZ"));
    assert_eq!(code, "InvalidVolumeID.Malformed");
    assert_eq!(said_of, message("vol-XYZ", "vol-"));
    assert_eq!(
        said(place.store.snapshot("snap-")).0,
        "InvalidSnapshotID.Malformed"
    );
    assert_eq!(
        said(place.store.instance("i-0g")).0,
        "InvalidInstanceID.Malformed"
    );
    assert_eq!(said(place.store.image("ami-é")).0, "InvalidAMIID.Malformed");
    assert_eq!(said(place.store.volume("data")).0, "InvalidVolume.NotFound");
}

/// The account only says who owns what is made.
#[test]
fn a_volume_is_its_makers() {
    let place = Place::new();
    let account = "123456789012".parse().unwrap();
    let store = place.again().with_account(Some(account));
    assert_eq!(store.add_volume(&gib(1), &[]).unwrap().owner, account);
}
