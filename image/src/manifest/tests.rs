use super::*;
use crate::mapping;

const SNAPSHOT: &str = "snap-0123456789abcdef0";

/// A `register-image` input, with `changes` merged into its top level (null removes).
fn register_input(changes: Value) -> String {
    let input = serde_json::json!({
        "Name": "debian-12",
        "Architecture": "x86_64",
        "VirtualizationType": "hvm",
        "RootDeviceName": "/dev/sda1",
        "BlockDeviceMappings": [
            { "DeviceName": "/dev/sda1", "Ebs": { "SnapshotId": SNAPSHOT } },
            { "DeviceName": "/dev/sdb", "VirtualName": "ephemeral0" },
        ],
    });
    merged(input, changes)
}

/// An Image object, as above.
fn image_object(changes: Value) -> String {
    let mut image: Value = serde_json::from_str(&register_input(changes)).unwrap();
    image["ImageId"] = "ami-0123456789abcdef0".into();
    image.to_string()
}

fn merged(mut base: Value, changes: Value) -> String {
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => {
                base.as_object_mut().unwrap().remove(key);
            }
            value => base[key.as_str()] = value.clone(),
        }
    }
    base.to_string()
}

fn sizes(bytes: u64) -> SnapshotSizes {
    SnapshotSizes::from([(SNAPSHOT.parse().unwrap(), bytes)])
}

fn parse_error(text: &str) -> String {
    Manifest::parse(text).unwrap_err().to_string()
}

/// What is wrong with the image of `text`, which parses.
fn invalid(text: &str) -> Invalid {
    Manifest::parse(text).unwrap().check().unwrap_err()
}

fn mapping_of(entry: Value) -> Value {
    serde_json::json!({ "BlockDeviceMappings": [
        { "DeviceName": "/dev/sda1", "Ebs": { "SnapshotId": SNAPSHOT } }, entry,
    ]})
}

#[test]
fn the_three_shapes_say_the_same() {
    let object = image_object(serde_json::json!({}));
    let described = format!("{{\"Images\": [{object}]}}");
    let image = Manifest::parse(&object).unwrap();
    assert!(!image.is_register_input);
    assert_eq!(Manifest::parse(&described).unwrap(), image);

    let input = Manifest::parse(&register_input(serde_json::json!({}))).unwrap();
    assert!(input.is_register_input);
    let same_id = Image {
        image_id: image.image.image_id,
        ..input.image
    };
    assert_eq!(same_id, image.image);
}

