//! Sizes, Iops and Throughput of volumes, held against a table of EC2's limits.

use proptest::prelude::*;

use super::*;

#[test]
fn performance_must_fit_the_type() {
    for change in ["/dev/sdb=:10::io1", "/dev/sdb=:10::io2"] {
        let error = error(&[], &[change]);
        assert!(
            error.starts_with("The parameter Iops must be specified"),
            "{error}"
        );
    }
    resolved(&[], &["/dev/sdb=:10::gp3:3000"]).unwrap();
    for change in [
        "/dev/sdb=:10::gp2:100",
        r#"{"DeviceName": "/dev/sdb", "Ebs": {"VolumeSize": 1, "VolumeType": "gp2", "Throughput": 1}}"#,
    ] {
        let error = error(&[], &[change]);
        assert!(
            error.contains("is not supported for gp2 volumes"),
            "{error}"
        );
    }
}

/// Iops from and to, for each GiB, and how many every volume of the type may have.
const IOPS: &[(VolumeType, u32, u32, u64)] = &[
    (VolumeType::Gp3, 3000, 80_000, 500),
    (VolumeType::Io1, 100, 64_000, 50),
    (VolumeType::Io2, 100, 256_000, 1000),
];

fn described(
    volume_type: VolumeType,
    size: u64,
    iops: Option<u32>,
    throughput: Option<u32>,
) -> Result<Disk, Error> {
    let ebs = Ebs {
        volume_size: Some(size),
        volume_type: Some(volume_type),
        iops,
        throughput,
        ..Ebs::default()
    };
    let entry = BlockDeviceMapping {
        device_name: "/dev/sdb".to_owned(),
        ebs: Some(ebs),
        ..BlockDeviceMapping::default()
    };
    let mut disks = resolve(&image(&[]), &[entry], EPHEMERAL, &sizes())?;
    Ok(disks.remove(1))
}

#[test]
fn the_ends_of_every_range_are_allowed_and_nothing_beyond() {
    for &(volume_type, from, to, _) in IOPS {
        let largest = *volume_type.sizes_gib().end();
        for iops in [from, to] {
            described(volume_type, largest, Some(iops), None).unwrap();
        }
        let error = described(volume_type, largest, Some(from - 1), None).unwrap_err();
        let low = format!(
            "Volume iops of {} is too low; minimum is {from} ('/dev/sdb')",
            from - 1
        );
        assert_eq!(error.to_string(), low);
        let error = described(volume_type, largest, Some(to + 1), None).unwrap_err();
        let high = format!(
            "Volume iops of {} is too high; maximum is {to} ('/dev/sdb')",
            to + 1
        );
        assert_eq!(error.to_string(), high);
    }
    let gp3 = |throughput| described(VolumeType::Gp3, 1000, Some(80_000), Some(throughput));
    gp3(125).unwrap();
    gp3(2000).unwrap();
    assert!(matches!(gp3(124), Err(Error::TooSlow { minimum: 125, .. })));
    assert!(matches!(
        gp3(2001),
        Err(Error::TooFast { maximum: 2000, .. })
    ));
}

#[test]
fn iops_grow_with_the_size_and_throughput_with_iops() {
    // 50 for each GiB.
    described(VolumeType::Io1, 10, Some(500), None).unwrap();
    let error = described(VolumeType::Io1, 10, Some(501), None).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("Iops to volume size ratio of 501 to 10GiB is too high")
    );
    // Every gp3 volume has 3000, which are enough for 750 MiB/s.
    described(VolumeType::Gp3, 1, Some(3000), Some(750)).unwrap();
    let error = described(VolumeType::Gp3, 1, None, Some(751)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("to iops ratio of 751 to 3000 is too high")
    );
}

proptest! {
    #[test]
    fn performance_is_that_of_the_type_or_refused(
        volume_type in proptest::sample::select(VolumeType::ALL),
        size in prop_oneof![1u64..300, 4000u64..70_000],
        iops in proptest::option::of(prop_oneof![1u32..6000, 50_000u32..300_000]),
        throughput in proptest::option::of(prop_oneof![1u32..200, 700u32..2200]),
    ) {
        let known = IOPS.iter().find(|(known, ..)| *known == volume_type);
        let is_gp3 = volume_type == VolumeType::Gp3;
        let iops_fit = match (known, iops) {
            (Some((_, from, to, each)), Some(iops)) => {
                (*from..=*to).contains(&iops) && u64::from(iops) <= (each * size).max(u64::from(*from))
            }
            (Some(_), None) => is_gp3,
            (None, iops) => iops.is_none(),
        };
        let throughput_fits = throughput.is_none_or(|throughput| {
            is_gp3 && (125..=2000).contains(&throughput) && throughput * 4 <= iops.unwrap_or(3000)
        });
        let allowed = volume_type.sizes_gib().contains(&size) && iops_fit && throughput_fits;
        let result = described(volume_type, size, iops, throughput);
        prop_assert_eq!(result.is_ok(), allowed, "{:?}", result);
        if let Ok(disk) = result {
            // They reach the disk as they were stated: off unless given.
            let kind = DiskKind::Volume {
                snapshot: None,
                size_bytes: size * GIB,
                volume_type,
                iops,
                throughput,
                delete_on_termination: false,
                root: false,
            };
            prop_assert_eq!(disk.kind, kind);
        }
    }
}
