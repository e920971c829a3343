//! EC2's error codes, for the mistakes that EC2 has a code for: what scripts tell errors apart by.
//!
//! Amazon EC2 API Reference, "Error codes". Failures of the host and rules of this software's own have none.

use super::{Error, KernelKind, VolumeRefusal};
use crate::id::{ImageId, SnapshotId, VolumeId};
use crate::{manifest, mapping, volume};

impl Error {
    /// EC2's code for the error, `InvalidAMIID.NotFound` say.
    pub fn code(&self) -> Option<&'static str> {
        Some(match self {
            Self::Mapping(error) => error.code(),
            Self::Invalid(error) => return error.code(),
            Self::ImageNotFound { .. } => "InvalidAMIID.NotFound",
            Self::IdMalformed { prefix, .. } => match *prefix {
                ImageId::PREFIX => "InvalidAMIID.Malformed",
                SnapshotId::PREFIX => "InvalidSnapshotID.Malformed",
                VolumeId::PREFIX => "InvalidVolumeID.Malformed",
                _ => "InvalidInstanceID.Malformed",
            },
            Self::ImageUnavailable { .. } => "InvalidAMIID.Unavailable",
            Self::NotAuthorized { .. } => "AuthFailure",
            Self::ImageProtected { .. } => "OperationNotPermitted",
            Self::Tag(error) => error.code(),
            Self::NotImageable { .. } => "IncorrectInstanceState",
            Self::CreatedMapping { .. } => "InvalidBlockDeviceMapping",
            Self::ParameterName { .. } => "ValidationException",
            Self::ParameterNotFound { .. } => "ParameterNotFound",
            Self::ParameterVersionNotFound { .. } => "ParameterVersionNotFound",
            Self::ImageNameInUse { .. } => "InvalidAMIName.Duplicate",
            Self::KernelNotFound { kind, .. } => match kind {
                KernelKind::Kernel => "InvalidKernelId.NotFound",
                KernelKind::Ramdisk => "InvalidRamdiskId.NotFound",
            },
            Self::SnapshotNotFound { .. } => "InvalidSnapshot.NotFound",
            Self::SnapshotInUse { .. } => "InvalidSnapshot.InUse",
            Self::Volume(volume::Error::InUse { .. }) => "VolumeInUse",
            Self::VolumeNotFound { .. } => "InvalidVolume.NotFound",
            Self::Refused(refusal) => refusal.code(),
            Self::InstanceNotFound { .. } => "InvalidInstanceID.NotFound",
            Self::InstanceRuns { .. }
            | Self::InstanceState { .. }
            | Self::InstanceNotStopped { .. }
            | Self::NoRootVolume { .. } => "IncorrectInstanceState",
            Self::InstanceStoreStop { .. } => "UnsupportedOperation",
            Self::TerminationProtected { .. } => "OperationNotPermitted",
            Self::NoDevice { .. } => "InvalidInstanceAttributeValue",
            Self::TokenMismatch => "IdempotentParameterMismatch",
            Self::ClientToken { .. } => "InvalidParameterValue",
            _ => return None,
        })
    }
}

impl manifest::Invalid {
    /// EC2's code for the error.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Name { .. } => Some("InvalidAMIName.Malformed"),
            Self::Description { .. } | Self::Architecture(_) => Some("InvalidParameterValue"),
            Self::Paravirtual { .. } | Self::ImageType(_) => Some("UnsupportedOperation"),
            Self::RootUnmapped { .. } => Some("InvalidBlockDeviceMapping"),
            Self::Mapping(error) => Some(error.code()),
            Self::Tag(error) => Some(error.code()),
            _ => None,
        }
    }
}

impl manifest::InvalidTag {
    /// EC2's code for the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooMany { .. } => "TagLimitExceeded",
            _ => "InvalidParameterValue",
        }
    }
}

impl mapping::Error {
    /// EC2's code for the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownSnapshot { .. } => "InvalidSnapshot.NotFound",
            Self::NoSize { .. } | Self::IopsMissing { .. } => "MissingParameter",
            Self::NotForType { .. } | Self::TooMuch { .. } => "InvalidParameterCombination",
            Self::DeviceName { .. }
            | Self::TooSmall { .. }
            | Self::TooLarge { .. }
            | Self::TooSlow { .. }
            | Self::TooFast { .. }
            | Self::IopsRatio { .. }
            | Self::ThroughputRatio { .. } => "InvalidParameterValue",
            Self::Encrypted { .. } => "UnsupportedOperation",
            _ => "InvalidBlockDeviceMapping",
        }
    }
}

impl VolumeRefusal {
    /// EC2's code for the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AlreadyAttached { .. } | Self::Attached { .. } => "VolumeInUse",
            Self::NotAttached { .. } => "IncorrectState",
            Self::NotAttachedTo { .. } => "InvalidAttachment.NotFound",
            Self::DeviceInUse { .. } | Self::Shrinks { .. } => "InvalidParameterValue",
        }
    }
}
