use proptest::prelude::*;
use serde_json::json;

use super::*;

fn filters(noun: Noun, texts: &[&str]) -> Filters {
    let filters = texts.iter().map(|text| text.parse().unwrap()).collect();
    Filters::new(noun, filters).unwrap()
}

fn image() -> Value {
    json!({
        "Name": "web-2026.1", "Architecture": "arm64", "Public": true,
        "BlockDeviceMappings": [
            { "DeviceName": "/dev/sda1", "Ebs": { "VolumeSize": 8, "DeleteOnTermination": true } },
            { "DeviceName": "/dev/sdb", "VirtualName": "ephemeral0" },
            { "DeviceName": "/dev/sdc", "Ebs": { "VolumeSize": 20, "DeleteOnTermination": false } },
        ],
        "Tags": [{ "Key": "env", "Value": "test" }, { "Key": "bare", "Value": "" }],
    })
}

fn lists(texts: &[&str]) -> bool {
    filters(Noun::Image, texts).matches(&image())
}

#[test]
fn one_of_the_values_and_all_of_the_filters_must_match() {
    assert!(lists(&[]));
    assert!(lists(&["Name=name,Values=web-2026.1"]));
    assert!(lists(&["Name=name,Values=db-*,web-*"]));
    assert!(lists(&[
        "Name=name,Values=web-*",
        "Name=architecture,Values=arm64"
    ]));
    assert!(!lists(&[
        "Name=name,Values=web-*",
        "Name=architecture,Values=x86_64"
    ]));
    // The whole of it, in its own case.
    assert!(!lists(&["Name=name,Values=web"]));
    assert!(!lists(&["Name=name,Values=WEB-*"]));
    // What it does not have matches nothing, not even the pattern for anything.
    assert!(!lists(&["Name=description,Values=*"]));
}

#[test]
fn lists_numbers_and_booleans_are_looked_into() {
    assert!(lists(&["Name=is-public,Values=true"]));
    assert!(lists(&["Name=block-device-mapping.volume-size,Values=20"]));
    assert!(!lists(&["Name=block-device-mapping.volume-size,Values=9"]));
    assert!(lists(&[
        "Name=block-device-mapping.delete-on-termination,Values=false"
    ]));
    assert!(lists(&[
        "Name=block-device-mapping.device-name,Values=/dev/sd?"
    ]));
}

#[test]
fn tags_are_asked_by_key_and_by_value() {
    assert!(lists(&["Name=tag:env,Values=test,live"]));
    assert!(!lists(&["Name=tag:env,Values=live"]));
    assert!(!lists(&["Name=tag:Env,Values=test"]));
    assert!(lists(&["Name=tag:bare,Values=*"]));
    assert!(lists(&["Name=tag-key,Values=b*"]));
    assert!(!lists(&["Name=tag-key,Values=test"]));
}

#[test]
fn instances_are_asked_for_their_reservation_too() {
    let instance = json!({ "InstanceId": "i-1", "State": { "Code": 16, "Name": "running" } });
    let reservation = json!({ "ReservationId": "r-1", "OwnerId": "000000000000" });
    let lists = |texts| filters(Noun::Instance, texts).matches_within(&instance, &reservation);
    assert!(lists(&[
        "Name=instance-state-name,Values=running",
        "Name=reservation-id,Values=r-1"
    ]));
    assert!(lists(&["Name=instance-state-code,Values=16"]));
    assert!(!lists(&["Name=owner-id,Values=1*"]));
}

#[test]
fn malformed_and_unknown_filters_are_refused() {
    for text in [
        "",
        "name=web",
        "Name=name",
        "Name=name,Values=",
        "Name=,Values=a",
        "Values=a,Name=b",
    ] {
        let error = text.parse::<Filter>().unwrap_err();
        assert!(matches!(error, Error::Form { .. }), "{text}");
    }
    let unknown: Filter = "Name=colour,Values=red".parse().unwrap();
    for noun in [Noun::Image, Noun::Snapshot, Noun::Volume, Noun::Instance] {
        let error = Filters::new(noun, vec![unknown.clone()]).unwrap_err();
        assert_eq!(error.to_string(), "The filter 'colour' is invalid");
    }
}

#[test]
fn wildcards_stand_for_texts_and_backslashes_end_that() {
    for (pattern, text, expected) in [
        ("*", "", true),
        ("?", "", true),
        ("?", "a", true),
        ("?", "ab", false),
        ("a?c", "ac", true),
        ("a?c", "abc", true),
        ("a?c", "abbc", false),
        ("a*b*c", "aXbYbZc", true),
        ("a*b*c", "aXbYbZ", false),
        ("é?", "éü", true),
        (r"\*", "*", true),
        (r"\*", "a", false),
        (r"a\\b", r"a\b", true),
        (r"a\", r"a\", true),
        ("[a]", "a", false),
        ("[a]", "[a]", true),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
    }
    assert!(lists(&[r"Name=name,Values=a\,b,web-*"]));
    let comma: Filter = r"Name=name,Values=a\,b,c".parse().unwrap();
    assert!(comma.passes("a,b") && comma.passes("c") && !comma.passes("a"));
    // Ends in good time.
    assert!(!matches(&"*a".repeat(64), &"a".repeat(63)));
}

/// What the pattern means, said naively.
fn naive(pattern: &[char], text: &[char]) -> bool {
    match (pattern, text) {
        ([], text) => text.is_empty(),
        (['*', rest @ ..], _) => (0..=text.len()).any(|n| naive(rest, &text[n..])),
        (['?', rest @ ..], _) => naive(rest, text) || !text.is_empty() && naive(rest, &text[1..]),
        ([c, rest @ ..], [first, text @ ..]) => c == first && naive(rest, text),
        (_, []) => false,
    }
}

proptest! {
    #[test]
    fn patterns_match_what_they_say_and_sql_misses_none_of_it(
        pattern in "[ab*?\\[\\]]{0,8}", text in "[ab*?\\[\\]]{0,8}"
    ) {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        let expected = naive(&chars(&pattern), &chars(&text));
        prop_assert_eq!(matches(&pattern, &text), expected);

        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let pattern = Pattern::new(&pattern);
        let test = with_tests("?", std::slice::from_ref(&pattern));
        let found: bool = connection
            .query_row(&format!("SELECT {test}"), [&text, &pattern.sql()], |row| row.get(0))
            .unwrap();
        prop_assert!(found || !expected, "{}", pattern.sql());
    }

    #[test]
    fn tokens_come_back(key in "[ -~é]{1,40}") {
        let token = Token::new(key.clone());
        prop_assert_eq!(token.to_string().parse::<Token>().unwrap(), token);
    }
}

#[test]
fn pages_follow_each_other_whatever_comes_and_goes() {
    let key = |n: &u32| format!("{n:04}");
    let mut page = Page {
        max_results: Some(3),
        next_token: None,
    };
    let mut objects: Vec<u32> = (0..10).collect();
    let (first, token) = cut(objects.clone(), &page, key);
    assert_eq!(first, [0, 1, 2]);
    page.next_token = token;
    objects.retain(|n| *n != 2 && *n != 4);
    let (second, token) = cut(objects.clone(), &page, key);
    assert_eq!(second, [3, 5, 6]);
    page.next_token = token;
    let (last, token) = cut(objects, &page, key);
    assert_eq!((last, token), (vec![7, 8, 9], None));
    for text in ["", "a", "zz", "+1", "ff", "é"] {
        assert!(text.parse::<Token>().is_err(), "{text}");
    }
}
