use super::*;
use crate::catalogue::VolumeRecord;
use crate::manifest::ProductCode;
use crate::volume::{BeginWrite, Extent, Place as Lives, Volume};
use std::io;

fn of(name: &str) -> ImageOfInstance {
    ImageOfInstance {
        name: name.to_owned(),
        description: Some("made of an instance".to_owned()),
        tags: vec!["a=b".parse().unwrap()],
        mappings: Vec::new(),
    }
}

fn with(mappings: &[&str]) -> ImageOfInstance {
    ImageOfInstance {
        mappings: mappings.iter().map(|text| text.parse().unwrap()).collect(),
        ..of("changed")
    }
}

/// Writes one block, as a device does.
fn write(volume: &mut Volume, block: u64, byte: u8) {
    let BeginWrite::Ready(plan) = volume.begin_write(block * 4096, 4096).unwrap() else {
        panic!("nothing is in flight");
    };
    let count = rustix::io::pwrite(volume.file(plan.file), &[byte; 4096], plan.offset).unwrap();
    assert_eq!(count, 4096);
    volume.end_write(plan, true);
    volume.sync().unwrap();
}

fn read(volume: &mut Volume, block: u64) -> u8 {
    let mut extents = Vec::<Extent>::new();
    volume.map_read(block * 4096, 4096, &mut extents).unwrap();
    match extents[0].place {
        Lives::Zeroes => 0,
        Lives::File { file, offset } => {
            let mut byte = [0];
            rustix::io::pread(volume.file(file), &mut byte, offset).unwrap();
            byte[0]
        }
    }
}

/// Launches the image; the guest writes to both volumes, and stops.
fn stopped(place: &Place, image: &Image) -> Instance {
    let mut launched = place.launch(image, None);
    write(&mut launched.volumes[0].volume, 10, 42);
    write(&mut launched.volumes[2].volume, 20, 43);
    let id = launched.instance.id;
    drop(launched.volumes);
    place.store.end_instance(&id, &POWERED_OFF).unwrap();
    drop(launched.lock);
    place.store.instance(&id.to_string()).unwrap()
}

fn create(place: &Place, instance: &Instance, request: &ImageOfInstance) -> Result<Image, Error> {
    place
        .store
        .create_image(instance, request, None, &mut go_on)
}

/// What a guest of the image finds.
fn holds(place: &Place, image: &Image, root: u8, data: u8) {
    let disks = place.disks(image, &[]);
    let mut launched = place
        .store
        .launch(&new_instance(image, None, &disks))
        .unwrap();
    // The disk that the image was made of has a byte of it at each MiB.
    assert_eq!(read(&mut launched.volumes[0].volume, 256), 7);
    assert_eq!(read(&mut launched.volumes[0].volume, 10), root);
    assert_eq!(read(&mut launched.volumes[2].volume, 20), data);
}

#[test]
fn an_image_of_a_stopped_instance_has_all_its_volumes() {
    let place = Place::new();
    let mut first = place.import("first");
    let code = ProductCode {
        product_code_id: "code".to_owned(),
        product_code_type: "marketplace".to_owned(),
    };
    first.product_codes = vec![code.clone()];
    place.store.catalogue.update_image(&first).unwrap();
    let instance = stopped(&place, &first);
    let image = create(&place, &instance, &of("second")).unwrap();
    assert_eq!(place.store.image("second").unwrap(), image);
    assert_eq!(image.source_instance_id, Some(instance.id.to_string()));
    assert_eq!(image.source_image_id, Some(first.image_id.to_string()));
    assert_eq!(image.product_codes, [code]);
    assert_eq!(image.architecture, first.architecture);
    assert_eq!(image.root_device_name, first.root_device_name);

    let [root, ephemeral, data] = &image.block_device_mappings[..] else {
        panic!("{:?}", image.block_device_mappings);
    };
    assert_eq!(root.device_name, "/dev/sda1");
    assert_eq!(ephemeral.virtual_name.as_deref(), Some("ephemeral0"));
    assert_eq!(data.device_name, "/dev/sdc");
    let (root, data) = (root.ebs.as_ref().unwrap(), data.ebs.as_ref().unwrap());
    assert_eq!(root.delete_on_termination, Some(true));
    assert_eq!(data.delete_on_termination, Some(false));
    assert_eq!((root.volume_size, data.volume_size), (Some(1), Some(1)));
    let snapshot = data.snapshot_id.unwrap().to_string();
    let description = place.store.snapshot(&snapshot).unwrap().description;
    let expected = format!(
        "Created by CreateImage({}) for {}",
        instance.id, image.image_id
    );
    assert_eq!(description, expected);

    // The first image goes, and neither the second nor the instance needs it.
    place.store.deregister_image("first", true).unwrap();
    holds(&place, &image, 42, 43);
    let again = create(&place, &instance, &of("third")).unwrap();
    assert_eq!(again.source_image_id, Some(first.image_id.to_string()));
    assert_eq!(again.product_codes, image.product_codes);
    holds(&place, &again, 42, 43);
}

/// A running instance, asked over no socket.
struct Running(Launched);

impl Running {
    fn volume(&mut self, id: &VolumeId) -> &mut Volume {
        let volumes = self.0.volumes.iter_mut();
        let found = volumes
            .map(|made| (made.id, &mut made.volume))
            .find(|it| it.0 == *id);
        found.unwrap().1
    }
}

