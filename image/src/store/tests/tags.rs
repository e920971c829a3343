use super::*;
use crate::manifest::Tag;

fn tags(texts: &[&str]) -> Vec<Tag> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn remove(place: &Place, id: &str, texts: &[&str]) {
    let tags: Vec<TagToRemove> = texts.iter().map(|text| text.parse().unwrap()).collect();
    place.store.remove_tags(&[id.to_owned()], &tags).unwrap();
}

#[test]
fn tags_are_added_changed_and_removed() {
    let place = Place::new();
    let id = place.import("web").image_id.to_string();
    let also = "vol-00000000000000001".to_owned();
    let both = [id.clone(), also.clone()];
    place
        .store
        .add_tags(&both, &tags(&["env=test", "owner=me"]))
        .unwrap();
    place
        .store
        .add_tags(&both[..1], &tags(&["env=live", "a="]))
        .unwrap();
    assert_eq!(
        place.store.tags(&also).unwrap(),
        tags(&["env=test", "owner=me"])
    );
    let expected = tags(&["a=", "env=live", "owner=me"]);
    assert_eq!(place.store.tags(&id).unwrap(), expected);
    assert_eq!(place.store.image("web").unwrap().tags, expected);

    // With another value it stays.
    remove(&place, &id, &["env=test", "owner", "a=", "none"]);
    assert_eq!(place.store.tags(&id).unwrap(), tags(&["env=live"]));
    remove(&place, &id, &["env=live"]);
    assert!(place.store.image("web").unwrap().tags.is_empty());
    assert_eq!(place.store.tags(&also).unwrap().len(), 2);
}

#[test]
fn an_object_with_too_many_tags_keeps_those_it_had() {
    let place = Place::new();
    let id = place.import("web").image_id.to_string();
    let some = |from: usize, to: usize| -> Vec<Tag> {
        (from..to)
            .map(|n| format!("key{n:02}=x").parse().unwrap())
            .collect()
    };
    place
        .store
        .add_tags(std::slice::from_ref(&id), &some(0, 30))
        .unwrap();
    let error = place
        .store
        .add_tags(std::slice::from_ref(&id), &some(25, 51))
        .unwrap_err();
    assert!(
        error.to_string().contains("maximum number of tags"),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Input);
    assert_eq!(place.store.tags(&id).unwrap(), some(0, 30));
    place.store.add_tags(&[id], &some(20, 50)).unwrap();
}
