use super::*;
use crate::id::ImageId;

const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

/// Images `web-0` to `web-5`, each a day older than the next, and `data`; the newest is of today.
fn place() -> (Place, Vec<Image>) {
    let place = Place::new();
    let mut images = Vec::new();
    for n in 0..6_u8 {
        let file = place.disk("disk.raw", 2 * MIB, n + 1);
        let image = place
            .store
            .import(&request(&file, &format!("web-{n}")), &mut go_on)
            .unwrap();
        let date = iso8601(std::time::SystemTime::now() - DAY * u32::from(5 - n));
        let image = Image {
            creation_date: Some(date),
            ..image
        };
        place.store.catalogue.update_image(&image).unwrap();
        images.push(image);
    }
    place.import("data");
    (place, images)
}

fn rule(name: &str, keep: usize, days: Option<u32>) -> PruneRule {
    PruneRule {
        name: name.to_owned(),
        keep,
        older_than: days.map(|days| DAY * days),
    }
}

fn names(pruned: &[Pruned]) -> Vec<&str> {
    pruned.iter().map(|it| it.image.name.as_str()).collect()
}

fn left(place: &Place) -> Vec<String> {
    let images = place.store.images().unwrap();
    images.into_iter().map(|image| image.name).collect()
}

#[test]
fn old_images_go_with_their_snapshots_and_the_newest_stay() {
    let (place, images) = place();
    let pruned = place.store.prune(&[rule("web-*", 3, None)], true).unwrap();
    assert_eq!(names(&pruned), ["web-0", "web-1", "web-2"]);
    for (pruned, image) in pruned.iter().zip(&images) {
        assert_eq!(pruned.obstacle, None);
        assert_eq!(pruned.snapshots, Vec::from_iter(image.snapshots()));
    }
    assert_eq!(left(&place), ["data", "web-3", "web-4", "web-5"]);
    let tables = place
        .files()
        .iter()
        .filter(|name| name.ends_with(".table"))
        .count();
    assert_eq!(tables, 4);
    assert!(
        place
            .store
            .prune(&[rule("web-*", 3, None)], true)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn rules_count_and_measure_age_each_for_itself() {
    let (place, _) = place();
    let would = |rules: &[PruneRule]| {
        let pruned = place.store.prune(rules, false).unwrap();
        names(&pruned)
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(would(&[rule("web-*", 0, Some(4))]), ["web-0", "web-1"]);
    assert_eq!(would(&[rule("web-*", 5, Some(1))]), ["web-0"]);
    assert_eq!(would(&[rule("web-?", 4, Some(9))]), [""; 0]);
    assert_eq!(
        would(&[rule("data", 0, None), rule("*-1", 0, None)]),
        ["web-1", "data"]
    );
    // Both rules want it; it goes once.
    assert_eq!(
        would(&[rule("web-0", 0, None), rule("*", 6, None)]),
        ["web-0"]
    );
    assert_eq!(would(&[]), [""; 0]);
}

#[test]
fn a_dry_run_tells_and_changes_nothing() {
    let (place, _) = place();
    let before = place.state();
    let would = place.store.prune(&[rule("*", 0, None)], false).unwrap();
    assert_eq!(would.len(), 7);
    assert!(would.iter().all(|it| it.snapshots.len() == 1));
    assert_eq!(place.state(), before);
    let real = place.store.prune(&[rule("*", 0, None)], true).unwrap();
    assert_eq!(real, would);
    assert!(left(&place).is_empty());
    assert!(
        place.files().iter().all(|name| !name.starts_with("s")),
        "{:?}",
        place.files()
    );
}

#[test]
fn what_is_used_protected_or_named_stays() {
    let (place, images) = place();
    let launched = place.launch(&images[0], None);
    place.store.protect_image("web-1", false).unwrap();
    place.store.put_parameter("/golden/web", "web-2").unwrap();
    place.store.put_parameter("/old", "web-3").unwrap();
    place.store.put_parameter("/old", "web-5").unwrap();
    let copy = ImageCopy {
        name: "copy".to_owned(),
        description: None,
        tags: Vec::new(),
        copy_tags: false,
    };
    place.store.copy_image("web-4", &copy).unwrap();
    let pruned = place.store.prune(&[rule("web-*", 1, None)], true).unwrap();
    let why: Vec<_> = pruned.iter().map(|it| it.obstacle.clone()).collect();
    let id = launched.instance.id;
    assert_eq!(
        why,
        [
            Some(Obstacle::Instance(id)),
            Some(Obstacle::Protected),
            Some(Obstacle::Parameter("/golden/web".to_owned())),
            // Only an older version names it.
            None,
            None,
        ]
    );
    // The copy still uses it.
    assert!(pruned[4].snapshots.is_empty());
    assert_eq!(
        left(&place),
        ["copy", "data", "web-0", "web-1", "web-2", "web-5"]
    );
    drop(launched);
    place.store.remove_instance(&id).unwrap();
    let pruned = place.store.prune(&[rule("web-0", 0, None)], true).unwrap();
    assert_eq!(pruned[0].obstacle, None);
}

#[test]
fn only_ones_own_images_are_pruned() {
    let place = Place::new();
    let (owner, other) = ("111111111111", "222222222222");
    place.import_as(owner, "web-1");
    let theirs = place.import_as(other, "web-2");
    let all = ImageChange {
        add_permissions: vec!["all".parse().unwrap()],
        ..ImageChange::default()
    };
    place.seen_by(other).modify_image("web-2", &all).unwrap();
    let pruned = place
        .seen_by(owner)
        .prune(&[rule("*", 0, None)], true)
        .unwrap();
    assert_eq!(names(&pruned), ["web-1"]);
    let ids: Vec<ImageId> = place
        .store
        .images()
        .unwrap()
        .iter()
        .map(|it| it.image_id)
        .collect();
    assert_eq!(ids, [theirs.image_id]);
}