#[test]
fn an_absent_image_id_is_generated() {
    let text = register_input(serde_json::json!({}));
    let ids = [(); 2].map(|()| Manifest::parse(&text).unwrap().image.image_id);
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn register_input_has_ec2s_defaults() {
    let text = register_input(serde_json::json!({
        "Architecture": null, "VirtualizationType": null, "RootDeviceName": null,
    }));
    let image = Manifest::parse(&text).unwrap().image;
    assert_eq!(image.architecture, Architecture::I386);
    assert_eq!(image.virtualization_type, VirtualizationType::Paravirtual);
    assert_eq!(image.root_device_name, "/dev/sda1");
    assert_eq!(image.effective_boot_mode(), BootMode::LegacyBios);
}

#[test]
fn an_image_object_must_state_what_has_another_default() {
    for member in ["Architecture", "VirtualizationType", "RootDeviceName"] {
        let text = image_object(serde_json::json!({ member: null }));
        let error = parse_error(&text);
        assert_eq!(error, format!("line 1: the member {member} is missing"));
        let error = parse_error(&format!("{{\"Images\": [\n{text}]}}"));
        assert_eq!(
            error,
            format!("line 2: Images[0]: the member {member} is missing")
        );
    }
}

#[test]
fn unknown_members_are_kept_and_shown_again() {
    let text = image_object(serde_json::json!({
        "EnaSupport": true,
        "Tags": [{ "Key": "a", "Value": "b" }],
        "NewThing": { "Deep": [1, 2.5, null] },
        "BlockDeviceMappings": [{
            "DeviceName": "/dev/sda1",
            "Ebs": { "SnapshotId": SNAPSHOT, "OutpostArn": "arn" },
            "Colour": "red",
        }],
    }));
    let image = Manifest::parse(&text).unwrap().image;
    let shown = serde_json::to_value(&image).unwrap();
    let before: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in before.as_object().unwrap() {
        assert_eq!(shown[key], *value, "{key}");
    }
    let again = Manifest::parse(&shown.to_string()).unwrap();
    assert_eq!(again.image, image);
}

#[test]
fn mistyped_members_are_named_with_their_line() {
    let text = "{\n \"Name\": \"debian\",\n \"BlockDeviceMappings\": [\n  {\n   \"DeviceName\": \
                \"/dev/sda1\",\n   \"Ebs\": {\n    \"VolumeSize\": \"8\"\n}}]}";
    assert_eq!(
        parse_error(text),
        "line 7: BlockDeviceMappings[0].Ebs.VolumeSize: invalid type: string \"8\", expected u64"
    );
    let cases = [
        (serde_json::json!({ "Name": 3 }), "Name: invalid type"),
        (
            serde_json::json!({ "Public": "yes" }),
            "Public: invalid type",
        ),
        (
            serde_json::json!({ "Architecture": "vax" }),
            "Architecture: unknown variant `vax`",
        ),
        (
            serde_json::json!({ "VirtualizationType": "x" }),
            "VirtualizationType: unknown variant",
        ),
        (
            serde_json::json!({ "BootMode": "x" }),
            "BootMode: unknown variant",
        ),
        (
            serde_json::json!({ "KernelId": "aki-1" }),
            "KernelId: invalid id: \"aki-1\"",
        ),
        (
            serde_json::json!({ "BlockDeviceMappings": {} }),
            "BlockDeviceMappings: invalid type",
        ),
        (
            mapping_of(
                serde_json::json!({ "DeviceName": "/dev/sdb", "Ebs": { "SnapshotId": "x" } }),
            ),
            "BlockDeviceMappings[1].Ebs.SnapshotId: invalid id: \"x\" (expecting \"snap-\"",
        ),
        (
            mapping_of(
                serde_json::json!({ "DeviceName": "/dev/sdb", "Ebs": { "VolumeSize": -1 } }),
            ),
            "BlockDeviceMappings[1].Ebs.VolumeSize: invalid value",
        ),
        (
            mapping_of(
                serde_json::json!({ "DeviceName": "/dev/sdb", "Ebs": { "VolumeType": "gp9" } }),
            ),
            "BlockDeviceMappings[1].Ebs.VolumeType: unknown variant `gp9`",
        ),
    ];
    for (changes, expected) in cases {
        let error = parse_error(&register_input(changes));
        assert!(error.starts_with(&format!("line 1: {expected}")), "{error}");
    }
}

#[test]
fn missing_members_are_named_with_their_line() {
    assert_eq!(
        parse_error(&register_input(serde_json::json!({ "Name": null }))),
        "line 1: the member Name is missing"
    );
    assert_eq!(
        parse_error(&register_input(mapping_of(
            serde_json::json!({ "VirtualName": "ephemeral0" })
        ))),
        "line 1: BlockDeviceMappings[1]: the member DeviceName is missing"
    );
}

#[test]
fn what_is_not_one_image_is_refused() {
    assert!(parse_error("").starts_with("line 1, column 0: not JSON: EOF"));
    assert!(parse_error("{\n\"Name\" 3}").starts_with("line 2, column 8: not JSON: expected `:`"));
    assert!(parse_error(&"[".repeat(100_000)).contains("not JSON: recursion limit"));
    for text in ["3", "[]", "\"x\"", "null"] {
        assert_eq!(parse_error(text), "not an image: expecting a JSON object");
    }
    let image = image_object(serde_json::json!({}));
    for (text, count) in [
        ("{\"Images\": []}".to_owned(), 0),
        (format!("{{\"Images\": [{image}, {image}]}}"), 2),
    ] {
        let error = parse_error(&text);
        assert!(
            error.starts_with(&format!("holds {count} images")),
            "{error}"
        );
    }
    assert!(parse_error("{\"Images\": 3}").starts_with("line 1: Images: invalid type"));
}

#[test]
fn files_that_are_no_manifest_are_refused_unread() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manifest.json");
    let error = Manifest::read(&path).unwrap_err();
    assert!(matches!(error, ParseError::Read(_)), "{error}");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    let error = Manifest::read(&path).unwrap_err();
    assert!(matches!(error, ParseError::NotText), "{error}");
    std::fs::File::create(&path)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let error = Manifest::read(&path).unwrap_err();
    assert!(matches!(error, ParseError::TooLarge), "{error}");
    std::fs::write(&path, image_object(serde_json::json!({}))).unwrap();
    Manifest::read(&path).unwrap().check().unwrap();
}

#[test]
fn names_follow_ec2s_rule() {
    let longest = "x".repeat(128);
    for good in ["abc", "Debian 12 (cloud) [1.0] a/b-c'd@e_f", &longest] {
        check::name(good).unwrap();
    }
    for bad in [
        "",
        "ab",
        &"x".repeat(129),
        "a:b",
        "näh",
        "tab\tx",
        "new\nline",
    ] {
        let text = register_input(serde_json::json!({ "Name": bad }));
        assert_eq!(
            invalid(&text),
            Invalid::Name {
                name: bad.to_owned()
            }
        );
    }
}

