use super::*;
use crate::account::Account;
use crate::manifest::{LaunchPermission, Manifest, Tag};

const OWNER: &str = "111111111111";
const OTHER: &str = "222222222222";

impl Place {
    /// The store as an account sees it.
    pub(super) fn seen_by(&self, account: &str) -> Store {
        self.again().with_account(Some(account.parse().unwrap()))
    }

    /// Imports an image as that account.
    pub(super) fn import_as(&self, account: &str, name: &str) -> Image {
        let file = self.disk("disk.raw", 2 * MIB, 7);
        self.seen_by(account)
            .import(&request(&file, name), &mut go_on)
            .unwrap()
    }
}

fn account(text: &str) -> LaunchPermission {
    LaunchPermission::UserId(text.parse::<Account>().unwrap())
}

fn share(with: LaunchPermission) -> ImageChange {
    ImageChange {
        add_permissions: vec![with],
        ..ImageChange::default()
    }
}

/// What the columns that listings ask say of the image.
fn columns(place: &Place, image: &Image) -> (String, String, i64, Option<i64>) {
    let path = place.store.home().join("catalogue.db");
    let query = "SELECT architecture, state, created, deprecated FROM images WHERE id = ?1";
    rusqlite::Connection::open(path)
        .unwrap()
        .query_row(query, [image.image_id.to_string()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .unwrap()
}

#[test]
fn an_image_is_private_until_it_is_shared() {
    let place = Place::new();
    let image = place.import_as(OWNER, "web");
    assert_eq!(image.owner_id.as_deref(), Some(OWNER));
    let id = image.image_id.to_string();
    let (owner, other) = (place.seen_by(OWNER), place.seen_by(OTHER));

    let error = other.launchable_image(&id).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("Not authorized for images: [{id}]")
    );
    let error = other.image(&id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(other.images().unwrap().is_empty());
    for store in [&owner, &place.store] {
        assert_eq!(store.launchable_image("web").unwrap(), image);
        assert_eq!(store.images().unwrap().len(), 1);
    }

    owner.modify_image("web", &share(account(OTHER))).unwrap();
    assert_eq!(
        other.launchable_image(&id).unwrap().image_id,
        image.image_id
    );
    assert_eq!(other.images().unwrap().len(), 1);
    assert!(place.seen_by("333333333333").image(&id).is_err());
    // Whom it is shared with may launch it, not change it, nor know who else may.
    for error in [
        other
            .modify_image("web", &share(account(OTHER)))
            .unwrap_err(),
        other.launch_permissions("web").unwrap_err(),
    ] {
        assert!(matches!(error, Error::NotAuthorized { .. }), "{error}");
    }

    let public = owner
        .modify_image("web", &share(LaunchPermission::Group))
        .unwrap();
    assert!(public.public);
    assert!(
        place
            .seen_by("333333333333")
            .launchable_image("web")
            .is_ok()
    );
    let (_, permissions) = owner.launch_permissions("web").unwrap();
    assert_eq!(permissions, [account(OTHER), LaunchPermission::Group]);

    let private = ImageChange {
        remove_permissions: vec![LaunchPermission::Group],
        ..ImageChange::default()
    };
    assert!(!owner.modify_image("web", &private).unwrap().public);
    assert!(place.seen_by("333333333333").image("web").is_err());
    let reset = ImageChange {
        reset_permissions: true,
        ..ImageChange::default()
    };
    owner.modify_image("web", &reset).unwrap();
    assert!(other.launchable_image(&id).is_err());
}

#[test]
fn a_name_means_ones_own_image_before_a_shared_one() {
    let place = Place::new();
    let one = place.import_as(OWNER, "web");
    let two = place.import_as(OTHER, "web");
    let found = |store: &Store| store.launchable_image("web").map(|image| image.image_id);
    assert_eq!(found(&place.seen_by(OWNER)).unwrap(), one.image_id);
    assert_eq!(found(&place.seen_by(OTHER)).unwrap(), two.image_id);
    let error = found(&place.store).unwrap_err();
    assert!(matches!(error, Error::Ambiguous { .. }), "{error}");

    let third = place.seen_by("333333333333");
    place
        .seen_by(OTHER)
        .modify_image("web", &share(account("333333333333")))
        .unwrap();
    assert_eq!(found(&third).unwrap(), two.image_id);
}

#[test]
fn a_disabled_image_is_taken_from_those_it_was_shared_with() {
    let place = Place::new();
    let image = place.import_as(OWNER, "web");
    let (owner, other) = (place.seen_by(OWNER), place.seen_by(OTHER));
    owner
        .modify_image("web", &share(LaunchPermission::Group))
        .unwrap();
    let disabled = owner.disable_image("web").unwrap();
    assert_eq!(disabled.state.as_deref(), Some("disabled"));
    assert!(!disabled.public);
    assert_eq!(columns(&place, &image).1, "disabled");
    let unavailable = format!("The image id '[{}]' is no longer available", image.image_id);
    assert_eq!(
        owner.launchable_image("web").unwrap_err().to_string(),
        unavailable
    );
    assert!(other.image("web").is_err());
    let error = owner
        .modify_image("web", &share(account(OTHER)))
        .unwrap_err();
    assert_eq!(error.to_string(), unavailable);

    owner.enable_image("web").unwrap();
    assert!(owner.launchable_image("web").is_ok());
    assert!(other.launchable_image("web").is_err());
}

#[test]
fn a_launch_is_noted_and_refused_where_the_image_has_just_gone() {
    let place = Place::new();
    let image = place.import("web");
    assert_eq!(image.last_launched_time, None);
    drop(place.launch(&image, None));
    let launched = place.store.image("web").unwrap();
    assert!(launched.last_launched_time.is_some());
    // Between the plan and the launch.
    place.store.disable_image("web").unwrap();
    let before = place.state();
    let error = place
        .store
        .launch(&new_instance(&image, None, &place.disks(&image, &[])))
        .unwrap_err();
    assert!(matches!(error, Error::ImageUnavailable { .. }), "{error}");
    assert_eq!(place.state(), before);
}

#[test]
fn the_columns_follow_the_document() {
    let place = Place::new();
    let image = place.import("web");
    let (architecture, state, created, deprecated) = columns(&place, &image);
    assert_eq!(
        (architecture.as_str(), state.as_str()),
        ("x86_64", "available")
    );
    let stated = crate::time::parse_iso8601(image.creation_date.as_ref().unwrap()).unwrap();
    let since = stated
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    assert_eq!(u128::try_from(created).unwrap(), since.as_millis());
    assert_eq!(deprecated, None);

    let time = crate::time::parse_iso8601("2030-01-02T03:04:05.678Z").unwrap();
    let now = place.store.deprecate_image("web", Some(time)).unwrap();
    assert_eq!(
        now.deprecation_time.as_deref(),
        Some("2030-01-02T03:04:05.678Z")
    );
    assert_eq!(columns(&place, &image).3, Some(1_893_553_445_678));
    let now = place.store.deprecate_image("web", None).unwrap();
    assert_eq!(now, image);
    assert_eq!(columns(&place, &image).3, None);
}

#[test]
fn only_attributes_of_a_registered_image_change() {
    let place = Place::new();
    let image = place.import("web");
    let change = ImageChange {
        description: Some("new".to_owned()),
        imds_v2: true,
        ..ImageChange::default()
    };
    let changed = place.store.modify_image("web", &change).unwrap();
    let expected = Image {
        description: Some("new".to_owned()),
        imds_support: Some("v2.0".to_owned()),
        ..image
    };
    assert_eq!(changed, expected);
    assert_eq!(place.store.image("web").unwrap(), expected);
    let long = ImageChange {
        description: Some("x".repeat(256)),
        ..change
    };
    let error = place.store.modify_image("web", &long).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert_eq!(place.store.image("web").unwrap(), expected);
}

#[test]
fn a_manifest_makes_no_image_public_and_its_tags_are_the_images() {
    let place = Place::new();
    let file = place.disk("disk.raw", MIB, 1);
    let snapshot = SnapshotId::generate();
    let text = serde_json::json!({
        "Name": "web", "Architecture": "x86_64", "VirtualizationType": "hvm",
        "RootDeviceName": "/dev/sda1", "Public": true, "State": "pending",
        "LastLaunchedTime": "2020-01-01T00:00:00Z",
        "BlockDeviceMappings": [{ "DeviceName": "/dev/sda1", "Ebs": { "SnapshotId": snapshot } }],
        "Tags": [{ "Key": "b", "Value": "2" }],
        "TagSpecifications": [
            { "ResourceType": "image", "Tags": [{ "Key": "a", "Value": "1" }] },
            { "ResourceType": "snapshot", "Tags": [{ "Key": "c", "Value": "3" }] },
        ],
    });
    let manifest = Manifest::parse(&text.to_string()).unwrap();
    place
        .store
        .register(manifest, &[(snapshot, file)], &mut go_on)
        .unwrap();
    let image = place.store.image("web").unwrap();
    assert!(!image.public);
    assert_eq!(image.state.as_deref(), Some("available"));
    assert_eq!(image.last_launched_time, None);
    let tags: Vec<Tag> = ["a=1", "b=2"].iter().map(|t| t.parse().unwrap()).collect();
    assert_eq!(image.tags, tags);
}

#[test]
fn a_deregistered_image_leaves_its_instances_and_snapshots() {
    let place = Place::new();
    let image = place.import_as(OWNER, "web");
    let owner = place.seen_by(OWNER);
    let id = image.image_id.to_string();
    owner
        .add_tags(std::slice::from_ref(&id), &["a=b".parse().unwrap()])
        .unwrap();
    owner.modify_image("web", &share(account(OTHER))).unwrap();
    let launched = place.launch(&image, Some("one"));
    let before = place.files();

    let error = place
        .seen_by(OTHER)
        .deregister_image(&id, false)
        .unwrap_err();
    assert!(matches!(error, Error::NotAuthorized { .. }), "{error}");
    owner.deregister_image("web", false).unwrap();
    assert!(owner.images().unwrap().is_empty());
    assert!(owner.tags(&id).unwrap().is_empty());
    let error = owner.launchable_image(&id).unwrap_err();
    assert!(matches!(error, Error::ImageNotFound { .. }), "{error}");
    assert_eq!(place.files(), before);
    assert_eq!(
        place.store.instance("one").unwrap().image_id,
        image.image_id
    );
    drop(launched);
    // The name is free again, and the content is shared with what was left.
    place.import_as(OWNER, "web");
}

#[test]
fn a_protected_image_is_not_deregistered() {
    let place = Place::new();
    place.import("web");
    let state = |image: Image| image.deregistration_protection.unwrap();
    let protected = || {
        let error = place.store.deregister_image("web", false).unwrap_err();
        assert!(matches!(error, Error::ImageProtected { .. }), "{error}");
    };
    assert_eq!(
        state(place.store.protect_image("web", false).unwrap()),
        "enabled"
    );
    protected();
    assert_eq!(
        state(place.store.unprotect_image("web").unwrap()),
        "disabled"
    );
    place.store.protect_image("web", true).unwrap();
    protected();
    // The cooldown begins when the protection is taken away, and no second time.
    let cooling = state(place.store.unprotect_image("web").unwrap());
    assert!(cooling.starts_with("disabled after 20"), "{cooling}");
    protected();
    assert_eq!(state(place.store.unprotect_image("web").unwrap()), cooling);
    protected();

    let path = place.store.home().join("catalogue.db");
    let past = "UPDATE images SET document =
        json_set(document, '$.DeregistrationProtection', 'disabled after 2020-01-01T00:00:00.000Z')";
    rusqlite::Connection::open(path)
        .unwrap()
        .execute(past, [])
        .unwrap();
    place.store.deregister_image("web", false).unwrap();
}
