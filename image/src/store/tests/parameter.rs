use super::*;

fn values(store: &Store, name: &str) -> Vec<(u64, String)> {
    let history = store.parameter_history(name).unwrap();
    let versions = history.into_iter().map(|it| (it.version, it.value));
    versions.collect()
}

#[test]
fn a_parameter_names_an_image_at_launch_in_each_of_its_versions() {
    let place = Place::new();
    let store = &place.store;
    let one = place.import("one").image_id;
    let two = place.import("two").image_id;
    assert_eq!(
        store.put_parameter("/golden/web", "one").unwrap().version,
        1
    );
    assert_eq!(
        store
            .put_parameter("/golden/web", &two.to_string())
            .unwrap()
            .version,
        2
    );
    let launchable = |name: &str| store.launchable_image(name).map(|image| image.image_id);
    assert_eq!(launchable("resolve:ssm:/golden/web").unwrap(), two);
    assert_eq!(launchable("resolve:ssm:/golden/web:1").unwrap(), one);
    // Rolling back is a version of its own.
    store
        .put_parameter("/golden/web", "resolve:ssm:/golden/web:1")
        .unwrap();
    assert_eq!(launchable("resolve:ssm:/golden/web").unwrap(), one);
    let history = [
        (1, one.to_string()),
        (2, two.to_string()),
        (3, one.to_string()),
    ];
    assert_eq!(values(store, "/golden/web"), history);
    assert_eq!(
        store.parameter("/golden/web:2").unwrap().value,
        two.to_string()
    );

    store.put_parameter("plain", "two").unwrap();
    let newest: Vec<_> = store
        .parameters()
        .unwrap()
        .into_iter()
        .map(|it| (it.name, it.version))
        .collect();
    assert_eq!(
        newest,
        [("/golden/web".to_owned(), 3), ("plain".to_owned(), 1)]
    );
}

#[test]
fn what_a_parameter_does_not_have_is_told() {
    let place = Place::new();
    place.import("one");
    place.store.put_parameter("/golden/web", "one").unwrap();
    let error = |name: &str| place.store.launchable_image(name).unwrap_err();
    for version in ["2", "0", "latest", "", "-1"] {
        let error = error(&format!("resolve:ssm:/golden/web:{version}"));
        assert!(
            matches!(error, Error::ParameterVersionNotFound { .. }),
            "{error}"
        );
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    for reference in [
        "resolve:ssm:/golden/db",
        "resolve:ssm:",
        "resolve:ssm:/golden/db:1",
    ] {
        assert!(
            matches!(error(reference), Error::ParameterNotFound { .. }),
            "{reference}"
        );
    }
    let missing = place.store.put_parameter("/golden/web", "two").unwrap_err();
    assert!(matches!(missing, Error::ImageNotFound { .. }), "{missing}");
    assert_eq!(values(&place.store, "/golden/web").len(), 1);

    place.store.delete_parameter("/golden/web").unwrap();
    assert!(place.store.delete_parameter("/golden/web").is_err());
    assert!(place.store.parameter_history("/golden/web").is_err());
    // And begins anew.
    assert_eq!(
        place
            .store
            .put_parameter("/golden/web", "one")
            .unwrap()
            .version,
        1
    );
}

#[test]
fn names_are_those_of_parameter_store() {
    let place = Place::new();
    place.import("one");
    let put = |name: &str| place.store.put_parameter(name, "one");
    let deep = "/a".repeat(15);
    for name in ["a", "/a", "/Golden/web_1.2-x", &deep] {
        put(name).unwrap();
    }
    let deeper = "/a".repeat(16);
    let long = "a".repeat(1012);
    for name in [
        "", "/", "a/b", "/a/", "//a", "a:1", "a b", "/aws/x", "SSM-x", "é", &deeper, &long,
    ] {
        let error = put(name).unwrap_err();
        assert!(
            matches!(error, Error::ParameterName { .. }),
            "{name}: {error}"
        );
        assert_eq!(error.kind(), ErrorKind::Input);
    }
}

#[test]
fn a_hundred_versions_are_kept() {
    let place = Place::new();
    place.import("one");
    for _ in 0..103 {
        place.store.put_parameter("a", "one").unwrap();
    }
    let versions = values(&place.store, "a");
    let kept: Vec<u64> = versions.into_iter().map(|(version, _)| version).collect();
    assert_eq!(kept, (4..=103).collect::<Vec<_>>());
}
