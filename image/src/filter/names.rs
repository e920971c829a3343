//! The filters that EC2's listings know, and the members that they look at.
//!
//! Amazon EC2 API Reference, the `Filters` of `DescribeImages`, `DescribeSnapshots`, `DescribeVolumes`
//! and `DescribeInstances`. Left out are those of things that no machine of one's own has: networks,
//! zones, hosts.

use super::Noun;

/// Before the path of a member of the reservation around an instance.
pub(super) const RESERVATION: &str = "^";

const IMAGE: &[(&str, &str)] = &[
    ("architecture", "Architecture"),
    (
        "block-device-mapping.delete-on-termination",
        "BlockDeviceMappings.Ebs.DeleteOnTermination",
    ),
    (
        "block-device-mapping.device-name",
        "BlockDeviceMappings.DeviceName",
    ),
    (
        "block-device-mapping.encrypted",
        "BlockDeviceMappings.Ebs.Encrypted",
    ),
    (
        "block-device-mapping.snapshot-id",
        "BlockDeviceMappings.Ebs.SnapshotId",
    ),
    (
        "block-device-mapping.volume-size",
        "BlockDeviceMappings.Ebs.VolumeSize",
    ),
    (
        "block-device-mapping.volume-type",
        "BlockDeviceMappings.Ebs.VolumeType",
    ),
    ("boot-mode", "BootMode"),
    ("creation-date", "CreationDate"),
    ("description", "Description"),
    ("ena-support", "EnaSupport"),
    ("hypervisor", "Hypervisor"),
    ("image-id", "ImageId"),
    ("image-type", "ImageType"),
    ("is-public", "Public"),
    ("kernel-id", "KernelId"),
    ("manifest-location", "ImageLocation"),
    ("name", "Name"),
    ("owner-alias", "ImageOwnerAlias"),
    ("owner-id", "OwnerId"),
    ("platform", "Platform"),
    ("product-code", "ProductCodes.ProductCodeId"),
    ("product-code.type", "ProductCodes.ProductCodeType"),
    ("ramdisk-id", "RamdiskId"),
    ("root-device-name", "RootDeviceName"),
    ("root-device-type", "RootDeviceType"),
    ("source-image-id", "SourceImageId"),
    ("source-image-region", "SourceImageRegion"),
    ("source-instance-id", "SourceInstanceId"),
    ("sriov-net-support", "SriovNetSupport"),
    ("state", "State"),
    ("state-reason-code", "StateReason.Code"),
    ("state-reason-message", "StateReason.Message"),
    ("virtualization-type", "VirtualizationType"),
];

const SNAPSHOT: &[(&str, &str)] = &[
    ("description", "Description"),
    ("encrypted", "Encrypted"),
    ("owner-alias", "OwnerAlias"),
    ("owner-id", "OwnerId"),
    ("progress", "Progress"),
    ("snapshot-id", "SnapshotId"),
    ("start-time", "StartTime"),
    ("status", "State"),
    ("storage-tier", "StorageTier"),
    ("volume-id", "VolumeId"),
    ("volume-size", "VolumeSize"),
];

const VOLUME: &[(&str, &str)] = &[
    ("attachment.attach-time", "Attachments.AttachTime"),
    (
        "attachment.delete-on-termination",
        "Attachments.DeleteOnTermination",
    ),
    ("attachment.device", "Attachments.Device"),
    ("attachment.instance-id", "Attachments.InstanceId"),
    ("attachment.status", "Attachments.State"),
    ("create-time", "CreateTime"),
    ("encrypted", "Encrypted"),
    ("iops", "Iops"),
    ("size", "Size"),
    ("snapshot-id", "SnapshotId"),
    ("status", "State"),
    ("throughput", "Throughput"),
    ("volume-id", "VolumeId"),
    ("volume-type", "VolumeType"),
];

const INSTANCE: &[(&str, &str)] = &[
    ("architecture", "Architecture"),
    (
        "block-device-mapping.attach-time",
        "BlockDeviceMappings.Ebs.AttachTime",
    ),
    (
        "block-device-mapping.delete-on-termination",
        "BlockDeviceMappings.Ebs.DeleteOnTermination",
    ),
    (
        "block-device-mapping.device-name",
        "BlockDeviceMappings.DeviceName",
    ),
    (
        "block-device-mapping.status",
        "BlockDeviceMappings.Ebs.Status",
    ),
    (
        "block-device-mapping.volume-id",
        "BlockDeviceMappings.Ebs.VolumeId",
    ),
    ("boot-mode", "BootMode"),
    ("client-token", "ClientToken"),
    ("hypervisor", "Hypervisor"),
    ("image-id", "ImageId"),
    ("instance-id", "InstanceId"),
    ("instance-state-code", "State.Code"),
    ("instance-state-name", "State.Name"),
    ("instance-type", "InstanceType"),
    ("kernel-id", "KernelId"),
    ("launch-index", "AmiLaunchIndex"),
    ("launch-time", "LaunchTime"),
    ("owner-id", "^OwnerId"),
    ("platform", "Platform"),
    ("product-code", "ProductCodes.ProductCodeId"),
    ("product-code.type", "ProductCodes.ProductCodeType"),
    ("ramdisk-id", "RamdiskId"),
    ("reason", "StateTransitionReason"),
    ("reservation-id", "^ReservationId"),
    ("root-device-name", "RootDeviceName"),
    ("root-device-type", "RootDeviceType"),
    ("state-reason-code", "StateReason.Code"),
    ("state-reason-message", "StateReason.Message"),
    ("virtualization-type", "VirtualizationType"),
];

/// The path of the member that the filter looks at, names with dots between.
pub(super) fn path(noun: Noun, name: &str) -> Option<&'static str> {
    let table = match noun {
        Noun::Image => IMAGE,
        Noun::Snapshot => SNAPSHOT,
        Noun::Volume => VOLUME,
        Noun::Instance => INSTANCE,
    };
    let entry = table.iter().find(|(known, _)| *known == name);
    entry.map(|(_, path)| *path)
}

/// The list that the path goes through, if it does, and the path in each of its items.
pub(super) fn in_list(path: &str) -> Option<(&str, &str)> {
    let (list, rest) = path.split_once('.')?;
    matches!(list, "BlockDeviceMappings" | "ProductCodes").then_some((list, rest))
}

/// Whether JSON has true or false there.
pub(super) fn is_boolean(path: &str) -> bool {
    let name = path.rsplit('.').next().unwrap_or(path);
    matches!(
        name,
        "Public" | "EnaSupport" | "Encrypted" | "DeleteOnTermination"
    )
}
