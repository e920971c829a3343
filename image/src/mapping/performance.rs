//! What a volume's Iops and Throughput may be: EC2's ranges for each type (CreateVolume, EbsBlockDevice).
//!
//! A volume that states none is not limited here, where EC2 would give gp3 3000 operations and 125 MiB a second.

use std::ops::RangeInclusive;

use super::Error;
use crate::manifest::{Ebs, VolumeType};

/// The MiB/s that a gp3 volume may have.
const THROUGHPUT: RangeInclusive<u32> = 125..=2000;

/// A gp3 volume has a MiB/s at most for this many operations a second.
const IOPS_PER_THROUGHPUT: u64 = 4;

/// What a gp3 volume that states no Iops counts as.
const GP3_IOPS: u32 = 3000;

/// The operations a second that a volume of the type may have, and how many for each GiB of it; none
/// where EC2 has the size decide.
fn iops_range(volume_type: VolumeType) -> Option<(RangeInclusive<u32>, u32)> {
    match volume_type {
        VolumeType::Gp3 => Some((GP3_IOPS..=80_000, 500)),
        VolumeType::Io1 => Some((100..=64_000, 50)),
        VolumeType::Io2 => Some((100..=256_000, 1000)),
        VolumeType::Standard | VolumeType::Gp2 | VolumeType::Sc1 | VolumeType::St1 => None,
    }
}

/// Checks Iops and Throughput of a volume of `size_gib`, where that is known.
///
/// # Errors
/// [`Error::IopsMissing`], [`Error::NotForType`], [`Error::TooSlow`], [`Error::TooFast`],
/// [`Error::IopsRatio`], [`Error::ThroughputRatio`]
pub(super) fn check(
    device: impl Fn() -> String,
    ebs: &Ebs,
    size_gib: Option<u64>,
) -> Result<(), Error> {
    check_iops(&device, ebs, size_gib)?;
    check_throughput(&device, ebs)
}

fn check_iops(device: &impl Fn() -> String, ebs: &Ebs, size_gib: Option<u64>) -> Result<(), Error> {
    let volume_type = ebs.volume_type.unwrap_or_default();
    let (iops, range, per_gib) = match (ebs.iops, iops_range(volume_type)) {
        (Some(iops), Some((range, per_gib))) => (iops, range, per_gib),
        (Some(_), None) => return Err(not_for_type(device, "Iops", volume_type)),
        (None, _) if matches!(volume_type, VolumeType::Io1 | VolumeType::Io2) => {
            return Err(Error::IopsMissing {
                device: device(),
                volume_type,
            });
        }
        (None, _) => return Ok(()),
    };
    check_range(device, "iops", iops, &range)?;
    // A gp3 volume of any size has what every gp3 volume has.
    let allowed = |size: u64| (size * u64::from(per_gib)).max(u64::from(*range.start()));
    match size_gib {
        Some(size) if u64::from(iops) > allowed(size) => Err(Error::IopsRatio {
            device: device(),
            iops,
            size,
            maximum: per_gib,
            volume_type,
        }),
        _ => Ok(()),
    }
}

fn check_throughput(device: &impl Fn() -> String, ebs: &Ebs) -> Result<(), Error> {
    let Some(throughput) = ebs.throughput else {
        return Ok(());
    };
    let volume_type = ebs.volume_type.unwrap_or_default();
    if volume_type != VolumeType::Gp3 {
        return Err(not_for_type(device, "Throughput", volume_type));
    }
    check_range(device, "throughput", throughput, &THROUGHPUT)?;
    let iops = ebs.iops.unwrap_or(GP3_IOPS);
    if u64::from(throughput) * IOPS_PER_THROUGHPUT > u64::from(iops) {
        return Err(Error::ThroughputRatio {
            device: device(),
            throughput,
            iops,
        });
    }
    Ok(())
}

fn check_range(
    device: &impl Fn() -> String,
    what: &'static str,
    value: u32,
    range: &RangeInclusive<u32>,
) -> Result<(), Error> {
    let (minimum, maximum) = (*range.start(), *range.end());
    if value < minimum {
        return Err(Error::TooSlow {
            device: device(),
            what,
            value,
            minimum,
        });
    }
    if value > maximum {
        return Err(Error::TooFast {
            device: device(),
            what,
            value,
            maximum,
        });
    }
    Ok(())
}

fn not_for_type(
    device: &impl Fn() -> String,
    parameter: &'static str,
    volume_type: VolumeType,
) -> Error {
    Error::NotForType {
        device: device(),
        parameter,
        volume_type,
    }
}
