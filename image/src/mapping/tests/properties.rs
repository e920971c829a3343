//! The rules of block device mappings as properties of whatever is mapped.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Entries around the edges of every rule, so that about half of the cases resolve.
fn entry() -> impl Strategy<Value = BlockDeviceMapping> {
    let device = prop_oneof![
        8 => "/dev/sd[b-f]",
        2 => "/dev/xvd[b-c]",
        1 => "xvdb",
        2 => Just("/dev/sda1".to_owned()),
        1 => "/dev/sd[a-c][0-2]?",
    ];
    let ebs = (
        proptest::option::of(1u64..42),
        proptest::option::of(0u64..50),
        proptest::option::of(proptest::sample::select(VolumeType::ALL)),
        proptest::option::of(90u32..4000),
        proptest::option::of(any::<bool>()),
    )
        .prop_map(
            |(from, volume_size, volume_type, iops, delete_on_termination)| Ebs {
                snapshot_id: from.map(snapshot),
                volume_size,
                volume_type,
                iops,
                delete_on_termination,
                ..Ebs::default()
            },
        );
    let target = prop_oneof![
        6 => ebs.prop_map(|ebs| (None, None, Some(ebs))),
        3 => (0u8..26).prop_map(|n| (Some(format!("ephemeral{n}")), None, None)),
        2 => Just((None, Some(String::new()), None)),
    ];
    (device, target).prop_map(
        |(device_name, (virtual_name, no_device, ebs))| BlockDeviceMapping {
            device_name,
            virtual_name,
            no_device,
            ebs,
            ..BlockDeviceMapping::default()
        },
    )
}

/// An image that registered: entries that break a rule are dropped before.
fn any_image() -> impl Strategy<Value = Image> {
    proptest::collection::vec(entry(), 0..6).prop_map(|entries| {
        let base = image(&[]);
        let mut kept = base.block_device_mappings.clone();
        for entry in entries {
            kept.push(entry);
            let valid = check_names(&kept, "/dev/sda1").is_ok()
                && kept.iter().all(|e| check_entry(e, Some(&sizes())).is_ok());
            if !valid {
                kept.pop();
            }
        }
        Image {
            block_device_mappings: kept,
            ..base
        }
    })
}

