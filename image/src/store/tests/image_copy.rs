use super::*;
use crate::id::ImageId;
use crate::manifest::{Manifest, ProductCode, Tag};

const OWNER: &str = "111111111111";
const OTHER: &str = "222222222222";

fn copy(name: &str) -> ImageCopy {
    ImageCopy {
        name: name.to_owned(),
        description: None,
        tags: Vec::new(),
        copy_tags: false,
    }
}

fn tags(texts: &[&str]) -> Vec<Tag> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_copy_is_private_and_shares_the_content() {
    let place = Place::new();
    let mut manifest = Manifest {
        image: place.import_as(OWNER, "first"),
        is_register_input: false,
    };
    manifest.image.image_id = ImageId::generate();
    manifest.image.name = "web".to_owned();
    let code = ProductCode {
        product_code_id: "abc".to_owned(),
        product_code_type: "marketplace".to_owned(),
    };
    manifest.image.product_codes = vec![code.clone()];
    manifest.image.tags = tags(&["a=1", "b=2"]);
    let owner = place.seen_by(OWNER);
    let source = owner.register(manifest, &[], &mut go_on).unwrap();
    let change = ImageChange {
        add_permissions: vec![OTHER.parse().unwrap()],
        ..ImageChange::default()
    };
    owner.modify_image("web", &change).unwrap();
    owner.protect_image("web", false).unwrap();
    owner
        .deprecate_image("web", Some(std::time::SystemTime::now()))
        .unwrap();

    let files = place.files();
    let other = place.seen_by(OTHER);
    let plain = other.copy_image("web", &copy("mine")).unwrap();
    assert_eq!(place.files(), files);
    assert_eq!(other.image("mine").unwrap(), plain);
    assert_eq!(plain.owner_id.as_deref(), Some(OTHER));
    assert_eq!(plain.source_image_id, Some(source.image_id.to_string()));
    assert_eq!(plain.product_codes, [code]);
    assert!(plain.tags.is_empty());
    assert_eq!(
        (&plain.deprecation_time, &plain.deregistration_protection),
        (&None, &None)
    );
    assert_eq!(plain.block_device_mappings, source.block_device_mappings);
    assert!(owner.image(&plain.image_id.to_string()).is_err());

    let tagged = ImageCopy {
        tags: tags(&["b=3", "c=4"]),
        copy_tags: true,
        ..copy("tagged")
    };
    let tagged = other.copy_image("web", &tagged).unwrap();
    assert_eq!(tagged.tags, tags(&["a=1", "b=3", "c=4"]));
    assert_eq!(other.image("tagged").unwrap(), tagged);
    let error = other.copy_image("web", &copy("mine")).unwrap_err();
    assert!(matches!(error, Error::ImageNameInUse { .. }), "{error}");
    let error = other.copy_image("web", &copy("x")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    owner.disable_image("web").unwrap();
    assert!(owner.copy_image("web", &copy("again")).is_err());
}

#[test]
fn snapshots_go_with_the_last_image_that_uses_them() {
    let place = Place::new();
    let image = place.import("one");
    let snapshot = image.snapshots().pop_first().unwrap();
    let two = place.store.copy_image("one", &copy("two")).unwrap();
    let launched = place.launch(&two, Some("web"));

    let gone = place.store.deregister_image("one", true).unwrap();
    assert_eq!(gone.deleted, []);
    assert_eq!(gone.kept, [(snapshot, two.image_id)]);
    assert!(place.store.snapshot(&snapshot.to_string()).is_ok());
    let gone = place.store.deregister_image("two", true).unwrap();
    assert_eq!((gone.deleted, gone.kept), (vec![snapshot], vec![]));
    let error = place.store.snapshot(&snapshot.to_string()).unwrap_err();
    assert!(matches!(error, Error::SnapshotNotFound { .. }), "{error}");
    // The content is there as long as the instance's volumes stand on it.
    let table = format!("snapshots/{snapshot}.table");
    assert!(place.files().contains(&table));
    let id = launched.instance.id;
    drop(launched);
    place.store.remove_instance(&id).unwrap();
    assert!(!place.files().contains(&table), "{:?}", place.files());
}

#[test]
fn several_images_go_together_or_not_at_all() {
    let place = Place::new();
    let first = place.import("first");
    place.store.copy_image("first", &copy("second")).unwrap();
    let before = place.state();
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let error = place
        .store
        .deregister_images(&names(&["first", "third"]), true);
    assert!(matches!(error, Err(Error::ImageNotFound { .. })));
    let both = names(&["first", "second", "first"]);
    let told = place.store.would_deregister(&both, true).unwrap();
    assert_eq!(place.state(), before);

    // The snapshot is nobody's once the last of them is gone.
    let gone = place.store.deregister_images(&both, true).unwrap();
    assert_eq!(gone, told);
    let deleted: Vec<_> = gone.into_iter().flat_map(|gone| gone.deleted).collect();
    assert_eq!(deleted, Vec::from_iter(first.snapshots()));
    assert!(place.store.images().unwrap().is_empty());
}
