//! Listings of a catalogue with 10,000 images and 100,000 snapshots: pages of what a filter lets through, each object once.
//! How long a page takes is measured by `scripts/bench store`.

mod common;

use std::collections::BTreeSet;

use common::Lab;

const IMAGES: u32 = 10_000;
const SNAPSHOTS: u32 = 100_000;

fn crowded() -> Lab {
    let lab = Lab::new();
    lab.import("seed", 0, 1);
    kami_tests::crowded::fill(&lab.path("home"), IMAGES, SNAPSHOTS).unwrap();
    lab
}

/// One member of everything in a listing, by pages of `most`.
fn pages(lab: &Lab, args: &[&str], list: &str, member: &str, most: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut token: Option<String> = None;
    let size = most.to_string();
    loop {
        let mut words = [args, &["--max-results", &size]].concat();
        if let Some(token) = &token {
            words.extend(["--next-token", token]);
        }
        let page = lab.json(&words);
        let shown = page[list].as_array().unwrap();
        found.extend(
            shown
                .iter()
                .map(|it| it[member].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["NextToken"].as_str() else {
            return found;
        };
        assert_eq!(shown.len(), most, "a page with a next one is full");
        token = Some(next.to_owned());
    }
}

/// The images or snapshots with these numbers, by their ids.
fn ids(prefix: &str, numbers: impl Iterator<Item = u32>) -> BTreeSet<String> {
    numbers.map(|n| format!("{prefix}-{n:017x}")).collect()
}

fn listed_once(found: &[String], expected: &BTreeSet<String>) {
    assert_eq!(found.len(), expected.len());
    let found: BTreeSet<_> = found.iter().cloned().collect();
    assert_eq!(found, *expected);
}

#[test]
fn images_are_listed_once_in_pages_of_what_passes_the_filters() {
    let lab = crowded();
    let by_name = ["image", "ls", "--filter", "Name=name,Values=web-12*,web-77"];
    let numbers = (1..=IMAGES).filter(|n| n.to_string().starts_with("12") || *n == 77);
    let found = pages(&lab, &by_name, "Images", "ImageId", 50);
    listed_once(&found, &ids("ami", numbers));

    let by_tag = ["image", "ls", "--filter", "Name=tag:batch,Values=7,42"];
    let batches = (700..800).chain(4200..4300);
    let found = pages(&lab, &by_tag, "Images", "ImageId", 30);
    listed_once(&found, &ids("ami", batches.clone()));

    let both = [&by_tag[..], &["--filter", "Name=name,Values=web-?5"]].concat();
    assert!(pages(&lab, &both, "Images", "ImageId", 30).is_empty());
    let both = [&by_tag[..], &["--filter", "Name=name,Values=web-7?5"]].concat();
    let fives = batches.filter(|n| (700..800).contains(n) && n % 10 == 5);
    let found = pages(&lab, &both, "Images", "ImageId", 3);
    listed_once(&found, &ids("ami", fives));

    let all = pages(&lab, &["image", "ls"], "Images", "Name", 1000);
    assert_eq!(all.len(), IMAGES as usize + 1);
}