impl Live for Running {
    fn freeze(&mut self, volumes: &[VolumeId]) -> io::Result<Vec<u32>> {
        let mut layers = Vec::new();
        for id in volumes {
            let volume = self.volume(id);
            layers.push(volume.freeze().unwrap());
            volume.sync().unwrap();
        }
        // What comes later is not in the image.
        for id in volumes {
            write(self.volume(id), 10, 99);
            write(self.volume(id), 20, 99);
        }
        Ok(layers)
    }

    fn rebase(&mut self, id: &VolumeId, snapshot: &SnapshotId, layer: u32) -> io::Result<()> {
        self.volume(id).rebase(snapshot, layer).unwrap();
        Ok(())
    }
}

#[test]
fn an_image_of_a_running_instance_is_of_one_moment() {
    let place = Place::new();
    let first = place.import("first");
    let mut launched = place.launch(&first, None);
    write(&mut launched.volumes[0].volume, 10, 42);
    write(&mut launched.volumes[2].volume, 20, 43);
    let id = launched.instance.id;
    place.store.set_running(&id).unwrap();
    let instance = place.store.instance(&id.to_string()).unwrap();
    let error = create(&place, &instance, &of("second")).unwrap_err();
    assert!(matches!(error, Error::NotImageable { .. }), "{error}");

    let mut live = Running(launched);
    let image = place
        .store
        .create_image(&instance, &of("second"), Some(&mut live), &mut go_on)
        .unwrap();
    holds(&place, &image, 42, 43);
    // And the instance has gone on.
    let volumes: Vec<VolumeRecord> = place.store.instance_volumes(&id).unwrap();
    assert_eq!(read(live.volume(&volumes[0].id), 10), 99);
    assert_eq!(read(live.volume(&volumes[0].id), 256), 7);
    let base = image.root_mapping().unwrap().snapshot();
    assert_eq!(volumes[0].base, base);
}

#[test]
fn mappings_of_an_instance_change_only_as_ec2_lets_them() {
    let place = Place::new();
    let first = place.import("first");
    let instance = stopped(&place, &first);
    let before = place.state();
    let snapshot = first.snapshots().pop_first().unwrap();
    for mapping in [
        "/dev/sda1=none",
        "/dev/sdc=:2",
        "/dev/sdb=ephemeral1",
        "/dev/sdc=ephemeral2",
        &format!("/dev/sdc={snapshot}"),
        &format!("/dev/sdf={snapshot}"),
        r#"{"DeviceName":"/dev/sdc","Ebs":{"VolumeType":"gp2"}}"#,
        r#"{"DeviceName":"/dev/sda1","Ebs":{"Encrypted":true}}"#,
    ] {
        let mapping = match mapping.starts_with('{') {
            true => serde_json::from_str(mapping).unwrap(),
            false => mapping.parse().unwrap(),
        };
        let request = ImageOfInstance {
            mappings: vec![mapping],
            ..of("changed")
        };
        let error = create(&place, &instance, &request).unwrap_err();
        assert!(matches!(error, Error::CreatedMapping { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Input);
    }
    let error = create(&place, &instance, &with(&["/dev/sdf1=:1"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input, "{error}");
    assert_eq!(place.state(), before);

    let mut request = with(&[
        "/dev/sdc=none",
        "/dev/sdf=:3",
        "/dev/sdg=ephemeral1",
        "/dev/sdh=none",
    ]);
    let keep = r#"{"DeviceName":"/dev/sda1","Ebs":{"VolumeSize":1,"DeleteOnTermination":false}}"#;
    request.mappings.push(serde_json::from_str(keep).unwrap());
    let image = create(&place, &instance, &request).unwrap();
    let mapping = &image.block_device_mappings;
    let devices: Vec<_> = mapping
        .iter()
        .map(|entry| entry.device_name.as_str())
        .collect();
    assert_eq!(devices, ["/dev/sda1", "/dev/sdb", "/dev/sdf", "/dev/sdg"]);
    assert_eq!(
        mapping[0].ebs.as_ref().unwrap().delete_on_termination,
        Some(false)
    );
    assert_eq!(mapping[2].ebs.as_ref().unwrap().snapshot_id, None);
    assert_eq!(image.snapshots().len(), 1);
    assert_eq!(place.disks(&image, &[]).len(), 4);
}

#[test]
fn what_cannot_be_an_image_leaves_nothing() {
    let place = Place::new();
    let first = place.import("first");
    let instance = stopped(&place, &first);
    let before = place.state();
    let error = create(&place, &instance, &of("first")).unwrap_err();
    assert!(matches!(error, Error::ImageNameInUse { .. }), "{error}");
    let error = create(&place, &instance, &of("x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    let terminated = Instance {
        state: InstanceState::Terminated,
        ..instance.clone()
    };
    let error = create(&place, &terminated, &of("second")).unwrap_err();
    assert!(matches!(error, Error::NotImageable { .. }), "{error}");
    assert_eq!(place.state(), before);

    // Its root is somebody else's, or nobody's.
    let root = place.store.instance_volumes(&instance.id).unwrap()[0].id;
    place.store.catalogue.detach_volume(&root).unwrap();
    let error = create(&place, &instance, &of("second")).unwrap_err();
    assert!(error.to_string().contains("no root volume"), "{error}");
}