#[test]
fn metadata_that_breaks_a_rule_is_refused() {
    let input = |changes| invalid(&register_input(changes));
    let image = |changes| invalid(&image_object(changes));
    let paravirtual = |is_register_input| Invalid::Paravirtual { is_register_input };
    assert_eq!(
        input(serde_json::json!({ "Description": "ä".repeat(256) })),
        Invalid::Description { length: 256 }
    );
    let longest = serde_json::json!({ "Description": "ä".repeat(255) });
    Manifest::parse(&register_input(longest))
        .unwrap()
        .check()
        .unwrap();
    assert_eq!(
        image(serde_json::json!({ "OwnerId": "123" })),
        Invalid::Owner {
            owner: "123".to_owned()
        }
    );
    assert_eq!(
        input(serde_json::json!({ "VirtualizationType": null })),
        paravirtual(true)
    );
    assert_eq!(
        image(serde_json::json!({ "VirtualizationType": "paravirtual" })),
        paravirtual(false)
    );
    for mac in [Architecture::X86_64Mac, Architecture::Arm64Mac] {
        assert_eq!(
            image(serde_json::json!({ "Architecture": mac.as_str() })),
            Invalid::Architecture(mac)
        );
    }
    for good in ["x86_64", "arm64", "i386"] {
        let text = register_input(serde_json::json!({ "Architecture": good }));
        Manifest::parse(&text).unwrap().check().unwrap();
    }
    for good in ["ebs", "instance-store"] {
        let text = serde_json::json!({ "RootDeviceType": good });
        Manifest::parse(&image_object(text))
            .unwrap()
            .check()
            .unwrap();
    }
    assert_eq!(
        image(serde_json::json!({ "ImageType": "kernel" })),
        Invalid::ImageType(ImageType::Kernel)
    );
}

#[test]
fn a_root_without_a_snapshot_is_refused() {
    let unmapped = Invalid::RootUnmapped {
        device: "/dev/sda1".to_owned(),
    };
    for root in [
        serde_json::json!({ "DeviceName": "/dev/sdb", "Ebs": { "SnapshotId": SNAPSHOT } }),
        serde_json::json!({ "DeviceName": "/dev/sda1", "Ebs": { "VolumeSize": 8 } }),
        serde_json::json!({ "DeviceName": "/dev/sda1", "VirtualName": "ephemeral0" }),
        serde_json::json!({ "DeviceName": "/dev/sda1", "NoDevice": "" }),
    ] {
        let text = register_input(serde_json::json!({ "BlockDeviceMappings": [root] }));
        assert_eq!(invalid(&text), unmapped);
    }
    let text = register_input(serde_json::json!({ "BlockDeviceMappings": null }));
    assert_eq!(invalid(&text), unmapped);
}

#[test]
fn encrypted_is_refused_where_it_would_be_ignored() {
    let entry = |encrypted: Value| {
        serde_json::json!({ "BlockDeviceMappings": [{
            "DeviceName": "/dev/sda1",
            "Ebs": { "SnapshotId": SNAPSHOT, "Encrypted": encrypted },
        }]})
    };
    let device = || "/dev/sda1".to_owned();
    for encrypted in [true, false] {
        assert_eq!(
            invalid(&register_input(entry(encrypted.into()))),
            Invalid::Mapping(mapping::Error::EncryptedSnapshot { device: device() })
        );
    }
    assert_eq!(
        invalid(&image_object(entry(true.into()))),
        Invalid::Mapping(mapping::Error::Encrypted { device: device() })
    );
    // What describe-images prints of every plain volume.
    let text = image_object(entry(false.into()));
    Manifest::parse(&text).unwrap().check().unwrap();
}

#[test]
fn completing_fills_in_the_defaults() {
    let text = register_input(serde_json::json!({ "BlockDeviceMappings": [
        { "DeviceName": "/dev/sda1", "Ebs": { "SnapshotId": SNAPSHOT } },
        { "DeviceName": "/dev/sdc", "Ebs": { "VolumeSize": 125, "VolumeType": "st1" } },
    ]}));
    let manifest = Manifest::parse(&text).unwrap();
    for (bytes, gib) in [(1, 1), (GIB, 1), (GIB + 1, 2), (30 * GIB, 30)] {
        let image = manifest.clone().complete(&sizes(bytes)).unwrap();
        let ebs = |at: usize| image.block_device_mappings[at].ebs.clone().unwrap();
        assert_eq!(ebs(0).volume_size, Some(gib));
        assert_eq!(ebs(0).volume_type, Some(VolumeType::Gp3));
        assert_eq!(ebs(0).delete_on_termination, Some(true));
        assert_eq!(ebs(1).volume_size, Some(125));
        assert_eq!(ebs(1).volume_type, Some(VolumeType::St1));
        assert_eq!(ebs(1).delete_on_termination, Some(false));
    }
}

#[test]
fn a_size_below_the_snapshots_is_refused_in_ec2s_words() {
    let text = register_input(serde_json::json!({ "BlockDeviceMappings": [
        { "DeviceName": "/dev/sda1", "Ebs": { "SnapshotId": SNAPSHOT, "VolumeSize": 20 } },
    ]}));
    let manifest = Manifest::parse(&text).unwrap();
    manifest.clone().complete(&sizes(20 * GIB)).unwrap();
    assert_eq!(
        manifest
            .complete(&sizes(29 * GIB + 1))
            .unwrap_err()
            .to_string(),
        format!("Volume of size 20GB is smaller than snapshot '{SNAPSHOT}', expect size >= 30GB")
    );
}

#[test]
fn an_unknown_snapshot_is_refused() {
    let manifest = Manifest::parse(&register_input(serde_json::json!({}))).unwrap();
    manifest.check().unwrap();
    let error = manifest.complete(&SnapshotSizes::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("The snapshot '{SNAPSHOT}' does not exist.")
    );
}
