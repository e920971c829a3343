use super::*;
use crate::filter::{Filters, Noun, Page, Token};
use crate::id::ImageId;

const OWNER: &str = "111111111111";
const OTHER: &str = "222222222222";

fn all() -> ImageQuery {
    query(&[])
}

fn query(filters: &[&str]) -> ImageQuery {
    let filters = filters.iter().map(|text| text.parse().unwrap()).collect();
    ImageQuery {
        images: Vec::new(),
        owners: Vec::new(),
        filters: Filters::new(Noun::Image, filters).unwrap(),
        with_deprecated: false,
        with_disabled: false,
        page: Page::default(),
    }
}

fn names(store: &Store, query: &ImageQuery) -> Vec<String> {
    let (images, token) = store.list_images(query).unwrap();
    assert_eq!(token, None);
    images.into_iter().map(|image| image.name).collect()
}

fn public(store: &Store, name: &str) {
    let change = ImageChange {
        add_permissions: vec!["all".parse().unwrap()],
        ..ImageChange::default()
    };
    store.modify_image(name, &change).unwrap();
}

/// `count` images like `image`, by rows alone.
fn fill(place: &Place, image: &Image, count: usize) {
    let transaction = place.store.quick().unwrap();
    for n in 0..count {
        let image = Image {
            image_id: ImageId::generate(),
            name: format!("image-{n:05}"),
            tags: match n % 100 {
                0 => vec![format!("env=test-{n}").parse().unwrap()],
                _ => Vec::new(),
            },
            ..image.clone()
        };
        place.store.catalogue.add_image(&image).unwrap();
    }
    place.store.catalogue.commit(transaction).unwrap();
}

#[test]
fn others_deprecated_and_disabled_images_are_listed_on_demand() {
    let place = Place::new();
    let (owner, other) = (place.seen_by(OWNER), place.seen_by(OTHER));
    let mut ids = Vec::new();
    for name in ["deprecated", "disabled", "future", "private", "public"] {
        ids.push(place.import_as(OWNER, name).image_id);
        if name != "private" {
            public(&owner, name);
        }
    }
    let now = std::time::SystemTime::now();
    owner.deprecate_image("deprecated", Some(now)).unwrap();
    let later = now + std::time::Duration::from_secs(3600);
    owner.deprecate_image("future", Some(later)).unwrap();
    owner.disable_image("disabled").unwrap();

    assert_eq!(names(&other, &all()), ["future", "public"]);
    assert_eq!(
        names(&owner, &all()),
        ["deprecated", "future", "private", "public"]
    );
    assert_eq!(names(&place.store, &all()).len(), 4);
    let everything = ImageQuery {
        with_deprecated: true,
        with_disabled: true,
        ..all()
    };
    assert_eq!(
        names(&other, &everything),
        ["deprecated", "future", "public"]
    );
    assert_eq!(names(&owner, &everything).len(), 5);
    assert_eq!(
        names(&owner, &query(&["Name=state,Values=disabled"])),
        ["disabled"]
    );
    // Whoever names it wants to see it.
    let named = ImageQuery {
        images: vec![ids[0], ids[3]],
        ..all()
    };
    assert_eq!(names(&other, &named), ["deprecated"]);
}

#[test]
fn images_are_listed_by_owner() {
    let place = Place::new();
    place.import_as(OWNER, "one");
    place.import_as(OTHER, "two");
    public(&place.seen_by(OTHER), "two");
    let by = |owner| ImageQuery {
        owners: vec![owner],
        ..all()
    };
    let account = ImageOwner::Account(OTHER.parse().unwrap());
    let owner = place.seen_by(OWNER);
    assert_eq!(names(&owner, &all()), ["one", "two"]);
    assert_eq!(names(&owner, &by(ImageOwner::Caller)), ["one"]);
    assert_eq!(names(&owner, &by(account)), ["two"]);
    // Who owns everything owns both.
    assert_eq!(names(&place.store, &by(ImageOwner::Caller)), ["one", "two"]);
}

#[test]
fn a_filter_lists_the_same_with_and_without_columns() {
    let place = Place::new();
    let image = place.import("base");
    fill(&place, &image, 250);
    let snapshot = image.snapshots().pop_first().unwrap();
    for (filters, expected) in [
        (vec!["Name=name,Values=image-0010?"], 10),
        (vec!["Name=name,Values=image-00[1]*"], 0),
        (vec!["Name=name,Values=image-00007,base"], 2),
        (vec!["Name=tag:env,Values=test-*"], 3),
        (vec!["Name=tag:env,Values=test-?00"], 2),
        (
            vec!["Name=tag-key,Values=env", "Name=name,Values=*-00100"],
            1,
        ),
        (vec!["Name=is-public,Values=false"], 251),
        (
            vec![
                "Name=virtualization-type,Values=hvm",
                "Name=root-device-name,Values=*sda1",
            ],
            251,
        ),
        (vec!["Name=description,Values=*"], 0),
        (
            vec!["Name=block-device-mapping.delete-on-termination,Values=true"],
            251,
        ),
        (
            vec!["Name=block-device-mapping.volume-type,Values=gp2,gp?"],
            251,
        ),
        (vec!["Name=block-device-mapping.encrypted,Values=*"], 0),
        (vec!["Name=product-code,Values=*"], 0),
        (vec!["Name=state-reason-code,Values=*"], 0),
        (vec!["Name=block-device-mapping.volume-size,Values=1"], 251),
        (
            vec![&*format!(
                "Name=block-device-mapping.snapshot-id,Values={snapshot}"
            )],
            251,
        ),
        (
            vec!["Name=owner-id,Values=0*", "Name=architecture,Values=x86_64"],
            251,
        ),
        (
            vec!["Name=image-id,Values=ami-*", "Name=state,Values=pending"],
            0,
        ),
    ] {
        let query = query(&filters);
        let listed = names(&place.store, &query);
        assert_eq!(listed.len(), expected, "{filters:?}");
        let mut naively = place.store.images().unwrap();
        naively.retain(|image| query.filters.matches(&serde_json::to_value(image).unwrap()));
        let naively: Vec<_> = naively.into_iter().map(|image| image.name).collect();
        assert_eq!(listed, naively, "{filters:?}");
    }
}

#[test]
fn pages_show_each_of_ten_thousand_images_once() {
    let place = Place::new();
    let image = place.import("base");
    fill(&place, &image, 10_000);
    let mut query = query(&["Name=name,Values=image-*"]);
    query.page.max_results = Some(999);
    let mut seen = Vec::new();
    loop {
        let (images, token) = place.store.list_images(&query).unwrap();
        assert!(images.len() <= 999);
        seen.extend(images.into_iter().map(|image| image.name));
        let Some(token) = token else {
            break;
        };
        // What a user hands back.
        query.page.next_token = Some(token.to_string().parse::<Token>().unwrap());
    }
    let expected: Vec<_> = (0..10_000).map(|n| format!("image-{n:05}")).collect();
    assert_eq!(seen, expected);
}
