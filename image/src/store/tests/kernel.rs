use super::*;

fn new_kernel(name: Option<&str>) -> NewKernel {
    NewKernel {
        kind: KernelKind::Kernel,
        name: name.map(str::to_owned),
        architecture: Some(Architecture::X86_64),
    }
}

fn file(place: &Place, content: &[u8]) -> PathBuf {
    let path = place.folder.path().join("vmlinuz");
    std::fs::write(&path, content).unwrap();
    path
}

#[test]
fn a_kernel_is_copied_and_found_by_id_and_name() {
    let place = Place::new();
    let content: Vec<u8> = (0..=250).cycle().take(700_000).collect();
    let path = file(&place, &content);
    let record = place
        .store
        .add_kernel(&new_kernel(Some("linux-6.1")), &path)
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(std::fs::read(&record.path).unwrap(), content);
    assert_eq!(record.size_bytes, 700_000);
    assert_eq!(record.digest, *blake3::hash(&content).as_bytes());
    assert!(record.id.to_string().starts_with("aki-"));

    let other = place.again();
    for reference in [record.id.to_string().as_str(), "linux-6.1"] {
        let found = other.kernel(KernelKind::Kernel, reference).unwrap();
        assert_eq!((found.id, &found.path), (record.id, &record.path));
        let error = other.kernel(KernelKind::Ramdisk, reference).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    assert_eq!(other.kernels().unwrap().len(), 1);
    other.sweep().unwrap();
    assert!(record.path.exists());
}

#[test]
fn an_image_may_name_a_kernel_of_the_store() {
    let place = Place::new();
    let record = place
        .store
        .add_kernel(&new_kernel(None), &file(&place, b"x"))
        .unwrap();
    let KernelFileId::Kernel(id) = record.id else {
        panic!("{}", record.id);
    };
    let text = serde_json::json!({
        "Name": "debian", "Architecture": "x86_64", "VirtualizationType": "hvm", "KernelId": id,
        "BlockDeviceMappings": [
            { "DeviceName": "/dev/sda1", "Ebs": { "SnapshotId": "snap-0123456789abcdef0" } },
        ],
    });
    let manifest = crate::manifest::Manifest::parse(&text.to_string()).unwrap();
    let disk = place.disk("disk.raw", MIB, 1);
    let files = [("snap-0123456789abcdef0".parse().unwrap(), disk)];
    let image = place.store.register(manifest, &files, &mut go_on).unwrap();
    assert_eq!(image.kernel_id, Some(id));
}

#[test]
fn the_same_content_is_kept_once_for_each_kind() {
    let place = Place::new();
    let path = file(&place, b"kernel");
    let first = place.store.add_kernel(&new_kernel(None), &path).unwrap();
    let again = place
        .store
        .add_kernel(&new_kernel(Some("linux")), &path)
        .unwrap();
    assert_eq!(again.id, first.id);
    assert_eq!(again.name.as_deref(), Some("linux"));
    assert_eq!(
        place.store.kernel(KernelKind::Kernel, "linux").unwrap().id,
        first.id
    );
    // A name that it has, it keeps.
    let named = place
        .store
        .add_kernel(&new_kernel(Some("other")), &path)
        .unwrap();
    assert_eq!(named.name.as_deref(), Some("linux"));

    let ramdisk = NewKernel {
        kind: KernelKind::Ramdisk,
        ..new_kernel(Some("linux"))
    };
    let ramdisk = place.store.add_kernel(&ramdisk, &path).unwrap();
    assert!(ramdisk.id.to_string().starts_with("ari-"));
    assert_eq!(
        place.store.kernel(KernelKind::Ramdisk, "linux").unwrap().id,
        ramdisk.id
    );
    assert_eq!(place.files().len(), 2);
}

#[test]
fn a_kernel_that_cannot_be_added_leaves_nothing() {
    let place = Place::new();
    place
        .store
        .add_kernel(&new_kernel(Some("linux")), &file(&place, b"one"))
        .unwrap();
    let before = place.state();
    let path = file(&place, b"two");
    let error = place
        .store
        .add_kernel(&new_kernel(Some("linux")), &path)
        .unwrap_err();
    assert!(matches!(error, Error::KernelNameInUse { .. }), "{error}");
    for bad in ["", "aki-x", "a b"] {
        let error = place
            .store
            .add_kernel(&new_kernel(Some(bad)), &path)
            .unwrap_err();
        assert!(matches!(error, Error::Name { .. }), "{error}");
    }
    let missing = place.folder.path().join("missing");
    let error = place
        .store
        .add_kernel(&new_kernel(None), &missing)
        .unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    let error = place
        .store
        .add_kernel(&new_kernel(None), place.folder.path())
        .unwrap_err();
    assert!(matches!(error, Error::Io { action: "read", .. }), "{error}");
    assert_eq!(place.state(), before);
}