proptest! {
    #[test]
    fn whatever_resolves_obeys_the_rules(
        image in any_image(),
        changes in proptest::collection::vec(entry(), 0..4),
        count in 0u8..25,
    ) {
        let ephemeral = Ephemeral { count, size_bytes: GIB };
        let Ok(disks) = resolve(&image, &changes, ephemeral, &sizes()) else {
            return Ok(());
        };
        let mut seen = BTreeMap::new();
        for (at, disk) in disks.iter().enumerate() {
            let short = disk.device_name.trim_start_matches("/dev/");
            prop_assert!(seen.insert(short, ()).is_none(), "twice: {short}");
            match disk.kind {
                DiskKind::Volume { snapshot, size_bytes, volume_type, root, .. } => {
                    prop_assert_eq!(root, at == 0);
                    prop_assert!(volume_type.sizes_gib().contains(&(size_bytes / GIB)));
                    if let Some(snapshot) = snapshot {
                        prop_assert!(size_bytes >= sizes()[&snapshot]);
                    }
                }
                DiskKind::Ephemeral { index, .. } => prop_assert!(index < count && at > 0),
            }
            let stated = |e: &&BlockDeviceMapping| e.device_name == disk.device_name;
            prop_assert!(image.block_device_mappings.iter().chain(&changes).any(|e| stated(&e)));
            let removed = changes.iter().find(stated).is_some_and(|e| e.no_device.is_some());
            prop_assert!(!removed);
        }
        prop_assert_eq!(disks[0].snapshot(), Some(snapshot(8)));
    }

    #[test]
    fn what_no_override_names_stays_as_the_image_says(
        image in any_image(),
        changes in proptest::collection::vec(entry(), 0..4),
    ) {
        let plain = resolve(&image, &[], EPHEMERAL, &sizes()).unwrap();
        let Ok(disks) = resolve(&image, &changes, EPHEMERAL, &sizes()) else {
            return Ok(());
        };
        let untouched = |disk: &&Disk| !changes.iter().any(|e| e.device_name == disk.device_name);
        let before: Vec<_> = plain.iter().filter(untouched).collect();
        let after: Vec<_> = disks.iter().filter(untouched).collect();
        prop_assert_eq!(before, after);
    }

    #[test]
    fn parsing_never_panics(text in "\\PC{0,40}", fields in "/dev/sd[a-c]=[snap0-9:truegpio-]{0,40}") {
        let _ = text.parse::<BlockDeviceMapping>();
        let _ = fields.parse::<BlockDeviceMapping>();
        let _ = Manifest::parse(&text);
    }

    /// `xvda` and `/dev/xvda` are one device with two names: never merged, always in conflict.
    #[test]
    fn two_names_of_one_device_conflict_wherever_they_stand(
        device in "sd[b-z]|xvd[a-z]|xvd[bc][a-z]",
        long_first in any::<bool>(),
        removes in any::<bool>(),
    ) {
        let mut names = [device.clone(), format!("/dev/{device}")];
        if long_first {
            names.reverse();
        }
        let change = format!("{}={}", names[1], if removes { "none" } else { ":1" });
        let first = format!("{}=:1", names[0]);
        let twice = Err(Error::DeviceTwice { device: names[1].clone() });
        prop_assert_eq!(resolved(&[&first], &[&change]), twice.clone());
        prop_assert_eq!(resolved(&[], &[&first, &change]), twice);
    }

    #[test]
    fn an_instance_type_has_its_own_number_of_ephemeral_disks(
        count in 0u8..=24,
        mut mapped in proptest::sample::subsequence((0u8..24).collect::<Vec<_>>(), 0..=20),
        turn in 0usize..20,
    ) {
        // In any order.
        if !mapped.is_empty() {
            let turn = turn % mapped.len();
            mapped.rotate_left(turn);
        }
        let letters = 'b'..='z';
        let entries: Vec<_> = letters
            .zip(&mapped)
            .map(|(letter, index)| format!("/dev/sd{letter}=ephemeral{index}"))
            .collect();
        let entries: Vec<_> = entries.iter().map(String::as_str).collect();
        let ephemeral = Ephemeral { count, size_bytes: GIB };
        let disks = resolve(&image(&entries), &[], ephemeral, &sizes()).unwrap();
        let found: Vec<_> = disks.iter().filter_map(|disk| match disk.kind {
            DiskKind::Ephemeral { index, size_bytes } => Some((index, size_bytes)),
            DiskKind::Volume { .. } => None,
        }).collect();
        let exists = mapped.iter().filter(|index| **index < count);
        let expected: Vec<_> = exists.map(|index| (*index, GIB)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn disks_come_root_first_then_as_the_image_has_them_then_as_the_overrides_do(
        image in any_image(),
        changes in proptest::collection::vec(entry(), 0..4),
        at in any::<proptest::sample::Index>(),
    ) {
        // The root's own place among the entries does not matter.
        let mut image = image;
        let root = image.block_device_mappings.remove(0);
        let at = at.index(image.block_device_mappings.len() + 1);
        image.block_device_mappings.insert(at, root);
        let Ok(disks) = resolve(&image, &changes, EPHEMERAL, &sizes()) else {
            return Ok(());
        };
        prop_assert_eq!(disks[0].device_name.as_str(), "/dev/sda1");
        let entries = image.block_device_mappings.iter().chain(&changes);
        let order: Vec<_> = entries.map(|entry| entry.device_name.as_str()).collect();
        let place = |disk: &Disk| order.iter().position(|name| *name == disk.device_name);
        prop_assert!(disks[1..].is_sorted_by_key(place));
    }

    #[test]
    fn delete_on_termination_is_what_is_said_last_or_the_default(
        root_says in proptest::option::of(any::<bool>()),
        image_says in proptest::option::of(any::<bool>()),
        launch_says in proptest::option::of(any::<bool>()),
    ) {
        let said = |says: Option<bool>| says.map_or_else(String::new, |says| says.to_string());
        let change = |device: &str, says| format!("{device}=:10:{}", said(says));
        let image = image(&[&change("/dev/sdb", image_says)]);
        let changes = overrides(&[&change("/dev/sda1", root_says), &change("/dev/sdb", launch_says)]);
        let disks = resolve(&image, &changes, EPHEMERAL, &sizes()).unwrap();
        let deletes = |disk: &Disk| matches!(
            disk.kind,
            DiskKind::Volume { delete_on_termination: true, .. }
        );
        prop_assert_eq!(deletes(&disks[0]), root_says.unwrap_or(true));
        prop_assert_eq!(deletes(&disks[1]), launch_says.or(image_says).unwrap_or(false));
    }

    /// Whatever an override says of the root: it stays the root, of its snapshot, no smaller.
    #[test]
    fn the_root_keeps_its_snapshot_and_never_shrinks(
        size in 8u64..50,
        change in entry(),
    ) {
        let mut image = image(&[]);
        image.block_device_mappings[0].ebs.as_mut().unwrap().volume_size = Some(size);
        let change = BlockDeviceMapping { device_name: "/dev/sda1".to_owned(), ..change };
        let stated = change.ebs.clone().unwrap_or_default();
        let disks = resolve(&image, std::slice::from_ref(&change), EPHEMERAL, &sizes());
        let keeps = change.ebs.is_some() && stated.snapshot_id.is_none_or(|id| id == snapshot(8));
        let grows = stated.volume_size.is_none_or(|to| to >= size);
        match disks {
            Ok(disks) => {
                prop_assert!(keeps && grows);
                prop_assert_eq!(disks.len(), 1);
                let to = stated.volume_size.unwrap_or(size);
                prop_assert_eq!(disks[0].size_bytes(), to * GIB);
                prop_assert_eq!(disks[0].snapshot(), Some(snapshot(8)));
                let DiskKind::Volume { volume_type, root, .. } = disks[0].kind else {
                    return Err(TestCaseError::fail("no volume"));
                };
                prop_assert!(root);
                prop_assert_eq!(volume_type, stated.volume_type.unwrap_or_default());
            }
            Err(Error::RootChange { .. }) => prop_assert!(!keeps),
            Err(Error::RootShrinks { from, to, .. }) => prop_assert!(from == size && to < size),
            // A size or a performance that the type does not have, or less than the snapshot.
            Err(_) => prop_assert!(keeps),
        }
    }

    /// An override merges by member: what it does not state is the image's.
    #[test]
    fn an_override_changes_what_it_states_and_nothing_else(
        base in 1u64..=40,
        size in proptest::option::of(1u64..400),
        delete in proptest::option::of(any::<bool>()),
    ) {
        let entry = format!("/dev/sdh={}:{}:true", snapshot(base), base + 5);
        let said = |text: Option<String>| text.unwrap_or_default();
        let change = format!(
            "/dev/sdh=:{}:{}:gp2",
            said(size.map(|size| size.to_string())),
            said(delete.map(|delete| delete.to_string())),
        );
        let result = resolved(&[&entry], &[&change]);
        let expected = size.unwrap_or(base + 5);
        if expected < base {
            let error = Error::SmallerThanSnapshot {
                size: expected,
                snapshot: snapshot(base),
                expected: base,
            };
            prop_assert_eq!(result, Err(error));
            return Ok(());
        }
        let kind = volume(Some(base), expected, VolumeType::Gp2, delete.unwrap_or(true));
        prop_assert_eq!(result.unwrap()[1].kind.clone(), kind);
    }

    #[test]
    fn a_device_name_is_valid_or_refused_by_its_form(name in "(/dev/)?(sd|xvd|hd|vd)?[a-zA-Z]{0,3}[0-9]{0,2}") {
        let short = name.strip_prefix("/dev/").unwrap_or(&name);
        let letters = |rest: &str| rest.bytes().all(|b| b.is_ascii_lowercase());
        let valid = match short.strip_prefix("sd") {
            Some(rest) => rest.len() == 1 && letters(rest),
            None => short.strip_prefix("xvd").is_some_and(|rest| {
                letters(rest) && (rest.len() == 1 || rest.len() == 2 && rest.starts_with(['b', 'c']))
            }),
        };
        let entry = BlockDeviceMapping {
            device_name: name.clone(),
            virtual_name: Some("ephemeral0".to_owned()),
            ..BlockDeviceMapping::default()
        };
        // As the root, /dev/sda1 is valid too.
        prop_assert_eq!(check_names(std::slice::from_ref(&entry), "/dev/none").is_ok(), valid);
        prop_assert_eq!(check_names(&[entry], &name).is_ok(), valid || short == "sda1");
    }
}
